"""The first screen of the report: the numbers, answers to the first questions, and where the numbers come from."""

import ast
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime

from harness.reporting.gather import Facts, data_of
from harness.reporting.pages import summary, training, values
from harness.reporting.pages.drawing import listed, shown
from harness.reporting.pages.page import Section
from harness.reporting.pages.ways import find_overfitting
from harness.spec import Description
from harness.tracking.tags import DEMO, REHEARSAL, SOURCE_NAME

WAITING = "WAITING"  # the status of a trial that a budget has paused


def describe_search(facts: Facts) -> str:
    trials = len(facts.trials)
    sweep = max((record.sweep for record in facts.trials), default=0)
    newest = max((record.sweep for record in facts.every if record.study), default=0)
    which = f"Sweep {sweep} of {newest}: " if newest > 1 and len({record.sweep for record in facts.trials}) == 1 else ""
    what = f"{trials} trials over {listed(facts.searched)}" if trials else f"{len(facts.records)} runs"
    distinct = f", {len(facts.results)} distinct result{'s' * (len(facts.results) != 1)}" if facts.ended else ""
    return f"{which}{what}{distinct}. Report of {datetime.now():%Y-%m-%d %H:%M}."


def cards(facts: Facts) -> list[tuple[str, str]]:
    ended = [record.status.lower() for record in facts.records]
    words = ", ".join(f"{ended.count(word)} {word}" for word in dict.fromkeys(ended))
    asked, different = facts.trees.asked, facts.trees.different
    share = f" ({(asked - different) / asked:.0%})" if asked else ""
    return [
        (summary.shown_value(None if facts.best is None else facts.best.value), f"best {facts.objective}"),
        (str(len(facts.records)), f"runs: {words}"),
        (f"{different:,} of {asked:,}", "epochs trained, of those asked for"),
        (f"{asked - different:,}{share}", "epochs saved: other runs had trained them"),
    ]


def first_screen(facts: Facts, network: str, repeat: str, second: str, compared: Sequence[Section]) -> str:
    """The first screen below the numbers: answers to the first questions, and where the numbers come from."""
    return summary.findings_list(_findings(facts, second, compared)) + summary.facts_list(
        _provenance(facts, network, repeat)
    )


def _findings(facts: Facts, second: str, compared: Sequence[Section]) -> dict[str, str]:
    if facts.best is None:
        return {}
    ways, best = facts.results, facts.best
    edges = edges_of(facts)
    has_losses = ways and {"train_loss", "val_loss"} <= set(ways[0].metrics)
    overfits = sum(find_overfitting(way) is not None for way in ways[: training.MOST_GAPS])
    count = min(len(ways), training.MOST_GAPS)
    of_top = f" Of the best {count} results {_amount(overfits, count)} overfit{'s' * (overfits == 1)}."
    return {
        "Which run is best?": summary.describe_best(best, facts.objective, facts.trust),
        "Is it really better?": " ".join(filter(None, (summary.describe_rivals(ways, facts.trust), second))),
        "Does it hold?": summary.describe_confirmation(
            facts.confirming, best, facts.objective, _spec(facts) + _demo(facts)
        ),
        "Is it overfitting?": training.describe_gap(ways[0]) + of_top * (len(ways) > 1) if has_losses else "",
        "Did lower learning rates help?": training.describe_drops(
            ways[0], facts.objective, maximize=facts.maximize, images=facts.trust.images
        )
        if ways
        else "",
        "What next?": _next_words(facts, edges),
        "What went wrong?": summary.describe_losses(facts.trials or facts.records),
        "What did the edit do?": compared[0].lead if compared else "",
    }


def describe_repeat(facts: Facts, spec: Description | None) -> str:
    """The command that makes the sweep again, with the settings that its own command had; `spec` holds the defaults."""
    found = facts.identities.get(facts.trials[0].sweep) if facts.trials else None
    if spec is None or found is None or len({record.sweep for record in facts.trials}) > 1:
        return ""
    command = f"python -m harness sweep {_spec(facts)}{_demo(facts) or f' --trials {len(facts.trials)}'}"
    defaults = {name: repr(value) for name, value in spec.settings.items()} | dict.fromkeys(spec.hyperparameters, "")
    for name, text in () if _demo(facts) else found.get("settings", {}).items():
        if name in defaults and text != defaults[name]:
            value = shlex.quote(str(ast.literal_eval(text)))
            command += f" --epochs {value}" if name == "epochs" else f" --set {name}={value}"
    stopped = _count_waiting(facts) > 0 and not _demo(facts)
    return f"{command} --store NEW_FOLDER" + ", and the --budget or --timeout that stopped it" * stopped


def edges_of(facts: Facts) -> list[values.Edge]:
    """The ranges whose best value lies at an end, of the hyperparameters that had a part in it."""
    ranges = {name: found for name, found in facts.ranges.items() if name not in facts.idle}
    return values.find_edges(facts.ranked, ranges) if len(facts.ranked) > 1 else []


def _amount(count: int, of: int) -> str:
    return "none" if not count else "all" if count == of and of > 1 else str(count)


def _next_words(facts: Facts, edges: Sequence[values.Edge]) -> str:
    """What to search next, and what the search so far cannot say."""
    rest, trust = facts.results[1:], facts.trust
    is_unclear = len(rest) > 1 and all(trust.is_close(way.record.value) for way in rest)
    losses = facts.results[0].metrics.get("val_loss", ()) if facts.results else ()
    said = [f"{edge}." for edge in edges]
    if not edges and not is_unclear:
        said.append(_middle_words(facts))
    if is_unclear:
        said.append(
            f"{'But no' if edges else 'No'} other result is significantly worse: with {trust.images} validation "
            "images, finer values cannot be told apart. More images, or changes of data and model, tell more."
        )
    if len(losses) > 2 and losses[-1] == min(losses):
        said.append(f"The best run's validation loss still fell: train longer (--epochs {2 * len(losses)}).")
    if waiting := _count_waiting(facts):
        what = "1 trial waits" if waiting == 1 else f"{waiting} trials wait"
        said.append(f"{what} for more epochs: a larger --budget trains further.")
    if facts.idle:
        said.append(
            f"{listed(facts.idle)} did nothing in the best result: its learning rate had not changed by its best epoch."
        )
    return " ".join(said)


def _count_waiting(facts: Facts) -> int:
    return sum(trial.status == WAITING for trial in facts.trials)


def _middle_words(facts: Facts) -> str:
    """What to search next where no best value lies at an end."""
    if isinstance(facts.importances, str) or not facts.importances:
        return "No range has its best value at an end. More trials show which hyperparameters matter."
    first = facts.importances[0]
    own = list(dict.fromkeys(shown(record.params.get(first.name)) for record in facts.ranked[0]))
    where = f"{first.name} matters most ({first.low:.0%} to {first.high:.0%})"
    how = f"search it more finely around {own[0]}" if len(own) == 1 else f"the best result came with {listed(own)}"
    return f"No range has its best value at an end. {where}: {how}."


def _demo(facts: Facts) -> str:
    is_demo = facts.best_run is not None and facts.best_run.data.tags.get(DEMO) == "true"
    return " --demo" * is_demo


def _spec(facts: Facts) -> str:
    return str(facts.best_run.data.tags.get(SOURCE_NAME, "SPEC")) if facts.best_run else "SPEC"


def _provenance(facts: Facts, network: str, repeat: str) -> Mapping[str, str]:
    tags = facts.best_run.data.tags if facts.best_run is not None else {}
    found = summary.describe_environment(tags) if tags else {}
    return {
        "when": summary.describe_time(facts.trials or facts.records),
        "training": found.get("settings", ""),
        "data": summary.describe_data(data_of(facts.best_run)),
        "model": network,
        "device": found.get("device", ""),
        "versions": found.get("versions", ""),
        "code": found.get("code", ""),
        "proof": tags.get(REHEARSAL, ""),
        "repeat it": repeat,
        "reload the best": f"python -m harness reload best {_spec(facts)}{_demo(facts)}" if facts.best else "",
    }
