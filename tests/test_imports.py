"""What may import what: read from the source, and from what a fresh process has loaded."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from running import ROOT, environment

PACKAGE = ROOT / "harness"
FOUNDATION = {
    *("errors", "faults", "files", "imports", "machine", "objects", "demo"),
    *("search", "settings", "experiment", "spec", "amounts", "given", "notebook", "processes", "__init__"),
}
TRACKING = {"tracking", "training.results", "training.origin"}
ALLOWED = {  # a part of the package -> the parts that it may import, beside the foundation and itself
    "data": set(),
    "models": set(),
    "training": {"data", "models"},
    "tracking": set(),
    "results": {"data", "training", "tracking"},
    "workers": {"data", "models", "training"},
    "reporting": {"data", "results", *TRACKING},
    "searching": {"workers", "results", "reporting", *TRACKING},
    "starter": set(),
    "api": {"starter", "searching", "results", "reporting", "tracking"},
    "cli": {"api", "reporting"},
    "__main__": {"cli"},
}
FORBIDDEN = {  # libraries that a part must not know
    "training": {"mlflow", "optuna", "typer", "rich"},
    "data": {"mlflow", "optuna", "typer", "rich"},
    "models": {"mlflow", "optuna", "typer", "rich"},
    "tracking": {"torch", "typer", "rich"},
    "results": {"optuna", "typer", "rich"},
    "workers": {"mlflow", "optuna", "typer", "rich"},
    "reporting": {"torch", "optuna", "mlflow"},
    "searching": {"torch", "typer"},
    "api": {"torch", "optuna", "mlflow", "typer", "rich"},
    "cli": {"torch", "optuna", "mlflow"},
}


def imports(path: Path) -> set[str]:
    """Every module that a file imports when it runs, in functions too; not those for type checkers alone."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            assert node.module is not None
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found


def part_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def files() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_arrows_between_packages_point_one_way(part: str) -> None:
    allowed = FOUNDATION | ALLOWED[part] | {part, "__version__"}
    for path in files():
        if part_of(path) != part:
            continue
        found = imports(path)
        own = {name.removeprefix("harness.") for name in found if name.startswith("harness.")}
        wrong = {name for name in own if not any(f"{name}.".startswith(f"{other}.") for other in allowed)}
        assert not wrong, f"{path} must not import {', '.join(sorted(wrong))}"
        assert not {name.split(".")[0] for name in found} & FORBIDDEN.get(part, set()), path


def test_the_foundation_stands_alone() -> None:
    for name in FOUNDATION - {"__init__"}:
        found = imports(PACKAGE / f"{name}.py")
        assert not {other for other in found if other.split(".")[0] in ("mlflow", "optuna", "rich", "typer")}, name
        parts = {other.split(".")[1] for other in found if other.startswith("harness.")}
        assert parts <= FOUNDATION, name


def test_no_module_reads_anothers_private_names() -> None:
    for path in files():
        private = {name for name in imports(path) if name.startswith("harness.") and "._" in name}
        assert not private - {"harness.__version__"}, f"{path} imports {private}"


def test_every_package_is_in_the_map() -> None:
    assert {part_of(path) for path in files()} == FOUNDATION | set(ALLOWED)


def loaded_after(code: str) -> set[str]:
    """The top-level modules of a fresh process after some code."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport json, sys; print(json.dumps(sorted(sys.modules)))"],
        capture_output=True, text=True, check=True, env=environment(),
    )  # fmt: skip
    return {name.split(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def test_importing_the_package_loads_no_heavy_library() -> None:
    heavy = {"torch", "mlflow", "optuna", "pandas", "numpy", "rich", "typer"}
    assert not loaded_after("import harness") & heavy
    assert not loaded_after("from harness import Experiment, search, HarnessError") & heavy


@pytest.mark.parametrize("arguments", [["--help"], ["sweep", "--help"], ["runs"], ["swep"]])
def test_help_and_usage_errors_load_neither_torch_nor_mlflow_nor_optuna(arguments: list[str]) -> None:
    code = f"""
import contextlib, io, sys
sys.argv = ["harness", *{arguments!r}]
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    from harness.cli import main
    main()
"""
    assert not loaded_after(code) & {"torch", "mlflow", "optuna", "pandas", "numpy"}


@pytest.mark.parametrize("between", ["", "from harness.machine import loading\nwith loading(): pass\n"])
def test_the_end_of_a_command_that_loaded_triton_says_nothing(between: str) -> None:
    pytest.importorskip("triton")
    program = f"import sys, triton\n{between}from harness.cli import main; sys.argv = ['harness', '--help']; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not done.stderr
