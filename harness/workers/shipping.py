"""Packs a spec for other machines: its file and the local modules that it imports, in one folder."""

import ast
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.files import file_digest, write_whole
from harness.spec import local_roots, read_source

ELSEWHERE = "_spec"  # subfolder for files from outside the driver's working folder


@dataclass(frozen=True, kw_only=True)
class Shipment:
    """A packed spec: its place on the driver's machine, its place in the packed folder, and its digests."""

    spec: Path  # as the user names it
    working_folder: Path
    shipped_spec: Path  # in the packed folder
    digests: dict[Path, str | None]  # of each file, by its path on the driver's machine

    def settle(self, load: Callable[[Path], None]) -> bool:
        """Loads the spec on this machine; returns whether the original files were used.

        If this machine has the same files at the same paths (the driver's machine, a shared home), they are used, and
        relative paths to data work. Otherwise the packed files are used, in the folder in which this process was
        started; also if a file is edited or moved during loading.
        """
        travelled, places = Path.cwd().resolve(), list(sys.path)
        if self._stands():
            with suppress(FileNotFoundError):
                os.chdir(self.working_folder)
                sys.path[:] = [str(self.working_folder), *(place for place in places if not _holds(place, self))]
                load(self.spec)
                if self._stands():
                    return True
        os.chdir(travelled)
        sys.path[:] = [str(travelled), *places]
        load(self.shipped_spec)
        return False

    def _stands(self) -> bool:
        return all(_digest_of_file(path) == digest for path, digest in self.digests.items())


def pack_spec(spec: Path, folder: Path) -> Shipment:
    """Copies a spec and its local modules into a folder. Raises `HarnessError` if the spec cannot be read."""
    working_folder = Path.cwd().resolve()
    sources = dict(_find_sources(spec.resolve(), read_source(spec), local_roots(spec)))
    places = {path: _place(path, spec.resolve().parent, working_folder) for path in sources}
    for path, text in sources.items():
        write_whole(folder / places[path], text)
    return Shipment(
        spec=spec,
        working_folder=working_folder,
        shipped_spec=places[spec.resolve()],
        digests={path: _digest_of_file(path) for path in sources},
    )


def _find_sources(file: Path, text: str, roots: list[Path]) -> Iterator[tuple[Path, str]]:
    """The file and every local module that it may import, each once, with their texts."""
    found = {file: text}
    waiting = [file]
    while waiting:
        current = waiting.pop()
        yield current, found[current]
        for name in _imported(found[current]):
            for path in _files_of(name, roots):
                if path not in found:
                    found[path] = path.read_text(encoding="utf-8-sig")
                    waiting.append(path)


def _imported(text: str) -> set[str]:
    """The top-level names that a source imports."""
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except SyntaxError:  # loading it gives the error message
        return set()
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    return {name.partition(".")[0] for name in names} - {"", "harness"} - sys.stdlib_module_names


def _files_of(name: str, roots: list[Path]) -> list[Path]:
    """The files of a module or package of this name, from the first root that has one."""
    for root in roots:
        if (root / f"{name}.py").is_file():
            return [root / f"{name}.py"]
        if (root / name).is_dir() and (files := sorted((root / name).rglob("*.py"))):
            return files
    return []


def _place(path: Path, spec_folder: Path, working_folder: Path) -> Path:
    if path.is_relative_to(working_folder):
        return path.relative_to(working_folder)
    return ELSEWHERE / path.relative_to(spec_folder)


def _digest_of_file(path: Path) -> str | None:
    try:
        return file_digest(path)
    except OSError:
        return None


def _holds(place: str, shipment: Shipment) -> bool:
    """Whether an entry of the import path is the packed folder: its modules would hide the local ones."""
    return Path(place or ".").resolve() != shipment.working_folder and (Path(place) / shipment.shipped_spec).is_file()
