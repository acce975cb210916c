"""Beginning a run with a checkpoint: one of ours whose path is not known, or one of another loop."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.optim import Optimizer

from harness.errors import HarnessError
from harness.training.build import Built, calling
from harness.training.foreign import load_foreign_checkpoint
from harness.training.state import restore

_PROGRESS = (
    *("last_epoch", "_step_count", "_last_lr"),
    *("best", "num_bad_epochs", "cooldown_counter"),  # ReduceLROnPlateau
    *("T_cur", "T_i"),  # CosineAnnealingWarmRestarts
)
_OF_SCHEDULERS = {"initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum"}  # what they leave in a group


def read_start(path: Path, *, epochs: int) -> dict[str, Any]:
    """The checkpoint that a run of so many epochs in all begins with; raises `HarnessError` where it cannot."""
    start = load_foreign_checkpoint(path)
    done = 0 if start["epoch"] is None else start["epoch"] + 1
    if done >= epochs:
        raise HarnessError(f"{path} has {done} epochs already; say how many in all, such as --epochs {done + 20}.")
    return start


def begin_from(built: Built, start: dict[str, Any]) -> int:
    """Loads a checkpoint into what is built, as far as it has the parts; the epoch to go on with."""
    try:
        built.model.load_state_dict(start["state_dict"])
    except RuntimeError as error:
        first = str(error).split("\n\t")[1:2] or [str(error)]
        raise HarnessError(f"{built.spec.path}: the checkpoint does not fit model(): {first[0]}") from None
    if start["optimizer"] is not None:
        _check_optimizer(built, start["optimizer"])
        with calling(built.spec, "loading the checkpoint's optimizer into optimizer()"):
            restore(built.model, built.optimizer, start)
    if start["scheduler"] is not None and built.scheduler is not None:
        with calling(built.spec, "loading the checkpoint's scheduler into scheduler()"):
            built.scheduler.load_state_dict(_progress(built.scheduler.state_dict(), start["scheduler"]))
        if start["optimizer"] is not None:
            saved = start["optimizer"]["param_groups"]
            for group, options in zip(built.optimizer.param_groups, saved, strict=True):
                group["lr"] = options["lr"]
    return 0 if start["epoch"] is None else start["epoch"] + 1


def _check_optimizer(built: Built, saved: Mapping[str, Any]) -> None:
    """Raises `HarnessError` for the state of an optimizer of another kind, or over other parameters."""
    ours, theirs = _sizes(built.optimizer.state_dict()), _sizes(saved)
    if ours != theirs:
        raise HarnessError(
            f"{built.spec.path}: the checkpoint's optimizer has groups of {theirs} parameters, "
            f"optimizer() has groups of {ours}."
        )
    options = set(saved["param_groups"][0]) - _OF_SCHEDULERS - {"params", "param_names"}
    lacking, strange = _names(built.optimizer) - options, options - _names(built.optimizer)
    if lacking and strange:  # a newer torch has options more, and an older one less: not both
        raise HarnessError(
            f"{built.spec.path}: the checkpoint's optimizer is of another kind: it has {', '.join(sorted(strange))}; "
            f"optimizer() has {', '.join(sorted(lacking))}. Save the weights alone to begin with those."
        )


def _sizes(state: Mapping[str, Any]) -> list[int]:
    return [len(group["params"]) for group in state.get("param_groups", ())]


def _names(optimizer: Optimizer) -> set[str]:
    return set(optimizer.defaults)


def _progress(present: dict[str, Any], saved: dict[str, Any]) -> dict[str, Any]:
    """A scheduler's state, as far as the saved one had come; its options stay: they are this run's hyperparameters."""
    merged = present | {name: saved[name] for name in _PROGRESS if name in saved and name in present}
    if "_schedulers" in present and "_schedulers" in saved:
        pairs = zip(present["_schedulers"], saved["_schedulers"], strict=True)
        merged["_schedulers"] = [_progress(*pair) for pair in pairs]
    return copy.deepcopy(merged)
