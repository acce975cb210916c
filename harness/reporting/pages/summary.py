"""The first screen of the page: the search, the best run, how certain its value is, and what to do next."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from html import escape
from typing import Any

from harness.reporting.pages.drawing import listed
from harness.reporting.pages.trust import Trust, shown_interval
from harness.reporting.pages.ways import Way
from harness.reporting.screen import shown_seconds
from harness.results.statistics import standard_deviation, t_interval
from harness.tracking.runs import RunRecord
from harness.tracking.store import FINISHED

VERSIONS = "harness.version."
LOST = ("DIVERGED", "FAILED", "INTERRUPTED")
MOST_REASONS = 3


def describe_best(best: RunRecord, objective: str, trust: Trust) -> str:
    """The best run, with the interval of its value."""
    interval = trust.interval(best.value)
    around = (
        f" (on other images of this kind likely {shown_interval(interval)}: {trust.images:,} validation images)"
        if interval is not None
        else ""
    )
    return f"{best.name} reached {objective} {shown_value(best.value)}{around}."


def describe_rivals(ended: Sequence[Way], trust: Trust) -> str:
    """Whether the best result is significantly better than the others, and how many of them were trained to the end."""
    others = ended[1:]
    if trust.images is None or not others:
        return ""
    close = [place for place, way in enumerate(others, 2) if trust.is_close(way.record.value)]
    of = f"{len(others)} other result{'s' * (len(others) > 1)}"
    if not close:
        text = f"Yes: it is significantly better than the {of}, with {trust.images:,} validation images."
    elif len(close) == len(others):
        text = f"No: with {trust.images:,} validation images, none of the {of} is significantly worse."
    else:
        ranks = f"ranks 2 to {close[-1]}" if len(close) > 1 else f"rank {close[0]}"
        text = (
            f"Not better than all: with {trust.images:,} validation images, {len(close)} of the {of} "
            f"{'are' if len(close) > 1 else 'is'} not significantly worse ({ranks})."
        )
    waiting = sum(way.record.status != FINISHED for way in others)
    if waiting:
        text += f" But {waiting} of them {'were' if waiting > 1 else 'was'} not trained to the end."
    return text


def describe_confirmation(confirming: Sequence[RunRecord], best: RunRecord, objective: str, spec: str) -> str:
    """The result of `confirm` for the best run, or the command to run."""
    values = [record.value for record in confirming if record.value is not None]
    if len(values) < 2:
        return (
            "It was chosen for its value, so its value is likely too good. It has not been confirmed with other "
            f"seeds: python -m harness confirm {spec}"
        )
    mean = t_interval(values)
    text = (
        f"Confirmed with {len(values)} other seeds: {objective} {mean.value:.4f} ± {standard_deviation(values):.4f} "
        f"(mean ± standard deviation; the mean lies in {shown_interval(mean)})."
    )
    tests = sorted(
        {name for record in confirming for name in record.metrics if name.startswith("test_")} - {"test_loss"}
    )
    for name in tests:
        own = [record.metrics[name] for record in confirming if name in record.metrics]
        if len(own) > 1:
            text += (
                f" On the test part, measured once: {name} {t_interval(own).value:.4f} ± {standard_deviation(own):.4f}."
            )
    return text


def describe_losses(records: Sequence[RunRecord]) -> str:
    """How many runs diverged or failed, by reason, the commonest first; empty where none did."""
    lost = Counter((record.status.lower(), record.reason) for record in records if record.status in LOST)
    said = [f"{count} {status}" + (f" ({reason})" if reason else "") for (status, reason), count in lost.most_common()]
    more = f"; {sum(lost.values())} in all" if len(said) > MOST_REASONS else ""
    return f"{'; '.join(said[:MOST_REASONS])}{more}." if said else ""


def shown_value(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"


def describe_data(data: Mapping[str, Any]) -> str:
    """The data of a run: name, sizes, augmentation, digest."""
    if not data:
        return "not recorded"
    parts = [f"{data[part]:,} {part}" for part in ("train", "validation", "test") if isinstance(data.get(part), int)]
    shape = f" of {data['shape']}" if data.get("shape") else ""
    augment = data.get("augment")
    more = f"; augmented: {augment}" if augment and augment != "none" else ""
    return (
        f"{data['name']}: {listed(parts)} items{shape}{more}; digest {data['digest'][:8]}"
        if parts
        else str(data["name"])
    )


def describe_time(records: Sequence[RunRecord]) -> str:
    """When the runs began, and the time until the last one ended."""
    started = min((record.started for record in records if record.started), default=0)
    stopped = max((record.ended for record in records), default=0)
    if not started:
        return "not recorded"
    text = datetime.fromtimestamp(started / 1000).strftime("%Y-%m-%d %H:%M")
    if stopped > started:
        took = timedelta(milliseconds=stopped - started).total_seconds()
        text += f", {shown_seconds(took)} to the end of the last run"
    return text


def describe_environment(tags: Mapping[str, str]) -> dict[str, str]:
    """How a run was trained, by what its tags say: settings, device, versions, code."""
    versions = {n.removeprefix(VERSIONS): v for n, v in sorted(tags.items()) if n.startswith(VERSIONS)}
    commit = tags.get("mlflow.source.git.commit")
    code = "not in a git repository" if commit is None else f"commit {commit[:10]}"
    if tags.get("harness.git.dirty") == "true":
        code += ", with uncommitted changes: the source is among the run's artifacts, under spec/"
    threads = tags.get("harness.threads", "")
    device = ", ".join(
        text
        for text in (
            tags.get("harness.device", ""),
            tags.get("harness.precision", ""),
            f"{threads} thread{'s' * (threads != '1')} a run" if threads.isdecimal() else "",
        )
        if text
    )
    return {
        "settings": f"{tags.get('harness.epochs', '?')} epochs, batch size {tags.get('harness.batch_size', '?')}, "
        f"seed {tags.get('harness.seed', '?')}",
        "device": f"{device} on {tags['harness.host']}" if "harness.host" in tags else device,
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "code": code,
    }


def facts_list(facts: Mapping[str, str]) -> str:
    """Names and what they stand for, as a list that becomes one column on a telephone."""
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in facts.items() if text
    )
    return f'<dl class="provenance">{items}</dl>'


def findings_list(findings: Mapping[str, str]) -> str:
    """Questions and their answers."""
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in findings.items() if text
    )
    return f'<dl class="findings">{items}</dl>'
