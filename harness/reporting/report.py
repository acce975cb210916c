"""The report of a study: what the store knows of its runs and what the best model gets wrong, as one page."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.data import Arrays
from harness.data.collating import collate
from harness.errors import HarnessError
from harness.files import write_whole
from harness.reporting.pages import model, search
from harness.reporting.pages.drawing import shown
from harness.reporting.pages.epochs import Trees, build_trees, draw_trees
from harness.reporting.pages.page import Section, build_page, leaderboard, mixed_up_table, pairs_table
from harness.reporting.pages.search import Curves
from harness.results.reload import LoadedRun, load
from harness.tracking.journal import find_importances, open_database, open_study, read_journal
from harness.tracking.runs import RunRecord, list_runs, read_curves
from harness.tracking.store import Store
from harness.tracking.summary import keep_report
from harness.tracking.tags import CONFIRM, DIRECTION, OBJECTIVE

MOST_CURVES = 5
MOST_PATHS = 2_000  # runs whose learning rates are read for the tree of epochs
FEWEST = 4  # finished trials that Optuna's estimate of importance needs


@dataclass(frozen=True, kw_only=True, eq=False)
class Facts:
    """What the store knows of an experiment. `records` are all runs, the best first; `trials` those of the study."""

    name: str
    objective: str
    maximize: bool
    records: list[RunRecord]
    trials: list[RunRecord]
    searched: list[str]
    rates: dict[str, list[float]]  # learning rates of a run, by its id
    curves: list[Curves]
    trees: Trees
    told_apart: dict[str, list[str]]  # values that distinguish a recipe, in words
    importances: dict[str, float] | str  # or why there are none


def write_report(
    name: str, *, store: str | Path = "mlruns", output: Path | None = None, device: str = "auto"
) -> tuple[Path, list[Path]]:
    """Writes the report of an experiment: one HTML file, and its pictures as PNG files in a folder beside it.

    Both are kept in MLflow as well, as artifacts of the experiment's run `summary`, the page also of the best
    run. Returns the page and the pictures. Raises `HarnessError` where there are no runs, or no place to write.
    """
    opened = Store(Path(store))
    facts = gather(opened, name)
    page_path = output or opened.folder / "reports" / f"{name}.html"
    best = next((record for record in facts.records if _counts(record, facts)), None)
    sections = [*_search_sections(facts), *_model_sections(opened, best, device)]
    text = build_page(name, _lead(facts, best), _cards(facts, best), sections)
    pictures = [picture for section in sections for picture in section.pictures]
    folder = page_path.with_suffix("")
    try:
        write_whole(page_path, text)
        paths = [folder / f"{picture.name}.png" for picture in pictures]
        for path, picture in zip(paths, pictures, strict=True):
            write_whole(path, picture.png)
    except OSError as error:
        raise HarnessError(
            f"{page_path} cannot be written: {error.strerror}. Name another place: --output FILE."
        ) from None
    keep_report(opened, name, page_path, paths, best=None if best is None else best.run_id, totals=_totals(facts))
    return page_path, paths


def gather(store: Store, name: str) -> Facts:
    """Reads from MLflow and the study all that the pictures of a search show."""
    experiment = store.client.get_experiment(store.experiment_id(name))
    objective = experiment.tags.get(OBJECTIVE, "val_accuracy")
    records = list_runs(store, name)
    if not records:
        raise HarnessError(f"{name} has no runs yet; start with: python -m harness sweep SPEC")
    journal = _find_study(store, name)
    uid = None if journal is None else journal.user_attrs.get("uid")
    trials = sorted((r for r in records if r.trial is not None and r.study == uid), key=lambda r: r.trial or 0)
    searched = list(journal.trials[0].params) if journal is not None and journal.trials else []
    searched = [n for n in searched if len({repr(t.params.get(n)) for t in trials}) > 1] or searched
    rates = {record.run_id: _rates(store, record.run_id) for record in records[:MOST_PATHS]}
    maximize = experiment.tags.get(DIRECTION, "maximize") == "maximize"
    finished = [record for record in records if record.value is not None and record.kind != CONFIRM]
    ended = [trial for trial in trials if trial.status == "FINISHED"]
    importances: dict[str, float] | str
    if len(ended) < FEWEST or journal is None:
        importances = f"Needs {FEWEST} finished trials of one study; there are {len(ended)}."
    elif len({trial.value for trial in ended}) == 1:
        importances = "All finished trials came to the same value: nothing tells them apart."
    else:
        importances = find_importances(journal)
    return Facts(
        name=name,
        objective=objective,
        maximize=maximize,
        records=records,
        trials=trials,
        searched=searched,
        rates=rates,
        curves=_curves(store, finished, rates),
        trees=build_trees([(record, rates[record.run_id]) for record in records[:MOST_PATHS]]),
        told_apart=_told_apart(store, records),
        importances=importances,
    )


def _find_study(store: Store, name: str) -> Any:
    """Optuna's study of an experiment, where a sweep here has kept it."""
    if url := os.environ.get("HARNESS_STUDY_STORAGE"):
        return open_study(open_database(url), name)
    return open_study(read_journal(store.journal), name) if store.journal.exists() else None


def _search_sections(facts: Facts) -> list[Section]:
    epochs = {run_id: len(rates) for run_id, rates in facts.rates.items()}
    every = [n for n in dict.fromkeys(p for r in facts.records for p in r.params)]
    names = [n for n in every if len({repr(r.params.get(n)) for r in facts.records}) > 1] or every
    ended = [trial for trial in facts.trials if trial.value is not None]
    few = f"Needs two finished trials; there {'is' if len(ended) == 1 else 'are'} {len(ended) or 'none'}."
    curves = [curve for curve in facts.curves if facts.objective in curve.metrics]
    return [
        Section(title="Leaderboard", html=leaderboard(facts.records, names, facts.objective, epochs)),
        Section(title="Learning curves", pictures=[search.draw_curves(curves, facts.objective)])
        if curves
        else Section(title="Learning curves", missing="No run has finished yet."),
        Section(
            title="Parallel coordinates",
            pictures=[search.draw_parallel(facts.trials, facts.searched, facts.objective, maximize=facts.maximize)],
        )
        if len(ended) > 1 and facts.searched
        else Section(title="Parallel coordinates", missing=few),
        Section(title="Importance of the hyperparameters", link="Importance", missing=facts.importances)
        if isinstance(facts.importances, str)
        else Section(
            title="Importance of the hyperparameters",
            link="Importance",
            pictures=[search.draw_importance(facts.importances, trials=len(ended))],
        ),
        Section(
            title="Optimisation history",
            link="History",
            pictures=[search.draw_history(facts.trials, facts.objective, maximize=facts.maximize)],
        )
        if len(ended) > 1
        else Section(title="Optimisation history", link="History", missing=few),
        Section(
            title="The tree of epochs",
            link="Epochs",
            pictures=[draw_trees(facts.trees, facts.told_apart)],
        )
        if facts.trees.roots
        else Section(title="The tree of epochs", link="Epochs", missing="No epoch has been trained yet."),
    ]


def _model_sections(store: Store, best: RunRecord | None, device: str) -> list[Section]:
    title, link = "What the best model gets wrong", "Mistakes"
    if best is None:
        return [Section(title=title, link=link, missing="No run has finished yet.")]
    try:
        loaded = load(store, store.client.get_run(best.run_id), device=device)
        outputs, targets = loaded.outputs()
    except HarnessError as error:  # moved data, a lost artifact: the rest of the report stands
        return [Section(title=title, link=link, missing=f"{best.name} cannot be measured again: {error}")]
    named = pairs_table(_identity(loaded, best))
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


def _curves(store: Store, finished: Sequence[RunRecord], rates: Mapping[str, list[float]]) -> list[Curves]:
    """The curves of the best runs that differ: runs that share all their epochs are one curve."""
    ways: dict[tuple[Any, ...], list[RunRecord]] = {}
    for record in finished:
        way = (record.recipe, *rates[record.run_id]) if record.run_id in rates else (record.run_id,)
        ways.setdefault(way, []).append(record)
    curves = []
    for first, *others in list(ways.values())[:MOST_CURVES]:
        table = read_curves(store, store.client.get_run(first.run_id))
        metrics = {str(name): table[name].dropna().tolist() for name in table.columns}
        equal = [record.name for record in others]
        own = rates.get(first.run_id) or metrics.get("lr", [])
        curves.append(Curves(record=first, metrics=metrics, rates=own, equal=equal))
    return curves


def _rates(store: Store, run_id: str) -> list[float]:
    by_epoch = {metric.step: metric.value for metric in store.client.get_metric_history(run_id, "lr")}
    return [by_epoch[epoch] for epoch in sorted(by_epoch)]


def _told_apart(store: Store, records: Sequence[RunRecord]) -> dict[str, list[str]]:
    """For each recipe, the hyperparameters that belong to it and are not the same in all runs."""
    every = {name: None for record in records for name in record.params}
    varied = [name for name in every if len({repr(record.params.get(name)) for record in records}) > 1]
    told = {}
    for record in records:
        if record.recipe not in told:
            file = store.paths / record.recipe / "recipe.json"
            own = json.loads(file.read_text())["values"] if record.recipe and file.is_file() else every
            told[record.recipe] = [f"{name} {shown(record.params.get(name))}" for name in varied if name in own]
    return told


def _identity(loaded: LoadedRun, best: RunRecord) -> dict[str, str]:
    return {
        "run": f"{best.name}, {best.run_id}",
        "values": ", ".join(f"{name} {shown(value)}" for name, value in best.params.items()),
        "measured": f"after epoch {loaded.epoch + 1}, on the validation part, on {loaded.device}",
        "reload it": f'harness.load_run("{best.run_id[:8]}")',
    }


def _counts(record: RunRecord, facts: Facts) -> bool:
    return record.value is not None and record.kind != CONFIRM and record.objective == facts.objective


def _totals(facts: Facts) -> dict[str, int]:
    asked, different = facts.trees.asked, facts.trees.different
    return {"runs": len(facts.records), "epochs": asked, "trained_epochs": different, "saved_epochs": asked - different}


def _lead(facts: Facts, best: RunRecord | None) -> str:
    trials = len(facts.trials)
    what = f"{trials} trials over {', '.join(facts.searched)}" if trials else f"{len(facts.records)} runs"
    if best is None or best.value is None:
        return f"{what}; none has finished yet."
    others = sorted((t.value for t in facts.trials if t.value is not None), reverse=facts.maximize)
    median = others[len(others) // 2] if others else math.nan
    middle = f"; the trial in the middle reached {median:.4f}" if len(others) > 2 else ""
    return f"{what}. The best run, {best.name}, reached {facts.objective} {best.value:.4f}{middle}."


def _cards(facts: Facts, best: RunRecord | None) -> list[tuple[str, str]]:
    ended = [record.status.lower() for record in facts.records]
    words = ", ".join(f"{ended.count(word)} {word}" for word in dict.fromkeys(ended))
    asked, different = facts.trees.asked, facts.trees.different
    share = f" ({(asked - different) / asked:.0%})" if asked else ""
    value = "none yet" if best is None or best.value is None else f"{best.value:.4f}"
    return [
        (value, f"best {facts.objective}"),
        (str(len(facts.records)), f"runs: {words}"),
        (f"{different:,} of {asked:,}", "epochs that differ, of those asked for"),
        (f"{asked - different:,}{share}", "epochs that need not be trained"),
    ]
