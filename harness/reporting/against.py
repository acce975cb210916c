"""Compares, for the report, the best run with the second, and the sweeps of a spec with each other."""

import dataclasses
import itertools
from collections.abc import Mapping

from harness.errors import HarnessError
from harness.reporting.gather import Facts, data_of
from harness.reporting.pages import sweeps
from harness.reporting.pages.page import Section, text_table
from harness.results.sentences import verdict
from harness.tracking.runs import best_record
from harness.tracking.store import Store
from harness.tracking.studies import changes_between


def against_second(store: Store, facts: Facts, device: str) -> str:
    """Whether the best run is really better than the next distinct result, on the same validation images."""
    if len(facts.results) < 2 or facts.best is None:
        return ""
    second = facts.results[1].record
    found = _image_by_image(store, {run.run_id: run.name for run in (facts.best, second)}, device)
    item = "image" if facts.trust.images is not None else "item"
    return f"Against {second.name}, {item} by {item}: {found}." if found else ""


def _image_by_image(store: Store, labels: Mapping[str, str], device: str) -> str:
    """The verdict on two runs, given by their ids, with what to call them; empty if their images are not the same."""
    from harness.results.compare import compare_runs  # which loads torch

    try:
        pair = compare_runs(store, [store.client.get_run(run_id) for run_id in labels], device=device).pairs[0]
    except HarnessError:
        return ""
    if pair.difference is None:
        return ""
    first, second = (dataclasses.replace(side, label=labels[side.record.run_id]) for side in (pair.first, pair.second))
    return verdict(dataclasses.replace(pair, first=first, second=second))


def compare_sweeps(store: Store, facts: Facts, device: str | None) -> list[Section]:
    """The newest sweep against the earlier ones, where there are any.

    The best models of the last two are measured on `device`, image by image; None leaves that out.
    """
    numbers = sorted({record.sweep for record in facts.every if record.study})
    if len(numbers) < 2:
        return []
    bests, images = {}, {}
    for number in numbers:
        try:
            bests[number] = best_record(store, facts.name, study=number)
            data = data_of(store.client.get_run(bests[number].run_id))
            images[number] = data.get("validation") if facts.trust.images is not None else None
        except HarnessError:  # none has finished
            continue
    identities = facts.identities
    pairs = [(a, b) for a, b in itertools.pairwise(numbers) if a in identities and b in identities]
    newest = identities.get(numbers[-1], {})
    made = sweeps.sweeps_of(
        facts.every,
        bests=bests,
        changes={b: changes_between(identities[a], identities[b]) or ["--fresh"] for a, b in pairs},
        images=images,
        same_data={n: not sweeps.changed_data(identities.get(n, {}), newest) for n in numbers},
    )
    last = {bests[n].run_id: f"the best of sweep {n}" for n in numbers[-2:] if n in bests}
    found = _image_by_image(store, last, device) if device is not None and len(last) == 2 else ""
    heads = ["sweep", "began", "runs", f"best {facts.objective}", "95% interval", "median", "what had changed"]
    return [
        Section(
            title="What did the edit do?",
            link="Sweeps",
            lead=sweeps.describe_edit(made, facts.objective, maximize=facts.maximize, verdict=found),
            html=text_table(heads, sweeps.sweeps_table(made), words=(1, 3, 6)),
            pictures=[sweeps.draw_sweeps(made, facts.objective)],
        )
    ]
