"""The plan of a sweep or a training run: the spec is loaded, checked and timed before anything is stored."""

import dataclasses
import math
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import NotCaptured
from harness.experiment import direction_of
from harness.files import check_folder
from harness.machine import check_memory, loading
from harness.reporting.screen import Screen, shown_bytes, shown_seconds
from harness.search import Hyperparameter
from harness.searching.limits import Limits
from harness.settings import check_setting, of_a_run, of_a_study
from harness.spec import Description, experiment_name, read_source
from harness.tracking.making import DATABASE, draft_database
from harness.training.origin import Origin
from harness.workers.border import Workers, ask_worker
from harness.workers.messages import Describe, Preflight, PreflightReport

DEMO = {"epochs": 8, "trials": 6, "budget": 48}
SLOW_SECONDS = 1800


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a sweep or of one training run."""

    spec: Path
    store: Path
    device: str = "auto"
    assignments: tuple[str, ...] = ()  # NAME=VALUE
    values: Mapping[str, Any] = field(default_factory=dict)  # the same from Python
    trials: int | None = None
    epochs: int | None = None
    jobs: int | None = None  # None: as many as fill the machine
    timeout_seconds: float | None = None
    budget: int | None = None  # epochs trained, in all
    until: float | None = None  # a value of the objective
    path_budget_bytes: int | None = None
    is_demo: bool = False
    is_fresh: bool = False
    is_dry_run: bool = False
    start: str | None = None
    start_epochs: int | None = None  # epochs that the checkpoint has done
    start_without: tuple[str, ...] = ()
    ray: str | None = None  # the address of a cluster; None: this machine
    cpus_per_trial: float | None = None
    gpus_per_trial: float | None = None
    paths: Path | str | None = None  # the place of the tree of epochs if it is not in the store: a folder or an address
    study_storage: str | None = None  # the address of a database; None: the journal in the store
    registers: bool = False  # registers the best run in MLflow's model registry

    @property
    def name(self) -> str:
        """The experiment's name in the store."""
        return experiment_name(self.spec, is_demo=self.is_demo)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A spec that has been checked and timed, with the values to run it with."""

    options: Options
    description: Description
    fixed: dict[str, Any]  # settings, and hyperparameters that are not searched
    searched: dict[str, Hyperparameter]
    report: PreflightReport
    given: frozenset[str] = frozenset()  # settings and hyperparameters that were set by --set or from Python

    @property
    def direction(self) -> str:
        """`maximize` or `minimize`."""
        return direction_of(self.fixed["objective"], self.fixed["direction"])

    @property
    def defaults(self) -> dict[str, Any]:
        """All values, the searched ones at their defaults."""
        return {name: found.default for name, found in self.searched.items()} | self.fixed


def make_plan(
    options: Options,
    workers: Workers,
    *,
    is_sweep: bool,
    params: Mapping[str, Any] | None = None,
    start: Origin | None = None,
) -> tuple[Plan, int]:
    """Loads and checks a spec in a worker. Nothing has been written to the store when this returns."""
    first = _start_beside_imports(workers)
    if not (options.store / DATABASE).exists() and "MLFLOW_TRACKING_URI" not in os.environ and not options.is_dry_run:
        draft_database()  # while the worker tries the spec
    description: Description = ask_worker(workers, first, Describe(spec=options.spec))
    settings = description.settings | (DEMO if options.is_demo else {})
    known = {**description.hyperparameters, **description.settings}
    given = {name: value for name, value in (params or {}).items() if name in known}
    given |= description.parse(options.assignments) | description.check(options.values)
    for name in ("epochs", "trials", "budget"):
        if (value := getattr(options, name)) is not None:
            check_setting(name, value)
            given[name] = value
    searched = (
        {name: found for name, found in description.hyperparameters.items() if name not in given} if is_sweep else {}
    )
    fixed = {name: found.default for name, found in description.hyperparameters.items()} | settings | given
    fixed = {name: value for name, value in fixed.items() if name not in searched}
    values = {name: found.default for name, found in searched.items()} | fixed
    request = Preflight(
        spec=options.spec,
        values=of_a_run(values),
        searched=tuple(searched),
        device=options.device,
        is_demo=options.is_demo,
        start=start,
        paths=options.store.absolute() / "paths" if options.paths is None else options.paths,
    )
    report, first = _preflight(workers, first, request)
    plan = Plan(
        options=options,
        description=description,
        fixed=fixed,
        searched=searched,
        report=report,
        given=frozenset(given),
    )
    if is_sweep:
        from harness.searching.study import build_pruner

        build_pruner(fixed["pruner"])
    return plan, first


def _preflight(workers: Workers, worker: int, request: Preflight) -> tuple[PreflightReport, int]:
    """The report and the worker; another one, without CUDA graphs, where a step could not be captured as one."""
    try:
        return ask_worker(workers, worker, request), worker
    except NotCaptured as error:
        workers.stop(worker)
        another = workers.start()
        return ask_worker(workers, another, dataclasses.replace(request, no_graph=str(error))), another


def check_places(options: Options) -> None:
    """Checks what needs no worker: a mistake in the spec or the options is reported at once."""
    read_source(options.spec)
    check_folder(options.store, "--store")
    if isinstance(options.paths, Path):
        check_folder(options.paths, "--paths")


def _start_beside_imports(workers: Workers) -> int:
    """Starts the first worker, which loads torch for seconds, while this process loads MLflow."""

    def load() -> None:
        with loading():
            import mlflow  # noqa: F401
            import optuna  # noqa: F401

    check_memory()
    with ThreadPoolExecutor(1) as pool:
        loaded = pool.submit(load)
        number = workers.start()  # in the main thread, where Ctrl-C works: it may wait for room on a cluster
        loaded.result()
        return number


def count_trials(plan: Plan) -> int:
    """The number of trials in all: as asked for, but at most as many as a grid has points."""
    asked: int = plan.fixed["trials"]
    if plan.fixed["sampler"] != "grid":
        return asked
    from harness.searching.space import grid_size

    return min(asked, grid_size(plan.searched))


def limits_of(plan: Plan) -> Limits:
    """The limits of a sweep. A given number of trials counts those that are trained to their end. With a budget, a
    time or a value alone, the search over the tree decides how many trials it begins."""
    options = plan.options
    is_asked = options.trials is not None or "trials" in plan.given
    budget = plan.fixed["budget"] if "budget" in plan.given or not is_asked else None
    ends = None if options.timeout_seconds is None else time.monotonic() + options.timeout_seconds
    is_open = plan.fixed["sampler"] == "tree" and not is_asked and (budget, ends, options.until) != (None, None, None)
    trials = None if is_open else count_trials(plan)
    return Limits(trials=trials, budget=budget, ends=ends, until=options.until)


def say_plan(screen: Screen, plan: Plan, limits: Limits, *, jobs: int) -> None:
    report, epochs = plan.report, plan.fixed["epochs"]
    at_once = f", {jobs} at once" if jobs > 1 else ""
    trials = "as many trials as it takes" if limits.trials is None else f"{limits.trials} trials"
    screen.say(f"{plan.options.name}: {trials} of {epochs} epochs{at_once}, on {device_line(report)}")
    for name, found in plan.searched.items():
        screen.say(f"  {name}: {found.describe()} (default {found.default})")
    if report.corner:
        corner = ", ".join(f"{name}={value}" for name, value in report.corner.items())
        screen.say(f"  the largest trial ({corner}) fits")
    most = [limits.budget] if limits.budget is not None else []
    most += [epochs * limits.trials] if limits.trials is not None else []
    seconds = report.epoch_seconds * min(most) / jobs if most else plan.options.timeout_seconds or 0
    if most:
        if limits.trials is None:
            disk = f"about {shown_bytes(2 * report.state_bytes)} of checkpoints a trial"
        else:
            disk = f"about {shown_bytes(3 * report.state_bytes * max(1, min(most) // epochs))} of checkpoints"
        screen.say(
            f"  at most {shown_seconds(math.ceil(seconds))} ({report.epoch_seconds:.2g} s an epoch) and {disk}; "
            "shared epochs cost nothing"
        )
    else:
        screen.say(f"  {report.epoch_seconds:.2g} s an epoch; shared epochs cost nothing")
    for note in (report.paths_note, report.fingerprint_note):
        if note is not None:
            screen.say(f"  note: {note}")
    if report.device.startswith("cpu") and seconds > SLOW_SECONDS and not plan.options.is_demo:
        screen.say(
            "  There is no GPU here, and on this CPU that is long. "
            f"For a first look: python -m harness sweep {plan.options.spec} --demo"
        )


def device_line(report: PreflightReport) -> str:
    threads = f", {report.threads} thread{'s' * (report.threads > 1)} a trial" if report.threads else ""
    notes = "".join(f"\n  note: {note}" for note in report.data_notes)
    return (
        f"{report.device}{threads}, {report.precision}\n  {report.model} with {report.parameters:,} parameters, "
        f"{report.data} with {report.train_images:,} training images\n  {report.proof.sentence()}{notes}"
    )


def identity_of(plan: Plan) -> dict[str, Any]:
    """What makes trials comparable and suggestions repeatable. A change of it starts a new study."""
    return {
        "search space": {name: repr(found) for name, found in plan.searched.items()},
        "settings": {name: repr(value) for name, value in of_a_study(plan.fixed).items()},
        "pruner": _describe_pruner(plan.fixed["pruner"]),
        "code": plan.report.code,
        "data": plan.report.recipe["rest"]["data"],
        "what the study keeps": "real values",
    }


def _describe_pruner(pruner: Any) -> str:
    if pruner is None or isinstance(pruner, str):
        return str(pruner)
    plain = {key: value for key, value in vars(pruner).items() if isinstance(value, int | float | str | None)}
    return f"{type(pruner).__name__} {plain}"
