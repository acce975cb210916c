"""Finds the weights in a checkpoint file, and changes their names to those of a network."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from harness.errors import HarnessError, did_you_mean
from harness.models.weightfile import Inert

KEYS = (
    *("state_dict", "model_state_dict", "model", "net", "network", "model_state", "weights", "estado_diccionario"),
    *("estado_modelo", "modelo", "generator", "module", "params", "parameters"),
)
AVERAGES = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema", "params_ema", "ema_model", "model_ema_state_dict"),
    *("swa_model", "swa_state_dict", "swa_model_state_dict"),
)
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # what wraps a network
COUNTERS = ("n_averaged",)  # of torch's AveragedModel: no weight


@dataclass(frozen=True, kw_only=True)
class Found:
    """Weights of a file."""

    weights: Mapping[str, Any]
    key: str  # where they were; "" for a file that is weights and nothing else
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """Weights under a network's own names."""

    weights: "OrderedDict[str, Any]"  # all of the network's; its own value for each that the file lacks
    excepted: tuple[str, ...] = ()  # names that were left out
    notes: list[str] = field(default_factory=list)


def find_weights(loaded: Any, path: Path) -> Found:
    """The weights in the content of a file: the content itself, or the entry under a usual name."""
    if isinstance(loaded, Inert):
        whole = _of_module(loaded)
        if not whole:
            raise HarnessError(f"{path} holds an object ({loaded.kind}), not weights. Save its state_dict() instead.")
        return Found(weights=whole, key="", notes=(f"out of an object of {loaded.kind}",))
    if not isinstance(loaded, Mapping):
        raise HarnessError(f"{path} holds a {type(loaded).__name__}, not a dict with a state_dict.")
    for keys in (KEYS, AVERAGES):
        for key in keys:
            weights = _weights_of(loaded.get(key))
            if weights is not None:
                left = [other for other in AVERAGES if other != key and _weights_of(loaded.get(other)) is not None]
                notes = (f"{left[0]} (their average) is left out",) if left else ()
                return Found(weights=weights, key=key, notes=notes)
    weights = _weights_of(loaded)
    if weights is None:
        if loaded and not any(isinstance(key, str) for key in loaded):
            raise HarnessError(f"{path} has no weights by name: its keys are {', '.join(map(repr, list(loaded)[:3]))}.")
        raise HarnessError(f"{path} has no weights: expected one of the keys {', '.join(KEYS[:8])}.")
    return Found(weights=weights, key="")


def _weights_of(value: Any) -> Mapping[str, Any] | None:
    """A dict of tensors by name, perhaps one level down, or those of a pickled network."""
    if isinstance(value, Inert) and value.state is not None:
        return _of_module(value) or None
    if _is_weights(value):
        return value  # type: ignore[no-any-return]
    for key in KEYS if isinstance(value, Mapping) else ():
        if _is_weights(value.get(key)):
            return value[key]  # type: ignore[no-any-return]
    return None


def _is_weights(value: Any) -> bool:
    """Names to tensors; what a module keeps beside them (`_extra_state`) may be anything."""
    if not isinstance(value, Mapping) or not value or not all(isinstance(key, str) for key in value):
        return False
    return all(isinstance(item, Tensor) or key.endswith("_extra_state") for key, item in value.items())


def _of_module(value: Any, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a network that was saved whole, read from its stored attributes alone."""
    held = value.state if isinstance(value, Inert) else None
    if not isinstance(held, Mapping):
        return {}
    found = {}
    passing = held.get("_non_persistent_buffers_set") or ()
    for kind in ("_parameters", "_buffers"):
        for name, tensor in (held.get(kind) or {}).items():
            if isinstance(tensor, Tensor) and name not in passing:
                found[prefix + name] = tensor
    for name, module in (held.get("_modules") or {}).items():
        found |= _of_module(module, f"{prefix}{name}.")
    return found


def fit_weights(found: Found, model: nn.Module, without: Iterable[str], *, path: Path, where: str) -> Fitted:
    """Weights of a file under the names of `model`, of which those that begin with `without` are left out.

    Wrappers (`module.`, `_orig_mod.`, `model.`, whatever else stands before all names) are looked through. Raises
    `HarnessError` where a tensor is missing, of another shape, or unknown to the model. `where` names the model.
    """
    own = model.state_dict()
    pairs, prefix = _match(list(found.weights), list(own))
    theirs = {name: given for given, name in pairs.items()}
    names, given_names = _named(without, own, found.weights, path)
    missing = [name for name in own if name not in theirs and name not in names and not _may_be_missing(name)]
    inside = [given for given in found.weights if given not in pairs and _stripped(given).startswith(prefix)]
    strange = [given for given in inside if given not in given_names and given.rpartition(".")[2] not in COUNTERS]
    if not pairs:
        first, mine = next(iter(found.weights)), next(iter(own), "nothing")
        raise HarnessError(f"{where}: the weights of {path} are of another network: {first} there, {mine} in model().")
    if missing or strange:
        name = (missing or strange)[0]
        more = f", with {len(missing or strange) - 1} others" if len(missing or strange) > 1 else ""
        raise HarnessError(
            f"{where}: the checkpoint does not fit model(): "
            + (f"it lacks {name}{more}." if missing else f"it has {name}{more}, which model() lacks.")
            + f" To leave that out: --except {_owner(name)}"
        )
    weights = OrderedDict(own)
    for given, name in pairs.items():
        value, wanted = found.weights[given], own[name]
        if name in names or given in given_names:
            continue
        if isinstance(wanted, Tensor) and isinstance(value, Tensor) and value.shape != wanted.shape:
            raise HarnessError(
                f"{where}: the checkpoint does not fit model(): size mismatch for {name}: {_shape(value)} in the "
                f"file, {_shape(wanted)} in model(). To leave it out: --except {_owner(name)}"
            )
        weights[name] = value
    metadata = getattr(found.weights, "_metadata", None)
    if isinstance(metadata, Mapping):
        weights._metadata = {_metadata_name(name, prefix): entry for name, entry in metadata.items()}  # type: ignore[attr-defined]
    else:
        weights._metadata = getattr(own, "_metadata", None)  # type: ignore[attr-defined]
    outside = len(found.weights) - len(pairs) - len(inside)
    notes = [f"{prefix}* under the model's names"] * bool(prefix)
    notes += [f"{outside} tensors beside {prefix}* left out"] * bool(outside)
    notes += [f"without {', '.join(sorted(set(without)))}"] * bool(names or given_names)
    return Fitted(weights=weights, excepted=tuple(sorted(names | given_names)), notes=notes)


def _stripped(name: str) -> str:
    """A name without the wrappers in it, which may stand anywhere: `features.module.0.weight`."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _match(given: list[str], own: list[str]) -> tuple[dict[str, str], str]:
    """The model's name for each name of the file, and what stood before them all there."""
    if set(given) == set(own):
        return {name: name for name in given}, ""
    theirs = {_stripped(name): name for name in given}
    ours = {_stripped(name): name for name in own}
    prefixes: dict[str, None] = {"": None}
    added: dict[str, None] = {}
    for mine in ours:
        for other in theirs:
            if other.endswith(f".{mine}"):
                prefixes[other[: -len(mine)]] = None
            elif mine.endswith(f".{other}"):
                added[mine[: -len(other)]] = None
    best: dict[str, str] = {}
    chosen = ""
    for prefix in sorted(prefixes, key=len):
        pairs = {theirs[prefix + mine]: name for mine, name in ours.items() if prefix + mine in theirs}
        if len(pairs) > len(best):
            best, chosen = pairs, prefix
    for prefix in sorted(added, key=len):
        pairs = {name: ours[prefix + other] for other, name in theirs.items() if prefix + other in ours}
        if len(pairs) > len(best):
            best, chosen = pairs, ""
    return best, chosen


def _named(
    without: Iterable[str], own: Mapping[str, Any], given: Mapping[str, Any], path: Path
) -> tuple[set[str], set[str]]:
    """The tensors, of the model's names and of the file's, that `--except` leaves out."""
    names: set[str] = set()
    given_names: set[str] = set()
    for part in without:
        mine = {name for name in own if f"{name}.".startswith(f"{part}.")}
        theirs = {name for name in given if f"{_stripped(name)}.".startswith(f"{part}.")}
        if not mine and not theirs:
            options = sorted({_owner(name) for name in own})
            hint = did_you_mean(part, options) or f" It has {', '.join(options[-4:])}."
            raise HarnessError(f"--except {part}: neither model() nor {path} has weights of that name.{hint}")
        names |= mine
        given_names |= theirs
    return names, given_names


def _may_be_missing(name: str) -> bool:
    """Whether older torches did not save it."""
    return name.endswith("num_batches_tracked")


def _owner(name: str) -> str:
    return name.rpartition(".")[0] or name


def _metadata_name(name: str, prefix: str) -> str:
    stripped = _stripped(name)
    return stripped.removeprefix(prefix) if stripped.startswith(prefix) else stripped.removeprefix(prefix.rstrip("."))


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "one number"
