"""Reloads runs: rebuilds a model from its artifacts alone, measures it again, and predicts with it."""

import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from harness.data import Arrays, Data
from harness.data.decode import read_image
from harness.errors import FAILED, HarnessError
from harness.experiment import Experiment
from harness.given import PathLike
from harness.notebook import html_table
from harness.results.kept import find_source, read_kept
from harness.spec import load_spec
from harness.tracking.looks import describe_looks, note_look
from harness.tracking.runs import RunRecord
from harness.tracking.store import Store
from harness.tracking.tags import DEMO, DEVICE, SPEC_PATH, THREADS
from harness.training.build import Built, build
from harness.training.data_cache import DataCache
from harness.training.device import choose_device, choose_threads, describe_device, make_deterministic, set_products
from harness.training.loop import evaluate
from harness.training.state import restore_networks
from harness.training.step import in_precision

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import Run

MOST_THREADS = 4096
LOSS_TOLERANCE = 0.02  # relative, and
MEASURE_TOLERANCE = 0.01  # absolute; both between different kinds of devices, which round differently


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedRun:
    """A run, ready to use. `model` is in evaluation mode on `device`; the first `epoch` is 1.

    `metrics` are those of the checkpoint's epoch, `params` the run's hyperparameters, `checkpoint` the file of the
    weights.
    """

    run_id: str
    name: str
    model: nn.Module
    experiment: Experiment
    params: dict[str, Any]
    metrics: dict[str, float]
    epoch: int
    checkpoint: Path
    device: torch.device
    built: Built
    trained_on: str  # kind of device
    threads: int

    def __repr__(self) -> str:
        params = ", ".join(f"{name}={value}" for name, value in self.params.items())
        metrics = ", ".join(f"{name} {value:.4f}" for name, value in self.metrics.items())
        return f"{self.name} ({self.run_id[:8]}) after epoch {self.epoch}: {metrics}\n  {params}\n  {self.checkpoint}"

    def _repr_html_(self) -> str:
        rows = [*self.params.items(), *self.metrics.items()]
        return html_table(["", ""], rows, note=f"{repr(self).partition(':')[0]}\n{self.checkpoint}")

    def measure(self, part: str = "validation") -> dict[str, float]:
        """The loss and measures on the `validation` or `test` part, named as in the run's metrics."""
        batches = self._batches(part)
        with _as_trained(self.threads, self.built.precision):
            measured = evaluate(self.built.parts, batches, device=self.device, precision=self.built.precision)
        prefix = "test" if part == "test" else "val"
        return {f"{prefix}_{name}": value for name, value in measured.items()}

    def outputs(self, part: str = "validation") -> tuple[Tensor, Tensor]:
        """The model's outputs (N, K) float32 for the images of a part, in order, and their targets, on the CPU."""
        self.model.eval()
        outputs, targets = [], []
        with _as_trained(self.threads, self.built.precision):
            for inputs, wanted in self._batches(part):
                outputs.append(self._outputs(inputs).cpu())
                targets.append(wanted.cpu())
        return torch.cat(outputs), torch.cat(targets)

    def predict(self, images: Sequence[PathLike] | Tensor) -> Tensor:
        """Class probabilities (N, K), or outputs for regression, of image files or of inputs (N, ...).

        Files are resized as `image_folder` does it; inputs are what the data holds before normalisation,
        for images uint8 (N, C, H, W). Raises `HarnessError` for a file that is no image, and where the
        model was not trained on images.
        """
        batch = images if isinstance(images, Tensor) else self._read([Path(image) for image in images])
        if tuple(batch.shape[1:]) != self.built.data.input_shape:
            raise HarnessError(
                f"{self.name} takes inputs of shape {_shown_shape(self.built.data.input_shape)}, "
                f"not {_shown_shape(batch.shape[1:])}."
            )
        self.model.eval()
        with _as_trained(self.threads, self.built.precision):
            outputs = self._outputs(self.built.data.prepare(batch.to(self.device)))
        return (outputs.softmax(1) if self.built.data.is_classification else outputs).cpu()

    def table(self, images: PathLike | Sequence[PathLike] | Tensor) -> "pd.DataFrame":
        """The predictions as a DataFrame, one row for each image: see `harness.predict`."""
        import pandas as pd

        chosen: Any = [images] if isinstance(images, str | os.PathLike) else images
        outputs, classes = self.predict(chosen), self.built.data.classes
        names = [str(image) if isinstance(image, str | os.PathLike) else i for i, image in enumerate(chosen)]
        if classes is None:
            return pd.DataFrame({"image": names, "output": outputs.tolist()})
        tops = outputs.argmax(1, keepdim=True)
        shown = [classes[top] for top in tops.flatten().tolist()]
        return pd.DataFrame({"image": names, "class": shown, "probability": outputs.gather(1, tops).flatten().tolist()})

    @torch.no_grad()
    def _outputs(self, inputs: Tensor) -> Tensor:
        """What the spec's `predict()` gives for a batch, in the run's precision."""
        with in_precision([self.model], self.device, self.built.precision):
            return self.experiment.predict(self.model, inputs).float()

    def _batches(self, part: str) -> Iterator[tuple[Tensor, Tensor]]:
        if part not in ("validation", "test"):
            raise HarnessError(f"part '{part}': choose 'validation' or 'test'.")
        data = self.built.data
        chosen = data.test if part == "test" else data.validation
        return data.batches(chosen, batch_size=self.experiment.batch_size, device=self.device)

    def _read(self, paths: Sequence[Path]) -> Tensor:
        """Image files as (N, C, H, W) uint8, as the data has them."""
        shape = self.built.data.input_shape
        if not _holds_images(self.built.data) or shape[0] not in (1, 3) or shape[1] != shape[2]:
            raise HarnessError(
                f"{self.name} was trained on {self.built.data.name} of shape {_shown_shape(shape)}: "
                "only a model of square uint8 images, grey or RGB, can take image files."
            )
        images = []
        for path in paths:
            try:
                pixels = read_image(path, size=shape[1], channels=shape[0])
            except FileNotFoundError:
                raise HarnessError(f"{path} does not exist.") from None
            # Pillow's decoders raise almost any exception for a broken file.
            except Exception:
                raise HarnessError(f"{path} is not an image that can be read.", exit_code=FAILED) from None
            images.append(torch.tensor(pixels).permute(2, 0, 1))
        return torch.stack(images)


@dataclass(frozen=True, kw_only=True, repr=False)
class Verification:
    """The logged and the newly measured metrics of a run. `tolerance` is None if they must be equal bit for bit."""

    run_id: str
    name: str
    epoch: int
    device: str
    logged: dict[str, float]
    measured: dict[str, float]
    match: bool
    tolerance: str | None
    note: str | None

    @property
    def verdict(self) -> str:
        """Whether what was logged and what was measured agree, and how closely they had to."""
        how = f"within tolerance ({self.tolerance})" if self.tolerance else "equal, bit for bit"
        return how if self.match else f"NOT {how}"

    def as_json(self) -> dict[str, Any]:
        """The document that `reload --json` prints."""
        names = ("run_id", "logged", "measured", "match")
        return {name: getattr(self, name) for name in names}

    def __repr__(self) -> str:
        return f"{self.name} ({self.run_id[:8]}) epoch {self.epoch}, measured again on {self.device}: {self.verdict}"

    def _repr_html_(self) -> str:
        rows = [(name, repr(self.logged[name]), repr(value)) for name, value in self.measured.items()]
        return html_table(["", "logged", "measured"], rows, note="\n".join(filter(None, (repr(self), self.note))))


def measure_test(store: Store, record: RunRecord, *, device: str = "auto") -> RunRecord:
    """The record of a run, with its metrics on the test part. That it was measured there is noted first."""
    run = store.client.get_run(record.run_id)
    loaded = load(store, run, device=device)
    _ = loaded.built.data.test  # raises an error if there is no test part, before the use is noted
    looks = note_look(store, [run], by="best --test")
    return replace(record, test=loaded.measure("test"), notes=(describe_looks(looks),))


def load(store: Store, run: "Run", *, device: str = "auto", checkpoint: str = "best", trust: bool = False) -> LoadedRun:
    """Rebuilds a run of an open store; its code is run."""
    file, saved = read_kept(store, run, checkpoint)
    source = find_source(store, run, saved, is_trusted=trust)
    tags = run.data.tags
    spec = load_spec(source, original=tags.get(SPEC_PATH))
    chosen = choose_device(device)
    values = saved["values"]
    threads = tags.get(THREADS, "None")
    count = (
        int(threads)
        if threads.isdecimal() and 0 < int(threads[:5]) <= MOST_THREADS
        else choose_threads(values.get("threads"))
    )
    with _as_trained(count), _generators_kept(chosen):
        built = build(spec, values, device=chosen, cache=DataCache(), is_demo=tags.get(DEMO) == "true")
    try:
        restore_networks(built.parts, saved)
    except (HarnessError, RuntimeError, KeyError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise HarnessError(f"{file} does not fit the model of its spec: {reason}", exit_code=FAILED) from None
    return LoadedRun(
        run_id=run.info.run_id,
        name=run.info.run_name,
        model=built.parts.evaluated.eval(),
        experiment=built.experiment,
        params=built.experiment.params(),
        metrics=saved["metrics"],
        epoch=saved["epoch"] + 1,  # the file counts from 0
        checkpoint=file,
        device=chosen,
        built=built,
        trained_on=tags.get(DEVICE, ""),
        threads=count,
    )


def verify(store: Store, run: "Run", *, device: str = "auto") -> Verification:
    """Measures a run's model on the validation part again and compares with what MLflow has for that epoch.

    On the kind of device that trained it, every number must be equal; on another one, the loss within 2%
    and other measures within 0.01.
    """
    loaded = load(store, run, device=device)
    measured = loaded.measure()
    logged = {
        name: next(
            (m.value for m in store.client.get_metric_history(run.info.run_id, name) if m.step + 1 == loaded.epoch),
            float("nan"),
        )
        for name in measured
    }
    if loaded.trained_on == describe_device(loaded.device):
        match, tolerance = measured == logged, None
    else:
        match = all(_is_close(name, logged[name], measured[name]) for name in measured)
        tolerance = f"loss within {LOSS_TOLERANCE:.0%}, other measures within {MEASURE_TOLERANCE}"
    digests = [found.dataset.digest for found in run.inputs.dataset_inputs] if run.inputs else []
    is_same_data = not digests or loaded.built.data.digest.startswith(digests[0])
    return Verification(
        run_id=loaded.run_id,
        name=loaded.name,
        epoch=loaded.epoch,
        device=describe_device(loaded.device),
        logged=logged,
        measured=measured,
        match=match,
        tolerance=tolerance,
        note=None if is_same_data else "the data is not what the run was trained on",
    )


def _is_close(name: str, logged: float, measured: float) -> bool:
    tolerance = LOSS_TOLERANCE * abs(logged) if name.endswith("_loss") else MEASURE_TOLERANCE
    return abs(logged - measured) <= tolerance


def _holds_images(data: Data) -> bool:
    """Whether the inputs are uint8 images: a `Dataset` has a mean only then."""
    return data.train.inputs.dtype == torch.uint8 if isinstance(data.train, Arrays) else data.mean is not None


def _shown_shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


@contextmanager
def _as_trained(threads: int, precision: str | None = None) -> Iterator[None]:
    """Computes as the run did, bit for bit; afterwards torch is what it was for the caller."""
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = torch.get_num_threads(), cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, products.allow_tf32
    strictness = torch.get_deterministic_debug_mode()
    is_filling = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    make_deterministic(threads)
    if precision is not None:
        set_products(precision)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, products.allow_tf32 = before[1:]
        torch.set_deterministic_debug_mode(strictness)
        torch.utils.deterministic.fill_uninitialized_memory = is_filling  # type: ignore[attr-defined]


@contextmanager
def _generators_kept(device: torch.device) -> Iterator[None]:
    """Building a model seeds every generator; the caller's go on where they were. No GPU is begun for that alone."""
    import numpy

    states = random.getstate(), numpy.random.get_state()
    used = [device] if device.type == "cuda" else []
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else used  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=gpus):
        try:
            yield
        finally:
            random.setstate(states[0])
            numpy.random.set_state(states[1])
