"""Spec files: what is wrong is said with file and line, and what a spec imports travels with it."""

import hashlib
import sys
from pathlib import Path

import pytest

from harness.errors import HarnessError, UserCodeError
from harness.spec import experiment_name, load_spec

GOOD = '''"""A sketch of an experiment.

More about it."""

from harness import Experiment, search


class Sketch(Experiment):
    lr: float = search.log_uniform(1e-3, 1e-1, default=1e-2)
    width: int = search.integer(1, 64, default=8)
    act: str = search.choice("relu", "gelu", default="relu")

    def data(self): ...
    def model(self): ...
    def optimizer(self, parameters): ...
'''


def write(folder: Path, text: str, name: str = "sketch.py") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def fails(path: Path) -> str:
    with pytest.raises(HarnessError) as caught:
        load_spec(path)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_relative_import_is_told_how_to_be_written(tmp_path: Path) -> None:
    (tmp_path / "inside.py").write_text("from .networks import Net\n")
    with pytest.raises(HarnessError, match="it has no package for a relative import"):
        load_spec(tmp_path / "inside.py")


def test_a_good_spec_says_what_it_is(tmp_path: Path) -> None:
    spec = load_spec(write(tmp_path, GOOD))
    assert spec.name == "sketch"
    described = spec.describe()
    assert described.summary == "A sketch of an experiment."
    assert list(described.hyperparameters) == ["lr", "width", "act"]
    assert described.settings["epochs"] == 40
    assert spec.sources == {"sketch.py": GOOD}


@pytest.mark.parametrize(("text", "message"), [
    (GOOD + "\nx = (1,\n", ":17: '(' was never closed."),
    ("x = 1\n", "no Experiment in it"),
    ("from harness import Experiment\n", "no Experiment in it"),
    (GOOD + GOOD.replace("Sketch", "Other"), "Sketch and Other are both Experiments; a spec file holds one."),
    (GOOD.replace("def model", "def _model"), "Sketch has no model(); every experiment needs one."),
    (GOOD.replace("def model", "def _model").replace("def data", "def _data"), "Sketch has no data() and model();"),
    (GOOD.replace("1e-3, 1e-1", "1e-1, 1e-3"), "lr: low 0.1 is above high 0.001."),
    (GOOD.replace("    act", "    batchsize = 3\n    act"), "Did you mean 'batch_size'?"),
    ("import no_such_library\n" + GOOD, "No module named 'no_such_library'; install it, or put it beside the spec."),
])  # fmt: skip
def test_a_wrong_spec_gets_one_clear_sentence(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    found = fails(path)
    assert found.startswith(str(path)) and message in found


def test_a_missing_file_suggests_a_near_one(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    assert f"does not exist. Did you mean '{path}'?" in fails(tmp_path / "sketsh.py")
    assert "does not exist." in fails(tmp_path / "nowhere" / "sketch.py")
    assert "is not a spec: a spec is a Python file" in fails(tmp_path / "sketch.yaml")


def test_an_exception_while_loading_shows_the_users_frames_only(tmp_path: Path) -> None:
    path = write(tmp_path, "def inner():\n    return 1 / 0\n\n\ninner()\n")
    with pytest.raises(UserCodeError) as caught:
        load_spec(path)
    assert str(caught.value) == f"{path} raised ZeroDivisionError while it was loaded."
    assert caught.value.exit_code == 2
    lines = caught.value.trace.splitlines()
    assert lines[1] == f'  File "{path}", line 5, in <module>'
    assert lines[-1] == "ZeroDivisionError: division by zero"
    assert "harness/spec.py" not in caught.value.trace


def test_local_modules_are_sources_and_an_edited_one_is_seen(tmp_path: Path) -> None:
    write(tmp_path, "from nets.deep import WIDTH\n", "helper.py")
    write(tmp_path, "", "nets/__init__.py")
    write(tmp_path, "WIDTH = 3\n", "nets/deep.py")
    path = write(tmp_path, "import json\nfrom helper import WIDTH\n" + GOOD.replace("default=8", "default=WIDTH"))
    before = dict(sys.modules), list(sys.path)
    first = load_spec(path)
    assert list(first.sources) == ["sketch.py", "helper.py", "nets/__init__.py", "nets/deep.py"]
    assert first.sources["nets/deep.py"] == "WIDTH = 3\n"
    write(tmp_path, "WIDTH = 4\n", "nets/deep.py")
    second = load_spec(path)
    assert (first.experiment().width, second.experiment().width) == (3, 4)  # type: ignore[attr-defined]
    assert first.digest != second.digest
    added = sys.modules.keys() - before[0].keys()
    assert added <= {"harness_spec_sketch"}, "what a spec imports is not left behind"
    assert all(sys.modules[name] is module for name, module in before[0].items() if "harness_spec" not in name)
    assert sys.path == before[1]
    assert not list(tmp_path.rglob("__pycache__"))


def test_a_failing_spec_leaves_nothing_behind(tmp_path: Path) -> None:
    write(tmp_path, "x = 1\n", "helper_that_fails.py")
    path = write(tmp_path, "import helper_that_fails\nraise ValueError\n")
    before = list(sys.path)
    fails(path)
    assert "helper_that_fails" not in sys.modules and sys.path == before


def test_a_module_of_the_same_name_in_the_process_is_neither_used_nor_replaced(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder, value in ((ours, 1), (theirs, 2)):
        write(folder, f"WIDTH = {value}\n", "widths.py")
        write(folder, "from widths import WIDTH\n" + GOOD.replace("default=8", "default=WIDTH"))
    specs = [load_spec(folder / "sketch.py") for folder in (ours, theirs)]
    assert [spec.experiment().width for spec in specs] == [1, 2]  # type: ignore[attr-defined]


def test_a_syntax_error_in_a_local_module_names_that_module(tmp_path: Path) -> None:
    helper = write(tmp_path, "x =\n", "helper.py")
    path = write(tmp_path, "import helper\n" + GOOD)
    assert fails(path) == f"{helper}:1: invalid syntax."


def test_a_local_module_must_be_imported_at_the_top(tmp_path: Path) -> None:
    """Inside a function it would be found neither at the call nor among the sources."""
    write(tmp_path, "x = 1\n", "helper.py")
    path = write(tmp_path, GOOD.replace("def model(self): ...", "def model(self):\n        import helper\n"))
    assert f"{path}:15: import helper at the top of the file" in fails(path)
    load_spec(write(tmp_path, GOOD.replace("def model(self): ...", "def model(self):\n        import json.decoder\n")))


def test_python_itself_is_not_local_where_it_lies_under_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where somebody works in a home folder that holds `~/.pyenv`."""
    monkeypatch.chdir("/")
    path = write(tmp_path, "import json.tool\nimport sched\n" + GOOD)
    sys.modules.pop("sched", None)
    assert list(load_spec(path).sources) == ["sketch.py"]
    assert "sched" in sys.modules


def test_a_package_in_a_folder_that_pip_filled_is_installed_and_a_module_beside_it_is_local(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after `pip install --target site`, with that folder in PYTHONPATH."""
    site = tmp_path / "site"
    write(site / "curves", "def late():\n    import curves.more\n", "__init__.py")
    write(site / "curves", "", "more.py")
    write(site / "curves-1.2.dist-info", "Metadata-Version: 2.1\nName: curves\nVersion: 1.2\n", "METADATA")
    write(site / "curves-1.2.dist-info", "curves/__init__.py,,\ncurves/more.py,,\n", "RECORD")
    write(site, "WIDTH = 8\n", "widths.py")
    monkeypatch.syspath_prepend(str(site))
    spec = load_spec(write(tmp_path, "import curves\nfrom widths import WIDTH\n" + GOOD))
    assert list(spec.sources) == ["sketch.py", "widths.py"] and spec.packages == {"curves": "1.2"}


def test_a_package_whose_folder_has_another_name_than_it_says_has_a_digest_in_place_of_a_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    write(site / "splines", "KNOTS = 3\n", "__init__.py")
    write(site / "renamed-1.2.dist-info", "Metadata-Version: 2.1\nName: splines\nVersion: 1.2\n", "METADATA")
    write(site / "renamed-1.2.dist-info", "splines/__init__.py,,\n", "RECORD")
    monkeypatch.syspath_prepend(str(site))
    spec = load_spec(write(tmp_path, "import splines\n" + GOOD))
    assert spec.packages == {"splines": hashlib.sha256(b"KNOTS = 3\n").hexdigest()[:12]}


def test_a_copy_knows_where_the_original_stood(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + "\nHERE = __file__\n")
    spec = load_spec(path, original="/somewhere/sketch.py")
    assert sys.modules[spec.experiment.__module__].HERE == "/somewhere/sketch.py"


def test_set_is_parsed_by_the_declared_type(tmp_path: Path) -> None:
    described = load_spec(write(tmp_path, GOOD)).describe()
    assert described.parse(["lr=1", " width = 12", "act=gelu", "epochs=3"]) == {
        "lr": 1.0, "width": 12, "act": "gelu", "epochs": 3,
    }  # fmt: skip


@pytest.mark.parametrize(("assignment", "message"), [
    ("lr", "--set lr: write it as NAME=VALUE."),
    ("learning=1", "has no hyperparameter or setting 'learning'"),
    ("widht=3", "Did you mean 'width'?"),
    ("width=wide", "--set width=wide: 'wide' is not an integer"),
    ("act=rel", "Did you mean 'relu'?"),
    ("epochs=none", "--set epochs=none: epochs must be a whole number"),
])  # fmt: skip
def test_a_wrong_set_says_what_it_wants(tmp_path: Path, assignment: str, message: str) -> None:
    described = load_spec(write(tmp_path, GOOD)).describe()
    with pytest.raises(HarnessError) as caught:
        described.parse([assignment])
    assert message in str(caught.value)


def test_a_demo_has_a_name_of_its_own() -> None:
    assert experiment_name("experiments/sketch.py", is_demo=True) == "sketch-demo"
    assert experiment_name("v1.2") == "v1.2"
