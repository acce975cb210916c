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
    "All runs", "Importance of the hyperparameters", "What the values did", "Is it overfitting?",
    "What lowering the learning rate gained", "Accuracy of each class over the epochs", "Gradients and updates",
    "Optimisation history", "The tree of epochs",
    "Mistakes of the best model", "Classes it mixes up", "The images it is most wrong about", "Calibration",
    "Training images as the model saw them",
)  # fmt: skip
PICTURES = {
    "learning-curves", "parallel-coordinates", "slices", "contour", "gap", "optimisation-history", "tree-of-epochs",
    "confusion-matrix", "most-wrong-images", "calibration", "training-images", "classes-over-epochs", "gradients",
}  # fmt: skip
CHARTS = {"learning-curves", "parallel-coordinates"}  # drawn by the page's script, as pictures only on paper


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
    markup = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    addresses = set(re.findall(r"""(?:href|src|url\()=?["']?([^"')\s>]+)""", markup))
    outside = {a for a in addresses if not a.startswith(("#", "data:")) and "w3.org" not in a}
    assert not outside
    assert "default-src 'none'" in text  # and the browser would not let it
    assert len(text) < 2_000_000


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_section_is_drawn_without_an_error(browser: Any, page_path: Path, scheme: Any) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme=scheme)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if not request.url.startswith("file:") else None)
    page.goto(page_path.as_uri())
    assert page.locator("main h2").all_inner_texts() == list(SECTIONS)
    assert page.locator("nav a").count() == len(SECTIONS)
    pictures = page.locator("figure svg:visible")
    assert pictures.count() == len(PICTURES - CHARTS)
    for number in range(pictures.count()):
        box = pictures.nth(number).bounding_box()
        assert box["width"] > 300 and box["height"] > 100
    charts = page.locator("canvas")
    assert charts.count() == 3
    painted = "c => new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size > 20"
    assert all(charts.nth(number).evaluate(painted) for number in range(3))
    colours = page.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    light = [sum(map(int, re.findall(r"\d+", colour)[:3])) / 765 for colour in colours]
    assert (light[0] < 0.3 < 0.9 < light[1]) if scheme == "light" else (light[1] < 0.2 < 0.8 < light[0])
    text = page.locator("figure.slices svg text").first
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
    values = [float(text) for text in page.locator("#runs td.value").all_inner_texts()]
    copies = sum(int(text[1:]) - 1 for text in page.locator("#runs .copies").all_inner_texts())
    assert len(values) + copies == 6 and values == sorted(values, reverse=True)
    page.close()


@pytest.fixture
def opened(browser: Any, page_path: Path) -> Iterator[Any]:
    """The page in a window of a screen's size; what a script complains of fails the test."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(page_path.as_uri())
    yield page
    page.close()
    assert not said


def brush_upper_half(page: Any) -> None:
    """Drags along the upper half of the last axis, the objective's."""
    page.locator("#parallel").scroll_into_view_if_needed()
    box = page.locator("#parallel").bounding_box()
    x, top, middle = box["x"] + box["width"] - 72, box["y"] + 40, box["y"] + 46 + (box["height"] - 70) / 2
    page.mouse.move(x, middle)
    page.mouse.down()
    page.mouse.move(x, (top + middle) / 2, steps=4)
    page.mouse.move(x, top, steps=4)
    page.mouse.up()


def test_dragging_along_an_axis_leaves_the_chosen_runs_in_table_and_curves(opened: Any) -> None:
    rows, legend = opened.locator("#runs tbody tr:visible"), opened.locator("#legend button")
    values = [float(text) for text in opened.locator("#runs td.value").all_inner_texts()]
    low = (min(values) + max(values)) / 2
    brush_upper_half(opened)
    opened.locator("#reset").wait_for()  # it is there while runs are chosen
    chosen = [float(text) for text in opened.locator("#runs tr:visible td.value").all_inner_texts()]
    assert chosen == [value for value in values if value > low] and len(chosen) < len(values)
    legend.nth(len(chosen)).wait_for(state="detached")  # the page lets no text run as a script
    assert re.search(r"\d of 6 runs chosen", opened.locator("#count").inner_text())
    opened.locator("#reset").click()
    assert rows.count() == len(values) and legend.count() == min(5, len(values))


def test_columns_sort_in_both_directions(opened: Any) -> None:
    head = opened.locator("#runs th", has_text="lr")
    column = head.evaluate("cell => cell.cellIndex")

    def cells() -> list[float]:
        return [float(t) for t in opened.locator(f"#runs tbody td:nth-child({column + 1})").all_inner_texts()]

    head.locator("button").click()
    assert cells() == sorted(cells()) and head.get_attribute("aria-sort") == "ascending"
    head.locator("button").click()
    assert cells() == sorted(cells(), reverse=True) and head.get_attribute("aria-sort") == "descending"


def test_a_click_on_a_run_opens_its_card(opened: Any) -> None:
    name = opened.locator("#runs button.open").first.inner_text()
    opened.locator("#runs button.open").first.click()
    card = opened.locator("dialog")
    assert card.locator("h2").inner_text() == name
    facts = dict(zip(card.locator("dt").all_inner_texts(), card.locator("dd").all_inner_texts(), strict=True))
    assert {"val_accuracy", "95% interval", "lr", "momentum", "patience", "factor", "run"} <= set(facts)
    assert facts["reload it"].endswith(facts["run"][:12])
    opened.keyboard.press("Escape")
    assert not card.is_visible()


def test_the_pointer_over_a_line_shows_its_values(opened: Any) -> None:
    opened.locator("#parallel").scroll_into_view_if_needed()
    box = opened.locator("#parallel").bounding_box()
    for step in range(1, 40):  # across the lines between two axes
        opened.mouse.move(box["x"] + 0.36 * box["width"], box["y"] + 46 + step * (box["height"] - 70) / 40)
        shown = opened.locator("#parallel > div:last-child").inner_text()
        if "momentum" in shown:
            break
    assert re.match(r"trial-\d{4}\nval_accuracy\s+0\.", shown)


def test_on_paper_the_charts_are_pictures_and_nothing_is_cut_off(opened: Any) -> None:
    opened.emulate_media(media="print")
    assert opened.locator("figure svg:visible").count() == len(PICTURES)
    assert not opened.locator("canvas:visible").count() and not opened.locator("nav").is_visible()


def test_without_scripts_the_page_shows_pictures_and_every_run(browser: Any, page_path: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_path.as_uri())
    assert page.locator("figure svg:visible").count() == len(PICTURES)
    assert page.locator("#runs tbody tr:visible").count() > 0
    context.close()


def test_the_first_screen_answers_what_one_asks_first(opened: Any) -> None:
    questions = opened.locator(".findings dt").all_inner_texts()
    answers = dict(zip(questions, opened.locator(".findings dd").all_inner_texts(), strict=True))
    assert "359 validation images" in answers["Which run is best?"]
    assert "image by image" in answers["Is it really better?"]
    assert "python -m harness confirm" in answers["Does it hold?"]
    assert {"Is it overfitting?", "Did lower learning rates help?", "What next?"} <= set(answers)
    names = opened.locator(".provenance dt").all_inner_texts()
    facts = dict(zip(names, opened.locator(".provenance dd").all_inner_texts(), strict=True))
    assert facts["training"] == "5 epochs, batch size 64, seed 0"
    assert facts["data"].startswith("digits: 1,079 train, 359 validation and 359 test items of 1x8x8; digest ")
    assert "6,570 parameters" in facts["model"] and "torch" in facts["versions"] and "float32" in facts["device"]
    assert facts["repeat it"].endswith("--trials 6 --epochs 5 --store NEW_FOLDER"), "as the sweep's own command"
    assert facts["proof"].startswith("rehearsed: repeats its bits")
    assert "patience and factor did nothing in the best result" in answers["What next?"]


def test_a_report_of_another_day_is_kept(zygote: Zygote, folder: Path, page_path: Path) -> None:
    older = page_path.read_text().replace('<meta name="date" content="', '<meta name="date" content="2020-02-02" x="')
    page_path.write_text(older)
    run_cli(zygote, folder, "report", ROOT / "experiments" / "mlp_digits.py")
    kept = page_path.with_name("mlp_digits-2020-02-02.html")
    assert kept.read_text() == older and page_path.read_text() != older
    assert {file.stem for file in kept.with_suffix("").iterdir()} == PICTURES


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
