"""`benchmarks/gpu_check.py`: its steps run whatever becomes of one of them, and go on after an interruption."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from running import ROOT, environment, wait_until

STEPS = """
import os, signal, subprocess, sys, time
from pathlib import Path

def fine(given, rows):
    rows.add("an equal thing", "yes", right=True)

def wrong(given, rows):
    rows.add("another thing", 1.5, "s", right=False)

def fails(given, rows):
    raise ValueError("there is no such thing")

def dies(given, rows):
    os.kill(os.getpid(), signal.SIGKILL)

def hangs(given, rows):
    sleeper = subprocess.Popen(["sleep", "600"])
    rows.add("its process", sleeper.pid)
    time.sleep(600)

def waits(given, rows):
    rows.add("it waits for", os.environ["GATE"])
    while not Path(os.environ["GATE"]).exists():
        time.sleep(0.02)
"""
PROGRAM = """
import gpu_check
from gpu.running import Step

def step(name, **more):
    return Step(name=name, call=f"made:{name}", **more)

gpu_check.steps = lambda quick: [
    step("fine"), step("wrong"), step("fails"), step("dies"), step("hangs", limit_seconds=8.0),
    Step(name="absent", call="made:fine", needs=("CUDA",)), step("waits"), Step(name="last", call="made:fine"),
]
gpu_check.main()
"""
EVERY = """
import importlib, gpu_check

names = set()
for quick in (False, True):
    for step in gpu_check.steps(quick=quick):
        module, _, function = step.call.partition(":")
        assert callable(getattr(importlib.import_module(module), function)), step
        names.add(step.name)
assert len([name for name in names if name.startswith("repeats: ")]) == 24
gpu_check.main()
"""


def start(program: Path, results: Path, work: Path, *more: object, **variables: str) -> subprocess.Popen[str]:
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "benchmarks", program.parent)))
    arguments = ["--device", "cpu", "--quick", "--results", results, "--work", work, *more]
    return subprocess.Popen(
        list(map(str, [sys.executable, program, *arguments])), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, env=environment(**variables) | {"PYTHONPATH": paths},
    )  # fmt: skip


def records(results: Path) -> list[dict[str, Any]]:
    file = results / "gpu_check.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.mark.slow
def test_a_step_that_fails_dies_or_hangs_is_written_down_and_an_interrupted_check_goes_on(tmp_path: Path) -> None:
    program, results, gate = tmp_path / "program.py", tmp_path / "results", tmp_path / "gate"
    (tmp_path / "made.py").write_text(STEPS)
    program.write_text(PROGRAM)
    first = start(program, results, tmp_path / "work", GATE=str(gate))
    wait_until(lambda: len(records(results)) == 6 and list((tmp_path / "work").glob("step-*/rows.jsonl")), seconds=120)
    first.send_signal(signal.SIGINT)
    out, _ = first.communicate(timeout=60)
    assert first.returncode == 130 and "the same command goes on" in out
    assert not list((tmp_path / "work").iterdir())  # nothing of the interrupted step is left

    found = {record["step"]: record for record in records(results)}
    assert {name: record["status"] for name, record in found.items()} == {
        "fine": "done",
        "wrong": "done",
        "fails": "failed: ValueError: there is no such thing",
        "dies": "died: signal 9 (SIGKILL)",
        "hangs": "hung: it was killed after 8 s",
        "absent": "skipped: needs CUDA",
    }
    assert found["wrong"]["rows"] == [["another thing", 1.5, "s", False]] and found["absent"]["rows"] == []
    ((what, pid, _, _),) = found["hangs"]["rows"]
    assert what == "its process"
    wait_until(lambda: not is_alive(pid), lambda: "what the step has started lives on")

    gate.touch()
    second = start(program, results, tmp_path / "work", GATE=str(gate))
    out, _ = second.communicate(timeout=120)
    assert second.returncode == 1, out  # not all is right
    assert [record["step"] for record in records(results)][6:] == ["waits", "last"]
    table = (results / "gpu_check.txt").read_text()
    assert table.count("an equal thing") == 2 and "WRONG" in table
    assert "steps: 4 done and 1 skipped of 8; 4 wrong or failed: wrong, fails, dies, hangs" in table


@pytest.mark.slow
def test_its_real_steps_run_on_a_cpu_and_say_what_needs_a_gpu(tmp_path: Path) -> None:
    program, results = tmp_path / "real.py", tmp_path / "results"
    program.write_text(EVERY)
    names = ["machine", "repeats: mlp SGD float32", "failed capture", "ceiling", "2 on streams, a small VGG"]
    process = start(program, results, tmp_path / "work", "--only", *names)
    out, _ = process.communicate(timeout=250)
    assert process.returncode == 0, out
    found = {record["step"]: record for record in records(results)}
    assert list(found) == names
    assert found["failed capture"]["status"] == "skipped: needs CUDA" and found["failed capture"]["rows"] == []
    compared = [row[3] for row in found["repeats: mlp SGD float32"]["rows"] if row[3] is not None]
    assert compared == [True] * 4
    assert [row[2] for row in found["ceiling"]["rows"]] == ["TFLOP/s", "", "GFLOP"]
    assert [row[3] for row in found["2 on streams, a small VGG"]["rows"]] == [None, None, True]
    assert len(out.split("\n\n")[-1].strip().splitlines()) == 10
    for record in found.values():
        assert str(ROOT) not in json.dumps(record)


def test_it_says_in_a_sentence_that_it_needs_a_gpu() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_check.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=250, env=environment())
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("benchmarks/gpu_check.py needs a CUDA device") and done.stderr.count("\n") == 1


def is_alive(pid: int) -> bool:
    """Whether a process runs: one that has ended and is not waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
