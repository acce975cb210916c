"""MLflow's pages about our runs, in a real browser."""

import re
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from browser import chromium
from running import Finished, Started, Zygote, wait_until

from harness.tracking.store import Store
from harness.tracking.ui import HOST, free_port

SECONDS = 90_000  # a page may take that many milliseconds to draw


@pytest.fixture(scope="module")
def taken_port() -> Iterator[int]:
    """A port that someone else listens on."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.fixture(scope="module")
def folder(swept: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sweep: the pages' view is written into its store."""
    copy = tmp_path_factory.mktemp("pages") / "copy"
    shutil.copytree(swept, copy)
    return copy


@pytest.fixture(scope="module")
def served(zygote: Zygote, folder: Path, taken_port: int) -> Iterator[Started]:
    """`ui small.py`, answering."""
    started = zygote.start("ui", "small.py", "--port", taken_port, cwd=folder)
    started.wait_for("Ctrl-C stops it", seconds=120)
    yield started
    started.signal(signal.SIGTERM)
    done = started.wait()
    assert done.code == 130, done
    assert not servers_of(folder)


@pytest.fixture(scope="module")
def links(served: Started) -> dict[str, str]:
    """The pages that the command named."""
    return dict(re.findall(r"^(\S.*?)  +(http\S+)$", served.out.read_text(), re.MULTILINE))


@pytest.fixture(scope="module")
def searched(folder: Path) -> list[str]:
    """The hyperparameters that differ between the runs."""
    store = Store(folder / "mlruns")
    runs = store.find_runs(store.experiment_id("small"), "")
    every = ("lr", "momentum", "patience", "factor")
    return [name for name in every if len({run.data.params[name] for run in runs}) > 1]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """An empty page of someone who has closed MLflow's assistant; an exception in a page fails the test."""
    opened = browser.new_page(viewport={"width": 1440, "height": 1400})
    opened.add_init_script("localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')")
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.set_default_timeout(SECONDS)
    yield opened
    opened.close()
    assert not errors


def open_page(page: Any, address: str) -> None:
    page.goto(address, wait_until="domcontentloaded")


def test_the_run_list_opens_as_model_training_best_first_with_the_columns_that_matter(
    page: Any, links: dict[str, str], searched: list[str]
) -> None:
    open_page(page, links["runs"])
    page.locator("a", has_text=re.compile(r"^(trial|train)-\d{4}$")).first.wait_for()
    for column in ("metrics.`best_val_accuracy`", "metrics.`reused_epochs`", *(f"params.`{n}`" for n in searched)):
        page.locator(f'[role=columnheader][col-id="{column}"]').first.wait_for()
    cells = page.locator('[role=gridcell][col-id="metrics.`best_val_accuracy`"]').all_inner_texts()
    values = [float(text.rstrip("…")) for text in cells]
    assert len(values) == 5 and values == sorted(values, reverse=True)
    page.get_by_text("A small network on generated features").first.wait_for()
    assert page.get_by_text("Model registry").count() > 0  # of the menu for model training


def test_the_comparison_draws_what_was_searched_against_the_objective(
    page: Any, links: dict[str, str], searched: list[str]
) -> None:
    open_page(page, links["compare"])
    page.locator(".parcoords text.label").first.wait_for()
    assert page.locator(".parcoords text.label").all_text_contents() == [*searched, "objective"]
    for chart in ("val_accuracy", "val_loss", "train_loss"):
        page.get_by_text(chart, exact=True).first.wait_for()


def test_the_assistant_stays_closed_at_the_address_that_the_command_names_for_that(
    browser: Any, served: Started, links: dict[str, str]
) -> None:
    found = re.search(r"write (\S+) in place of (\S+)", served.out.read_text())
    assert found
    for address, is_open in ((links["compare"], True), (links["compare"].replace(found[2], found[1]), False)):
        visit = browser.new_context(viewport={"width": 1440, "height": 1400}).new_page()  # a first one
        visit.set_default_timeout(SECONDS)
        open_page(visit, address)
        visit.locator(".parcoords text.label").first.wait_for()
        kept = visit.evaluate("localStorage.getItem('mlflow.assistant.panelOpen_v1')")
        assert (kept == "true") == is_open, kept
        visit.context.close()


def test_a_learning_rate_that_falls_is_seen_on_the_page_of_its_run(
    page: Any, links: dict[str, str], folder: Path
) -> None:
    store = Store(folder / "mlruns")
    number = store.experiment_id("small")
    runs = store.find_runs(number, "attributes.status = 'FINISHED'")
    rates = {run.info.run_id: [m.value for m in store.client.get_metric_history(run.info.run_id, "lr")] for run in runs}
    fallen = next(run_id for run_id, values in rates.items() if len(set(values)) > 1)
    base = links["best run"].partition("/runs/")[0]
    open_page(page, f"{base}/runs/{fallen}/model-metrics?workflowType=machine_learning")
    card = page.locator("[data-testid='experiment-view-compare-runs-card']", has_text="lr").filter(
        has=page.get_by_text("lr", exact=True)
    )
    line = card.locator("path.js-line").first
    line.wait_for()
    heights = {y for _, y in re.findall(r"([\d.]+),([\d.]+)", line.get_attribute("d"))}
    assert len(heights) == len(set(rates[fallen]))


def test_a_run_tells_in_words_how_it_went_and_keeps_its_checkpoints(page: Any, links: dict[str, str]) -> None:
    open_page(page, links["best run"])
    page.get_by_text(re.compile(r"at epoch \d of 8\. Learning rate")).first.wait_for()
    page.get_by_text("harness.recipe").first.wait_for()
    open_page(page, links["best run"].replace("?", "/artifacts?"))
    page.get_by_text("checkpoints", exact=True).click()
    page.get_by_text("best.pth.tar").first.wait_for()
    page.get_by_text("last.pth.tar").first.wait_for()


def test_what_the_machine_did_is_on_the_page_of_system_metrics(page: Any, links: dict[str, str]) -> None:
    open_page(page, links["best run"].replace("?", "/system-metrics?"))
    page.get_by_text("cpu_utilization_percentage", exact=True).first.wait_for()
    page.get_by_text("system_memory_usage_percentage", exact=True).first.wait_for()


def test_a_port_in_use_is_said_and_the_next_one_taken(served: Started, links: dict[str, str], taken_port: int) -> None:
    assert f"port {taken_port} is in use" in served.out.read_text()
    assert free_port(taken_port) > taken_port
    assert f":{taken_port}/" not in links["compare"]


def test_with_a_tracking_server_its_own_pages_are_named(
    harness: Callable[..., Finished], links: dict[str, str]
) -> None:
    address = links["compare"].partition("/#/")[0]
    done = harness("ui", "small.py", MLFLOW_TRACKING_URI=address)
    assert links["compare"] in done.out and "Ctrl-C" not in done.out


def test_ctrl_c_leaves_no_process(zygote: Zygote, folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    started = zygote.start("ui", cwd=copy)
    started.wait_for("starting MLflow's pages")
    wait_until(lambda: servers_of(copy), started.printed)
    started.signal(signal.SIGINT)
    done = started.wait()
    assert done.code == 130 and "Traceback" not in done.err, done
    assert not servers_of(copy)


def test_no_runs_is_said_before_anything_starts(harness: Callable[..., Finished], folder: Path) -> None:
    assert "holds no runs yet" in harness("ui", code=2).err
    done = harness("ui", "other.py", "--store", folder / "mlruns", code=2)
    assert "has no runs of 'other'" in done.err
    assert not [process for process in servers_of(folder) if process.ppid() == 1]


def servers_of(folder: Path) -> list[psutil.Process]:
    """The processes that serve the store of a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(f"{folder}/mlruns" in argument for argument in process.cmdline()) and process.status() != "zombie":
                found.append(process)
        except psutil.Error:
            continue
    return found
