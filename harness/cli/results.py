"""The commands that show and use finished runs."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.arguments import (
    MLRUNS,
    BestOf,
    DataDir,
    Demo,
    Device,
    Json,
    RunArgument,
    SpecArgument,
    Store,
    Study,
    Trust,
)
from harness.errors import FAILED, visible
from harness.reporting.document import output_kept, print_json

app = typer.Typer()


def echo(text: str, *, err: bool = False) -> None:
    """Prints a text; names and values in it command no terminal."""
    typer.echo(visible(text), err=err)


@app.command()
def runs(
    spec: SpecArgument,
    sort: Annotated[
        str | None,
        typer.Option(metavar="METRIC", help="Sort by the last value of this metric.", show_default=False),
    ] = None,
    study: Study = None,
    as_json: Json = False,
    demo: Demo = False,
    store: Store = MLRUNS,
) -> None:
    """List the runs of SPEC's newest study, the best first."""
    show_runs(spec, study=study, sort=sort, as_json=as_json, demo=demo, store=store)


@app.command()
def best(
    spec: SpecArgument,
    study: Study = None,
    as_json: Json = False,
    test: Annotated[bool, typer.Option("--test", help="Measure it on the test part as well.")] = False,
    demo: Demo = False,
    trust: Trust = False,
    store: Store = MLRUNS,
    device: Device = "auto",
    data_dir: DataDir = None,
) -> None:
    """Show the best run of SPEC's newest study."""
    from harness import api
    from harness.reporting.tables import run_lines

    with output_kept(as_json):
        found = api.best(
            spec, study=study, test=test, demo=demo, trust=trust, store=store, device=device, data_dir=data_dir
        )
    if as_json:
        print_json(found.as_json() | ({"test": found.test} if test else {}))
    else:
        echo("\n".join(run_lines(found)))
    for note in found.notes:
        echo(note, err=as_json)


@app.command()
def reload(
    run: RunArgument,
    spec: Annotated[
        Path | None,
        typer.Argument(metavar="SPEC", help=BestOf, show_default=False),
    ] = None,
    study: Study = None,
    as_json: Json = False,
    demo: Demo = False,
    trust: Trust = False,
    store: Store = MLRUNS,
    device: Device = "auto",
    data_dir: DataDir = None,
) -> None:
    """Rebuild RUN from its artifacts alone, and measure it again.

    The metrics on the validation part are compared with the logged ones. They must be equal to the last bit on the
    same kind of device, and within a printed tolerance on another one. If they are not, the exit code is 1.
    """
    from harness import api
    from harness.reporting.tables import verification_lines

    with output_kept(as_json):
        verification = api.reload(
            run, spec, study=study, demo=demo, trust=trust, store=store, device=device, data_dir=data_dir
        )
    if as_json:
        print_json(verification.as_json())
    else:
        echo("\n".join(verification_lines(verification)))
    if not verification.match:
        raise typer.Exit(FAILED)


@app.command()
def predict(
    run: RunArgument,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.", show_default=False)],
    spec: Annotated[
        Path | None,
        typer.Option("--spec", metavar="SPEC", help=BestOf, show_default=False),
    ] = None,
    study: Study = None,
    as_json: Json = False,
    demo: Demo = False,
    trust: Trust = False,
    store: Store = MLRUNS,
    device: Device = "auto",
    data_dir: DataDir = None,
) -> None:
    """Print class and probability of image files, by RUN's model."""
    from harness import api
    from harness.reporting.tables import prediction_lines

    with output_kept(as_json):
        table = api.predict(
            run, images, spec, study=study, demo=demo, trust=trust, store=store, device=device, data_dir=data_dir
        )
    rows = [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
    if as_json:
        print_json(rows)
    else:
        echo("\n".join(prediction_lines(rows)))


@app.command()
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN", help="Two or more: run ids, their beginnings, or 'best'.", show_default=False),
    ],
    spec: Annotated[
        Path | None,
        typer.Option("--spec", metavar="SPEC", help=BestOf, show_default=False),
    ] = None,
    study: Study = None,
    as_json: Json = False,
    demo: Demo = False,
    trust: Trust = False,
    store: Store = MLRUNS,
    device: Device = "auto",
    data_dir: DataDir = None,
) -> None:
    """Compare runs: parameters, metrics, and whether the difference is significant.

    The models are measured again on the same validation images. The paired bootstrap says how much better one is,
    McNemar's test how likely this difference is by chance.
    """
    from harness import api
    from harness.reporting import comparison

    with output_kept(as_json):
        compared = api.compare(
            *runs, spec=spec, study=study, demo=demo, trust=trust, store=store, device=device, data_dir=data_dir
        )
    if as_json:
        print_json(comparison.as_json(compared))
    else:
        comparison.print_comparison(compared)


@app.command()
def confirm(
    spec: SpecArgument,
    seeds: Annotated[
        int, typer.Option(metavar="N", min=2, max=10_000, help="Other seeds, in all, including earlier runs.")
    ] = 5,
    jobs: Annotated[str, typer.Option(metavar="N|auto", help="Runs at once; results do not depend on it.")] = "auto",
    as_json: Json = False,
    demo: Demo = False,
    trust: Trust = False,
    store: Store = MLRUNS,
    device: Device = "auto",
    data_dir: DataDir = None,
) -> None:
    """Train the best run of SPEC again with other seeds.

    Prints mean, standard deviation and interval over the seeds, then measures on the test part, once. The same command
    again continues. Each use of the test part is noted in MLflow.
    """
    from harness import api
    from harness.reporting import confirmation

    with output_kept(as_json):
        confirmed = api.confirm(
            spec,
            seeds=seeds,
            jobs=jobs,
            demo=demo,
            trust=trust,
            store=store,
            device=device,
            data_dir=data_dir,
            verbose=True,
        )
    if as_json:
        print_json(confirmation.as_json(confirmed))
    else:
        confirmation.print_confirmation(confirmed)


@app.command()
def report(
    spec: SpecArgument,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The file to write.  [default: in the store]", show_default=False),
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Serve the page on this machine while a sweep runs, until Ctrl-C.")
    ] = False,
    port: Annotated[int, typer.Option(metavar="N", min=1024, max=65535, help="Where --live listens.")] = 5001,
    study: Study = None,
    demo: Demo = False,
    trust: Trust = False,
    store: Store = MLRUNS,
    device: Device = "auto",
    data_dir: DataDir = None,
) -> None:
    """Draw the runs of SPEC's newest study and the best model's mistakes.

    One HTML file that needs no network, and its pictures as PNG files. It says which run is best and whether that is
    real, shows all runs (choose some by dragging along an axis), what each hyperparameter did, how the best runs
    trained, what an edit of the spec changed, and what the best model gets wrong. It is kept in MLflow as well.
    """
    from harness import api

    if live:
        api.serve_report(spec, study=study, demo=demo, port=port, store=store, say=echo)
        return
    written = api.report(
        spec, study=study, output=output, demo=demo, trust=trust, store=store, device=device, data_dir=data_dir
    )
    echo(repr(written))
    served = f", while this runs: python -m harness ui {spec}{' --demo' * demo}" if written.needs_ui else ""
    echo(f"compare the runs in MLflow: {written.compare_url}{served}")


@app.command()
def ui(
    spec: Annotated[
        Path | None,
        typer.Argument(metavar="SPEC", help="The spec whose runs to show.  [default: all]", show_default=False),
    ] = None,
    study: Study = None,
    demo: Demo = False,
    port: Annotated[
        int, typer.Option(metavar="N", min=1024, max=65535, help="Where to listen, on this machine.")
    ] = 5000,
    store: Store = MLRUNS,
) -> None:
    """Show the runs in MLflow's own pages, until Ctrl-C."""
    from harness import api

    api.ui(spec, study=study, demo=demo, port=port, store=store, say=echo)


def show_runs(
    spec: Path,
    *,
    study: str | None = None,
    sort: str | None = None,
    as_json: bool = False,
    demo: bool = False,
    store: Path = MLRUNS,
    most: int | None = None,
) -> None:
    """Prints the runs of a spec's study, the best first, at most so many."""
    from harness import api
    from harness.reporting.tables import runs_table

    with output_kept(as_json):
        records, others = api.list_runs(spec, study=study, sort=sort, demo=demo, store=store)
    if as_json:
        print_json([record.as_json() for record in records])
        return
    runs_table(records[:most], sort=sort)
    if most is not None and len(records) > most:
        echo(f"and {len(records) - most} more: python -m harness runs {spec}{' --demo' * demo}")
    if others:
        echo(others)
