"""The examples in docstrings, and the links of the README."""

import doctest
import importlib
import re
from pathlib import Path

import pytest
from running import Zygote

from harness.spec import load_spec

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
    source = "".join((ROOT / "harness" / name).read_text() for name in ("cli/app.py", "cli/results.py"))
    assert commands and all(f"def {command}(" in source for command in commands)


def test_the_spec_in_the_readme_is_the_one_in_the_repository() -> None:
    block = re.search(r"```python\n# experiments/vgg_cifar.py\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert block is not None
    assert block[1].strip() in (ROOT / "experiments" / "vgg_cifar.py").read_text()


@pytest.mark.parametrize("page", ["from-your-loop.md", "desde-tu-bucle.md"])
def test_the_spec_that_a_loop_becomes_is_one(page: str, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.S)
    loop, spec = blocks[:2]
    compile(loop, page, "exec")
    module, network = re.findall(r"^from (\w+) import (\w+)$", spec, re.M)[-1]
    assert f"from {module} import {network}" in loop, "the network stays as it is"
    (tmp_path / f"{module}.py").write_text(f"from torch import nn\n\n\nclass {network}(nn.Module):\n    pass\n")
    path = tmp_path / re.findall(r"^# (\w+\.py)$", spec, re.M)[0]
    path.write_text(spec)
    described = load_spec(path).describe()
    assert {"lr", "patience"} == set(described.hyperparameters) and described.settings["monitor"] == "train_loss"


def test_every_link_of_the_docs_leads_somewhere() -> None:
    for page in [*(ROOT / "docs").glob("*.md"), *ROOT.glob("README*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)[)#]", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_example_in_the_docs_runs_as_it_stands(
    zygote: Zygote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs" / "example.md").read_text()
    commands = re.findall(r"^\$ python -m harness (sweep .*)$", text, re.M)
    assert len(commands) == 1
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    assert zygote.start(*commands[0].replace("30", "5").split(), cwd=tmp_path).wait().code == 0
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        exec(block, names)
    assert list(names["runs"].columns)[:4] == ["run_id", "name", "status", "value"]  # type: ignore[attr-defined]
