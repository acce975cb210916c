"""Writes the report of a study as one page: its runs, and the mistakes of the best model."""

import re
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path

from harness.errors import HarnessError
from harness.files import write_whole
from harness.reporting.against import against_second, compare_sweeps
from harness.reporting.first_screen import cards, describe_repeat, describe_search, edges_of, first_screen
from harness.reporting.gather import Facts, gather
from harness.reporting.pages import epochwise, search, training, values
from harness.reporting.pages.epochs import draw_trees
from harness.reporting.pages.explore import leaderboard, script_data
from harness.reporting.pages.page import (
    CHARTS,
    Page,
    Section,
    build_page,
    curves_html,
    text_table,
)
from harness.reporting.pages.ways import Way
from harness.tracking.runs import is_of_epochs
from harness.tracking.store import Store
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
    models: list[Section] = []
    network, repeat, second = "", "", ""
    if live is None:
        from harness.reporting import mistakes  # which loads torch

        loaded = mistakes.load_best(store, facts, device)
        models, network = mistakes.model_sections(facts, loaded), mistakes.describe_network(loaded)
        repeat = describe_repeat(facts, mistakes.description_of(loaded))
        second = against_second(store, facts, device)
    compared = compare_sweeps(store, facts, device if live is None else None) if study is None else []
    return Page(
        title=facts.name,
        date=date.today().isoformat(),
        lead=describe_search(facts),
        facts=cards(facts),
        top=first_screen(facts, network, repeat, second, compared),
        sections=[*_search_sections(facts, is_live=live is not None), *compared, *models],
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


def _search_sections(facts: Facts, *, is_live: bool) -> list[Section]:
    ended = [trial for trial in facts.trials if trial.value is not None]
    ways = [way for way in facts.results if facts.objective in way.metrics and way.rates]
    has_curves = any(facts.objective in way.metrics for way in facts.ways)  # also of runs that go on
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
        + (curves_html(metrics, facts.objective) if has_curves else "")
        + leaderboard(facts.explored),
        plain=[]
        if is_live
        else [
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
    ranked, every = facts.ranked, [record for same in facts.ranked for record in same]
    searched = [n for n in facts.searched if len({repr(r.params.get(n)) for r in every}) > 1]
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
    edges = edges_of(facts)
    pictures = [values.draw_slices(ranked, searched, facts.objective, maximize=facts.maximize)]
    if len(searched) > 1:
        main = (
            [found.name for found in importances if found.name in searched] if not isinstance(importances, str) else []
        )
        pair = (*main, *(name for name in searched if name not in main))[:2]
        pictures.append(values.draw_contour(every, (pair[0], pair[1]), facts.objective, maximize=facts.maximize))
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
    shown_ways = [best, *(way for way in ways[1 : training.MOST_GAPS + 1] if way.drops)]
    rows = [row for way in shown_ways for row in training.drops_table(way, metrics)]
    heads = ["run", "epoch", "learning rate"]
    for name in dict.fromkeys(metrics):
        if name in best.metrics:
            heads += [f"{name}, best before → after", "gain"]
    lead = training.describe_drops(best, facts.objective, maximize=facts.maximize, images=facts.trust.images)
    drops = Section(
        title="What lowering the learning rate gained",
        link="Learning rate",
        lead=lead,
        html=text_table(heads, rows, words=(0, 2)) if rows else "",
        missing="" if lead or rows else "No learning rate was lowered and held.",
    )
    classes = [section] if (section := _class_section(facts)) is not None else []
    measured = epochwise.measured_steps(best)
    inner = Section(
        title="Gradients and updates",
        link="Gradients",
        pictures=[epochwise.draw_steps(best, measured)] if measured else [],
        missing="" if measured else f"{best.record.name} was trained before these were measured.",
    )
    gap = Section(
        title="Is it overfitting?", link="Overfitting", pictures=[training.draw_gap(top)] if top else [],
        missing="" if top else "Needs the training and the validation loss of a run.",
    )  # fmt: skip
    return [gap, drops, *classes, inner]


def _class_section(facts: Facts) -> Section | None:
    """The accuracy of each class over the epochs of the best run, where it has classes."""
    curves, best = facts.class_accuracy, facts.best
    if best is None or best.best_epoch is None or not curves:
        return None
    picture = epochwise.draw_classes(best.name, curves, best_epoch=best.best_epoch, first=facts.first_epoch)
    return Section(title=picture.title, link="Class curves", pictures=[picture])


def _metric_names(facts: Facts) -> list[str]:
    found = {name: None for way in facts.ways[:MOST_CURVES] for name in way.metrics if is_of_epochs(name)}
    first = [name for name in (facts.objective, "val_loss", "train_loss", "lr") if name in found]
    return [*first, *(name for name in sorted(found) if name not in first)]


def _totals(facts: Facts) -> dict[str, int]:
    asked, different = facts.trees.asked, facts.trees.different
    return {"runs": len(facts.records), "epochs": asked, "trained_epochs": different, "saved_epochs": asked - different}
