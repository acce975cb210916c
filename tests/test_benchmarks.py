"""The benchmarks run, print their table and append their record. What they measure is not judged here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from running import ROOT, environment

# Not here, because they take a minute even with --quick: peers, photographs, report.
PROGRAMS: dict[str, list[str]] = {
    "growth": [],
    "overhead": [],
    "tracking": [],
    "jobs": [],
    "startup": [],
    "ray_overhead": [],
    "ray_messages": [],
    "workers": [],
    "search": ["choice"],
    "rehearsal": [],
}


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "benchmarks" / f"{program}.py", *arguments]
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=environment(), check=False, timeout=250
    )


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_benchmark_prints_its_table_and_keeps_a_record(program: str, tmp_path: Path) -> None:
    done = run(program, "--quick", *PROGRAMS[program], "--results", tmp_path)
    assert done.returncode == 0, done
    (line,) = (tmp_path / f"{program}.jsonl").read_text().splitlines()
    assert str(ROOT) not in line  # a record is the same wherever the repository lies
    record = json.loads(line)
    assert record["rows"] and all(len(row) == len(record["columns"]) for row in record["rows"])
    assert record["machine"]["cpu"] and record["machine"]["torch"]
    for row in record["rows"]:
        assert str(row[0]) in done.stdout
    for column in record["columns"]:
        assert column in done.stdout
    for row in record["rows"]:  # what ran beside a trial changes no bit of it
        assert dict(zip(record["columns"], row, strict=True)).get("same results", "yes") == "yes"


@pytest.mark.slow
def test_searches_are_replayed_over_continuous_ranges(tmp_path: Path) -> None:
    options = ["--quick", "--jobs", 1, "--on", "norm, continuous", "--results", tmp_path / "results"]
    assert run("search", "tables", tmp_path, *options).returncode == 0
    done = run("search", "replay", tmp_path, *options, "--only", "nothing shared")
    assert done.returncode == 0, done
    (line,) = (tmp_path / "results" / "search.jsonl").read_text().splitlines()
    ((search, table, median, _, _, *regrets),) = json.loads(line)["rows"]
    assert (search, table) == ("harness, nothing shared", "norm, continuous")
    assert 1 <= median <= 4_000 and regrets[0] >= regrets[1] >= regrets[2]
