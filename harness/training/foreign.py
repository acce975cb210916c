"""Checkpoints of other people's loops: what of them a run can begin with."""

from pathlib import Path
from typing import Any

import torch

from harness.errors import HarnessError
from harness.training.checkpoint import read_torch_file

_WEIGHTS = ("state_dict", "model_state_dict", "model", "estado_diccionario")
_OPTIMIZERS = ("optimizer", "optimizer_state_dict", "optimizador")


def load_foreign_checkpoint(path: Path) -> dict[str, Any]:
    """Weights, and optimizer, scheduler and epoch where there are any, of any common checkpoint.

    Returns a dict with `state_dict`, `optimizer`, `scheduler` (dict or None), `epoch` (the last one that
    was trained, or None) and `node` (its name in the path tree, where the checkpoint is ours).
    """
    loaded = read_torch_file(path)
    if not isinstance(loaded, dict):
        raise HarnessError(f"{path} holds a {type(loaded).__name__}, not a dict with a state_dict.")
    weights = next((loaded[key] for key in _WEIGHTS if isinstance(loaded.get(key), dict)), None)
    if weights is None and loaded and all(isinstance(value, torch.Tensor) for value in loaded.values()):
        weights = loaded
    if weights is None:
        raise HarnessError(f"{path} has no weights: expected one of the keys {', '.join(_WEIGHTS)}.")
    optimizer = next((loaded[key] for key in _OPTIMIZERS if isinstance(loaded.get(key), dict)), None)
    epoch = loaded.get("epoch", loaded.get("epoca"))
    return {
        "state_dict": {key.removeprefix("module."): value for key, value in weights.items()},
        "optimizer": optimizer,
        "scheduler": loaded.get("scheduler") if isinstance(loaded.get("scheduler"), dict) else None,
        "epoch": epoch if isinstance(epoch, int) else None,
        "node": loaded["node"] if isinstance(loaded.get("node"), str) else None,
    }
