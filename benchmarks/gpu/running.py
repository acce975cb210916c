"""Runs steps one after the other, each in a process of its own with a time limit, and keeps what each one found.

`DIR/gpu_check.jsonl` gets a record when a step ends, and `DIR/gpu_check.txt` its rows as a table. A step that has a
record of the same machine, versions and arguments is not run again. A step may hang, die or fail: its record says so,
with the rows that it had until then, and the next step runs.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
DONE, SKIPPED = "done", "skipped"


@dataclass(frozen=True, kw_only=True)
class Step:
    """A function of a module, `call(given, rows, **values)`, that one process runs."""

    name: str
    call: str  # "module:function"
    values: dict[str, Any] = field(default_factory=dict)
    limit_seconds: float = 300.0
    needs: tuple[str, ...] = ()  # "CUDA", "MPS", "images"


@dataclass(frozen=True, kw_only=True)
class Given:
    """What each step gets to know. `images` is a folder with `train/`, one folder a class."""

    device: str
    quick: bool
    work: Path
    images: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Record:
    """What became of a step: `done`, `skipped`, or what went wrong; its rows are `(what, value, unit, is_right)`."""

    step: str
    status: str
    seconds: float
    rows: list[tuple[str, Any, str, bool | None]]

    @property
    def is_right(self) -> bool:
        """Whether it ended well, and nothing that it compared was wrong."""
        return self.status.startswith((DONE, SKIPPED)) and all(row[3] is not False for row in self.rows)


class Results:
    """The records of one check in a folder; those of another machine, version or commit are left alone."""

    def __init__(self, folder: Path, identity: dict[str, Any], *, fresh: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lines, self._table, self.identity = folder / "gpu_check.jsonl", folder / "gpu_check.txt", identity
        self.records: dict[str, Record] = {}
        if self._lines.exists() and not fresh:
            for line in self._lines.read_text().splitlines():
                self._read(line)

    def add(self, record: Record) -> None:
        """Appends a record to both files, and prints its rows."""
        self.records[record.step] = record
        content = {"program": "gpu_check", "date": time.strftime("%Y-%m-%d %H:%M:%S"), "identity": self.identity}
        with open(self._lines, "a") as file:
            file.write(json.dumps(content | asdict(record)) + "\n")
        lines = table_of(record)
        with open(self._table, "a") as file:
            file.write("\n".join(lines) + "\n")
        print("\n".join(lines), flush=True)

    def note(self, text: str) -> None:
        """Prints a text and appends it to the table."""
        with open(self._table, "a") as file:
            file.write(text + "\n")
        print(text, flush=True)

    def _read(self, line: str) -> None:
        try:
            content = json.loads(line)
        except ValueError:  # cut off in the middle, with the machine
            return
        if content["identity"] == self.identity:
            rows = [tuple(row) for row in content["rows"]]
            self.records[content["step"]] = Record(
                step=content["step"], status=content["status"], seconds=content["seconds"], rows=rows
            )


def run_all(steps: Sequence[Step], given: Given, results: Results, *, lacking: dict[str, str], ends: float) -> bool:
    """Runs the steps that have no record yet, until the time `ends`; whether all have one then.

    `lacking` has, for each thing a step may need and that is not here, the words to say so.
    """
    for step in steps:
        if step.name in results.records:
            continue
        missing = [lacking[name] for name in step.needs if name in lacking]
        if missing:
            results.add(Record(step=step.name, status=f"{SKIPPED}: {missing[0]}", seconds=0.0, rows=[]))
            continue
        if time.monotonic() >= ends:
            return False
        results.add(run_one(step, given))
    return True


def run_one(step: Step, given: Given) -> Record:
    """Runs one step in a process group of its own, which is killed at the time limit, or where this process ends."""
    given.work.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="step-", dir=given.work, ignore_cleanup_errors=True) as folder:
        file, said = Path(folder, "rows.jsonl"), Path(folder, "said.txt")
        file.touch()
        status = _status_of(step, given, Path(folder), said)
        rows = [tuple(json.loads(line)) for line in file.read_text().splitlines() if line.endswith("]")]
    return Record(step=step.name, status=status, seconds=round(time.monotonic() - started, 1), rows=rows)


def _status_of(step: Step, given: Given, folder: Path, said: Path) -> str:
    """Runs a step to its end, or to its limit."""
    message = {
        "call": step.call, "values": step.values, "folder": str(folder), "device": given.device, "quick": given.quick,
        "work": str(given.work), "images": None if given.images is None else str(given.images.absolute()),
    }  # fmt: skip
    paths = [str(ROOT), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    with open(said, "w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "gpu.child", json.dumps(message)],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment, start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(step.limit_seconds)
        except subprocess.TimeoutExpired:
            return f"hung: it was killed after {step.limit_seconds:.0f} s"
        finally:
            _kill_group(process)
    if code < 0:
        return f"died: signal {-code} ({signal.Signals(-code).name})"
    return DONE if code == 0 else f"failed: {last_line(said)}"


def table_of(record: Record) -> list[str]:
    """A line for each row of a step, or one that says why there are none."""
    lines = [_line(record.step, what, shown(value), unit, verdict(right)) for what, value, unit, right in record.rows]
    if record.status != DONE or not lines:
        lines.append(_line(record.step, record.status, "", "", ""))
    return lines


def shown(value: Any) -> str:
    """A number with the digits that one reads."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 100 else f"{value:.3f}"


def verdict(is_right: bool | None) -> str:
    """What a comparison found; nothing for a measurement."""
    return "" if is_right is None else "ok" if is_right else "WRONG"


def last_line(file: Path) -> str:
    """The last line of a text, which names the error."""
    lines = [line for line in file.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


def _line(step: str, what: str, value: str, unit: str, word: str) -> str:
    return f"{step:<38} {what:<52} {value:>12} {unit:<10} {word}".rstrip()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kills whatever a step has left running, and the step."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
