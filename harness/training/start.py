"""Starts a run from a checkpoint: one of this package whose path is not known, or one of another loop."""

import copy
from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from harness.errors import HarnessError
from harness.models.weights import fit_weights
from harness.training.build import Built
from harness.training.checkpoint import MORE
from harness.training.fits import Unfit, check_optimizer
from harness.training.foreign import load_foreign_checkpoint
from harness.training.origin import Origin
from harness.training.parts import by_name
from harness.training.schedulers import asks_for_metric, step_schedulers
from harness.training.state import OF_SCHEDULERS, restore
from harness.training.user_code import calling

_PROGRESS = (
    *("last_epoch", "_step_count", "_last_lr"),
    *("best", "num_bad_epochs", "cooldown_counter"),  # ReduceLROnPlateau
    *("T_cur", "T_i"),  # CosineAnnealingWarmRestarts
)
_OF_ALL = set(vars(LRScheduler)) | {  # keys that every scheduler has, in one version of torch or another
    *("base_lrs", "last_epoch", "verbose", "_step_count", "_last_lr", "_get_lr_called_within_step", "_is_initial"),
}


def read_start(origin: Origin, built: Built) -> dict[str, Any]:
    """Reads the parts of a checkpoint that a run starts from; raises `HarnessError` if it does not fit.

    Returns `state_dict` (complete, with the names of the built model), `optimizer` and `scheduler` (or None), `epoch`
    (the last one that was trained, counted from 0, or None), `node`, and `notes` that say what was taken.
    """
    where = str(built.spec.path)
    found = load_foreign_checkpoint(origin.path, epochs=origin.epochs, without=origin.without)
    without = set(origin.without) - {"optimizer", "scheduler"}
    fitted = fit_weights(found.weights, built.model, without, path=origin.path, where=where)
    is_whole = not fitted.excepted  # otherwise it is another task: training starts at epoch 0 with these weights
    is_ours = found.node is not None
    optimizer = found.optimizer if is_whole else None
    if is_ours and is_whole and "optimizer" not in origin.without:  # may be several
        optimizer = found.whole.get("optimizer")
    if optimizer is not None:
        _check_optimizers(built, optimizer)
    done = found.epochs if is_whole or origin.epochs is not None else None
    if (done or 0) >= built.experiment.epochs:
        total = (done or 0) + 20
        raise HarnessError(f"{origin.path} has {done} epochs already; say how many in all, such as --epochs {total}.")
    parts = "weights and optimizer" if optimizer is not None else "weights"
    notes = [parts, *found.weights.notes, *fitted.notes]
    if done is not None:
        notes.append(f"{done} epochs are done ({found.why})")
    scheduler = found.scheduler if is_whole else None
    more = {name: found.whole[name] for name in (*MORE, "attributes") if is_ours and is_whole and name in found.whole}
    if scheduler is not None and origin.epochs is not None and built.experiment.scheduler_step == "epoch":
        steps = scheduler.get("last_epoch")
        if steps != origin.epochs:
            scheduler = None
            notes.append(f"not its scheduler, which made {steps} steps")
    return {
        "state_dict": fitted.weights,
        "optimizer": optimizer,
        "scheduler": scheduler,
        "epoch": None if not done else done - 1,
        "node": found.node if is_whole and origin.epochs is None else None,
        "notes": notes,
        **more,
    }


def begin_from(built: Built, start: dict[str, Any]) -> int:
    """Loads the result of `read_start` into the built parts; returns the next epoch. Adds what it did to `notes`."""
    done = 0 if start["epoch"] is None else start["epoch"] + 1
    try:
        built.model.load_state_dict(start["state_dict"])
    except RuntimeError as error:
        first = str(error).split("\n\t")[1:2] or [str(error)]
        raise HarnessError(f"{built.spec.path}: the checkpoint does not fit model(): {first[0]}") from None
    if start["optimizer"] is not None:
        with calling(built.spec, "loading the checkpoint's optimizer into optimizer()"):
            restore(built.parts, start)
    with calling(built.spec, "bringing scheduler() to where the checkpoint was"):
        start["notes"].append(_bring_rates(built, start, done))
    return done


def _bring_rates(built: Built, start: Mapping[str, Any], done: int) -> str:
    """Brings the scheduler and the learning rate to the end of `done` epochs, as far as possible; says how."""
    parts, groups = built.parts, built.parts.groups
    saved = {} if start["optimizer"] is None else by_name(parts.optimizer, start["optimizer"])
    theirs = [group.get("lr") for state in saved.values() for group in state["param_groups"]]
    schedulers = parts.schedulers
    own = {} if start["scheduler"] is None else by_name(parts.scheduler, start["scheduler"])
    is_known = own.keys() == schedulers.keys() and all(
        _is_same_kind(schedulers[name].state_dict(), state) for name, state in own.items()
    )
    how = ""
    if not schedulers:
        how = _take_rates(groups, theirs) if done else ""
    elif is_known:
        for name, state in own.items():
            schedulers[name].load_state_dict(_progress(schedulers[name].state_dict(), state))
        last = [rate for state in own.values() for rate in state.get("_last_lr") or ()]
        _take_rates(groups, theirs or last)
        how = "scheduler as in the file"
    elif done and built.experiment.scheduler_step == "epoch" and any(map(asks_for_metric, schedulers.values())):
        how = f"the scheduler begins anew{', for the file has none of its kind'}; {_take_rates(groups, theirs)}"
    elif done:
        experiment = built.experiment
        batches = built.data.steps(experiment.batch_size, epoch_steps=experiment.epoch_steps)
        for _ in range(done * (1 if experiment.scheduler_step == "epoch" else batches)):
            step_schedulers(schedulers, {}, experiment.monitor)
        how = f"scheduler moved on by {done} epochs"
    rates = ", ".join(f"{group['lr']:g}" for group in groups[:4])
    others = [rate for group, rate in zip(groups, theirs, strict=False) if rate is not None and rate != group["lr"]]
    other = f" (the file's was {others[0]:g})" if others else ""
    return f"{how}{'; ' if how else ''}{'goes on' if done else 'begins'} with learning rate {rates}{other}"


def _take_rates(groups: list[dict[str, Any]], rates: list[Any]) -> str:
    """Gives each group its learning rate from the file, if the file has one for each."""
    if len(rates) != len(groups) or not all(isinstance(rate, int | float) or hasattr(rate, "item") for rate in rates):
        return "the file has no learning rate"
    for group, rate in zip(groups, rates, strict=True):
        if hasattr(group["lr"], "fill_"):
            group["lr"].fill_(float(rate))
        else:
            group["lr"] = float(rate)
    return "learning rate as in the file"


def _check_optimizers(built: Built, saved: Any) -> None:
    """Raises `HarnessError` unless there is one state for each optimizer, of the right kind."""
    optimizers, states = built.parts.optimizers, by_name(built.parts.optimizer, saved)
    if states.keys() != optimizers.keys():
        raise HarnessError(
            f"{built.spec.path}: the checkpoint has {len(states)} optimizers, optimizer() gives {len(optimizers)}. "
            "To take only the weights: --except optimizer"
        )
    for name, optimizer in optimizers.items():
        _check_optimizer(built, optimizer, states[name])


def _check_optimizer(built: Built, optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Raises `HarnessError` for the state of an optimizer of another kind, or over other parameters."""
    way_out = "To take only the weights: --except optimizer"
    ours, theirs = _sizes(optimizer.state_dict()), _sizes(saved)
    if ours != theirs:
        raise HarnessError(
            f"{built.spec.path}: the checkpoint's optimizer has groups of {theirs} parameters, "
            f"optimizer() has groups of {ours}. {way_out}"
        )
    options = set(saved["param_groups"][0]) - OF_SCHEDULERS - {"params", "param_names"}
    lacking, strange = set(optimizer.defaults) - options, options - set(optimizer.defaults)
    if lacking and strange:  # a newer torch has options more, and an older one less: not both
        raise HarnessError(
            f"{built.spec.path}: the checkpoint's optimizer is of another kind: it has {', '.join(sorted(strange))}; "
            f"optimizer() has {', '.join(sorted(lacking))}. {way_out}"
        )
    try:
        check_optimizer(optimizer, saved)
    except Unfit as error:
        reason = str(error).removeprefix("the saved state does not fit: ")
        where = f"{built.spec.path}: the checkpoint's optimizer does not fit optimizer()"
        raise HarnessError(f"{where}: {reason} {way_out}") from None


def _sizes(state: Mapping[str, Any]) -> list[int]:
    return [len(group["params"]) for group in state.get("param_groups", ())]


def _is_same_kind(present: Mapping[str, Any], saved: Mapping[str, Any]) -> bool:
    """Whether a saved scheduler has all keys that this run's kind of scheduler has."""
    if "_schedulers" in present and len(saved.get("_schedulers") or ()) != len(present["_schedulers"]):
        return False
    return set(present) - _OF_ALL <= set(saved)


def _progress(present: dict[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    """A scheduler's state with the progress of the saved one. Its options stay: they are this run's hyperparameters."""
    merged = present | {name: saved[name] for name in _PROGRESS if name in saved and name in present}
    if "_schedulers" in present and "_schedulers" in saved:
        pairs = zip(present["_schedulers"], saved["_schedulers"], strict=True)
        merged["_schedulers"] = [_progress(*pair) for pair in pairs]
    return copy.deepcopy(merged)
