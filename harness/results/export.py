"""Exports a run's model with torch, without pickle. MLflow alone loads and serves it, without this package."""

import importlib.metadata
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from harness.data import Arrays, Data
from harness.results.reload import LoadedRun, load
from harness.tracking.store import Store

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

EXAMPLES = 2  # inputs to trace the model with: a single one would fix the batch size


class Served(nn.Module):
    """A model with its normalisation before it, and the probabilities after it.

    Takes inputs before normalisation (images (N, C, H, W) uint8, 0 to 255). Returns probabilities (N, K) for
    classes, and the outputs for regression, as `LoadedRun.predict` does.
    """

    def __init__(self, model: nn.Module, data: Data, predict: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.predict = predict
        self.is_classification = data.is_classification
        self.data = data

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.predict(self.model, self.data.prepare(inputs)).float()
        return outputs.softmax(1) if self.is_classification else outputs


def export(store: Store, run: "Run", name: str, *, alias: str) -> "ModelVersion":
    """Registers a run's best checkpoint as a new version of the model `name`, and gives it the alias.

    The model computes in float32 on the CPU, for batches of any size.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    loaded = load(store, run, device="cpu")
    data = loaded.built.data
    model = Served(loaded.model.float(), data, loaded.experiment.predict).eval().requires_grad_(False)
    example = example_inputs(data)
    with torch.no_grad():
        outputs = model(example)
    client = store.client
    logged = client.create_logged_model(
        run.info.experiment_id,
        name=name,
        source_run_id=run.info.run_id,
        params={key: str(value) for key, value in loaded.params.items()},
    )
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model"
            save(model, path, example, outputs, classes=list(data.classes or ()))
            client.log_model_artifacts(logged.model_id, str(path))
    except BaseException:
        client.delete_logged_model(logged.model_id)
        raise
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    client.log_outputs(run.info.run_id, [LoggedModelOutput(logged.model_id, step=loaded.epoch)])
    return _create_version(store, loaded, name, logged.model_id, alias, example, outputs)


def save(model: nn.Module, path: Path, example: Tensor, outputs: Tensor, *, classes: list[str]) -> None:
    """Saves a model as MLflow keeps it; `outputs` are those of the example."""
    import mlflow.pytorch
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    takes, gives = (TensorSpec(tensor.numpy().dtype, (-1, *tensor.shape[1:])) for tensor in (example, outputs))
    mlflow.pytorch.save_model(
        model,
        path,
        signature=ModelSignature(Schema([takes]), Schema([gives])),
        input_example=example.numpy(),
        serialization_format="pt2",
        pip_requirements=requirements(),
        metadata={"classes": classes},
    )


def warm_up() -> None:
    """Saves a tiny model, so that torch and MLflow load and compile all that an export takes: seconds."""
    example = torch.zeros(EXAMPLES, 1)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        save(nn.ReLU(), Path(folder) / "model", example, example, classes=[])


def example_inputs(data: Data) -> Tensor:
    """A few example inputs of a client: from the validation part, or zeros if it is not in memory."""
    if isinstance(data.validation, Arrays) and len(data.validation) >= EXAMPLES:
        return data.validation.inputs[:EXAMPLES].contiguous()
    dtype = torch.float32 if data.mean is None else torch.uint8  # a `Dataset` has a mean if it has images
    return torch.zeros(EXAMPLES, *data.input_shape, dtype=dtype)


def requirements() -> list[str]:
    """The packages that serving needs, in the installed versions, without build suffixes such as `+cu128`."""
    names = ("mlflow", "torch", "numpy")
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in names]


def _create_version(
    store: Store, loaded: LoadedRun, name: str, model_id: str, alias: str, example: Tensor, outputs: Tensor
) -> "ModelVersion":
    from mlflow.exceptions import MlflowException

    client = store.client
    try:
        client.create_registered_model(name, description=f"The best run of {name}, under the alias `{alias}`.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = client.create_model_version(
        name,
        f"models:/{model_id}",
        loaded.run_id,
        model_id=model_id,
        description=_describe(loaded, name, alias, example, outputs),
    )
    client.set_registered_model_alias(name, alias, version.version)
    return version


def _describe(loaded: LoadedRun, name: str, alias: str, example: Tensor, outputs: Tensor) -> str:
    """How to use the model, in Markdown."""
    classes = loaded.built.data.classes
    gives = f"outputs {_shape(outputs)} float32"
    if classes is not None:
        shown = ", ".join(classes[:20]) + (", ..." if len(classes) > 20 else "")
        gives = f"probabilities {_shape(outputs)} float32 of: {shown}"
    kind = str(example.dtype).removeprefix("torch.")
    span = ", 0 to 255, not normalised" if example.dtype == torch.uint8 else ", not normalised"
    return "\n\n".join(
        (
            f"**{loaded.name}**, epoch {loaded.epoch}: {_listed(loaded.metrics)}",
            f"Hyperparameters: {_listed(loaded.params)}",
            f"Takes {_shape(example)} {kind}{span}. Gives {gives}. Computes on the CPU.",
            f'`mlflow.pytorch.load_model("models:/{name}@{alias}")`',
            f"`MLFLOW_DEFAULT_PREDICTION_DEVICE=cpu mlflow models serve -m models:/{name}@{alias} --env-manager local`",
        )
    )


def _listed(values: Mapping[str, Any]) -> str:
    shown = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in values.items()}
    return ", ".join(f"{key} {value}" for key, value in shown.items())


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(['N', *map(str, tensor.shape[1:])])})"
