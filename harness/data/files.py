"""Which files of a folder of classes are images, and which are the same."""

import hashlib
import json
import os
import stat
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from harness.data.storage import data_dir, publish
from harness.errors import FAILED, HarnessError

# Formats that Pillow hands to another program, or only knows the name of.
NOT_READ = frozenset(("EPS", "WMF", "MPEG", "HDF5", "GRIB", "BUFR", "PDF"))


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The image files of a part, sorted within their classes."""

    folder: Path
    files: list[str]
    targets: list[int]
    sizes: list[int]  # bytes
    fingerprint: str  # of names, sizes and times
    skipped: Mapping[str, int]  # how many other files there are, by suffix


@cache
def image_suffixes() -> frozenset[str]:
    """The suffixes of all formats that Pillow reads here, with the plug-ins that are loaded."""
    from PIL import Image

    Image.init()
    return frozenset(suffix for suffix, kind in Image.EXTENSION.items() if kind in Image.OPEN and kind not in NOT_READ)


def shown(path: str | Path) -> str:
    r"""A path as text; bytes that are no UTF-8 are written out: `a\xff`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def class_folders(folder: Path) -> tuple[str, ...]:
    """The names of the folders in a folder, sorted."""
    return tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."))


def list_images(folder: Path, names: Sequence[str], *, complete: bool, version: str) -> Listing:
    """All image files below the class folders of a part; raises `HarnessError` where some cannot be read as files.

    `complete`: a class without images is an error. `version` enters the fingerprint.
    """
    strangers = sorted(set(class_folders(folder)) - set(names))
    if strangers:
        where = shown(folder / strangers[0])
        raise HarnessError(f"image_folder: {where} is a class that the training images lack.")
    found = hashlib.sha256(version.encode())
    files: list[str] = []
    targets: list[int] = []
    sizes: list[int] = []
    skipped: Counter[str] = Counter()
    failures = []
    for target, name in enumerate(names):
        images, others = _split(folder / name)
        if complete and not images:
            hint = f", but {_counted(others)}" if others else ""
            raise HarnessError(f"image_folder: there are no images in {shown(folder / name)}{hint}.")
        skipped += others
        for file in images:
            try:
                status = os.stat(file)
            except OSError as error:
                failures.append((file, "a link to nothing" if os.path.islink(file) else str(error.strerror)))
                continue
            if not stat.S_ISREG(status.st_mode):
                failures.append((file, "a pipe" if stat.S_ISFIFO(status.st_mode) else "no file"))
                continue
            found.update(os.fsencode(os.path.relpath(file, folder)))
            found.update(f" {status.st_size} {status.st_mtime_ns}\n".encode())
            files.append(file)
            targets.append(target)
            sizes.append(status.st_size)
    if failures:
        raise unreadable(failures)
    if not files:
        raise HarnessError(f"image_folder: there are no images in {shown(folder)}.")
    return Listing(
        folder=folder, files=files, targets=targets, sizes=sizes, fingerprint=found.hexdigest()[:16], skipped=skipped
    )


def _split(folder: Path) -> tuple[list[str], Counter[str]]:
    images, others = [], Counter[str]()
    for place, _, inside in os.walk(folder):
        for file in inside:
            suffix = os.path.splitext(file)[1].lower()
            if file[0] == ".":
                continue
            if suffix in image_suffixes():
                images.append(os.path.join(place, file))
            else:
                others[shown(suffix) or "no suffix"] += 1
    return sorted(images), others


def regular_files(folder: Path) -> tuple[list[str], list[int]]:
    """All image files below a folder, and their sizes; what is none is left for when the part is read."""
    found = []
    for place, _, inside in os.walk(folder):
        for file in inside:
            path = os.path.join(place, file)
            if file[0] != "." and os.path.splitext(file)[1].lower() in image_suffixes() and os.path.isfile(path):
                found.append(path)
    found.sort()
    return found, [os.path.getsize(path) for path in found]


def skipped_note(listing: Listing) -> list[str]:
    """How many files were left out for their suffix; empty where none were."""
    if not listing.skipped:
        return []
    return [f"{_counted(listing.skipped)} in {shown(listing.folder)}, which are no images by their names: skipped"]


def _counted(others: Mapping[str, int]) -> str:
    total = sum(others.values())
    kinds = ", ".join(f"{suffix} {count:,}" for suffix, count in Counter(others).most_common(3))
    return f"{total:,} file{'s' * (total > 1)} ({kinds})"


def unreadable(failures: Sequence[tuple[str, str]]) -> HarnessError:
    """The error that names files and why they cannot be read."""
    named = ", ".join(f"{shown(path)} ({reason})" for path, reason in failures[:5])
    more = f" and {len(failures) - 5:,} more" if len(failures) > 5 else ""
    count = "1 image" if len(failures) == 1 else f"{len(failures):,} images"
    return HarnessError(
        f"image_folder: {count} cannot be decoded: {named}{more}. Remove or repair them.", exit_code=FAILED
    )


def same_files(parts: Mapping[str, tuple[Sequence[str], Sequence[int]]], key: str) -> list[str]:
    """Which parts have image files in common with the training part, byte for byte; one sentence each.

    `parts` maps a part's name to its files and their sizes, the training part first. Files are read only where
    two parts have one of that size; what was found is kept under `key`.
    """
    kept = data_dir() / "cache" / f"same-{key}.json"
    if kept.exists():
        return list(json.loads(kept.read_text()))
    (first, training), *others = parts.items()
    notes = []
    for name, (files, sizes) in others:
        common = set(sizes) & set(training[1])
        known = _by_content(training, common)
        pairs = [
            (file, known[content][0])
            for content, found in _by_content((files, sizes), common).items()
            for file in found
            if content in known
        ]
        if pairs:
            what = f"1 {name} image is" if len(pairs) == 1 else f"{len(pairs):,} {name} images are"
            notes.append(f"{what} also among the {first} images, such as {shown(pairs[0][0])} ({shown(pairs[0][1])})")
    kept.parent.mkdir(parents=True, exist_ok=True)
    temporary = kept.with_name(f".{kept.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(notes))
    publish(temporary, kept)
    return notes


def _by_content(part: tuple[Sequence[str], Sequence[int]], sizes: Iterable[int]) -> dict[bytes, list[str]]:
    found: dict[bytes, list[str]] = defaultdict(list)
    wanted = set(sizes)
    for file, size in zip(*part, strict=True):
        if size in wanted:
            with open(file, "rb") as content:
                found[hashlib.file_digest(content, "blake2b").digest()].append(file)
    return found
