"""Fingerprints: digests of the first steps of a recipe, kept beside the tree of epochs.

Before a command relies on epochs of earlier ones, it takes those few steps again. If the digest differs, something
changed that no other digest sees (a driver, a library, a file that is read in `forward`). Then the family of recipes
gets a new generation, and the old epochs are not used.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness.files import write_whole
from harness.objects import Away, open_objects
from harness.training.results import Fingerprints

FOLDER = "fingerprints"


@dataclass(frozen=True, kw_only=True)
class Checked:
    """The generation of a family. `kept` is what to write if the generation is new, `note` what to tell the user."""

    generation: int
    kept: Fingerprints | None = None
    note: str | None = None


def check_fingerprint(
    paths: Path | str | None,
    family: str,
    *,
    values: Mapping[str, Any],
    fingerprint: str,
    take: Callable[[Mapping[str, Any]], str],
) -> Checked:
    """Compares the first steps with those of earlier commands.

    `fingerprint` is that of the steps with `values`; `take` takes the steps with other values, those of the first
    command that trained this family.
    """
    known = None if paths is None else read_fingerprints(paths, family)
    if known is None:
        return Checked(generation=0, kept=Fingerprints(family=family, values=dict(values), prints=(fingerprint,)))
    is_same = _as_json(known.values) == _as_json(values)
    now = fingerprint if is_same else take(known.values)
    if now in known.prints:
        return Checked(generation=known.prints.index(now))
    note = (
        "the first training steps give other numbers than they did before, though the code, the data and all known "
        "versions are the same: epochs trained before are not reused"
    )
    kept = replace(known, prints=(*known.prints, now))
    return Checked(generation=len(known.prints), kept=kept, note=note)


def read_fingerprints(paths: Path | str, family: str) -> Fingerprints | None:
    """The fingerprints of a family; None if there are none, or if they cannot be read."""
    name = f"{FOLDER}/{family}.json"
    try:
        content = (paths / name).read_bytes() if isinstance(paths, Path) else open_objects(paths).read(name)
        if content is None:
            return None
        read = json.loads(content)
        return Fingerprints(family=str(read["family"]), values=dict(read["values"]), prints=tuple(read["prints"]))
    except (OSError, Away, ValueError, KeyError, TypeError):
        return None


def keep_fingerprints(paths: Path | str, fingerprints: Fingerprints) -> None:
    """Writes the fingerprints of a family, unless another process has written as many in the meantime."""
    known = read_fingerprints(paths, fingerprints.family)
    if known is not None and len(known.prints) >= len(fingerprints.prints):
        return
    name, content = f"{FOLDER}/{fingerprints.family}.json", _as_json(asdict(fingerprints))
    if isinstance(paths, Path):
        write_whole(paths / name, content)
        return
    objects = open_objects(paths)
    objects.in_turn(lambda: objects.write(name, content.encode()))


def _as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=repr)
