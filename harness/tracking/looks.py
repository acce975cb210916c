"""Who measured on the test part, and when. A test part that is used again and again becomes a validation part."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from harness.errors import FAILED, HarnessError
from harness.tracking.store import Store
from harness.tracking.tags import LOOKED, LOOKS

if TYPE_CHECKING:
    from mlflow.entities import Run

MOST_LOOKS = 12  # kept: the first one and the last ones; MLflow's tags are short


@dataclass(frozen=True, kw_only=True)
class Look:
    """One measurement on the test part: its number from 1, local time, the command, and the beginnings of run ids."""

    number: int
    when: str
    by: str
    runs: tuple[str, ...]

    def __str__(self) -> str:
        whose = f"run {self.runs[0]}" if len(self.runs) == 1 else f"{len(self.runs)} runs"
        return f"{self.when}, by `{self.by}` ({whose})"


def list_looks(store: Store, experiment_id: str) -> list[Look]:
    """The measurements on an experiment's test part so far, the oldest first."""
    noted = store.client.get_experiment(experiment_id).tags.get(LOOKS, "[]")
    try:
        return [Look(**{**look, "runs": tuple(look["runs"])}) for look in json.loads(noted)]
    except (ValueError, TypeError, KeyError):
        raise HarnessError(
            f"{store}: the list of measurements on the test part (tag {LOOKS} of the experiment) was edited. "
            "Restore it, or delete the tag in MLflow's pages.",
            exit_code=FAILED,
        ) from None


def note_look(store: Store, runs: Sequence["Run"], *, by: str) -> list[Look]:
    """Notes that these runs of one experiment will be measured on the test part; returns the earlier looks.

    It is noted before the measurement: the result of an interrupted one may have been seen.
    """
    if store.is_read_only:
        raise HarnessError(
            f"{store.folder} is read-only, and each use of the test part must be noted there: copy the store.",
            exit_code=FAILED,
        )
    experiment_id = runs[0].info.experiment_id
    before = list_looks(store, experiment_id)
    now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    number = before[-1].number + 1 if before else 1
    look = Look(number=number, when=now, by=by, runs=tuple(run.info.run_id[:8] for run in runs))
    kept = [*before, look] if len(before) < MOST_LOOKS else [before[0], *before[2:], look]
    store.client.set_experiment_tag(experiment_id, LOOKS, json.dumps([asdict(look) for look in kept]))
    for run in runs:
        store.client.set_tag(run.info.run_id, LOOKED, f"{now} by {by}")
    return before


def describe_looks(before: Sequence[Look]) -> str:
    """A sentence about the earlier looks.

    >>> describe_looks([])
    'The test part had not been looked at before.'
    >>> describe_looks([Look(number=1, when="2026-11-23 10:40:12+01:00", by="best --test", runs=("1a2b3c4d",))])
    'The test part was looked at before: 2026-11-23 10:40:12+01:00, by `best --test` (run 1a2b3c4d).'
    """
    if not before:
        return "The test part had not been looked at before."
    more = f"; {before[-1].number} times in all, last {before[-1]}" if len(before) > 1 else ""
    return f"The test part was looked at before: {before[0]}{more}."
