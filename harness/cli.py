"""The command line: arguments to one call each. Torch and MLflow are loaded by the commands that need them."""

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.arguments import (
    DATA,
    MLRUNS,
    BestOf,
    Budget,
    Cpus,
    DataDir,
    Demo,
    Device,
    Epochs,
    Gpus,
    Json,
    Paths,
    Ray,
    Register,
    RunArgument,
    Set,
    SpecArgument,
    Store,
    StudyStorage,
    Timeout,
    Trials,
    parse_duration,
    parse_jobs,
    parse_size,
)
from harness.errors import FAILED, INTERRUPTED, HarnessError, UserCodeError
from harness.report.document import output_kept, print_json

app = typer.Typer(
    name="harness",
    help="Experiments with plain PyTorch: one file describes one, one command searches it, no epoch is trained twice.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: it fits any terminal, and a usage error is one sentence
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="SPEC is a spec file, such as experiments/vgg_cifar.py. "
    "RUN is an MLflow run id, the beginning of one, or 'best'.",
)


@app.command()
def sweep(
    spec: SpecArgument,
    trials: Trials = None,
    timeout: Timeout = None,
    jobs: Annotated[str, typer.Option(metavar="N|auto", help="Trials at once; results do not depend on it.")] = "auto",
    demo: Demo = False,
    assignments: Set = None,
    epochs: Epochs = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin a new study; earlier runs stay.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the spec, say what would be done, write nothing.")
    ] = False,
    register: Register = True,
    path_budget: Budget = None,
    ray: Ray = None,
    cpus_per_trial: Cpus = None,
    gpus_per_trial: Gpus = None,
    study_storage: StudyStorage = None,
    paths: Paths = None,
    store: Store = MLRUNS,
    device: Device = "auto",
    data_dir: DataDir = DATA,
) -> None:
    """Search the hyperparameters of SPEC. Run again, it goes on where it stopped."""
    from harness.sweep import sweep as sweeping
    from harness.sweep.plan import Options

    _use_data(data_dir)
    options = Options(
        spec=spec,
        store=store,
        device=device,
        assignments=tuple(assignments or ()),
        trials=trials,
        epochs=epochs,
        jobs=parse_jobs(jobs),
        timeout_seconds=None if timeout is None else parse_duration(timeout),
        path_budget_bytes=None if path_budget is None else parse_size(path_budget),
        is_demo=demo,
        is_fresh=fresh,
        is_dry_run=dry_run,
        ray=ray,
        cpus_per_trial=cpus_per_trial,
        gpus_per_trial=gpus_per_trial,
        study_storage=study_storage,
        paths=paths,
        registers=register,
    )
    sweeping.sweep(options)
    if demo and not dry_run:
        _show_runs(store, options.name)


@app.command()
def train(
    spec: SpecArgument,
    assignments: Set = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="RUN_OR_FILE",
            help="Go on from a run, or from a .pth.tar file.",
            show_default=False,
        ),
    ] = None,
    epochs: Epochs = None,
    demo: Demo = False,
    path_budget: Budget = None,
    store: Store = MLRUNS,
    device: Device = "auto",
    data_dir: DataDir = DATA,
) -> None:
    """Train one run of SPEC, at its defaults or what --set says. Run again, it goes on."""
    from harness.sweep import sweep as sweeping
    from harness.sweep.plan import Options

    _use_data(data_dir)
    sweeping.train(
        Options(
            spec=spec,
            store=store,
            device=device,
            assignments=tuple(assignments or ()),
            epochs=epochs,
            start=start,
            path_budget_bytes=None if path_budget is None else parse_size(path_budget),
            is_demo=demo,
        )
    )


@app.command()
def runs(
    spec: SpecArgument,
    sort: Annotated[
        str | None,
        typer.Option(metavar="METRIC", help="Order by this metric's last value instead.", show_default=False),
    ] = None,
    as_json: Json = False,
    demo: Demo = False,
    store: Store = MLRUNS,
) -> None:
    """List the runs of SPEC, the best first."""
    from harness.spec import experiment_name

    _show_runs(store, experiment_name(spec, is_demo=demo), sort=sort, as_json=as_json)


@app.command()
def best(
    spec: SpecArgument,
    as_json: Json = False,
    test: Annotated[bool, typer.Option("--test", help="Measure it on the test part as well.")] = False,
    demo: Demo = False,
    store: Store = MLRUNS,
    device: Device = "auto",
    data_dir: DataDir = DATA,
) -> None:
    """Show the best run of SPEC."""
    from harness.report.tables import run_lines
    from harness.spec import experiment_name
    from harness.tracking.runs import find_best, to_record
    from harness.tracking.store import Store

    _use_data(data_dir)
    with output_kept(as_json):
        opened = Store(store)
        run = find_best(opened, experiment_name(spec, is_demo=demo))
        record, tested = to_record(run), None
        if test:
            from harness.reload import load
            from harness.tracking.looks import describe_looks, note_look

            loaded = load(opened, run, device=device)
            _ = loaded.built.data.test  # an error where there is none: nothing was seen then
            looks = note_look(opened, [run], by="best --test")
            tested = loaded.measure("test")
    if as_json:
        print_json(record.as_json() | ({} if tested is None else {"test": tested}))
    else:
        typer.echo("\n".join(run_lines(record, tested)))
    if tested is not None:
        typer.echo(describe_looks(looks), err=as_json)


@app.command()
def reload(
    run: RunArgument,
    spec: Annotated[
        Path | None,
        typer.Argument(metavar="SPEC", help=BestOf, show_default=False),
    ] = None,
    as_json: Json = False,
    demo: Demo = False,
    store: Store = MLRUNS,
    device: Device = "auto",
    data_dir: DataDir = DATA,
) -> None:
    """Rebuild RUN from its artifacts alone, and measure it again.

    The measures on the validation part are compared with those that were logged: equal to the last bit on
    the same kind of device, within a stated tolerance on another. Exit code 1 says that they are not.
    """
    from harness import reload as reloading
    from harness.report.tables import verification_lines
    from harness.spec import experiment_name
    from harness.tracking.runs import find_run
    from harness.tracking.store import Store

    _use_data(data_dir)
    with output_kept(as_json):
        opened = Store(store)
        found = find_run(opened, run, None if spec is None else experiment_name(spec, is_demo=demo))
        verification = reloading.verify(opened, found, device=device)
    if as_json:
        print_json(reloading.as_json(verification))
    else:
        typer.echo("\n".join(verification_lines(verification)))
    if not verification.match:
        raise typer.Exit(FAILED)


@app.command()
def predict(
    run: RunArgument,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.", show_default=False)],
    spec: Annotated[
        Path | None,
        typer.Option(metavar="SPEC", help=BestOf, show_default=False),
    ] = None,
    as_json: Json = False,
    demo: Demo = False,
    store: Store = MLRUNS,
    device: Device = "auto",
    data_dir: DataDir = DATA,
) -> None:
    """Class and probability of image files, by RUN's model."""
    from harness.reload import load_run
    from harness.report.tables import prediction_lines

    _use_data(data_dir)
    with output_kept(as_json):
        loaded = load_run(run, spec, store=store, device=device, demo=demo)
        outputs = loaded.predict(images)
    classes = loaded.built.data.classes
    rows: list[dict[str, Any]] = []
    for image, output in zip(images, outputs, strict=True):
        if classes is None:
            rows.append({"image": str(image), "output": output.tolist()})
        else:
            top = int(output.argmax())
            rows.append({"image": str(image), "class": classes[top], "probability": float(output[top])})
    if as_json:
        print_json(rows)
    else:
        typer.echo("\n".join(prediction_lines(rows)))


@app.command()
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN", help="Two or more: run ids, their beginnings, or 'best'.", show_default=False),
    ],
    spec: Annotated[
        Path | None,
        typer.Option(metavar="SPEC", help=BestOf, show_default=False),
    ] = None,
    as_json: Json = False,
    demo: Demo = False,
    store: Store = MLRUNS,
    device: Device = "auto",
    data_dir: DataDir = DATA,
) -> None:
    """What differs between runs, and whether the difference in what they measured is real.

    The models are measured again on the same validation images: the paired bootstrap says by how much one is
    better, McNemar's test how likely so much is by chance.
    """
    from harness import compare as comparing
    from harness.report import comparison
    from harness.spec import experiment_name

    _use_data(data_dir)
    with output_kept(as_json):
        experiment = None if spec is None else experiment_name(spec, is_demo=demo)
        compared = comparing.compare(runs, store=store, experiment=experiment, device=device)
    if as_json:
        print_json(comparison.as_json(compared))
    else:
        comparison.print_comparison(compared)


@app.command()
def confirm(
    spec: SpecArgument,
    seeds: Annotated[int, typer.Option(metavar="N", min=2, help="Other seeds, in all; known runs count.")] = 5,
    jobs: Annotated[str, typer.Option(metavar="N|auto", help="Runs at once; results do not depend on it.")] = "auto",
    as_json: Json = False,
    demo: Demo = False,
    store: Store = MLRUNS,
    device: Device = "auto",
    data_dir: DataDir = DATA,
) -> None:
    """Train the best run of SPEC again with other seeds, then look at the test part, once.

    Says mean, standard deviation and interval over the seeds. Run again, it goes on; that the test part was
    looked at, and when, is kept in MLflow.
    """
    from harness import confirm as confirming
    from harness.report import confirmation
    from harness.sweep.plan import Options

    _use_data(data_dir)
    with output_kept(as_json):
        options = Options(spec=spec, store=store, device=device, jobs=parse_jobs(jobs), is_demo=demo)
        confirmed = confirming.confirm(options, seeds=seeds)
    if as_json:
        print_json(confirmation.as_json(confirmed))
    else:
        confirmation.print_confirmation(confirmed)


@app.command()
def ui(
    spec: Annotated[
        Path | None,
        typer.Argument(
            metavar="SPEC", help="The spec whose runs to show; all where none is named.", show_default=False
        ),
    ] = None,
    demo: Demo = False,
    port: Annotated[
        int, typer.Option(metavar="N", min=1024, max=65535, help="Where to listen, on this machine.")
    ] = 5000,
    store: Store = MLRUNS,
) -> None:
    """Show the runs in MLflow's own pages, until Ctrl-C."""
    from harness.spec import experiment_name
    from harness.tracking.ui import show

    show(store, None if spec is None else experiment_name(spec, is_demo=demo), port=port, say=typer.echo)


def main() -> None:
    """The entry point: errors that a user can mend are one or two sentences, anything else is a bug."""
    try:
        code = app(standalone_mode=False)
    except HarnessError as error:
        if isinstance(error, UserCodeError):
            print(error.trace.rstrip(), file=sys.stderr)
        print(f"harness: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = FAILED
    except Exception as error:
        code = _show_usage_error(error)
    sys.exit(code or 0)


def _use_data(folder: Path) -> None:
    if folder != DATA:
        os.environ["HARNESS_DATA_DIR"] = str(folder)


def _show_runs(store: Path, name: str, *, sort: str | None = None, as_json: bool = False) -> None:
    from harness.report.tables import runs_table
    from harness.tracking.runs import list_runs
    from harness.tracking.store import Store

    with output_kept(as_json):
        records = list_runs(Store(store), name, sort=sort)
    if as_json:
        print_json([record.as_json() for record in records])
    else:
        runs_table(records, sort=sort)


def _show_usage_error(error: Exception) -> int:
    show = getattr(error, "show", None)  # click's usage errors print themselves
    if show is not None:
        show()
        return int(getattr(error, "exit_code", 2))
    traceback.print_exception(error)
    return FAILED
