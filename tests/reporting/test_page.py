"""`report`: one page that stands alone, drawn in a real browser, and its pictures as files."""

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import chromium
from running import ROOT, Finished, Zygote

from harness.tracking.store import Store

SECTIONS = (
    "Leaderboard", "Learning curves", "Parallel coordinates", "Importance of the hyperparameters",
    "Optimisation history", "The tree of epochs", "What the best model gets wrong", "Classes it mixes up",
    "The images it is most wrong about", "Calibration",
)  # fmt: skip
PICTURES = {
    "learning-curves", "parallel-coordinates", "importance", "optimisation-history", "tree-of-epochs",
    "confusion-matrix", "most-wrong-images", "calibration",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a sweep of real digits, and its report."""
    made = tmp_path_factory.mktemp("report")
    spec = ROOT / "experiments" / "mlp_digits.py"
    for arguments in (["sweep", spec, "--trials", "6", "--epochs", "5"], ["report", spec]):
        done = zygote.start(*arguments, cwd=made).wait()
        assert done.code == 0, done
    (made / "said.txt").write_text(done.out)
    return made


@pytest.fixture(scope="module")
def page_path(folder: Path) -> Path:
    return folder / "mlruns" / "reports" / "mlp_digits.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


def run_cli(zygote: Zygote, folder: Path, *arguments: object, code: int = 0) -> Finished:
    done = zygote.start(*arguments, cwd=folder).wait()
    assert done.code == code, done
    return done


def test_the_command_names_the_page_and_the_pictures(folder: Path, page_path: Path) -> None:
    said = (folder / "said.txt").read_text()
    assert f"report: {page_path}, {len(PICTURES)} pictures in {page_path.with_suffix('')}" in said
    assert re.search(r"compare the runs in MLflow: http://127\.0\.0\.1:5000/#/experiments/\d+/runs\?\S+, while", said)


def test_every_picture_is_a_png_of_a_size_for_print(page_path: Path) -> None:
    files = list(page_path.with_suffix("").iterdir())
    assert {file.stem for file in files} == PICTURES and {file.suffix for file in files} == {".png"}
    for file in files:
        content = file.read_bytes()
        assert content.startswith(b"\x89PNG"), file
        width, height = struct.unpack(">II", content[16:24])
        assert width > 700 and height > 300, file


def test_the_page_asks_for_nothing_from_outside(page_path: Path) -> None:
    text = page_path.read_text()
    addresses = set(re.findall(r"""(?:href|src|url\()=?["']?([^"')\s>]+)""", text))
    outside = {a for a in addresses if not a.startswith(("#", "data:")) and "w3.org" not in a}
    assert not outside
    assert "<script" not in text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_section_is_drawn_without_an_error(browser: Any, page_path: Path, scheme: Any) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme=scheme)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if not request.url.startswith("file:") else None)
    page.goto(page_path.as_uri())
    assert page.locator("h2").all_inner_texts() == list(SECTIONS)
    assert page.locator("nav a").count() == len(SECTIONS)
    pictures = page.locator("figure svg")
    assert pictures.count() == len(PICTURES)
    for number in range(pictures.count()):
        box = pictures.nth(number).bounding_box()
        assert box["width"] > 300 and box["height"] > 100
    colours = page.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    light = [sum(map(int, re.findall(r"\d+", colour)[:3])) / 765 for colour in colours]
    assert (light[0] < 0.3 < 0.9 < light[1]) if scheme == "light" else (light[1] < 0.2 < 0.8 < light[0])
    text = page.locator("figure.learning-curves svg text").first
    assert text.evaluate("element => getComputedStyle(element).fill") != "rgb(0, 0, 0)"  # follows the page
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(element => element.id)")
    assert len(ids) == len(set(ids))
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390  # a telephone scrolls in one direction
    page.close()
    assert not said


def test_the_leaderboard_lists_every_run_the_best_first(browser: Any, page_path: Path) -> None:
    page = browser.new_page()
    page.goto(page_path.as_uri())
    values = [float(text) for text in page.locator("#leaderboard td.value").all_inner_texts()]
    assert len(values) == 6 and values == sorted(values, reverse=True)
    page.close()


def test_the_report_is_an_artifact_of_the_summary_and_of_the_best_run(
    zygote: Zygote, folder: Path, page_path: Path
) -> None:
    run_cli(zygote, folder, "report", ROOT / "experiments" / "mlp_digits.py", "--output", "again.html")
    store = Store(folder / "mlruns")
    summary, *more = store.find_runs(store.experiment_id("mlp_digits"), "tags.\"harness.kind\" = 'summary'")
    assert not more  # the second report took the place of the first
    assert store.artifact(summary, "report.html").read_bytes() == (folder / "again.html").read_bytes()
    kept = {file.stem for file in store.artifact(summary, "pictures").iterdir()}
    assert kept == PICTURES == {file.stem for file in (folder / "again").iterdir()}
    best = store.client.get_run(summary.data.tags["harness.best"])
    assert store.artifact(best, "report.html").read_bytes() == (folder / "again.html").read_bytes()
    listed = run_cli(zygote, folder, "runs", ROOT / "experiments" / "mlp_digits.py").out
    assert "trial-0005" in listed and "summary" not in listed


def test_runs_that_share_no_images_or_no_search_say_what_is_missing(zygote: Zygote, swept: Path) -> None:
    spec = ROOT / "experiments" / "diabetes_regression.py"
    folder = swept.parent
    run_cli(zygote, folder, "train", spec, "--epochs", "2", "--store", folder / "one")
    run_cli(zygote, folder, "report", spec, "--store", folder / "one", "--output", folder / "one.html")
    text = (folder / "one.html").read_text()
    assert "Needs two finished trials; there are none." in text
    assert "Predicted and true" in text and "Mean absolute error" in text and "Confusion matrix" not in text


def test_a_best_model_that_cannot_be_rebuilt_leaves_the_rest_of_the_report(
    zygote: Zygote, spec: Path, tmp_path: Path
) -> None:
    run_cli(zygote, tmp_path, "train", spec, "--epochs", "2")
    for checkpoint in (tmp_path / "mlruns" / "artifacts").rglob("*.pth.tar"):
        checkpoint.unlink()
    run_cli(zygote, tmp_path, "report", spec)
    text = (tmp_path / "mlruns" / "reports" / "small.html").read_text()
    assert "cannot be measured again: train-000" in text and "Learning curves" in text


def test_mistakes_on_the_way_to_a_report_are_explained(zygote: Zygote, spec: Path, tmp_path: Path) -> None:
    done = run_cli(zygote, tmp_path, "report", spec, code=2)
    assert "holds no runs yet" in done.err
    run_cli(zygote, tmp_path, "train", spec, "--epochs", "1")
    (tmp_path / "taken").write_text("")
    done = run_cli(zygote, tmp_path, "report", spec, "--output", "taken/report.html", code=2)
    assert "taken/report.html cannot be written" in done.err
