"""The command line: `sweep` and `train` are here, the commands that show runs in `results`.

Torch and MLflow are loaded by the commands that need them.
"""

import io
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from harness import __version__
from harness.cli.arguments import (
    MLRUNS,
    Budget,
    Cpus,
    DataDir,
    Demo,
    Device,
    EpochBudget,
    Epochs,
    Gpus,
    Paths,
    Ray,
    Register,
    Set,
    SpecArgument,
    Store,
    StudyStorage,
    Timeout,
    Trials,
    Until,
)
from harness.cli.results import app as results
from harness.cli.results import show_runs
from harness.errors import FAILED, INTERRUPTED, HarnessError, UserCodeError, visible
from harness.faults import explain
from harness.machine import keep_loaded, own_process

app = typer.Typer(
    name="harness",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: it fits any terminal, and a usage error is one sentence
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="SPEC is a spec file, such as experiments/vgg_cifar.py. "
    "RUN is an MLflow run id, the beginning of one, or 'best'.",
)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"harness {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Experiments with plain PyTorch: one file describes one, one command searches it, no epoch is trained twice."""


@app.command()
def new(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it, such as my_spec.py.")],
    data: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Fit it to this folder of images, one folder a class.", show_default=False),
    ] = None,
) -> None:
    """Write a small, commented spec to start from."""
    from harness import api

    typer.echo(f"wrote {api.new(file, data=data)}. Read it, then: python -m harness train {file}")


@app.command()
def sweep(
    spec: SpecArgument,
    trials: Trials = None,
    budget: EpochBudget = None,
    timeout: Timeout = None,
    until: Until = None,
    jobs: Annotated[str, typer.Option(metavar="N|auto", help="Trials at once; results do not depend on it.")] = "auto",
    demo: Demo = False,
    assignments: Set = None,
    epochs: Epochs = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start a new study; earlier runs are kept.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the spec, print the plan, write nothing.")] = False,
    register: Register = True,
    path_budget: Budget = None,
    ray: Ray = None,
    cpus_per_trial: Cpus = None,
    gpus_per_trial: Gpus = None,
    study_storage: StudyStorage = None,
    paths: Paths = None,
    store: Store = MLRUNS,
    device: Device = "auto",
    data_dir: DataDir = None,
) -> None:
    """Search the hyperparameters of SPEC. The same command again continues where it stopped."""
    from harness import api

    api.sweep(
        spec,
        trials=trials,
        epochs=epochs,
        budget=budget,
        timeout=timeout,
        until=until,
        jobs=jobs,
        demo=demo,
        fresh=fresh,
        dry_run=dry_run,
        register=register,
        path_budget=path_budget,
        ray=ray,
        cpus_per_trial=cpus_per_trial,
        gpus_per_trial=gpus_per_trial,
        study_storage=study_storage,
        paths=paths,
        store=store,
        device=device,
        data_dir=data_dir,
        verbose=True,
        assignments=assignments,
    )
    if demo and not dry_run:
        show_runs(spec, demo=True, store=store, most=10)


@app.command()
def train(
    spec: SpecArgument,
    assignments: Set = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="RUN_OR_FILE",
            help="Start from a run, or from a checkpoint file of any training loop.",
            show_default=False,
        ),
    ] = None,
    start_epochs: Annotated[
        int | None,
        typer.Option(
            "--epoch",
            metavar="N",
            min=0,
            help="How many epochs of the --from file are done.  [default: what the file says]",
            show_default=False,
        ),
    ] = None,
    start_without: Annotated[
        list[str] | None,
        typer.Option(
            "--except",
            metavar="NAME",
            help="Leave out the --from file's weights of this name, such as head (it keeps its initial weights), "
            "or 'optimizer' or 'scheduler'; can be repeated.",
            show_default=False,
        ),
    ] = None,
    epochs: Epochs = None,
    demo: Demo = False,
    path_budget: Budget = None,
    store: Store = MLRUNS,
    device: Device = "auto",
    data_dir: DataDir = None,
) -> None:
    """Train one run of SPEC, at its defaults or the values of --set. The same command again continues it."""
    from harness import api

    api.train(
        spec,
        start=start,
        start_epochs=start_epochs,
        start_without=start_without or (),
        epochs=epochs,
        demo=demo,
        path_budget=path_budget,
        store=store,
        device=device,
        data_dir=data_dir,
        verbose=True,
        assignments=assignments,
    )


app.add_typer(results)


def main() -> None:
    """The entry point. An error of the user is printed as one or two sentences; any other error is a bug."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names can have bytes that are not text
    own_process()
    if not sys.flags.safe_path and not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())  # the script `harness` imports from the same folders as `python -m harness`
    try:
        code = app(standalone_mode=False)
    except HarnessError as error:
        if isinstance(error, UserCodeError):
            print(error.trace.rstrip(), file=sys.stderr)
        print(f"harness: {visible(str(error))}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = FAILED
    except Exception as error:
        code = _show(error)
    keep_loaded()  # else the garbage collector searches all imports at the end
    sys.exit(code or 0)


def _show(error: Exception) -> int:
    show = getattr(error, "show", None)  # click's usage errors print themselves
    if show is not None:
        show()
        return int(getattr(error, "exit_code", 2))
    sentence = explain(error)
    if sentence is not None:
        print(f"harness: {visible(sentence)}", file=sys.stderr)
        return FAILED
    traceback.print_exception(error)
    return FAILED
