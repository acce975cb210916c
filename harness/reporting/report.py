"""The report of a study: what the store knows of its runs and what the best model gets wrong, as one page."""

import itertools
import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.data import Arrays
from harness.data.collating import collate
from harness.errors import HarnessError
from harness.files import write_whole
from harness.reporting.comparison import verdict
from harness.reporting.gather import Facts, data_of, gather
from harness.reporting.pages import model, search, summary, sweeps, training, values
from harness.reporting.pages.drawing import listed, shown
from harness.reporting.pages.epochs import draw_trees
from harness.reporting.pages.explore import leaderboard, script_data
from harness.reporting.pages.page import (
    CHARTS,
    Page,
    Section,
    build_page,
    curves_html,
    mixed_up_table,
    pairs_table,
    text_table,
)
from harness.reporting.pages.ways import Way, find_overfitting
from harness.results.compare import compare_runs
from harness.results.reload import LoadedRun, load
from harness.tracking.runs import best_record, is_of_epochs
from harness.tracking.store import Store
from harness.tracking.studies import changes_between
from harness.tracking.summary import keep_report

MOST_CURVES = 5


def write_report(
    name: str,
    *,
    study: str | int | None = None,
    store: str | Path = "mlruns",
    output: Path | None = None,
    device: str = "auto",
) -> tuple[Path, list[Path]]:
    """Writes the report of a study: one HTML file, and its pictures as PNG files in a folder beside it.

    `study` is as in `tracking.studies`; the page of the newest one is also kept in MLflow, as an artifact of the
    experiment's run `summary` and of the best run. A report of another day that lies where this one is to be written
    gets its date in its name. Returns the page and the pictures. Raises `HarnessError` where there are no runs, or no
    place to write.
    """
    opened = Store(Path(store))
    facts = gather(opened, name, study=study)
    page = make_page(opened, facts, study=study, device=device)
    suffix = "" if study is None else f"-sweep-{str(study).rpartition('~')[2]}"
    path = output or opened.folder / "reports" / f"{name}{suffix}.html"
    text, pictures = build_page(page), page.pictures
    folder = path.with_suffix("")
    try:
        if output is None:
            _keep_older(path)
        write_whole(path, text)
        paths = [folder / f"{picture.name}.png" for picture in pictures]
        for file, picture in zip(paths, pictures, strict=True):
            write_whole(file, picture.png)
    except OSError as error:
        raise HarnessError(f"{path} cannot be written: {error.strerror}. Name another place: --output FILE.") from None
    if study is None:
        keep_report(
            opened, name, path, paths, best=None if facts.best is None else facts.best.run_id, totals=_totals(facts)
        )
    return path, paths


def make_page(
    store: Store, facts: Facts, *, study: str | int | None = None, device: str = "auto", live: str | None = None
) -> Page:
    """The page of what was gathered. A live page leaves out what needs the best model rebuilt."""
    loaded = None if live is not None else _load_best(store, facts, device)
    models = [] if live is not None else _model_sections(facts, loaded)
    compared = _compare_sweeps(store, facts) if study is None else []
    second = "" if live is not None else _against_second(store, facts, device)
    return Page(
        title=facts.name,
        date=date.today().isoformat(),
        lead=_lead(facts),
        facts=_cards(facts),
        top=_top(facts, loaded if isinstance(loaded, LoadedRun) else None, second, compared),
        sections=[*_search_sections(facts), *compared, *models],
        data=script_data(facts.explored),
        live=live,
    )


def _keep_older(path: Path) -> None:
    """Gives the report of another day its date as part of its name, so that this one does not replace it."""
    if not path.exists():
        return
    found = re.search(r'<meta name="date" content="([\d-]+)"', path.read_text(errors="replace")[:2000])
    made = found[1] if found else datetime.fromtimestamp(path.stat().st_mtime).date().isoformat()
    if made == date.today().isoformat():
        return
    kept = path.with_name(f"{path.stem}-{made}{path.suffix}")
    path.replace(kept)
    if path.with_suffix("").is_dir() and not kept.with_suffix("").exists():
        path.with_suffix("").replace(kept.with_suffix(""))


def _search_sections(facts: Facts) -> list[Section]:
    ended = [trial for trial in facts.trials if trial.value is not None]
    ways = [way for way in facts.ended if facts.objective in way.metrics and way.rates]
    metrics = [name for name in _metric_names(facts) if name != "epoch_seconds"]
    names = facts.searched[:6]
    few = f"Needs two finished trials; there {'is' if len(ended) == 1 else 'are'} {len(ended) or 'none'}."
    has_search = len(ended) > 1 and bool(facts.searched)
    explore = Section(
        title="All runs",
        link="Runs",
        lead="Drag along an axis to choose runs; the curves and the table follow. A row or a line opens the run's card."
        if has_search
        else "",
        missing="" if ways else "No run has finished yet.",
        html=(CHARTS if has_search else "")
        + (curves_html(metrics, facts.objective) if ways else "")
        + leaderboard(facts.explored),
        plain=[
            *(
                [search.draw_parallel(facts.trials, facts.searched, facts.objective, maximize=facts.maximize)]
                if has_search
                else []
            ),
            *([training.draw_curves(ways[:MOST_CURVES], facts.objective, names)] if ways else []),
        ],
    )
    history = Section(
        title="Optimisation history",
        link="History",
        pictures=[search.draw_history(facts.trials, facts.objective, maximize=facts.maximize)]
        if len(ended) > 1
        else [],
        missing="" if len(ended) > 1 else few,
    )
    tree = Section(
        title="The tree of epochs",
        link="Epochs",
        pictures=[draw_trees(facts.trees, facts.told_apart)] if facts.trees.roots else [],
        missing="" if facts.trees.roots else "No epoch has been trained yet.",
    )
    return [explore, *_value_sections(facts), *_training_sections(facts, ways), history, tree]


def _value_sections(facts: Facts) -> list[Section]:
    """What the values of the hyperparameters did."""
    ranked = [way.record for way in facts.results if way.record.trial is not None]
    searched = [n for n in facts.searched if len({repr(r.params.get(n)) for r in ranked}) > 1]
    importances = facts.importances
    important = Section(title="Importance of the hyperparameters", link="Importance")
    if isinstance(importances, str):
        important = Section(title=important.title, link=important.link, missing=importances)
    else:
        rows = [(found.name, found.value, found.low, found.high) for found in importances]
        picture = values.draw_importance(rows, results=len(ranked))
        important = Section(title=important.title, link=important.link, pictures=[picture])
    if len(ranked) < 2 or not searched:
        return [important]
    edges = values.find_edges(ranked, facts.ranges)
    pictures = [values.draw_slices(ranked, searched, facts.objective, maximize=facts.maximize)]
    if len(searched) > 1:
        main = (
            [found.name for found in importances if found.name in searched] if not isinstance(importances, str) else []
        )
        pair = (*main, *(name for name in searched if name not in main))[:2]
        pictures.append(values.draw_contour(ranked, (pair[0], pair[1]), facts.objective, maximize=facts.maximize))
    lead = (
        f"{'. '.join(map(str, edges))}."
        if edges
        else "No range has its best value at an end, as far as the values have an order."
    )
    return [important, Section(title="What the values did", link="Values", lead=lead, pictures=pictures)]


def _training_sections(facts: Facts, ways: Sequence[Way]) -> list[Section]:
    """How the top runs trained."""
    if not ways:
        return []
    top = [way for way in ways if {"train_loss", "val_loss"} <= set(way.metrics)][: training.MOST_GAPS]
    best = ways[0]
    metrics = {facts.objective: facts.maximize, "val_loss": False}
    rows = training.drops_table(best, metrics)
    heads = ["epoch", "learning rate"]
    for name in dict.fromkeys(metrics):
        if name in best.metrics:
            heads += [f"{name}, best before → after", "gain"]
    others = [way for way in ways[1 : training.MOST_GAPS + 1] if way.drops]
    lead = " ".join(training.describe_drops(way, facts.objective, maximize=facts.maximize) for way in (best, *others))
    drops = Section(
        title="What lowering the learning rate gained",
        link="Learning rate",
        lead=lead,
        html=text_table(heads, rows, words=(1,)) if rows else "",
        missing="" if lead or rows else "No learning rate was lowered and held.",
    )
    gap = Section(
        title="Is it overfitting?", link="Overfitting", pictures=[training.draw_gap(top)] if top else [],
        missing="" if top else "Needs the training and the validation loss of a run.",
    )  # fmt: skip
    return [gap, drops]


def _metric_names(facts: Facts) -> list[str]:
    found = {name: None for way in facts.ways[:MOST_CURVES] for name in way.metrics if is_of_epochs(name)}
    first = [name for name in (facts.objective, "val_loss", "train_loss", "lr") if name in found]
    return [*first, *(name for name in sorted(found) if name not in first)]


def _load_best(store: Store, facts: Facts, device: str) -> LoadedRun | str | None:
    """The best run's model, or why it cannot be had."""
    if facts.best_run is None or facts.best is None:
        return None
    try:
        return load(store, facts.best_run, device=device)
    except HarnessError as error:  # moved data, a lost artifact: the rest of the report stands
        return f"{facts.best.name} cannot be measured again: {error}"


def _against_second(store: Store, facts: Facts, device: str) -> str:
    """Whether the best run is really better than the next distinct result, on the same validation images."""
    if len(facts.results) < 2 or facts.best_run is None:
        return ""
    second = facts.results[1].record
    try:
        compared = compare_runs(store, [facts.best_run, store.client.get_run(second.run_id)], device=device)
    except HarnessError:
        return ""
    pair = compared.pairs[0]
    if pair.difference is None:
        return ""
    text = verdict(pair).replace(f"{pair.first.label} is", f"{pair.first.record.name} is")
    return f"Against {second.name}, image by image: {text}."


def _model_sections(facts: Facts, loaded: LoadedRun | str | None) -> list[Section]:
    title, link = "What the best model gets wrong", "Mistakes"
    if facts.best is None or loaded is None:
        return [Section(title=title, link=link, missing="No run has finished yet.")]
    if isinstance(loaded, str):
        return [Section(title=title, link=link, missing=loaded)]
    outputs, targets = loaded.outputs()
    named = pairs_table(_identity(loaded, facts))
    if loaded.built.data.classes is None:
        picture = model.draw_residuals(outputs.double().numpy(), targets.double().numpy())
        return [Section(title=title, link=link, html=named, pictures=[picture])]
    answers = model.Answers(
        probabilities=outputs.double().softmax(1).numpy(),
        targets=(targets.argmax(1) if targets.ndim == 2 else targets).numpy(),
        classes=loaded.built.data.classes,
    )
    pairs, places = answers.mixed_up(), answers.most_wrong()
    images = _images(loaded, places)
    pictures = [model.draw_confusion(answers)]
    mixed = Section(title="Classes it mixes up", link="Classes", html=mixed_up_table(pairs)) if pairs else None
    return [
        Section(title=title, link=link, lead=model.mistakes_in_words(answers), html=named, pictures=pictures),
        *([mixed] if mixed else []),
        *([_worst(answers, places, images)] if places else []),
        Section(title="Calibration", pictures=[model.draw_calibration(answers)]),
    ]


def _worst(answers: model.Answers, places: Sequence[int], images: Sequence[NDArray[np.uint8]]) -> Section:
    title, link = "The images it is most wrong about", "Images"
    if not images:
        numbers = ", ".join(f"{place}" for place in places)
        return Section(
            title=title, link=link, missing=f"The inputs are no images; their numbers in validation: {numbers}."
        )
    return Section(title=title, link=link, pictures=[model.draw_wrong(answers, places, images)])


def _images(loaded: LoadedRun, places: Sequence[int]) -> list[NDArray[np.uint8]]:
    """Inputs of the validation part as images (H, W) or (H, W, 3) uint8; none where they are no images."""
    part: Any = loaded.built.data.validation
    if not places:
        return []
    inputs = part.inputs[list(places)].cpu() if isinstance(part, Arrays) else collate([part[p] for p in places])[0]
    if inputs.ndim != 4 or inputs.shape[1] not in (1, 3):
        return []
    if not inputs.dtype.is_floating_point:
        pixels = inputs.numpy()
    else:  # normalised by the user's own transform: each stretched to what can be seen
        low, high = inputs.amin((1, 2, 3), keepdim=True), inputs.amax((1, 2, 3), keepdim=True)
        pixels = ((inputs - low) / (high - low).clamp_min(1e-8) * 255).byte().numpy()
    return [image[0] if len(image) == 1 else image.transpose(1, 2, 0) for image in pixels]


def _identity(loaded: LoadedRun, facts: Facts) -> dict[str, str]:
    assert facts.best is not None
    return {
        "run": f"{facts.best.name}, {facts.best.run_id}",
        "values": ", ".join(f"{name} {shown(value)}" for name, value in facts.best.params.items()),
        "measured": f"after epoch {loaded.epoch + 1}, on the validation part, on {loaded.device}",
        "reload it": f'harness.load_run("{facts.best.run_id[:8]}")',
    }


def _compare_sweeps(store: Store, facts: Facts) -> list[Section]:
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


def _totals(facts: Facts) -> dict[str, int]:
    asked, different = facts.trees.asked, facts.trees.different
    return {"runs": len(facts.records), "epochs": asked, "trained_epochs": different, "saved_epochs": asked - different}


def _lead(facts: Facts) -> str:
    trials = len(facts.trials)
    sweep = max((record.sweep for record in facts.trials), default=0)
    several = len({record.sweep for record in facts.every if record.study}) > 1
    which = f"Sweep {sweep}: " if several and len({record.sweep for record in facts.trials}) == 1 else ""
    what = f"{trials} trials over {listed(facts.searched)}" if trials else f"{len(facts.records)} runs"
    distinct = f", {len(facts.results)} distinct results" if facts.ended else ""
    return f"{which}{what}{distinct}. Report of {datetime.now():%Y-%m-%d %H:%M}."


def _cards(facts: Facts) -> list[tuple[str, str]]:
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


def _top(facts: Facts, loaded: LoadedRun | None, second: str, compared: Sequence[Section]) -> str:
    """The first screen below the numbers: answers to the first questions, and where the numbers come from."""
    return summary.findings_list(_findings(facts, second, compared)) + summary.facts_list(_provenance(facts, loaded))


def _findings(facts: Facts, second: str, compared: Sequence[Section]) -> dict[str, str]:
    if facts.best is None:
        return {}
    ways, best = facts.results, facts.best
    ranked = [way.record for way in ways if way.record.trial is not None]
    edges = values.find_edges(ranked, facts.ranges) if len(ranked) > 1 else []
    has_losses = ways and {"train_loss", "val_loss"} <= set(ways[0].metrics)
    overfits = sum(find_overfitting(way) is not None for way in ways[: training.MOST_GAPS])
    count = min(len(ways), training.MOST_GAPS)
    of_top = f" Of the best {count} results {overfits or 'none'} overfit{'s' * (overfits == 1)}."
    return {
        "Which run is best?": summary.describe_best(best, facts.objective, facts.trust),
        "Is it really better?": " ".join(filter(None, (summary.describe_rivals(ways, facts.trust), second))),
        "Does it hold?": summary.describe_confirmation(facts.confirming, best, facts.objective, _spec(facts)),
        "Is it overfitting?": training.describe_gap(ways[0]) + of_top * (len(ways) > 1) if has_losses else "",
        "Did lower learning rates help?": training.describe_drops(ways[0], facts.objective, maximize=facts.maximize)
        if ways
        else "",
        "What next?": ". ".join(map(str, edges)) + "." if edges else _next_words(facts),
        "What did the edit do?": compared[0].lead if compared else "",
    }


def _next_words(facts: Facts) -> str:
    if isinstance(facts.importances, str) or not facts.importances:
        return "No range has its best value at an end. More trials show which hyperparameters matter."
    first = facts.importances[0]
    return (
        f"No range has its best value at an end. {first.name} matters most ({first.low:.0%} to {first.high:.0%}): "
        f"search it more finely around {shown(facts.best.params.get(first.name)) if facts.best else 'its best value'}."
    )


def _spec(facts: Facts) -> str:
    return str(facts.best_run.data.tags.get("mlflow.source.name", "SPEC")) if facts.best_run else "SPEC"


def _provenance(facts: Facts, loaded: LoadedRun | None) -> Mapping[str, str]:
    tags = facts.best_run.data.tags if facts.best_run is not None else {}
    found = summary.describe_environment(tags) if tags else {}
    demo = " --demo" * (tags.get("harness.demo") == "true")
    parameters = "" if loaded is None else f"{sum(p.numel() for p in loaded.model.parameters()):,} parameters"
    return {
        "when": summary.describe_time(facts.trials or facts.records),
        "training": found.get("settings", ""),
        "data": summary.describe_data(data_of(facts.best_run)),
        "model": "" if loaded is None else f"{type(loaded.model).__name__}, {parameters}",
        "device": found.get("device", ""),
        "versions": found.get("versions", ""),
        "code": found.get("code", ""),
        "repeat it": f"python -m harness sweep {_spec(facts)}{demo} --trials {len(facts.trials)}"
        if facts.trials
        else "",
        "reload the best": f"python -m harness reload best {_spec(facts)}{demo}" if facts.best else "",
    }
