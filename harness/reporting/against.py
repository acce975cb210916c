"""Compares the sweeps of a spec, with the data in the store."""

import itertools

from harness.errors import HarnessError
from harness.reporting.gather import Facts, data_of
from harness.reporting.pages import sweeps
from harness.reporting.pages.page import Section, text_table
from harness.tracking.runs import best_record
from harness.tracking.store import Store
from harness.tracking.studies import changes_between


def compare_sweeps(store: Store, facts: Facts) -> list[Section]:
    """The newest sweep against the earlier ones, where there are any."""
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
    heads = ["sweep", "began", "runs", f"best {facts.objective}", "95% interval", "in the middle", "what had changed"]
    return [
        Section(
            title="What did the edit do?",
            link="Sweeps",
            lead=sweeps.describe_edit(made, facts.objective, maximize=facts.maximize),
            html=text_table(heads, sweeps.sweeps_table(made), words=(1, 3, 6)),
            pictures=[sweeps.draw_sweeps(made, facts.objective)],
        )
    ]
