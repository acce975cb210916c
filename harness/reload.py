"""Runs back from the store: the model rebuilt from its artifacts alone, measured again, asked for predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from harness.errors import FAILED, HarnessError
from harness.experiment import Experiment
from harness.spec import experiment_name, load_spec
from harness.tracking.runs import find_run
from harness.tracking.store import Store
from harness.training.build import Built, DataCache, build
from harness.training.checkpoint import load_checkpoint
from harness.training.device import choose_device, choose_threads, describe_device, make_deterministic
from harness.training.loop import autocast, evaluate

if TYPE_CHECKING:
    from mlflow.entities import Run

LOSS_TOLERANCE = 0.02  # relative, and
MEASURE_TOLERANCE = 0.01  # absolute: between kinds of devices, whose sums round differently


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedRun:
    """A run, ready to use. `model` is in evaluation mode on `device`; `epoch` counts from 0.

    `metrics` are those of the checkpoint's epoch, `params` the run's hyperparameters, `checkpoint` the
    file that the weights came from.
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
    trained_on: str

    def __repr__(self) -> str:
        params = ", ".join(f"{name}={value}" for name, value in self.params.items())
        metrics = ", ".join(f"{name} {value:.4f}" for name, value in self.metrics.items())
        return (
            f"{self.name} ({self.run_id[:8]}) after epoch {self.epoch + 1}: {metrics}\n  {params}\n  {self.checkpoint}"
        )

    def measure(self, part: str = "validation") -> dict[str, float]:
        """The loss and measures on the `validation` or `test` part, named as in the run's metrics."""
        data = self.built.data
        chosen = data.test if part == "test" else data.validation
        prefix = "test" if part == "test" else "val"
        measured = evaluate(
            self.model,
            self.built.loss,
            data.batches(chosen, batch_size=self.experiment.batch_size, device=self.device),
            measures=self.built.measures,
            device=self.device,
            precision=self.built.precision,
        )
        return {f"{prefix}_{name}": value for name, value in measured.items()}

    def predict(self, images: Sequence[str | Path] | Tensor) -> Tensor:
        """Class probabilities (N, K), or outputs for regression, of image files or of a uint8 tensor (N, C, H, W)."""
        batch = images if isinstance(images, Tensor) else torch.stack([self._read(Path(image)) for image in images])
        with torch.no_grad(), autocast(self.device, self.built.precision):
            outputs = self.model(self.built.data.prepare(batch.to(self.device))).float()
        return (outputs.softmax(1) if self.built.data.is_classification else outputs).cpu()

    def _read(self, path: Path) -> Tensor:
        from PIL import Image, UnidentifiedImageError

        if len(self.built.data.input_shape) != 3:
            raise HarnessError(f"{self.name} was not trained on images.")
        channels, height, width = self.built.data.input_shape
        try:
            with Image.open(path) as image:
                converted = image.convert("L" if channels == 1 else "RGB")
                scale = max(height / converted.height, width / converted.width)
                size = (
                    max(width, round(converted.width * scale)),
                    max(height, round(converted.height * scale)),
                )
                resized = converted.resize(size, Image.Resampling.BILINEAR)
        except FileNotFoundError:
            raise HarnessError(f"{path} does not exist.") from None
        except (UnidentifiedImageError, OSError) as error:
            raise HarnessError(f"{path} is not an image that can be read: {error}", exit_code=FAILED) from None
        left, top = (resized.width - width) // 2, (resized.height - height) // 2
        cropped = resized.crop((left, top, left + width, top + height))
        pixels = torch.frombuffer(bytearray(cropped.tobytes()), dtype=torch.uint8)
        return pixels.view(height, width, channels).permute(2, 0, 1)


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What a run logged against what its reloaded model measures. `tolerance` is None where bits must agree."""

    run_id: str
    logged: dict[str, float]
    measured: dict[str, float]
    match: bool
    tolerance: str | None
    note: str | None


def load_run(
    run: str,
    spec: str | Path | None = None,
    *,
    store: str | Path = "mlruns",
    device: str = "auto",
    demo: bool = False,
    checkpoint: str = "best",
) -> LoadedRun:
    """Rebuilds a run from its artifacts alone: the spec's source travels with it.

    `run` is an MLflow run id, a unique prefix of one, or `"best"` with the `spec` (path or name) it is the
    best of. `checkpoint` is `"best"` or `"last"`. Raises `HarnessError` where there is no such run, or its
    artifacts are missing or damaged.
    """
    opened = Store(Path(store))
    experiment = None if spec is None else experiment_name(spec, is_demo=demo)
    return load(opened, find_run(opened, run, experiment), device=device, checkpoint=checkpoint)


def load(store: Store, run: "Run", *, device: str = "auto", checkpoint: str = "best") -> LoadedRun:
    """Rebuilds a run of an open store."""
    file = _checkpoint_file(store, run, checkpoint)
    saved = load_checkpoint(file)
    source = store.artifact(run, "spec") / saved["spec"]["name"]
    spec = load_spec(source, original=run.data.tags.get("harness.spec_path"))
    chosen = choose_device(device)
    values = saved["values"]
    make_deterministic(choose_threads(values["threads"]))
    is_demo = run.data.tags.get("harness.demo") == "true"
    built = build(spec, values, device=chosen, cache=DataCache(), is_demo=is_demo)
    try:
        built.model.load_state_dict(saved["state_dict"])
    except RuntimeError as error:
        raise HarnessError(f"{file} does not fit the model of its spec: {error}", exit_code=FAILED) from None
    return LoadedRun(
        run_id=run.info.run_id,
        name=run.info.run_name,
        model=built.model.eval(),
        experiment=built.experiment,
        params=built.experiment.params(),
        metrics=saved["metrics"],
        epoch=saved["epoch"],
        checkpoint=file,
        device=chosen,
        built=built,
        trained_on=run.data.tags.get("harness.device", ""),
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
            (m.value for m in store.client.get_metric_history(run.info.run_id, name) if m.step == loaded.epoch),
            float("nan"),
        )
        for name in measured
    }
    is_same_device = loaded.trained_on == describe_device(loaded.device)
    if is_same_device:
        match, tolerance = measured == logged, None
    else:
        match = all(_is_close(name, logged[name], measured[name]) for name in measured)
        tolerance = f"loss within {LOSS_TOLERANCE:.0%}, other measures within {MEASURE_TOLERANCE}"
    digests = [found.dataset.digest for found in run.inputs.dataset_inputs]
    is_same_data = not digests or loaded.built.data.digest.startswith(digests[0])
    return Verification(
        run_id=run.info.run_id,
        logged=logged,
        measured=measured,
        match=match,
        tolerance=tolerance,
        note=None if is_same_data else "the data is not what the run was trained on",
    )


def _is_close(name: str, logged: float, measured: float) -> bool:
    tolerance = LOSS_TOLERANCE * abs(logged) if name.endswith("_loss") else MEASURE_TOLERANCE
    return abs(logged - measured) <= tolerance


def _checkpoint_file(store: Store, run: "Run", name: str) -> Path:
    if name not in ("best", "last"):
        return store.artifact(run, f"checkpoints/{name}.pth.tar")
    other = "last" if name == "best" else "best"
    try:
        return store.artifact(run, f"checkpoints/{name}.pth.tar")
    except HarnessError:
        return store.artifact(run, f"checkpoints/{other}.pth.tar")


def as_json(verification: Verification) -> Mapping[str, Any]:
    """The document that `reload --json` prints."""
    names = ("run_id", "logged", "measured", "match")
    return {name: getattr(verification, name) for name in names}
