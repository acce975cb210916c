"""Which study a run belongs to. Commands use the newest study of a spec, unless another one is named."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError

if TYPE_CHECKING:
    from harness.tracking.runs import RunRecord

ALL = "all"


def number_runs(records: Sequence["RunRecord"]) -> list["RunRecord"]:
    """The same runs, with the number of each one's study in `sweep`: 1 for the first study of the spec.

    A trial belongs to its study, and a run of `confirm` to the study of the run that it repeats. A run of `train`
    belongs to the newest study of the same code and data; if there is none, its number is 0.
    """
    numbers: dict[str, int] = {}
    comparable: dict[str, int] = {}  # code and data -> the newest study of them
    by_age = sorted(records, key=lambda record: record.started)
    for record in by_age:
        if record.study:
            number = numbers.setdefault(record.study, record.sweep or len(numbers) + 1)
            if record.comparable:
                comparable[record.comparable] = max(number, comparable.get(record.comparable, 0))
    newest = max(numbers.values(), default=0)
    of_run = {
        record.run_id: numbers[record.study]
        if record.study
        else comparable.get(record.comparable, 0)
        if record.comparable
        else newest  # made by an earlier version, which did not note its code and data
        for record in records
        if not record.confirms
    }
    return [
        dataclasses.replace(record, sweep=of_run.get(record.confirms or record.run_id, newest)) for record in records
    ]


def choose_study(records: Sequence["RunRecord"], study: str | int | None, experiment: str) -> list["RunRecord"]:
    """The runs of one study: the newest one, or the one that a number or name says (`2`, `small~2`); of all for `all`.

    Raises `HarnessError` if there is no such study.
    """
    if str(study) == ALL:
        return list(records)
    number = _find_number({record.sweep for record in records if record.study}, study, experiment)
    return [record for record in records if record.sweep == number]


def describe_others(records: Sequence["RunRecord"], shown: Sequence["RunRecord"]) -> str:
    """A sentence about the runs that a list leaves out; empty if there are none."""
    ids = {record.run_id for record in shown}
    others = [record for record in records if record.run_id not in ids]
    if not others:
        return ""
    numbers = sorted({record.sweep for record in others} - {0})
    whose = f"of sweep {_listed(numbers)}" if numbers else "of other code or data"
    return f"{len(others)} more run{'s' * (len(others) > 1)} {whose}: --study all"


def changes_between(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What of the identity changed, one clause each."""
    changes = []
    for group, new in after.items():
        old = before.get(group)
        if old == new:
            continue
        if not isinstance(new, dict) or not isinstance(old, dict):
            changes.append(f"{group} ({old} before, {new} now)")
            continue
        for name in sorted({*old, *new}):
            if old.get(name) != new.get(name):
                is_value = group == "settings" and name in old and name in new
                changes.append(f"{name} ({old[name]} before, {new[name]} now)" if is_value else name)
    return list(dict.fromkeys(changes))


def _find_number(known: set[int], study: str | int | None, experiment: str) -> int:
    newest = max(known, default=0)
    if study is None:
        return newest
    text = str(study)
    name = text.removeprefix(f"{experiment}~")
    if text == experiment and newest:
        return newest
    if name.isdecimal() and int(name) in known:
        return int(name)
    if not known:
        raise HarnessError(f"--study {study}: {experiment} has no study yet, only single runs.")
    raise HarnessError(
        f"--study {study}: {experiment} has no such study. There {'is' if len(known) == 1 else 'are'} "
        f"{_listed(sorted(known))}; {newest} is the newest. `all` shows the runs of all."
    )


def _listed(numbers: Iterable[int]) -> str:
    *most, last = map(str, numbers)
    return f"{', '.join(most)} and {last}" if most else last
