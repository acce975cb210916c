"""The package as people install it: a wheel, used from a folder that has nothing of this repository."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from PIL import Image
from running import ROOT, environment
from test_imports import files, imports

import harness

OF_MLFLOW = {"requests", "sqlalchemy"}  # which it talks to its server and its database with, and so do we
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
CONSOLE = "import sys; from harness.cli import main; sys.exit(main())\n"  # what an installer makes of [project.scripts]
SPEC_OF_A_PROJECT = """
from project.networks import network
from my_spec import MySpec


class Own(MySpec):
    epochs = 1

    def model(self):
        return network(self.width)
"""
NETWORKS = """
from torch import nn


def network(width):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
"""
SCRIPT = """
import harness
result = harness.sweep("experiments/own.py", trials=2, jobs=1, register=False)
print(result)
print(harness.__file__)
run = harness.train("experiments/own.py", lr=0.3)
print(harness.compare(*result.records).pairs)
print(harness.report("experiments/own.py"))
print(harness.predict(run, ["digit.png"])["class"].item() in map(str, range(10)))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel holds, as in site-packages."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "harness", source / "harness", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    subprocess.run([sys.executable, "-c", BUILD, str(folder)], cwd=source, check=True, capture_output=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    assert wheel.name == f"experiment_harness-{harness.__version__}-py3-none-any.whl"
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_all_that_the_package_needs_and_nothing_else(site: Path) -> None:
    def held(folder: Path) -> set[str]:
        return {
            path.relative_to(folder).as_posix()
            for path in folder.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }

    assert held(site / "harness") == held(ROOT / "harness")
    assert {path.name for path in site.iterdir()} == {"harness", f"experiment_harness-{harness.__version__}.dist-info"}


def test_a_project_of_its_own_uses_the_wheel(site: Path, tmp_path: Path) -> None:
    """`harness` as installed writes a spec; a script beside a package with src layout searches with it."""
    (tmp_path / "console").write_text(CONSOLE)
    (tmp_path / "script.py").write_text(SCRIPT)
    for path, text in {"src/project/__init__.py": "", "src/project/networks.py": NETWORKS}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "own.py").write_text(SPEC_OF_A_PROJECT)
    Image.new("L", (8, 8)).save(tmp_path / "digit.png")
    kept = environment(PYTHONPATH=os.pathsep.join((str(site), str(tmp_path / "src"))))

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=kept, capture_output=True, text=True, timeout=250
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("console", "--version") == f"harness {harness.__version__}\n"
    assert run("console", "new", "experiments/my_spec.py").startswith("wrote experiments/my_spec.py")
    shown = run("script.py")
    assert "own, study 1: 2 trials" in shown and str(site) in shown
    assert "Pair(" in shown and "report: " in shown and shown.endswith("True\n")


def test_the_installed_command_imports_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from harness.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["harness", "--version"])
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(tmp_path)])
    monkeypatch.setattr("harness.machine._owned", False)
    monkeypatch.setattr("gc.freeze", lambda: None)
    with pytest.raises(SystemExit):
        main()
    assert str(tmp_path) in sys.path


def test_the_version_stands_in_one_place() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", harness.__version__)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == "experiment-harness" and project["dynamic"] == ["version"]


def test_what_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    assert all(">=" in line for line in project["dependencies"]), "each has a lower bound"
    declared = {re.split(r"[<>=\[ ]", line)[0].lower() for line in lines}
    found = {name.partition(".")[0] for path in files() for name in imports(path)} - set(sys.stdlib_module_names)
    providers = importlib.metadata.packages_distributions()
    for name in found - {"harness", "IPython", "sqlite"}:  # a notebook brings IPython
        names = {provider.lower() for provider in providers.get(name, [])}
        assert names & declared or name in OF_MLFLOW, f"{name} is imported, and not declared"
