"""The examples in docstrings, and the links of the README."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    for path in (ROOT / "harness").rglob("*.py")
    if ">>>" in path.read_text()
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_are_right(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name.removesuffix(".__init__")))
    assert found.attempted and not found.failed


def test_the_readme_names_what_is_there() -> None:
    text = (ROOT / "README.md").read_text()
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / link).exists(), link
    for path in re.findall(r"`((?:experiments|benchmarks|harness|tests)/[\w./]*)`", text):
        assert (ROOT / path).exists(), path
    commands = set(re.findall(r"python -m harness (\w+)", text)) - {"COMMAND"}
    source = (ROOT / "harness" / "cli.py").read_text()
    assert commands and all(f"def {command}(" in source for command in commands)


def test_the_spec_in_the_readme_is_the_one_in_the_repository() -> None:
    block = re.search(r"```python\n# experiments/vgg_cifar.py\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert block is not None
    assert block[1].strip() in (ROOT / "experiments" / "vgg_cifar.py").read_text()
