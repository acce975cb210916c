"""Checkpoints: plain `.pth.tar` dicts that `torch.load(path, weights_only=True)` reads anywhere."""

import hashlib
import importlib.metadata
import io
import pickle
import platform
import random
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from harness import __version__
from harness.errors import FAILED, HarnessError
from harness.experiment import Experiment
from harness.spec import Spec
from harness.training.device import seed_all
from harness.training.parts import by_name, like

MORE = ("buffers", "loss", "frozen", "gradients", "scaler")  # parts of a state that only some runs have
_PLAIN: tuple[type[Any], ...] = (int, float, str, bytes)


def build_checkpoint(
    state: Mapping[str, Any],
    *,
    optimizer: Any,
    groups: Mapping[str, list[dict[str, Any]]],
    scheduler: Any,
    epoch: int,
    experiment: Experiment,
    metrics: Mapping[str, float],
    spec: Spec,
    run_id: str,
    node: str,
) -> dict[str, Any]:
    """The dict of a checkpoint after `epoch` (the first is 0); everything in it is plain data or a tensor.

    `state` is as `capture` gives it; `optimizer` is what the spec's `optimizer()` returned, and `groups` are the
    options of its parameter groups. Keys that a run does not need (`attributes`, `loss`, ...) are left out.
    """
    optimizers = {
        name: {"state": plain(held["state"]), "param_groups": plain(groups[name])}
        for name, held in by_name(optimizer, state["optimizer"]).items()
    }
    more = {name: state[name] for name in (*MORE, "attributes") if name in state}
    return {
        "state_dict": state["state_dict"],
        "optimizer": like(optimizer, optimizers),
        "scheduler": None if scheduler is None else plain(scheduler),
        **more,
        "epoch": epoch,
        "params": plain(experiment.params()),
        "values": plain({name: value for name, value in experiment.values().items() if name != "pruner"}),
        "metrics": dict(metrics),
        "rng": generators(experiment.seed, epoch + 1),
        "spec": {"name": spec.path.name, "source": spec.sources[spec.path.name], "digest": spec.digest},
        "versions": versions(),
        "run_id": run_id,
        "node": node,
    }


def generators(seed: int, epoch: int) -> dict[str, Any]:
    """The states of the global random generators at the start of `epoch`."""
    before = torch.get_rng_state(), random.getstate()
    seed_all(seed, "epoch", epoch)
    states = {"seed": seed, "epoch": epoch, "torch": torch.get_rng_state(), "python": random.getstate()}
    torch.set_rng_state(before[0])
    random.setstate(before[1])
    return states


def versions() -> dict[str, str]:
    """What a checkpoint or a run was made with."""
    return {
        "harness": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": importlib.metadata.version("torchvision"),
    }


def plain(value: Any) -> Any:
    """The same value in types that `weights_only=True` reads; NumPy numbers become Python's."""
    if value is None or isinstance(value, bool | torch.Tensor):
        return value
    for kind in _PLAIN:
        if isinstance(value, kind):
            return kind(value)  # NumPy's float64 is a subclass of float that does not load
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(plain(item) for item in value)
    if isinstance(value, list | set | frozenset):
        return [plain(item) for item in value]
    return plain(value.item()) if hasattr(value, "item") else repr(value)


def pack(checkpoint: Mapping[str, Any]) -> tuple[bytes, str]:
    """A checkpoint as the bytes of its file, with the first 16 hexadecimal digits of their SHA-256."""
    buffer = io.BytesIO()
    torch.save(dict(checkpoint), buffer)
    content = buffer.getvalue()
    return content, hashlib.sha256(content).hexdigest()[:16]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint of this package, to the CPU; raises `HarnessError` if it is missing or damaged."""
    loaded = read_torch_file(path)
    if not isinstance(loaded, dict) or not {"state_dict", "optimizer", "epoch", "node"} <= loaded.keys():
        raise HarnessError(f"{path} is not a checkpoint of this package.", exit_code=FAILED)
    return loaded


def read_torch_file(path: Path) -> Any:
    """The content of a file of `torch.save`, on the CPU; raises `HarnessError` if it is missing or damaged."""
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()  # torch itself does not compare the checksums
    except FileNotFoundError:
        raise HarnessError(f"{path} does not exist.") from None
    except OSError as error:
        raise HarnessError(f"{path} cannot be read: {error}.", exit_code=FAILED) from None
    except Exception:  # torch's format before 1.6 is no zip file; a damaged one may raise anything
        damaged = None
    if damaged is not None:
        raise HarnessError(f"{path} is damaged: the checksum of {damaged} is wrong.", exit_code=FAILED)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may raise any exception
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            raise HarnessError(
                f"{path} holds Python objects, which loading would run. Save its state_dict() instead.",
                exit_code=FAILED,
            ) from None
        raise HarnessError(f"{path} is damaged or not a torch file.", exit_code=FAILED) from None
