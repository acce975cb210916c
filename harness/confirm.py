"""Does the best run hold? Its values again with other seeds, and only then the test part, once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.errors import FAILED, HarnessError
from harness.reload import LoadedRun, load
from harness.statistics import Estimate, standard_deviation, t_interval
from harness.sweep.plan import Options
from harness.sweep.sweep import repeat
from harness.tracking.looks import Look, list_looks, note_look
from harness.tracking.runs import RunRecord, find_best, to_record
from harness.tracking.store import CONFIRM, CONFIRMS, KIND, RunLog, Store, finite
from harness.training.recipe import code_digests

if TYPE_CHECKING:
    from mlflow.entities import Run

COMMAND = "confirm"
ENDED = ("FINISHED", "DIVERGED")  # the same seed again would give the same


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A measure over the seeds: its mean with Student's t interval, and its standard deviation."""

    mean: Estimate
    standard_deviation: float


@dataclass(frozen=True, kw_only=True)
class Seeded:
    """The values of the best run, trained with another seed. `test` is empty where the data has no test part."""

    seed: int
    record: RunRecord
    test: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """The best run, its values with other seeds, and what they come to.

    The best run is not among `runs`: it was chosen for its value, which is therefore likely too good.
    `spreads` holds the objective and each measure of the test part; only runs that finished count.
    `looks` are the looks at the test part, and `is_new_look` says whether the last of them was now.
    """

    best: RunRecord
    seed: int  # of the best run
    runs: tuple[Seeded, ...]
    spreads: dict[str, Spread]
    looks: tuple[Look, ...]
    is_new_look: bool

    @property
    def finished(self) -> list[Seeded]:
        return [run for run in self.runs if run.record.value is not None]


def confirm(options: Options, *, seeds: int = 5) -> Confirmation:
    """Trains the best run's values with the next `seeds` seeds, then measures each of them on the test part.

    What was trained or measured before is not done again: interrupted, it goes on; asked for more seeds, it
    trains those that are missing. Nothing is chosen between the seeds, so measuring all of them on the test
    part is one look at it; it is noted in MLflow before it is taken. Raises `HarnessError` where there is no
    finished run, where the spec is no longer what it was trained with, or where fewer than two seeds finish.
    """
    store = Store(options.store)
    best = find_best(store, options.name)
    loaded = load(store, best, device=options.device)
    values = {name: value for name, value in loaded.experiment.values().items() if name != "trials"}
    chosen = range(values["seed"] + 1, values["seed"] + 1 + seeds)
    missing = [seed for seed in chosen if seed not in _find_ended(store, best)]
    if missing:
        repeat(options, values, seeds=missing, of=best.info.run_id, identity=_identity(best, loaded))
    ended = {seed: run for seed, run in _find_ended(store, best).items() if seed in chosen}
    finished = [run for run in ended.values() if to_record(run).value is not None]
    if len(finished) < 2:
        raise HarnessError(
            f"Only {len(finished)} of {seeds} seeds finished; `python -m harness runs {options.spec}` says why.",
            exit_code=FAILED,
        )
    has_test = loaded.built.data.load_test is not None
    is_new_look = has_test and _measure_test(store, finished, device=options.device)
    ended = _find_ended(store, best)  # with what the test part gave
    runs = tuple(
        Seeded(seed=seed, record=to_record(ended[seed]), test=_tested(ended[seed])) for seed in chosen if seed in ended
    )
    return Confirmation(
        best=to_record(best),
        seed=values["seed"],
        runs=runs,
        spreads=_spreads(to_record(best).objective, runs),
        looks=tuple(list_looks(store, best.info.experiment_id)),
        is_new_look=is_new_look,
    )


def _find_ended(store: Store, best: "Run") -> dict[int, "Run"]:
    """The runs that repeat a run and came to an end of their own, by seed."""
    query = f"tags.\"{KIND}\" = '{CONFIRM}' AND tags.\"{CONFIRMS}\" = '{best.info.run_id}'"
    found = store.find_runs(best.info.experiment_id, query)
    return {int(run.data.tags["harness.seed"]): run for run in found if to_record(run).status in ENDED}


def _identity(run: "Run", loaded: LoadedRun) -> dict[str, Any]:
    """The code and the data that a run was trained with."""
    data = [entry.dataset for entry in run.inputs.dataset_inputs] if run.inputs else []
    return {
        "code": code_digests(loaded.built.spec, scheduler=True),
        "data": f"{data[0].name} {data[0].digest[:12]}" if data else "",
    }


def _measure_test(store: Store, runs: Sequence["Run"], *, device: str) -> bool:
    """Measures runs on the test part that have not been, and logs it; whether there were any."""
    untested = [run for run in runs if not _tested(run)]
    if not untested:
        return False
    note_look(store, untested, by=COMMAND)
    for run in untested:
        loaded = load(store, run, device=device)
        log = RunLog(store, run)
        log.add_metrics(finite(loaded.measure("test")), loaded.epoch)
        log.send()
    return True


def _tested(run: "Run") -> dict[str, float]:
    return {name: value for name, value in run.data.metrics.items() if name.startswith("test_")}


def _spreads(objective: str, runs: Sequence[Seeded]) -> dict[str, Spread]:
    """The objective over the seeds, and each measure of the test part."""
    finished = [run for run in runs if run.record.value is not None]
    columns = {objective: [run.record.value for run in finished if run.record.value is not None]}
    for name in dict.fromkeys(name for run in finished for name in run.test):
        columns[name] = [run.test[name] for run in finished if name in run.test]
    return {
        name: Spread(mean=t_interval(values), standard_deviation=standard_deviation(values))
        for name, values in columns.items()
        if len(values) > 1
    }
