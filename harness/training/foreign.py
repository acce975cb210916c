"""Reads checkpoints of other people's loops, so that a run can start from them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from harness.errors import HarnessError
from harness.models.weightfile import read_weight_file
from harness.models.weights import Found, find_weights

OPTIMIZERS = ("optimizer", "optimizer_state_dict", "optimizador", "optim", "optimizer_state", "optimizer_states", "opt")
SCHEDULERS = (
    *("scheduler", "lr_scheduler", "scheduler_state_dict", "lr_scheduler_state_dict", "sched", "lr_schedulers"),
    *("scheduler_state", "planificador"),
)
EPOCHS = ("epoch", "epoca", "época", "epochs", "current_epoch")
NEXT_EPOCHS = ("start_epoch", "next_epoch")
OF_THE_IMAGENET_EXAMPLE = ("best_acc1", "best_prec1")  # files with these keys hold the number of the next epoch
Progress = tuple[int | None, str]  # epochs that are done (None: not in the file), and how that is known


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """The content of a checkpoint. `epochs` are done; None if that is not in the file."""

    weights: Found
    optimizer: Mapping[str, Any] | None
    scheduler: Mapping[str, Any] | None
    epochs: int | None
    why: str  # how that number is known
    node: str | None  # the epoch's name in the tree, if the checkpoint is one of this package
    whole: Mapping[str, Any]


def load_foreign_checkpoint(path: Path, *, epochs: int | None = None, without: Iterable[str] = ()) -> Foreign:
    """Reads weights, and optimizer, scheduler and epoch if there are any, from any common checkpoint.

    `epochs` is the number of epochs that are done, and replaces that of the file. `without` may have "optimizer" and
    "scheduler". Raises `HarnessError` if the file is no checkpoint, or if its content is not understood.
    """
    loaded = read_weight_file(path)
    weights = find_weights(loaded, path)
    if not isinstance(loaded, Mapping) or not weights.key:
        loaded = {}
    optimizer = None if "optimizer" in without else _find_state(loaded, OPTIMIZERS)
    if optimizer is not None:
        _check_groups(optimizer, path)
    scheduler = None if {"scheduler", "optimizer"} & set(without) else _find_state(loaded, SCHEDULERS)
    done, why = _count_epochs(loaded, scheduler, path) if epochs is None else (epochs, "as --epoch says")
    node = loaded.get("node")
    return Foreign(
        weights=weights,
        optimizer=optimizer,
        scheduler=scheduler,
        epochs=done,
        why=why,
        node=node if isinstance(node, str) else None,
        whole=loaded,
    )


def _find_state(loaded: Mapping[str, Any], keys: Iterable[str]) -> Mapping[str, Any] | None:
    """The state under one of these keys: a dict, or the only one of a list."""
    for key in keys:
        value = loaded.get(key)
        if isinstance(value, list | tuple) and len(value) == 1:
            value = value[0]
        if isinstance(value, Mapping) and value:
            return value
    return None


def _check_groups(optimizer: Mapping[str, Any], path: Path) -> None:
    groups = optimizer.get("param_groups")
    is_list = isinstance(groups, list | tuple) and len(groups) > 0
    if is_list and all(isinstance(group, Mapping) and isinstance(group.get("params"), list) for group in groups or ()):
        if isinstance(optimizer.get("state", {}), Mapping):
            return
    raise HarnessError(
        f"{path}: its optimizer entry is not the state_dict() of an optimizer. To take only the weights: "
        "--except optimizer"
    )


def _count_epochs(loaded: Mapping[str, Any], scheduler: Mapping[str, Any] | None, path: Path) -> Progress:
    """The number of epochs that a checkpoint has done. Loops count from 0 or from 1, and save the last or the next one.

    A scheduler that steps every epoch has the number; well-known loops have known habits. Otherwise the epoch is
    taken as the last one, counted from 0.
    """
    exact = _of_lightning(loaded)
    if exact is not None:
        return exact, "as Lightning counts them"
    for key in NEXT_EPOCHS:
        if key in loaded:
            return _whole(loaded[key], key, path), f"its {key} is the next one, counted from 0"
    known = [key for key in EPOCHS if _is_number(loaded.get(key))]
    if not known:
        return None, ""
    key = known[0]
    epoch = _whole(loaded[key], key, path)
    steps = scheduler.get("last_epoch") if scheduler is not None else None
    if any(name in loaded for name in OF_THE_IMAGENET_EXAMPLE):
        return epoch, f"its {key} {epoch} is the next one, counted from 0, as in PyTorch's ImageNet example"
    if steps == epoch and not isinstance(loaded.get("node"), str) and epoch > 0:
        return epoch, f"its {key} is {epoch}, and its scheduler made as many steps"
    return epoch + 1, f"its {key} {epoch} counts from 0"


def _of_lightning(loaded: Mapping[str, Any]) -> int | None:
    """The number of completed epochs by Lightning's own counters."""
    value: Any = loaded
    for key in ("loops", "fit_loop", "epoch_progress", "current"):
        value = value.get(key) if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping):
        return None
    # A checkpoint within the hook at an epoch's end is written before that epoch counts as completed.
    counts = [value.get(name) for name in ("completed", "processed")]
    known = [count for count in counts if isinstance(count, int)]
    return max(known) if known else None


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1
    return isinstance(value, int | float | str) and not isinstance(value, bool)


def _whole(value: Any, key: str, path: Path) -> int:
    """Reads an epoch that was saved as a number, as a tensor of one number, or as text."""
    number = value.item() if isinstance(value, Tensor) else value
    try:
        found = int(number)
        if found == float(number) and found >= 0:
            return found
    except (ValueError, OverflowError):
        pass
    raise HarnessError(f"{path}: its {key} is {number!r}, no count of epochs; say how many are done: --epoch N")
