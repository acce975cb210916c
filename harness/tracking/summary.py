"""An experiment's run `summary`: it contains the report, and no training."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.tracking.store import FINISHED, RunLog, Store
from harness.tracking.tags import BEST, KIND, NOTE, SUMMARY, TOTAL, where

PAGE = "report.html"


def keep_report(
    store: Store, experiment: str, page: Path, pictures: Sequence[Path], *, best: str | None, totals: Mapping[str, int]
) -> None:
    """Saves the page and its pictures as artifacts of the experiment's run `summary`; `totals` become its tags.

    The page is also an artifact of the run `best`. With a read-only store, nothing is saved.
    """
    if store.is_read_only:
        return
    experiment_id = store.experiment_id(experiment)
    found = store.find_runs(experiment_id, where(KIND, SUMMARY), most=1)
    if found:
        log = RunLog(store, found[0])
    else:
        log = store.create_run(experiment_id, "summary", params={}, tags={KIND: SUMMARY})
        log.end(FINISHED, SUMMARY)
    note = f"The report of {experiment} is among the artifacts: `{PAGE}` and its pictures. This run trained nothing."
    log.add_tags({NOTE: note, BEST: best or "none"} | {f"{TOTAL}{name}": total for name, total in totals.items()})
    log.send()
    store.add_artifact(log.run, PAGE, page.read_bytes())
    for picture in pictures:
        store.add_artifact(log.run, f"pictures/{picture.name}", picture.read_bytes())
    if best is not None:
        store.add_artifact(store.client.get_run(best), PAGE, page.read_bytes())
