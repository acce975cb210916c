"""The pages for contributors name what is there."""

import ast
import re
from pathlib import Path

import pytest
from running import ROOT
from test_imports import ALLOWED

PAGES = ("docs/architecture.md", "CONTRIBUTING.md")
MAP = ROOT / "docs" / "architecture.md"


def defined(file: Path) -> set[str]:
    """The functions and classes of a file, with their methods."""
    tree = ast.parse(file.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}


@pytest.mark.parametrize("page", PAGES)
def test_every_file_and_link_exists(page: str) -> None:
    text = (ROOT / page).read_text()
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert ((ROOT / page).parent / link).exists(), link
    named = re.findall(r"`([\w./-]+(?:\.py|/))(?=[`:])", text)
    assert named
    for path in named:
        assert (ROOT / path).exists() or (ROOT / "harness" / path).exists(), path


def test_every_name_of_the_map_is_in_its_file() -> None:
    text = MAP.read_text()
    named = re.findall(r"`([\w/]+\.py): (\w+)`", text) + re.findall(r"`([\w/]+\.py)` \(`(\w+)`\)", text)
    named += [(file, name) for name, file in re.findall(r"\*\*([A-Z]\w+)\*\* \|.*\(`([\w/]+\.py)`\)", text)]
    assert len(named) > 20
    for file, name in named:
        assert name in defined(ROOT / "harness" / file), f"{file} has no {name}"


def test_the_map_has_every_package_and_what_it_imports() -> None:
    rows = re.findall(r"^\| `(\w+)` \| [^|]* \| ([^|]*)\|$", MAP.read_text(), re.M)
    drawn = {package: set(re.findall(r"`(\w+)`", imports)) for package, imports in rows}
    packages = {folder.name for folder in (ROOT / "harness").iterdir() if (folder / "__init__.py").exists()}
    allowed = {package: {part for part in ALLOWED[package] if "." not in part} for package in packages}
    assert drawn == allowed
