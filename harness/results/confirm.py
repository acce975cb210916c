"""Confirms the best run: its values are trained with other seeds, then measured on the test part once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.errors import FAILED, HarnessError
from harness.notebook import html_table
from harness.results.reload import LoadedRun, load
from harness.results.sentences import describe_seeds
from harness.results.statistics import Estimate, standard_deviation, t_interval
from harness.tracking.looks import Look, list_looks, note_look
from harness.tracking.runs import RunRecord, to_record
from harness.tracking.store import RunLog, Store, finite
from harness.tracking.tags import CONFIRM, CONFIRMS, KIND, SEED, where
from harness.training.recipe import code_digests

if TYPE_CHECKING:
    from mlflow.entities import Run

COMMAND = "confirm"
ENDED = ("FINISHED", "DIVERGED")  # final: the same seed would give the same result again


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A measure over the seeds: the mean with Student's t interval, and the standard deviation."""

    mean: Estimate
    standard_deviation: float


@dataclass(frozen=True, kw_only=True)
class Seeded:
    """A run with the values of the best run and another seed. `test` is empty if the data has no test part."""

    seed: int
    record: RunRecord
    test: dict[str, float]


@dataclass(frozen=True, kw_only=True, repr=False)
class Confirmation:
    """The best run, the runs with other seeds, and their statistics.

    The best run is not in `runs`: it was chosen for its value, so its value is likely too good. `spreads` holds the
    objective and each measure on the test part; only finished runs count. `looks` are the uses of the test part;
    `is_new_look` says whether the last one is from now.
    """

    best: RunRecord
    seed: int  # of the best run
    runs: tuple[Seeded, ...]
    spreads: dict[str, Spread]
    looks: tuple[Look, ...]
    is_new_look: bool

    def __repr__(self) -> str:
        return "\n".join(describe_seeds(self))

    def _repr_html_(self) -> str:
        measures = list(self.spreads)
        rows = [
            (
                run.seed,
                run.record.name,
                *(({self.best.objective: run.record.value} | run.test).get(m) for m in measures),
            )
            for run in self.runs
        ]
        return html_table(["seed", "run", *measures], rows, note=repr(self))

    @property
    def finished(self) -> list[Seeded]:
        return [run for run in self.runs if run.record.value is not None]


def chosen_seeds(loaded: LoadedRun, count: int) -> range:
    """The seeds that follow the best run's own."""
    own: int = loaded.experiment.seed
    return range(own + 1, own + 1 + count)


def missing_seeds(store: Store, best: "Run", seeds: range) -> list[int]:
    """The seeds whose runs have not ended."""
    ended = _find_ended(store, best)
    return [seed for seed in seeds if seed not in ended]


def conclude(store: Store, best: "Run", loaded: LoadedRun, seeds: range, *, device: str) -> Confirmation:
    """The statistics of the runs with these seeds. Runs that were not measured on the test part are measured now.

    Nothing is chosen between the seeds, so measuring all of them counts as one use of the test part. It is noted in
    MLflow before the measurement. Raises `HarnessError` if fewer than two seeds finished.
    """
    ended = {seed: run for seed, run in _find_ended(store, best).items() if seed in seeds}
    finished = [run for run in ended.values() if to_record(run).value is not None]
    if len(finished) < 2:
        raise HarnessError(
            f"Only {len(finished)} of {len(seeds)} seeds finished; "
            f"`python -m harness runs {loaded.built.spec.path.stem}` says why.",
            exit_code=FAILED,
        )
    has_test = loaded.built.data.load_test is not None
    is_new_look = has_test and _measure_test(store, finished, device=device)
    ended = _find_ended(store, best)  # with the results on the test part
    runs = tuple(
        Seeded(seed=seed, record=to_record(ended[seed]), test=_tested(ended[seed])) for seed in seeds if seed in ended
    )
    return Confirmation(
        best=to_record(best),
        seed=loaded.experiment.seed,
        runs=runs,
        spreads=_spreads(to_record(best).objective, runs),
        looks=tuple(list_looks(store, best.info.experiment_id)),
        is_new_look=is_new_look,
    )


def _find_ended(store: Store, best: "Run") -> dict[int, "Run"]:
    """The ended runs that repeat a run with another seed, by seed."""
    query = f"{where(KIND, CONFIRM)} AND {where(CONFIRMS, best.info.run_id)}"
    found = store.find_runs(best.info.experiment_id, query)
    return {int(run.data.tags[SEED]): run for run in found if to_record(run).status in ENDED}


def identity_of_run(run: "Run", loaded: LoadedRun) -> dict[str, Any]:
    """The code and the data that a run was trained with."""
    data = [entry.dataset for entry in run.inputs.dataset_inputs] if run.inputs else []
    return {
        "code": code_digests(loaded.built.spec, scheduler=True),
        "data": f"{data[0].name} {data[0].digest[:12]}" if data else "",
    }


def _measure_test(store: Store, runs: Sequence["Run"], *, device: str) -> bool:
    """Measures and logs the test part for runs that lack it; returns whether there were any."""
    untested = [run for run in runs if not _tested(run)]
    if not untested:
        return False
    note_look(store, untested, by=COMMAND)
    for run in untested:
        loaded = load(store, run, device=device)
        log = RunLog(store, run)
        log.add_metrics(finite(loaded.measure("test")), loaded.epoch - 1)  # MLflow counts from 0
        log.send()
    return True


def _tested(run: "Run") -> dict[str, float]:
    return {name: value for name, value in run.data.metrics.items() if name.startswith("test_")}


def _spreads(objective: str, runs: Sequence[Seeded]) -> dict[str, Spread]:
    """The statistics of the objective, and of each measure on the test part."""
    finished = [run for run in runs if run.record.value is not None]
    columns = {objective: [run.record.value for run in finished if run.record.value is not None]}
    for name in dict.fromkeys(name for run in finished for name in run.test):
        columns[name] = [run.test[name] for run in finished if name in run.test]
    return {
        name: Spread(mean=t_interval(values), standard_deviation=standard_deviation(values))
        for name, values in columns.items()
        if len(values) > 1
    }
