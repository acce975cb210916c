"""The result of a sweep, for Python and notebooks."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from harness.notebook import html_table
from harness.tracking.runs import RunRecord, list_runs, records_table
from harness.tracking.store import Store

if TYPE_CHECKING:
    import pandas as pd

MOST_SHOWN = 10


@dataclass(frozen=True, kw_only=True, repr=False)
class SweepResult:
    """A study after a sweep. Its trials have `epochs` epochs in all; `trained_epochs` of them were trained.

    `best` is None while no run has finished. `messages` are the sentences that the command line prints.
    """

    name: str  # of the spec in the store
    store: Path
    study: int  # its number among the studies of the spec, from 1
    objective: str
    trials: int
    epochs: int = 0
    trained_epochs: int = 0
    best: RunRecord | None = None
    messages: tuple[str, ...] = ()

    @cached_property
    def records(self) -> list[RunRecord]:
        """The runs of the study, the best first."""
        return list_runs(Store(self.store), self.name, study=self.study)

    @property
    def runs(self) -> "pd.DataFrame":
        """The runs of the study as a DataFrame, the best first: see `harness.runs`."""
        return records_table(self.records)

    def __repr__(self) -> str:
        shared = self.epochs - self.trained_epochs
        epochs = f", {self.epochs} epochs asked, {self.trained_epochs} trained, {shared} saved" if self.epochs else ""
        best = "no run has finished" if self.best is None else f"best: {self.best!r}"
        return f"{self.name}, study {self.study}: {self.trials} trials{epochs}\n{best}"

    def _repr_html_(self) -> str:
        shown = self.records[:MOST_SHOWN] if self.best is not None else []
        params = list(dict.fromkeys(name for record in shown for name in record.params))
        rows = [[r.name, r.status.lower(), r.value, r.best_epoch, *map(r.params.get, params)] for r in shown]
        more = len(self.records) - len(shown) if shown else 0
        note = repr(self).split("\n")[0] + (f"; {more} more runs in .runs" if more else "")
        return html_table(["run", "status", self.objective, "at epoch", *params], rows, note=note)
