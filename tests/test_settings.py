"""A setting stands in one table; everything that needs to know of it reads that."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from running import ROOT, environment
from small import SPEC

from harness.errors import HarnessError
from harness.settings import IN_EVERY_RECIPE, SETTINGS, check_setting, of_a_run, of_a_study

NEW = "    dampening: float = setting(0.5, one_of(0.5, 0.25), in_recipe=True)\n"


def test_one_line_in_the_table_is_a_new_setting(tmp_path: Path) -> None:
    """A copy of the package with one line more: the spec may set it, `--set` checks it, the recipe holds it."""
    subprocess.run(["cp", "-r", str(ROOT / "harness"), str(tmp_path / "harness")], check=True)
    table = tmp_path / "harness" / "settings.py"
    text = table.read_text()
    line = next(line for line in text.splitlines(keepends=True) if line.startswith("    batch_size: int"))
    table.write_text(text.replace(line, line + NEW))
    (tmp_path / "small.py").write_text(SPEC.replace("    epochs =", "    dampening = 0.25\n    epochs ="))
    code = """
from harness.settings import IN_EVERY_RECIPE, of_a_study
from harness.spec import load_spec
spec = load_spec("small.py")
assert spec.build({}).dampening == 0.25
assert spec.describe().parse(["dampening=0.5"]) == {"dampening": 0.5}
assert "dampening" in IN_EVERY_RECIPE and "dampening" in of_a_study(spec.experiment.defaults())
try:
    spec.describe().parse(["dampening=3"])
except Exception as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env=environment(PYTHONPATH=str(tmp_path)),
    )  # fmt: skip
    assert done.stdout.strip() == "--set dampening=3: dampening must be one of 0.5, 0.25, not 3.", done.stderr


def test_every_setting_is_in_the_readme() -> None:
    table = (ROOT / "README.md").read_text()
    missing = [name for name in SETTINGS if not re.search(rf"^\|[^|]*`{name}`[^|]*\|", table, re.MULTILINE)]
    assert not missing


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_every_default_passes_its_own_check(name: str) -> None:
    check_setting(name, SETTINGS[name].default)


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "8"])
def test_a_wrong_value_is_refused_with_what_it_must_be(value: object) -> None:
    with pytest.raises(HarnessError, match="batch_size must be a whole number of at least 1"):
        check_setting("batch_size", value)


def test_what_only_the_driver_reads_is_in_no_run_and_in_no_recipe() -> None:
    driver = {"trials", "budget", "sampler", "pruner"}
    values = {name: found.default for name, found in SETTINGS.items()}
    assert values.keys() - of_a_run(values).keys() == driver
    assert not driver & IN_EVERY_RECIPE
    assert "trials" not in of_a_study(values) and "sampler" in of_a_study(values)
