"""`sweep`, `train` and `confirm`: from a spec file to runs in the store."""

import dataclasses
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from harness.errors import FAILED, INTERRUPTED, HarnessError
from harness.files import remove_abandoned
from harness.machine import is_own_process
from harness.reporting.screen import OpenScreen, Screen, open_screen
from harness.searching.driver import Driver
from harness.searching.lock import check_free, holding
from harness.searching.plan import (
    Options,
    check_places,
    device_line,
    limits_of,
    make_plan,
    say_plan,
)
from harness.searching.requests import (
    build_task,
    changes_since_last_train,
    find_or_create_run,
    open_experiment,
    run_lock,
    seed_identity,
    train_identity,
)
from harness.searching.task import Task
from harness.tracking.runs import RunRecord, to_record
from harness.tracking.store import Store
from harness.tracking.studies import changes_between
from harness.tracking.tags import CONFIRM, TRAIN_KIND
from harness.training.origin import Origin
from harness.workers.border import Workers
from harness.workers.local import LocalWorkers

if TYPE_CHECKING:
    from harness.results.confirm import Confirmation
    from harness.searching.outcome import SweepResult
    from harness.searching.session import SweepSession


def sweep(options: Options, open_screen: OpenScreen = open_screen) -> "SweepResult":
    """Searches the hyperparameters of a spec. A second call continues, to `trials` trials in all."""
    check_places(options)
    lock = options.store / "locks" / f"{options.name}.lock"
    check_free(lock, f"{options.name} in {options.store}")
    with _workers(options) as workers:
        plan, first = make_plan(options, workers, is_sweep=True)
        jobs = options.jobs or workers.fit(plan.report)
        limits = limits_of(plan)
        screen = open_screen(
            list(plan.searched),
            trials=limits.trials or 0,
            train_images=plan.report.train_images,
            maximize=plan.direction == "maximize",
        )
        try:
            say_plan(screen, plan, limits, jobs=jobs)
            if options.is_dry_run:
                from harness.searching.session import describe_study, dry_result

                screen.say(describe_study(options, plan))
                screen.say("dry run: nothing was written.")
                return dry_result(options, plan)
            with holding(lock, f"{options.name} in {options.store}"):
                from harness.searching.session import SweepSession

                session = SweepSession(options, plan, limits, screen)
                driver = Driver(session.store, workers, screen, idle=[first])
                with _interruptible(driver, screen, session.store):
                    driver.run(session.tasks(), jobs=options.jobs if options.ray else jobs, ends=limits.ends)
                    session.send_waiting()
                screen.close()  # the messages from here on are not about trials
                session.summarize()
                session.check_outcome()
                if options.registers:
                    _register(session, screen)
                return session.result()
        finally:
            screen.close()


def _register(session: "SweepSession", screen: Screen) -> None:
    try:
        session.register()
    except KeyboardInterrupt:
        screen.say("stopped. All trials are done; the same command registers the best one.")
        raise


def train(options: Options, open_screen: OpenScreen = open_screen) -> RunRecord:
    """Trains one run, at the defaults or from a checkpoint; continues an interrupted one."""
    check_places(options)
    params, start = _find_start(options)
    with _workers(options) as workers:
        plan, first = make_plan(options, workers, is_sweep=False, params=params, start=start)
        screen = open_screen(list(plan.description.hyperparameters), train_images=plan.report.train_images)
        try:
            screen.say(device_line(plan.report))
            if plan.report.start_note is not None:
                screen.say(f"  begins with {start.path if start else ''}: {plan.report.start_note}")
            store = Store(options.store, create=True, say=screen.say)
            remove_abandoned(store.folder)
            is_own = plan.fixed["objective"] == plan.description.settings["objective"]  # not of --set
            experiment_id = open_experiment(store, options, plan, ranks=is_own)
            changes = changes_since_last_train(store, experiment_id, options, plan)
            if changes is not None:
                screen.say(changes)
            log = find_or_create_run(
                store,
                experiment_id,
                options,
                plan,
                plan.defaults,
                kind=TRAIN_KIND,
                identity=train_identity(plan, start),
            )
            with holding(run_lock(store, log.run_id), f"run {log.run_id[:8]}"):
                task = build_task(options, plan, store, log, log.run.info.run_name, plan.defaults)
                task.request = dataclasses.replace(task.request, start=start)
                driver = Driver(store, workers, screen, idle=[first])
                with _interruptible(driver, screen, store):
                    driver.run(iter([task]), jobs=1)
            screen.say(f"run {log.run_id}")
            if task.outcome != "finished":
                raise HarnessError(f"{task.name} {task.outcome}: {task.reason}", exit_code=FAILED)
        finally:
            screen.close()
    return to_record(store.client.get_run(log.run_id) if store.takes_runs else log.run)


def confirm(options: Options, open_screen: OpenScreen = open_screen, *, seeds: int = 5) -> "Confirmation":
    """Trains the best run's values with the next `seeds` seeds, then measures each of them on the test part.

    Nothing is trained or measured twice: an interrupted command continues, and one with more seeds trains the
    missing ones. Raises `HarnessError` if no run has finished, if the spec has changed since that run, or if fewer
    than two seeds finish.
    """
    from harness.results.confirm import chosen_seeds, conclude, identity_of_run, missing_seeds
    from harness.results.reload import load
    from harness.tracking.runs import find_best

    store = Store(options.store)
    best = find_best(store, options.name)
    loaded = load(store, best, device=options.device)
    chosen = chosen_seeds(loaded, seeds)
    if missing := missing_seeds(store, best, chosen):
        values = {name: value for name, value in loaded.experiment.values().items() if name != "trials"}
        identity = identity_of_run(best, loaded)
        _repeat(options, open_screen, values, seeds=missing, of=best.info.run_id, identity=identity)
    return conclude(store, best, loaded, chosen, device=options.device)


def _repeat(
    options: Options,
    open_screen: OpenScreen,
    values: Mapping[str, Any],
    *,
    seeds: Sequence[int],
    of: str,
    identity: Mapping[str, Any],
) -> None:
    """Trains the values of run `of` once with each seed; interrupted runs continue.

    `identity` holds the code and data of `of`. Raises `HarnessError` if those of the spec differ.
    """
    lock = options.store / "locks" / f"{options.name}.confirm.lock"
    what = f"confirm {options.name} in {options.store}"
    check_free(lock, what)
    with _workers(options) as workers:
        plan, first = make_plan(options, workers, is_sweep=False, params={**values, "pruner": None})
        data = plan.report.recipe["rest"]["data"][: len(identity["data"])]  # as much of the digest as was kept
        changes = changes_between(identity, {"code": plan.report.code, "data": data})
        if changes:
            raise HarnessError(
                f"{options.spec} is not what run {of[:8]} was trained with; changed: {'; '.join(changes)}. "
                "Sweep again, or restore its source: it is among the run's artifacts, under spec/."
            )
        images, is_up = plan.report.train_images, plan.direction == "maximize"
        screen = open_screen(["seed"], trials=len(seeds), train_images=images, maximize=is_up)
        try:
            screen.say(device_line(plan.report))
            with holding(lock, what):
                store = Store(options.store, create=True, say=screen.say)
                remove_abandoned(store.folder)
                experiment_id = open_experiment(store, options, plan, ranks=False)

                def tasks() -> Iterator[Task]:
                    for seed in seeds:
                        seeded = plan.defaults | {"seed": seed}
                        log = find_or_create_run(
                            store, experiment_id, options, plan, seeded, kind=CONFIRM, identity=seed_identity(of, seed)
                        )
                        yield build_task(options, plan, store, log, log.run.info.run_name, seeded)

                driver = Driver(store, workers, screen, idle=[first])
                with _interruptible(driver, screen, store):
                    driver.run(tasks(), jobs=options.jobs or workers.fit(plan.report))
        finally:
            screen.close()


def _find_start(options: Options) -> tuple[dict[str, Any], Origin | None]:
    """Reads `--from`: a run gives its params and its last checkpoint, a file gives the checkpoint alone."""
    if options.start is None:
        if options.start_epochs is not None or options.start_without:
            raise HarnessError("--epoch and --except need --from: they say what to take from a checkpoint.")
        return {}, None

    def origin(path: Path) -> Origin:
        return Origin(path=path, epochs=options.start_epochs, without=options.start_without)

    if os.path.exists(options.start):  # Path.is_file() raises an error for a name that is too long; this does not
        return {}, origin(Path(options.start))
    if "/" in options.start or Path(options.start).suffix:
        raise HarnessError(f"--from {options.start}: there is no such file.")
    from harness.tracking.runs import find_run, typed_params

    store = Store(options.store)
    run = find_run(store, options.start, options.name)
    return typed_params(run), origin(store.artifact(run, "checkpoints/last.pth.tar"))


@contextmanager
def _workers(options: Options) -> Iterator[Workers]:
    """Workers here or on a Ray cluster. They are killed if the block ends with an exception."""
    workers = LocalWorkers(options.device) if options.ray is None else _ray_workers(options, options.ray)
    try:
        yield workers
        workers.close()
    finally:
        workers.kill_all()


def _ray_workers(options: Options, address: str) -> Workers:
    try:
        from harness.workers.ray_workers import RayWorkers
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "ray":
            raise
        raise HarnessError("--ray needs Ray, which is not installed: pip install 'experiment-harness[ray]'") from None
    gpus = 0.0 if options.gpus_per_trial is None and options.device == "cpu" else options.gpus_per_trial
    return RayWorkers(address, options.spec, cpus=options.cpus_per_trial, gpus=gpus)


@contextmanager
def _interruptible(driver: Driver, screen: Screen, store: Store) -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP stop the runs at once and say how to go on. A second signal ends the process at once.

    In a script or a notebook only Ctrl-C is handled; the second one raises `KeyboardInterrupt`.
    """

    def stop(signum: int, frame: FrameType | None) -> None:
        signal.signal(signum, (lambda *_: os._exit(INTERRUPTED)) if is_own_process() else signal.default_int_handler)
        driver.stop()

    outbox = store.outbox
    if outbox is not None:
        outbox.check_stop = driver.check_stop
    before = {number: signal.signal(number, stop) for number in _heard_signals()}
    try:
        yield
        if outbox is not None:
            outbox.flush()
    except KeyboardInterrupt:
        driver.interrupt()
        with suppress(OSError):  # the terminal may be closed
            screen.close()
            screen.say("stopped. Everything trained so far is kept; the same command goes on.")
        raise
    except BaseException:
        driver.interrupt()
        store.check_place()  # what could not be found was moved with the store
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _heard_signals() -> tuple[signal.Signals, ...]:
    if threading.current_thread() is not threading.main_thread():
        return ()  # Python handles signals in the main thread only
    if not is_own_process():
        return (signal.SIGINT,)
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN  # under nohup
    return (signal.SIGINT, signal.SIGTERM) if ignored else (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
