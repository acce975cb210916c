"""The same from Python: from a script, a thread, a notebook's cell that is interrupted."""

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from running import ROOT, environment
from small import slow

import harness
from harness import HarnessError
from harness.given import spec_file

COMMANDS = (
    "sweep",
    "train",
    "runs",
    "best",
    "history",
    "load_run",
    "reload",
    "predict",
    "compare",
    "confirm",
    "report",
)

SCRIPT = """
import json, os, pathlib, signal, sys, threading, time
import harness

def tell(name, value):  # this file has no `if __name__ == "__main__"`: run once more by a worker, it would tell twice
    print(json.dumps({name: value}))

def interrupt():
    while not list(pathlib.Path("stopped/paths").rglob("*.state")):
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGINT)

from slowly import Small

threading.Thread(target=interrupt, daemon=True).start()
try:
    harness.sweep(Small, trials=3, jobs=1, store="stopped", register=False)
except KeyboardInterrupt:
    tell("interrupted", [run.status for run in harness.api.list_runs(Small, store="stopped")[0]])
os.environ["HARNESS_PACE"] = "0"  # workers see it, though the first one started before
again = harness.sweep(Small, trials=3, jobs=1, store="stopped", register=False)
tell("again", [record.status for record in again.records])

results = []
thread = threading.Thread(target=lambda: results.append(
    harness.sweep("small.py", trials=2, jobs=2, store="other", register=False, lr=0.1, threads=1)
))
thread.start()
thread.join()
tell("thread", [repr(results[0]), results[0]._repr_html_(), results[0].runs.lr.tolist()])

run = harness.train("small.py", lr=results[0].runs.lr[0], epochs=2, store="other")
tell("train", [run.params["lr"], run.metrics["val_accuracy"], harness.history(run, store="other").index.tolist()])
tell("environment", [os.environ.get("OMP_NUM_THREADS"), os.path.basename(sys.modules["__main__"].__file__)])
"""


def test_a_script_searches_in_its_main_program_in_a_thread_and_again_after_an_interruption(
    spec: Path, tmp_path: Path
) -> None:
    (tmp_path / "slowly.py").write_text(spec.read_text())
    slow(tmp_path / "slowly.py", 0.2)
    (tmp_path / "script.py").write_text(SCRIPT)
    kept = {name: value for name, value in environment().items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=kept, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "nothing was asked for, and nobody looks"
    told: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    assert [next(iter(one)) for one in told] == ["interrupted", "again", "thread", "train", "environment"]
    values = {name: value for one in told for name, value in one.items()}
    assert "INTERRUPTED" in values["interrupted"]
    assert values["again"] == ["FINISHED"] * 3
    shown, html, rates = values["thread"]
    assert shown.startswith("small, study 1: 2 trials, 16 epochs asked") and "best: trial-000" in shown
    assert html.count("<tr>") == 3 and set(rates) == {0.1}
    assert values["train"][0] == 0.1 and values["train"][2] == [1, 2]
    assert values["environment"] == [None, "script.py"]


def test_python_sees_the_public_names_and_each_function_says_what_it_does() -> None:
    assert set(COMMANDS) <= set(dir(harness)) and set(harness.__all__) <= set(dir(harness))
    for name in COMMANDS:
        function = getattr(harness, name)
        assert inspect.isfunction(function) and inspect.getdoc(function), name
        assert "store" in inspect.signature(function).parameters, name


def test_no_module_takes_the_name_of_a_public_function() -> None:
    modules = {path.stem for path in (ROOT / "harness").iterdir() if path.name != "__pycache__"}
    assert not modules & (set(harness.__all__) - {"data", "models", "search"})


def test_what_a_call_gets_wrong_is_a_sentence(spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HarnessError, match="--timeout soon: write it as 45s, 30m or 1h30m"):
        harness.sweep(spec, timeout="soon")
    with pytest.raises(HarnessError, match=r"--jobs 0: give a whole number"):
        harness.sweep(spec, jobs=0)
    with pytest.raises(HarnessError, match="is not a spec"):
        harness.sweep(int)  # type: ignore[arg-type]
    made_here = type("Sketch", (harness.Experiment,), {"__module__": "__nowhere__"})
    with pytest.raises(HarnessError, match="Sketch was defined in a notebook or a shell"):
        spec_file(made_here)


def test_the_table_of_runs_says_when_how_long_and_of_what_kind(swept: Path) -> None:
    runs = harness.runs("small", study="all", store=swept / "mlruns")
    assert list(runs.columns[-4:]) == ["kind", "study", "start", "duration"]
    assert set(runs.kind) == {"trial", "train"} and set(runs.study) == {1}
    assert (runs.duration.dt.total_seconds() > 0).all()
    assert "objective" not in runs, "which is `value`"
    assert len(set(runs.columns)) == len(runs.columns)


def test_epochs_count_from_one_in_every_answer(swept: Path) -> None:
    store = swept / "mlruns"
    best = harness.best("small", store=store)
    assert best.best_epoch == best.as_json()["metrics"]["best_epoch"]
    run = harness.load_run("best", "small", store=store, device="cpu")
    assert run.epoch == best.best_epoch
    curves = harness.history(best, store=store)
    assert curves.index[0] == 1 and curves.val_accuracy[run.epoch] == best.value == run.metrics["val_accuracy"]
    assert harness.runs("small", store=store).best_epoch[0] == run.epoch
    assert harness.reload("best", "small", store=store, device="cpu").epoch == run.epoch
    assert f"at epoch {run.epoch}" in repr(best) and f"after epoch {run.epoch}:" in repr(run)


def test_results_are_short_in_a_shell_and_tables_in_a_notebook(swept: Path) -> None:
    store = swept / "mlruns"
    best = harness.best("small", store=store)
    other = harness.runs("small", store=store).run_id[1]
    compared = harness.compare(best, other, store=store, device="cpu")
    checked = harness.reload(best, store=store, device="cpu")
    assert checked.match and repr(checked).endswith("equal, bit for bit")
    for result in (best, compared, checked, harness.load_run(best, store=store, device="cpu")):
        assert len(repr(result)) < 700 and "<table>" in result._repr_html_(), result


def test_a_spec_that_searches_while_it_is_loaded_is_told_so(harness: Any, spec: Path, tmp_path: Path) -> None:
    spec.write_text(f"{spec.read_text()}\nimport harness\nharness.sweep(Small, trials=1)\n")
    done = harness("sweep", spec, "--trials", 1, code=2)
    assert 'Put the call under `if __name__ == "__main__":`' in done.err
