"""Reads files of weights that other people wrote, without running anything that is in them."""

import io
import json
import math
import pickle
import tarfile
import types
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.errors import FAILED, HarnessError

MOST_HEADER = 100_000_000  # bytes of a safetensors header, as its own library allows
SAFETENSORS = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8},
    "BOOL": torch.bool,
}


class Inert(dict[Any, Any]):
    """Replaces an object of a file whose class is not loaded. It holds the stored content, and does nothing."""

    kind = "?"
    dump_patches = False  # torch asks networks in files of before 1.6 for it
    arguments: tuple[Any, ...] = ()
    state: Any = None

    def __new__(cls, *_: Any, **__: Any) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *arguments: Any, **_: Any) -> None:
        super().__init__()
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __call__(self, *_: Any, **__: Any) -> "Inert":
        return Inert()

    def append(self, *_: Any) -> None:
        """Items of a list-like object are dropped."""

    extend = add = append
    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__


def read_weight_file(path: Path) -> Any:
    """The content of a file of `torch.save` or safetensors, on the CPU.

    Objects of other classes than torch's tensors and Python's containers come as `Inert`: nothing of a file is
    executed. Raises `HarnessError` where the file is something else, and says what it is.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise HarnessError(f"{path} does not exist.") from None
    except OSError as error:
        raise HarnessError(f"{path} cannot be read: {error.strerror or error}.", exit_code=FAILED) from None
    if _is_safetensors(head):
        return _read_safetensors(path)
    what = _other_kind(path, head)
    if what is not None:
        raise HarnessError(f"{path} {what}", exit_code=FAILED)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # objects of other classes, a damaged pickle: what is raised may be of any kind
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # With a pickle module that resolves no name but those of ALLOWED: see `_Unpickler`.
            return torch.load(path, map_location="cpu", weights_only=False, pickle_module=_INERT_PICKLE)
    except Exception:
        raise HarnessError(f"{path} is damaged or not a torch file.", exit_code=FAILED) from None


def _other_kind(path: Path, head: bytes) -> str | None:
    """What is wrong with a file that can be told from its beginning or its index; None for torch's."""
    start = head.lstrip().lower()
    if not head:
        return "is empty."
    if head.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the file itself: fetch it with 'git lfs pull'."
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page, not a checkpoint: the download may have needed a login."
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")):
        return "is compressed: unpack it first."
    if head.startswith(b"\x89HDF"):
        return "is an HDF5 file (of Keras, perhaps), not one of torch."
    if zipfile.is_zipfile(path):
        return _wrong_with_zip(path)
    if tarfile.is_tarfile(path):
        with tarfile.open(path) as tar:
            names = set(tar.getnames())
        if {"tensors", "storages", "pickle"} <= names:
            return "was written by a torch before 0.2, in a format that ran code: save it again with a newer one."
        return "is a tar archive: unpack it first."
    return None


def _wrong_with_zip(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as file:
            names = [name.rpartition("/")[2] for name in file.namelist()]
            damaged = file.testzip()  # torch itself does not compare the checksums
    except Exception:  # a damaged one may raise anything
        return "is damaged or not a torch file."
    if damaged is not None:
        return f"is damaged: the checksum of {damaged} is wrong."
    if "constants.pkl" in names:
        return "is a TorchScript program, which loading would run: save the state_dict() of its module instead."
    if "data.pkl" not in names:
        return "is a zip archive, not a torch file."
    return None


def _is_safetensors(head: bytes) -> bool:
    length = int.from_bytes(head[:8], "little")
    return 2 <= length <= MOST_HEADER and head[8:9] == b"{"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file: eight bytes of length, a header in JSON, then the bytes of all tensors."""
    found: dict[str, Tensor] = {}
    try:
        with open(path, "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            content = bytearray(file.read())
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            kind = SAFETENSORS.get(entry["dtype"])
            if kind is None:
                raise HarnessError(f"{path}: {name} is of type {entry['dtype']}, which is not read.", exit_code=FAILED)
            (start, end), shape = entry["data_offsets"], entry["shape"]
            count = math.prod(shape)
            if not 0 <= start <= end <= len(content) or (end - start) != count * kind.itemsize:
                raise ValueError(name)
            values = torch.frombuffer(content, dtype=kind, count=count, offset=start) if count else torch.zeros(0)
            found[name] = values.to(kind).clone().reshape(shape)
    except HarnessError:
        raise
    except Exception:  # whatever a header may hold
        raise HarnessError(f"{path} is a damaged safetensors file.", exit_code=FAILED) from None
    return found


def _of_type(function: Any, _: Any, arguments: Any, __: Any) -> Any:
    """A tensor that carried attributes: the tensor alone."""
    return function(*arguments) if function in (*ALLOWED.values(),) else Inert()


def _parameter(values: Any, requires_grad: bool, *_: Any) -> Any:
    return values.detach() if isinstance(values, Tensor) else values


def _encode(text: str, _: str = "latin1") -> bytes:
    return text.encode("latin1")


def _scalar(kind: Any, content: Any = b"") -> Any:
    """NumPy's numbers as Python's, without NumPy's own reader."""
    code = kind.arguments[0] if isinstance(kind, Inert) and kind.arguments else ""
    if isinstance(content, bytes) and isinstance(code, str) and code[:1] in "fiub":
        return np.frombuffer(content, dtype=code, count=1).item()
    return Inert()


ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    ("torch._utils", "_rebuild_tensor"): torch._utils._rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _of_type,
    ("_codecs", "encode"): _encode,
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{
        (module, kind.__name__): kind
        for module in ("builtins", "__builtin__")
        for kind in (set, frozenset, list, dict, tuple, int, float, bool, complex, str)
    },
}


class _Unpickler(pickle.Unpickler):
    """Resolves the names of ALLOWED; any other one becomes a class of `Inert`, and what is called by it is that."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = ALLOWED.get((module, name))
        if allowed is not None:
            return allowed
        if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype | torch.layout):
            return found
        return type("Inert", (Inert,), {"kind": f"{module}.{name}"})


def _load(file: io.IOBase, **options: Any) -> Any:
    return _Unpickler(file, **options).load()


_INERT_PICKLE = types.SimpleNamespace(__name__="inert", Unpickler=_Unpickler, load=_load)
