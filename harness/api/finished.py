"""The commands that show and use finished runs: tables, the best run, reloaded models, comparisons, reports."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from harness.errors import without_password
from harness.given import PathLike, SpecLike, Study, data_in, name_if, name_of, run_id_of, trusting

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from harness.given import RunLike
    from harness.reporting.written import Report
    from harness.results.compare import Comparison
    from harness.results.kept import SavedRun
    from harness.results.reload import LoadedRun, Verification
    from harness.tracking.runs import RunRecord


def list_runs(
    spec: SpecLike, *, study: Study = None, sort: str | None = None, demo: bool = False, store: PathLike = "mlruns"
) -> "tuple[list[RunRecord], str]":
    """The runs of a study, the best first, and a sentence about runs that are left out (or an empty text)."""
    from harness.tracking import runs
    from harness.tracking.store import Store
    from harness.tracking.studies import describe_others

    opened, name = Store(Path(store)), name_of(spec, demo)
    records = runs.list_runs(opened, name, study=study, sort=sort)
    others = describe_others(runs.list_runs(opened, name, study="all"), records) if study is None else ""
    return records, others


def runs(
    spec: SpecLike, *, study: Study = None, sort: str | None = None, demo: bool = False, store: PathLike = "mlruns"
) -> "pd.DataFrame":
    """The runs of a study of a spec (its path, its name or its class) as a DataFrame, the best first.

        harness.runs("vgg_cifar")[["name", "value", "lr", "duration"]]

    Each run has one row. The columns are `run_id`, `name`, `status`, `value` (of the objective), one for each param and
    for each metric's last value, then `kind` (`trial`, `train` or `confirm`), `study` (its number), `start` and
    `duration`. If a param and a metric share a name, such as `lr`, the metric is `last_lr`. `sort` names a metric.
    """
    from harness.tracking.runs import records_table

    return records_table(list_runs(spec, study=study, sort=sort, demo=demo, store=store)[0])


def best(
    spec: SpecLike,
    *,
    study: Study = None,
    test: bool = False,
    demo: bool = False,
    store: PathLike = "mlruns",
    device: str = "auto",
    data_dir: PathLike | None = None,
    trust: bool = False,
) -> "RunRecord":
    """The best run of a study. With `test` it is also measured on the test part, and this is noted.

    harness.best("vgg_cifar").params
    """
    from harness.tracking.runs import best_record
    from harness.tracking.store import Store

    with data_in(data_dir), trusting(store, trust):
        opened = Store(Path(store))
        record = best_record(opened, name_of(spec, demo), study=study)
        if not test:
            return record
        from harness.results.reload import measure_test

        return measure_test(opened, record, device=device)


def history(run: "RunLike", *, store: PathLike = "mlruns") -> "pd.DataFrame":
    """The metrics of a run as a DataFrame: one row for each epoch, from 1, and one column for each metric.

        harness.history(run.run_id).val_accuracy.plot()

    `run` is a run id, the beginning of one, or what `train`, `best` and the like return.
    """
    from harness.tracking.runs import find_run, read_curves
    from harness.tracking.store import Store

    opened = Store(Path(store))
    return read_curves(opened, find_run(opened, run_id_of(run)))


@overload
def load_run(
    run: "RunLike", spec: SpecLike | None = None, *, study: Study = None, store: PathLike = "mlruns",
    device: str = "auto", data_dir: PathLike | None = None, demo: bool = False, checkpoint: str = "best",
    weights_only: Literal[False] = False, trust: bool = False,
) -> "LoadedRun": ...  # fmt: skip


@overload
def load_run(
    run: "RunLike", spec: SpecLike | None = None, *, study: Study = None, store: PathLike = "mlruns",
    device: str = "auto", data_dir: PathLike | None = None, demo: bool = False, checkpoint: str = "best",
    weights_only: Literal[True], trust: bool = False,
) -> "SavedRun": ...  # fmt: skip


def load_run(
    run: "RunLike",
    spec: SpecLike | None = None,
    *,
    study: Study = None,
    store: PathLike = "mlruns",
    device: str = "auto",
    data_dir: PathLike | None = None,
    demo: bool = False,
    checkpoint: str = "best",
    weights_only: bool = False,
    trust: bool = False,
) -> "LoadedRun | SavedRun":
    """Rebuilds a run from its artifacts alone, which include the spec's source.

        run = harness.load_run("best", "experiments/vgg_cifar.py")
        run.model, run.params, run.metrics, run.epoch

    `run` is an MLflow run id, the beginning of one, or `"best"` with the `spec` that is meant. `checkpoint` is
    `"best"` or `"last"`. Raises `HarnessError` if there is no such run, or if its artifacts are missing or damaged.

    **This executes the code that is stored with the run**: trust a store as you trust a program. Code from another
    user's store, or from a tracking server, needs `trust`. With `weights_only`, only the checkpoint is read and no code
    is executed.
    """
    from harness.results.kept import look_at
    from harness.results.reload import load
    from harness.tracking.runs import find_run
    from harness.tracking.store import Store

    with data_in(data_dir), trusting(store, trust):
        opened = Store(Path(store))
        found = find_run(opened, run_id_of(run), name_if(spec, demo), study=study)
        return (
            look_at(opened, found, checkpoint)
            if weights_only
            else load(opened, found, device=device, checkpoint=checkpoint)
        )


def reload(
    run: "RunLike",
    spec: SpecLike | None = None,
    *,
    study: Study = None,
    demo: bool = False,
    store: PathLike = "mlruns",
    device: str = "auto",
    data_dir: PathLike | None = None,
    trust: bool = False,
) -> "Verification":
    """Rebuilds a run from its artifacts alone, measures it again, and compares with the logged metrics.

    harness.reload("best", "experiments/vgg_cifar.py").match
    """
    from harness.results.reload import verify
    from harness.tracking.runs import find_run
    from harness.tracking.store import Store

    with data_in(data_dir), trusting(store, trust):
        opened = Store(Path(store))
        return verify(opened, find_run(opened, run_id_of(run), name_if(spec, demo), study=study), device=device)


def predict(
    run: "RunLike",
    images: "PathLike | Sequence[PathLike] | Tensor",
    spec: SpecLike | None = None,
    *,
    study: Study = None,
    demo: bool = False,
    store: PathLike = "mlruns",
    device: str = "auto",
    data_dir: PathLike | None = None,
    trust: bool = False,
) -> "pd.DataFrame":
    """The predictions of a run's model: one row for each image, with `image`, `class` and `probability`.

        harness.predict("best", ["cat.png", "dog.png"], "experiments/vgg_cifar.py")

    `images` are files, or inputs in the form of the data: images uint8 (N, C, H, W). For regression the columns are
    `image` and `output`. `load_run(...).predict(images)` gives all probabilities as a tensor.
    """
    from harness.results.reload import LoadedRun

    with data_in(data_dir), trusting(store, trust):
        if not isinstance(run, LoadedRun):
            run = load_run(run, spec, study=study, store=store, device=device, demo=demo)
        return run.table(images)


def compare(
    *runs: "RunLike",
    spec: SpecLike | None = None,
    study: Study = None,
    demo: bool = False,
    store: PathLike = "mlruns",
    device: str = "auto",
    data_dir: PathLike | None = None,
    trust: bool = False,
) -> "Comparison":
    """Compares runs: parameters, metrics, and whether the difference is significant.

        harness.compare("best", "1a2b3c4d", spec="experiments/vgg_cifar.py")

    The models are measured again on the same validation images. The paired bootstrap says how much better one is,
    McNemar's test how likely this difference is by chance.
    """
    from harness.results import compare

    with data_in(data_dir), trusting(store, trust):
        return compare.compare(
            [run_id_of(run) for run in runs],
            study=study,
            store=Path(store),
            experiment=name_if(spec, demo),
            device=device,
        )


def report(
    spec: SpecLike,
    *,
    study: Study = None,
    output: PathLike | None = None,
    demo: bool = False,
    store: PathLike = "mlruns",
    device: str = "auto",
    data_dir: PathLike | None = None,
    trust: bool = False,
) -> "Report":
    """Draws the runs of a study and the best model's mistakes: one HTML file, and its pictures as PNG files.

    harness.report("experiments/vgg_cifar.py").page
    """
    from harness.reporting.report import write_report
    from harness.reporting.written import Report
    from harness.tracking.store import Store
    from harness.tracking.ui import ADDRESS
    from harness.tracking.view import links

    name = name_of(spec, demo)
    with data_in(data_dir), trusting(store, trust):
        page, pictures = write_report(
            name, study=study, store=Path(store), output=None if output is None else Path(output), device=device
        )
        opened = Store(Path(store))
    address = ADDRESS if opened.is_local else without_password(opened.uri)
    compare_url = links(opened, address, name, study=study)["compare"]
    return Report(page=page, pictures=tuple(pictures), compare_url=compare_url, needs_ui=opened.is_local)


def serve_report(
    spec: SpecLike,
    *,
    study: Study = None,
    demo: bool = False,
    port: int = 5001,
    store: PathLike = "mlruns",
    say: Callable[[str], None] = print,
) -> None:
    """Serves the report on this machine until it is interrupted, also while a sweep runs; prints the address."""
    from harness.reporting.serving import serve

    serve(Path(store), name_of(spec, demo), study=study, port=port, say=say)


def ui(
    spec: SpecLike | None = None,
    *,
    study: Study = None,
    demo: bool = False,
    port: int = 5000,
    store: PathLike = "mlruns",
    say: Callable[[str], None] = print,
) -> None:
    """Shows the runs in MLflow's own pages until it is interrupted; prints the addresses."""
    from harness.tracking.ui import show

    show(Path(store), name_if(spec, demo), study=None if study is None else str(study), port=port, say=say)
