"""`sweep` and `train`: from a spec file to runs in the store."""

import dataclasses
import hashlib
import json
import os
import signal
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from harness.errors import INTERRUPTED
from harness.experiment import check_setting, direction_of
from harness.files import remove_abandoned
from harness.machine import count_cores, default_path_budget
from harness.report.screen import Screen, open_screen, shown_bytes, shown_seconds, shown_values
from harness.search import Hyperparameter
from harness.spec import Description, experiment_name
from harness.sweep.driver import Driver, Task, ask_worker
from harness.sweep.lock import check_free, holding, is_held
from harness.sweep.messages import Describe, Preflight, PreflightReport, Train
from harness.sweep.workers import LocalWorkers
from harness.tracking.provenance import git_tags
from harness.tracking.store import DIRECTION, FAILED_STATUS, OBJECTIVE, RUNNING, STATUS, RunLog, Store

if TYPE_CHECKING:
    from harness.sweep.study import Asked, Study

DEMO = {"epochs": 6, "trials": 8}
SLOW_SECONDS = 1800


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line says of a sweep or of one training run."""

    spec: Path
    store: Path
    device: str = "auto"
    assignments: tuple[str, ...] = ()
    trials: int | None = None
    epochs: int | None = None
    jobs: int | None = None  # None: as many as fill the machine
    timeout_seconds: float | None = None
    path_budget_bytes: int | None = None
    is_demo: bool = False
    is_fresh: bool = False
    is_dry_run: bool = False
    start: str | None = None

    @property
    def name(self) -> str:
        """The experiment's name in the store."""
        return experiment_name(self.spec, is_demo=self.is_demo)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A spec as it is about to be run: checked, timed, with its values."""

    options: Options
    description: Description
    fixed: dict[str, Any]  # settings, and hyperparameters that are not searched
    searched: dict[str, Hyperparameter]
    report: PreflightReport

    @property
    def direction(self) -> str:
        """`maximize` or `minimize`."""
        return direction_of(self.fixed["objective"], self.fixed["direction"])

    @property
    def defaults(self) -> dict[str, Any]:
        """All values, the searched ones at their defaults."""
        return {name: found.default for name, found in self.searched.items()} | self.fixed


def sweep(options: Options) -> None:
    """Searches the hyperparameters of a spec; run again, it goes on to `trials` trials in all."""
    lock = options.store / "locks" / f"{options.name}.lock"
    check_free(lock, f"{options.name} in {options.store}")
    with _workers() as workers:
        plan, first = _plan(options, workers, is_sweep=True)
        jobs = options.jobs or _fill(plan.report)
        trials = _count_trials(plan)
        screen = open_screen(list(plan.searched), trials=trials)
        try:
            _say_plan(screen, plan, trials=trials, jobs=jobs)
            if options.is_dry_run:
                screen.say("dry run: nothing was written.")
                return
            with holding(lock, f"{options.name} in {options.store}"):
                session = SweepSession(options, plan, screen)
                driver = Driver(session.store, workers, screen, idle=[first])
                with _interruptible(driver, screen, options):
                    driver.run(session.tasks(trials), jobs=jobs)
                session.summarize()
        finally:
            screen.close()


def train(options: Options) -> str:
    """One run at the defaults, or from a checkpoint; an interrupted one goes on. Returns its run id."""
    params, start = _find_start(options)
    with _workers() as workers:
        plan, first = _plan(options, workers, is_sweep=False, params=params)
        screen = open_screen(list(plan.description.hyperparameters))
        try:
            screen.say(_device_line(plan.report))
            store = Store(options.store, create=True)
            remove_abandoned(store.folder)
            is_own = plan.fixed["objective"] == plan.description.settings["objective"]  # not of --set
            experiment_id = _experiment(store, options, plan, ranks=is_own)
            log = _train_run(store, experiment_id, options, plan, start)
            with holding(_run_lock(store, log.run_id), f"run {log.run_id[:8]}"):
                task = _task(options, plan, store, log, log.run.info.run_name, plan.defaults)
                task.request = dataclasses.replace(task.request, start=start)
                driver = Driver(store, workers, screen, idle=[first])
                with _interruptible(driver, screen, options):
                    driver.run(iter([task]), jobs=1)
            screen.say(f"run {log.run_id}")
        finally:
            screen.close()
    return log.run_id


class SweepSession:
    """One sweep command's hold on the study and the store."""

    def __init__(self, options: Options, plan: Plan, screen: Screen) -> None:
        from harness.sweep.study import open_journal

        self._options, self._plan, self._screen = options, plan, screen
        self.store = Store(options.store, create=True)
        remove_abandoned(self.store.folder)
        self._experiment_id = _experiment(self.store, options, plan, ranks=True)
        self._storage = open_journal(self.store.journal)
        self._study = self._open_study()

    def tasks(self, trials: int) -> Iterator[Task]:
        """The interrupted trials, then new ones up to `trials` in all."""
        ends = None if self._options.timeout_seconds is None else time.monotonic() + self._options.timeout_seconds
        for asked in self._study.interrupted():
            self._screen.say(f"{_trial_name(asked.number)} was interrupted and goes on")
            yield self._task(asked)
        while len(self._study.trials()) < trials:
            if ends is not None and time.monotonic() > ends:
                self._screen.say("the time is up: no further trial is started.")
                return
            yield self._task(self._study.ask())

    def summarize(self) -> None:
        """The sweep's last lines: what was asked, trained and saved, and the best run."""
        totals = {"epochs": 0.0, "reused_epochs": 0.0, "saved_seconds": 0.0}
        for trial in self._study.trials():
            for name in totals:
                totals[name] += trial.user_attrs.get(name, 0)
        asked, reused = round(totals["epochs"]), round(totals["reused_epochs"])
        self._screen.say(
            f"epochs: {asked} asked, {asked - reused} trained, {reused} saved "
            f"({shown_seconds(totals['saved_seconds'])} of training)"
        )
        best = self._study.best()
        if best is None:
            self._screen.say("no trial finished.")
            return
        objective = self._plan.fixed["objective"]
        values = shown_values(json.loads(best.user_attrs["values"]), list(self._plan.searched))
        self._screen.say(f"best: {_trial_name(best.number)}  {objective} {best.value:.4f}  {values}")

    def _open_study(self) -> "Study":
        from harness.sweep.study import Study, archive_study, open_study

        options, plan = self._options, self._plan
        identity = _identity(plan)
        before = open_study(self._storage, options.name)
        if before is not None:
            changes = _changes(json.loads(before.user_attrs.get("identity", "{}")), identity)
            if changes or options.is_fresh:
                self._close_runs(before.user_attrs.get("uid", ""))
                archived = archive_study(self._storage, options.name)
                why = f"changed since the last sweep: {'; '.join(changes)}" if changes else "--fresh"
                self._screen.say(f"{why}.\nA new study starts; the earlier one is kept as {archived}, its runs stay.")
        study = Study(
            self._storage,
            options.name,
            plan.searched,
            direction=plan.direction,
            seed=plan.fixed["seed"],
            sampler=plan.fixed["sampler"],
            pruner=plan.fixed["pruner"],
            identity=identity,
        )
        for change in study.note_recipe(plan.report.recipe):
            self._screen.say(f"{change}: epochs trained before are not reused.")
        return study

    def _close_runs(self, study_uid: str) -> None:
        """Ends the runs that an abandoned study left open."""
        query = f"attributes.status = 'RUNNING' AND tags.\"harness.study\" = '{study_uid}'"
        for run in self.store.find_runs(self._experiment_id, query):
            self.store.resume_run(run.info.run_id).end(FAILED_STATUS, "failed", "its study was abandoned")

    def _task(self, asked: "Asked") -> Task:
        options, plan = self._options, self._plan
        name = _trial_name(asked.number)
        tags = {"harness.study": self._study.uid, "harness.trial": str(asked.number), "harness.kind": "trial"}
        params = {name: (asked.values | plan.fixed)[name] for name in plan.description.hyperparameters}
        log = self._find_run(asked)
        if log is not None:
            log.log_params(params)  # where the kill came between the run and its params
        else:
            log = self.store.create_run(
                self._experiment_id, name, params=params, tags=tags | _source_tags(options, plan)
            )
        if asked.run_id != log.run_id:
            asked.trial.set_user_attr("run_id", log.run_id)
        task = _task(options, plan, self.store, log, name, plan.fixed | asked.values)
        task.trial = TrialLink(self._study, asked)
        return task

    def _find_run(self, asked: "Asked") -> RunLog | None:
        """The MLflow run of an interrupted trial, also where the kill came before Optuna knew of it."""
        if asked.run_id is not None:
            return self.store.resume_run(asked.run_id)
        query = f"tags.\"harness.study\" = '{self._study.uid}' AND tags.\"harness.trial\" = '{asked.number}'"
        found = self.store.find_runs(self._experiment_id, query) if asked.was_interrupted else []
        return self.store.resume_run(found[0].info.run_id) if found else None


class TrialLink:
    """Reports a run to its Optuna trial."""

    def __init__(self, study: "Study", asked: "Asked") -> None:
        self._study, self._asked = study, asked

    def report(self, epoch: int, value: float) -> bool:
        """Whether the trial goes on."""
        return self._study.report(self._asked, epoch, value)

    def end(self, outcome: str, value: float | None, details: Mapping[str, Any]) -> None:
        """Tells Optuna how the run ended."""
        self._study.end(self._asked, outcome, value, details)


def _find_start(options: Options) -> tuple[dict[str, Any], Path | None]:
    """What `--from` names: the params of a run and its last checkpoint, or the checkpoint file alone."""
    if options.start is None:
        return {}, None
    if Path(options.start).exists():
        return {}, Path(options.start)
    from harness.tracking.runs import find_run, typed_params

    store = Store(options.store)
    run = find_run(store, options.start, options.name)
    return typed_params(run), store.artifact(run, "checkpoints/last.pth.tar")


def _plan(
    options: Options, workers: LocalWorkers, *, is_sweep: bool, params: Mapping[str, Any] | None = None
) -> tuple[Plan, int]:
    """Loads and checks a spec in a worker. Nothing has been written to the store when this returns."""
    first = _start_beside_imports(workers)
    description: Description = ask_worker(workers, first, Describe(spec=options.spec))
    settings = description.settings | (DEMO if options.is_demo else {})
    given = {name: value for name, value in (params or {}).items() if name in description.hyperparameters}
    given |= description.parse(options.assignments)
    for name in ("epochs", "trials"):
        if (value := getattr(options, name)) is not None:
            check_setting(name, value)
            given[name] = value
    searched = (
        {name: found for name, found in description.hyperparameters.items() if name not in given} if is_sweep else {}
    )
    fixed = {name: found.default for name, found in description.hyperparameters.items()} | settings | given
    fixed = {name: value for name, value in fixed.items() if name not in searched}
    values = {name: found.default for name, found in searched.items()} | fixed
    report: PreflightReport = ask_worker(
        workers,
        first,
        Preflight(
            spec=options.spec,
            values=_trainable(values),
            searched=tuple(searched),
            device=options.device,
            is_demo=options.is_demo,
        ),
    )
    plan = Plan(options=options, description=description, fixed=fixed, searched=searched, report=report)
    if is_sweep:
        from harness.sweep.study import build_pruner

        build_pruner(fixed["pruner"])
    return plan, first


def _start_beside_imports(workers: LocalWorkers) -> int:
    """The first worker takes seconds to load torch, this process to load MLflow: both at the same time."""
    with ThreadPoolExecutor(1) as pool:
        started = pool.submit(workers.start)
        import mlflow  # noqa: F401
        import optuna  # noqa: F401

        return started.result()


def _task(options: Options, plan: Plan, store: Store, log: RunLog, name: str, values: Mapping[str, Any]) -> Task:
    budget = options.path_budget_bytes
    return Task(
        name=name,
        log=log,
        objective=plan.fixed["objective"],
        objective_at=plan.fixed["objective_at"],
        request=Train(
            spec=options.spec,
            values=_trainable(values),
            run_id=log.run_id,
            device=options.device,
            is_demo=options.is_demo,
            paths=store.paths,
            budget_bytes=default_path_budget(store.paths) if budget is None else budget,
            checkpoints=log.folder / "checkpoints",
            expected_recipe=log.run.data.tags.get("harness.recipe"),
            awaits_verdict=plan.fixed["pruner"] is not None,
        ),
    )


def _trainable(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a run is built with: without those that only the driver uses."""
    return {name: value for name, value in values.items() if name not in ("trials", "sampler", "pruner")}


def _train_run(store: Store, experiment_id: str, options: Options, plan: Plan, start: Path | None) -> RunLog:
    """The run to train: an interrupted one of the same values and recipe, or a new one."""
    digest = hashlib.sha256(start.read_bytes()).hexdigest() if start else ""
    key = json.dumps([_trainable(plan.defaults), plan.report.recipe_digest, digest], sort_keys=True, default=repr)
    tag = hashlib.sha256(key.encode()).hexdigest()[:16]
    params = {name: plan.fixed[name] for name in plan.description.hyperparameters}
    earlier = store.find_runs(experiment_id, "tags.\"harness.kind\" = 'train'")
    for run in earlier:
        is_open = run.info.status == RUNNING or run.data.tags.get(STATUS) == "interrupted"
        if is_open and run.data.tags.get("harness.values") == tag and not is_held(_run_lock(store, run.info.run_id)):
            log = store.resume_run(run.info.run_id)
            log.log_params(params)
            return log
    tags = {"harness.kind": "train", "harness.values": tag} | _source_tags(options, plan)
    return store.create_run(experiment_id, f"train-{len(earlier) + 1:04d}", params=params, tags=tags)


def _run_lock(store: Store, run_id: str) -> Path:
    return store.folder / "locks" / f"{run_id}.lock"


def _experiment(store: Store, options: Options, plan: Plan, *, ranks: bool) -> str:
    """The experiment's id; `ranks` says that its runs are compared by this plan's objective from now on."""
    ranking = {OBJECTIVE: plan.fixed["objective"], DIRECTION: plan.direction}
    tags = {
        "harness.spec": str(options.spec),
        "mlflow.experimentKind": "custom_model_development",
        "mlflow.note.content": plan.description.summary or options.name,
    }
    return store.experiment_id(options.name, tags=tags | ranking if ranks else tags, first_tags=ranking)


def _source_tags(options: Options, plan: Plan) -> dict[str, str]:
    tags = {
        "mlflow.source.name": str(options.spec),
        "harness.spec": options.name,
        "harness.spec_path": str(options.spec.absolute()),
        "harness.demo": str(options.is_demo).lower(),
        OBJECTIVE: plan.fixed["objective"],
    }
    tags |= {"mlflow.note.content": plan.description.summary} if plan.description.summary else {}
    return tags | git_tags(options.spec)


def _identity(plan: Plan) -> dict[str, Any]:
    """What makes trials comparable, and suggestions repeatable: a change of it starts a new study."""
    ignored = ("trials", "keep", "checkpoint_every", "threads", "pruner")
    return {
        "search space": {name: repr(found) for name, found in plan.searched.items()},
        "settings": {name: repr(value) for name, value in plan.fixed.items() if name not in ignored},
        "pruner": _describe_pruner(plan.fixed["pruner"]),
        "code": plan.report.code,
        "data": plan.report.recipe["rest"]["data"],
    }


def _describe_pruner(pruner: Any) -> str:
    if pruner is None or isinstance(pruner, str):
        return str(pruner)
    plain = {key: value for key, value in vars(pruner).items() if isinstance(value, int | float | str | None)}
    return f"{type(pruner).__name__} {plain}"


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What of the identity changed, one clause each."""
    changes = []
    for group, new in after.items():
        old = before.get(group)
        if old == new:
            continue
        if not isinstance(new, dict) or not isinstance(old, dict):
            changes.append(f"{group} ({old} before, {new} now)")
            continue
        for name in sorted({*old, *new}):
            if old.get(name) != new.get(name):
                is_value = group == "settings" and name in old and name in new
                changes.append(f"{name} ({old[name]} before, {new[name]} now)" if is_value else name)
    return list(dict.fromkeys(changes))


def _count_trials(plan: Plan) -> int:
    """Trials in all: as many as asked for, and no more than a grid has points."""
    asked: int = plan.fixed["trials"]
    if plan.fixed["sampler"] != "grid":
        return asked
    from harness.sweep.study import grid_size

    return min(asked, grid_size(plan.searched))


def _fill(report: PreflightReport) -> int:
    """As many runs at once as the cores hold; one on a GPU."""
    return 1 if report.threads is None else max(1, count_cores() // report.threads)


def _say_plan(screen: Screen, plan: Plan, *, trials: int, jobs: int) -> None:
    report, epochs = plan.report, plan.fixed["epochs"]
    at_once = f", {jobs} at once" if jobs > 1 else ""
    screen.say(f"{plan.options.name}: {trials} trials of {epochs} epochs{at_once}, on {_device_line(report)}")
    for name, found in plan.searched.items():
        screen.say(f"  {name}: {found.describe()} (default {found.default})")
    if report.corner:
        corner = ", ".join(f"{name}={value}" for name, value in report.corner.items())
        screen.say(f"  the largest trial ({corner}) fits")
    seconds = report.epoch_seconds * epochs * trials / jobs
    disk = report.state_bytes * 3 * trials
    screen.say(
        f"  at most {shown_seconds(seconds)} ({report.epoch_seconds:.2g} s an epoch) and about "
        f"{shown_bytes(disk)} of checkpoints; shared epochs cost nothing"
    )
    if report.device.startswith("cpu") and seconds > SLOW_SECONDS and not plan.options.is_demo:
        screen.say(
            "  There is no GPU here, and on this CPU that is long. "
            f"For a first look: python -m harness sweep {plan.options.spec} --demo"
        )


def _device_line(report: PreflightReport) -> str:
    threads = f", {report.threads} thread{'s' * (report.threads > 1)} a trial" if report.threads else ""
    return (
        f"{report.device}{threads}, {report.precision}\n  {report.model} with {report.parameters:,} parameters, "
        f"{report.data} with {report.train_images:,} training images"
    )


def _trial_name(number: int) -> str:
    return f"trial-{number:04d}"


@contextmanager
def _workers() -> Iterator[LocalWorkers]:
    """Worker processes, killed where the block ends with an exception."""
    workers = LocalWorkers()
    try:
        yield workers
        workers.close()
    finally:
        workers.kill_all()


@contextmanager
def _interruptible(driver: Driver, screen: Screen, options: Options) -> Iterator[None]:
    """Ctrl-C and SIGTERM stop the runs at once and say how to go on; a second one does not even say that."""

    def stop(signum: int, frame: FrameType | None) -> None:
        signal.signal(signum, lambda *_: os._exit(INTERRUPTED))
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        driver.interrupt()
        screen.close()
        screen.say("stopped. Everything trained so far is kept; the same command goes on.")
        raise
    except BaseException:
        driver.interrupt()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
