"""The commands that show and use finished runs."""

from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.arguments import (
    DATA,
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
    parse_jobs,
    use_data,
    use_trust,
)
from harness.errors import FAILED, visible, without_password
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
    from harness.spec import experiment_name

    show_runs(store, experiment_name(spec, is_demo=demo), study=study, sort=sort, as_json=as_json)


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
    data_dir: DataDir = DATA,
) -> None:
    """Show the best run of SPEC's newest study."""
    from harness.reporting.tables import run_lines
    from harness.spec import experiment_name
    from harness.tracking.runs import best_record
    from harness.tracking.store import Store

    use_data(data_dir)
    use_trust(trust, store)
    with output_kept(as_json):
        opened = Store(store)
        record, tested = best_record(opened, experiment_name(spec, is_demo=demo), study=study), None
        if test:
            from harness.results.reload import load
            from harness.tracking.looks import describe_looks, note_look

            run = opened.client.get_run(record.run_id)
            loaded = load(opened, run, device=device)
            _ = loaded.built.data.test  # raises an error if there is no test part, before the use is noted
            looks = note_look(opened, [run], by="best --test")
            tested = loaded.measure("test")
    if as_json:
        print_json(record.as_json() | ({} if tested is None else {"test": tested}))
    else:
        echo("\n".join(run_lines(record, tested)))
    if tested is not None:
        echo(describe_looks(looks), err=as_json)


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
    data_dir: DataDir = DATA,
) -> None:
    """Rebuild RUN from its artifacts alone, and measure it again.

    The metrics on the validation part are compared with the logged ones. They must be equal to the last bit on the
    same kind of device, and within a printed tolerance on another one. Exit code 1: they are not.
    """
    from harness.reporting.tables import verification_lines
    from harness.results import reload as reloading
    from harness.spec import experiment_name
    from harness.tracking.runs import find_run
    from harness.tracking.store import Store

    use_data(data_dir)
    use_trust(trust, store)
    with output_kept(as_json):
        opened = Store(store)
        found = find_run(opened, run, None if spec is None else experiment_name(spec, is_demo=demo), study=study)
        verification = reloading.verify(opened, found, device=device)
    if as_json:
        print_json(reloading.as_json(verification))
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
        typer.Option(metavar="SPEC", help=BestOf, show_default=False),
    ] = None,
    study: Study = None,
    as_json: Json = False,
    demo: Demo = False,
    trust: Trust = False,
    store: Store = MLRUNS,
    device: Device = "auto",
    data_dir: DataDir = DATA,
) -> None:
    """Print class and probability of image files, by RUN's model."""
    from harness.reporting.tables import prediction_lines
    from harness.results.reload import load_run

    use_data(data_dir)
    use_trust(trust, store)
    with output_kept(as_json):
        loaded = load_run(run, spec, study=study, store=store, device=device, demo=demo)
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
        echo("\n".join(prediction_lines(rows)))


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
    study: Study = None,
    as_json: Json = False,
    demo: Demo = False,
    trust: Trust = False,
    store: Store = MLRUNS,
    device: Device = "auto",
    data_dir: DataDir = DATA,
) -> None:
    """Compare runs: parameters, metrics, and whether the difference is significant.

    The models are measured again on the same validation images. The paired bootstrap says how much better one is,
    McNemar's test how likely this difference is by chance.
    """
    from harness.reporting import comparison
    from harness.results import compare as comparing
    from harness.spec import experiment_name

    use_data(data_dir)
    use_trust(trust, store)
    with output_kept(as_json):
        experiment = None if spec is None else experiment_name(spec, is_demo=demo)
        compared = comparing.compare(runs, study=study, store=store, experiment=experiment, device=device)
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
    data_dir: DataDir = DATA,
) -> None:
    """Train the best run of SPEC again with other seeds.

    Prints mean, standard deviation and interval over the seeds, then measures on the test part, once. The same command
    again continues. Each use of the test part is noted in MLflow.
    """
    from harness.reporting import confirmation
    from harness.searching import commands
    from harness.searching.plan import Options

    use_data(data_dir)
    use_trust(trust, store)
    with output_kept(as_json):
        options = Options(spec=spec, store=store, device=device, jobs=parse_jobs(jobs), is_demo=demo)
        confirmed = commands.confirm(options, seeds=seeds)
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
    data_dir: DataDir = DATA,
) -> None:
    """Draw the runs of SPEC's newest study and the best model's mistakes.

    One HTML file that needs no network, and its pictures as PNG files. It says which run is best and whether that is
    real, shows all runs (choose some by dragging along an axis), what each hyperparameter did, how the best runs
    trained, what an edit of the spec changed, and what the best model gets wrong. It is kept in MLflow as well.
    """
    from harness.reporting.report import write_report
    from harness.spec import experiment_name
    from harness.tracking.store import Store
    from harness.tracking.ui import ADDRESS
    from harness.tracking.view import links

    use_data(data_dir)
    use_trust(trust, store)
    name = experiment_name(spec, is_demo=demo)
    if live:
        from harness.reporting.serving import serve

        serve(store, name, study=study, port=port, say=echo)
        return
    page, pictures = write_report(name, study=study, store=store, output=output, device=device)
    folder = f", {len(pictures)} pictures in {pictures[0].parent}" if pictures else ""
    echo(f"report: {page}{folder}")
    opened = Store(store)
    address = ADDRESS if opened.is_local else without_password(opened.uri)
    served = f", while this runs: python -m harness ui {spec}{' --demo' * demo}" if opened.is_local else ""
    echo(f"compare the runs in MLflow: {links(opened, address, name, study=study)['compare']}{served}")


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
    from harness.spec import experiment_name
    from harness.tracking.ui import show

    name = None if spec is None else experiment_name(spec, is_demo=demo)
    show(store, name, study=study, port=port, say=echo)


def show_runs(
    store: Path, name: str, *, study: str | None = None, sort: str | None = None, as_json: bool = False
) -> None:
    """Prints the runs of an experiment's study, the best first."""
    from harness.reporting.tables import runs_table
    from harness.tracking.runs import list_runs
    from harness.tracking.store import Store
    from harness.tracking.studies import describe_others

    with output_kept(as_json):
        opened = Store(store)
        records = list_runs(opened, name, study=study, sort=sort)
    if as_json:
        print_json([record.as_json() for record in records])
        return
    runs_table(records, sort=sort)
    if study is None and (others := describe_others(list_runs(opened, name, study="all"), records)):
        echo(others)
