"""The commands that train: `sweep`, `train`, `confirm`; and `new`, which writes a spec to train."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.amounts import parse_duration, parse_jobs, parse_place, parse_size
from harness.errors import HarnessError
from harness.given import PathLike, SpecLike, data_in, spec_file, trusting
from harness.spec import is_loading

if TYPE_CHECKING:
    from harness.reporting.screen import OpenScreen
    from harness.results.confirm import Confirmation
    from harness.searching.outcome import SweepResult
    from harness.searching.plan import Options
    from harness.tracking.runs import RunRecord


def new(file: PathLike, *, data: PathLike | None = None) -> Path:
    """Writes a small, commented spec to start from; `data` fits it to a folder of images: classes, size.

    harness.new("my_spec.py", data="photos")
    """
    from harness.starter import write_spec

    write_spec(Path(file), None if data is None else Path(data))
    return Path(file)


def sweep(
    spec: SpecLike,
    *,
    trials: int | None = None,
    epochs: int | None = None,
    budget: int | None = None,
    timeout: str | float | None = None,
    until: float | None = None,
    jobs: int | str | None = None,
    demo: bool = False,
    fresh: bool = False,
    dry_run: bool = False,
    register: bool | None = None,
    path_budget: str | int | None = None,
    ray: str | None = None,
    cpus_per_trial: float | None = None,
    gpus_per_trial: float | None = None,
    study_storage: str | None = None,
    paths: PathLike | None = None,
    store: PathLike = "mlruns",
    device: str = "auto",
    data_dir: PathLike | None = None,
    verbose: bool = False,
    progress: bool | None = None,
    assignments: Sequence[str] | None = None,
    **values: Any,
) -> "SweepResult":
    """Searches the hyperparameters of a spec. The same call again continues, to `trials` trials in all.

        result = harness.sweep("experiments/vgg_cifar.py", trials=20, jobs=2, momentum=0.9)
        result.best, result.runs

    `budget` is in epochs trained, in all; `until` is a value of the objective: see docs/search.md.
    `values` fix hyperparameters and settings; `assignments` do so in text, `"lr=0.1"`, as `--set`. `timeout` is in
    seconds, or written as `"30m"`; `path_budget` in bytes, or written as `"5GB"`. `verbose` prints what the command
    line prints; `progress` forces a bar, or none. An interrupted call raises `KeyboardInterrupt`; the same
    call again continues.
    """
    if ray is None and (cpus_per_trial is not None or gpus_per_trial is not None):
        raise HarnessError("--cpus-per-trial and --gpus-per-trial need --ray.")
    from dataclasses import replace

    from harness.searching import commands

    options = _options(
        spec,
        store,
        device=device,
        values=values,
        assignments=tuple(assignments or ()),
        trials=trials,
        epochs=epochs,
        budget=budget,
        until=until,
        jobs=parse_jobs(jobs),
        timeout_seconds=None if timeout is None else parse_duration(timeout),
        path_budget_bytes=None if path_budget is None else parse_size(path_budget),
        is_demo=demo,
        is_fresh=fresh,
        is_dry_run=dry_run,
        ray=ray,
        cpus_per_trial=cpus_per_trial,
        gpus_per_trial=gpus_per_trial,
        study_storage=study_storage or os.environ.get("HARNESS_STUDY_STORAGE"),
        paths=None if paths is None else parse_place(os.fspath(paths)),
        registers=os.environ.get("HARNESS_REGISTER", "1") not in ("0", "false") if register is None else register,
    )
    with data_in(data_dir):
        screen, messages = _screen(options, verbose, progress)
        result = commands.sweep(options, screen)
    return replace(result, messages=tuple(messages))


def train(
    spec: SpecLike,
    *,
    start: PathLike | None = None,
    start_epochs: int | None = None,
    start_without: Sequence[str] = (),
    epochs: int | None = None,
    demo: bool = False,
    path_budget: str | int | None = None,
    store: PathLike = "mlruns",
    device: str = "auto",
    data_dir: PathLike | None = None,
    verbose: bool = False,
    progress: bool | None = None,
    assignments: Sequence[str] | None = None,
    **values: Any,
) -> "RunRecord":
    """Trains one run at the defaults or with `values`. After an interruption, the same call continues.

        run = harness.train("experiments/vgg_cifar.py", lr=0.1, epochs=5)
        run.value, run.best_epoch, harness.history(run)

    `start` is `--from` of the command line: a run or a checkpoint file to start from. `start_epochs` is the number of
    epochs that it has done (`--epoch`); `start_without` names what to leave out (`--except`).
    """
    from harness.searching import commands

    options = _options(
        spec,
        store,
        device=device,
        values=values,
        assignments=tuple(assignments or ()),
        epochs=epochs,
        start=None if start is None else os.fspath(start),
        start_epochs=start_epochs,
        start_without=tuple(start_without),
        path_budget_bytes=None if path_budget is None else parse_size(path_budget),
        is_demo=demo,
    )
    with data_in(data_dir):
        return commands.train(options, _screen(options, verbose, progress)[0])


def confirm(
    spec: SpecLike,
    *,
    seeds: int = 5,
    jobs: int | str | None = None,
    demo: bool = False,
    store: PathLike = "mlruns",
    device: str = "auto",
    data_dir: PathLike | None = None,
    trust: bool = False,
    verbose: bool = False,
    progress: bool | None = None,
) -> "Confirmation":
    """Trains the best run's values again with other seeds, then measures on the test part, once.

    harness.confirm("experiments/vgg_cifar.py", seeds=5).spreads["val_accuracy"].mean
    """
    from harness.searching import commands

    options = _options(spec, store, device=device, jobs=parse_jobs(jobs), is_demo=demo)
    with data_in(data_dir), trusting(store, trust):
        return commands.confirm(options, _screen(options, verbose, progress)[0], seeds=seeds)


def _options(spec: SpecLike, store: PathLike, **options: Any) -> "Options":
    file = spec_file(spec)
    if is_loading():
        raise HarnessError(
            f"{file} starts a search or a training while it is loaded as a spec. "
            'Put the call under `if __name__ == "__main__":`, or in a file of its own.'
        )
    from harness.searching.plan import Options

    return Options(spec=file, store=Path(store), **options)


def _screen(options: "Options", verbose: bool, progress: bool | None) -> "tuple[OpenScreen, list[str]]":
    """The screen, and the list of sentences for the caller."""
    from harness.reporting.progress import OpenQuiet
    from harness.reporting.screen import open_screen

    quiet = OpenQuiet(options.name, shows_bar=progress)
    return (open_screen if verbose else quiet), quiet.messages
