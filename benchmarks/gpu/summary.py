"""Ten lines on what a check found. A line has numbers of the records, or says that there are none."""

from collections.abc import Mapping
from typing import Any

from gpu.running import DONE, SKIPPED, Record, shown
from gpu.speed import CEILING, RATE, WORK
from gpu.steps import SIZES, jobs_name, rate_name, streams_name
from gpu.together import NUMBERS, TIMES

Records = Mapping[str, Record]
FAULTS = ("no capture", "failed capture", "device assert")
MEMORY = ("out of memory alone", "out of memory beside neighbours", "peak of memory", "memory over many trials")
WHOLE = ("kill -9 and resume", "demo, reload, report")


def summary(records: Records, *, count: int) -> list[str]:
    """The ten lines; `count` is how many steps there are in all."""
    return [
        _machine(records),
        _all_steps(records, count),
        "repeats: " + _right(records, [name for name in records if name.startswith("repeats: ")]),
        "faults: " + _right(records, FAULTS),
        "memory: " + _right(records, MEMORY),
        "whole commands: " + _right(records, WHOLE),
        _speed(records, 64),
        _speed(records, 512),
        _together(records),
        _searches(records),
    ]


def value_of(records: Records, step: str, what: str) -> Any:
    """A value of a step; None where it was not found."""
    rows = records[step].rows if step in records else []
    return next((row[1] for row in rows if row[0].startswith(what)), None)


def _machine(records: Records) -> str:
    found = [value_of(records, "machine", what) for what in ("GPU", "device", "cpu", "python", "torch")]
    gpu, device, cpu, python, torch = found
    return f"machine: {gpu or cpu or 'not measured'}, device {device}, Python {python}, torch {torch}"


def _all_steps(records: Records, count: int) -> str:
    wrong = [name for name, record in records.items() if not record.is_right]
    done = sum(record.status == DONE for record in records.values())
    skipped = sum(record.status.startswith(SKIPPED) for record in records.values())
    text = f"steps: {done} done and {skipped} skipped of {count}; {len(wrong)} wrong or failed"
    return text + (f": {', '.join(wrong[:4])}{' ...' if len(wrong) > 4 else ''}" if wrong else "")


def _right(records: Records, names: Any) -> str:
    """How many comparisons of some steps are right, and what the first other one is."""
    parts, compared, right = [], 0, 0
    missing = [name for name in names if name not in records]
    for name in names:
        if name in missing:
            continue
        record = records[name]
        compared += sum(row[3] is not None for row in record.rows)
        right += sum(row[3] is True for row in record.rows)
        if record.status != DONE:
            parts.append(f"{name}: {record.status}")
        parts += [f"{name}: {row[0]}: {shown(row[1])}" for row in record.rows if row[3] is False]
    parts += [f"not run: {', '.join(missing)}"] if missing else []
    counted = f"{right} of {compared} comparisons right" if compared else "nothing compared"
    return counted + (f"; {'; '.join(parts[:4])}{' ...' if len(parts) > 4 else ''}" if parts else "")


def _speed(records: Records, batch_size: int) -> str:
    ours = value_of(records, rate_name("harness", batch_size), RATE)
    if ours is None:
        return f"batch {batch_size}: not measured"
    parts = [f"batch {batch_size}: {shown(ours)} images/s"]
    for loop in ("DataLoader loop", "bare loop"):
        other = value_of(records, rate_name(loop, batch_size), RATE)
        parts += [] if other is None else [f"{ours / other:.2f} times the {loop}"]
    ceiling, work = (value_of(records, "ceiling", what) for what in (CEILING, WORK))
    if ceiling is not None and work is not None:
        parts.append(f"{ours * work * 1e9 / (ceiling * 1e12):.0%} of the ceiling of matrix products")
    return ", ".join(parts)


def _together(records: Records) -> str:
    """The throughput of several trials at once; all that ran must have given the same numbers."""
    parts, wrong = [], []
    for size in SIZES:
        one = value_of(records, jobs_name(size, 1, False), RATE)
        for mps in (False, True):
            rates = {jobs: value_of(records, jobs_name(size, jobs, mps), RATE) for jobs in (2, 4)}
            found = [f"{jobs}: {rate / one:.2f}" for jobs, rate in rates.items() if one and rate]
            parts += [f"{size}{' with MPS' if mps else ''} {', '.join(found)}"] if found else []
        streams = {jobs: value_of(records, streams_name(size, jobs), TIMES) for jobs in (2, 4)}
        found = [f"{jobs}: {times:.2f}" for jobs, times in streams.items() if times]
        parts += [f"{size} on streams {', '.join(found)}"] if found else []
        every = [jobs_name(size, jobs, mps) for jobs in (1, 2, 4) for mps in (False, True)]
        wrong += [size] * (len({value_of(records, name, NUMBERS) for name in every} - {None}) > 1)
    same = f"OTHER NUMBERS of {' and '.join(wrong)}" if wrong else "same numbers"
    text = "trials at once, times the throughput of one: "
    return text + (f"{'; '.join(parts)}; {same}" if parts else "not measured")


def _searches(records: Records) -> str:
    found = {
        "repeating costs, times the time": value_of(records, "cost of determinism", "what repeating costs"),
        "speedrun, s": value_of(records, "speedrun", "epochs"),
        "its accuracy": value_of(records, "speedrun", "val_accuracy"),
        "search with the tree, s": value_of(records, "search with the tree", "the whole command"),
        "without, s": value_of(records, "search without the tree", "the whole command"),
    }
    return "; ".join(f"{name}: {'not measured' if value is None else shown(value)}" for name, value in found.items())
