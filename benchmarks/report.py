"""A report of many trials: how long it takes, how large it is, and how its page answers in a browser.

    python benchmarks/report.py                  # 1,000 trials of 20 epochs
    python benchmarks/report.py --keep FOLDER    # leaves the store and the page there

The store is a real one, of trials that were made up: four hyperparameters, learning rates that fall, runs that share
epochs. Nothing was trained, so the page has no part about the best model. The browser (chromium and playwright) opens
the page, and drags along an axis of the parallel coordinates in 40 moves of the pointer. A move is the time until the
page has taken it in and drawn it; a frame is the time between two pictures meanwhile.
"""

import argparse
import dataclasses
import hashlib
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import HERE, SPECS, harness, parser, publish, run_command
from growth import Answering, made_up_plan, prepared_run
from rich.console import Console

from harness.reporting.screen import Screen
from harness.searching.driver import Driver
from harness.searching.limits import Limits
from harness.searching.plan import Options
from harness.searching.session import SweepSession
from harness.training.results import EpochResult
from harness.workers.messages import Done, Prepared, Train

sys.path.insert(0, str(HERE.parent / "tests"))

from browser import FLAGS, find_chromium

SPEC = SPECS / "grid.py"
MOVES = 40
WATCH = """() => {
  window.frames_seen = [];
  let last = performance.now();
  const tick = (now) => { window.frames_seen.push(now - last); last = now; requestAnimationFrame(tick); };
  requestAnimationFrame(tick);
}"""


def made_up_run(request: Train, prepared: Prepared) -> Iterator[Any]:
    """A run whose learning rate falls when its loss has not: the recipe draws the noise, the schedule its course."""
    values = request.values
    recipe = hashlib.sha256(f"{values['lr']}/{values['momentum']}".encode()).hexdigest()[:16]
    yield dataclasses.replace(prepared, recipe_digest=recipe, base_digest=recipe)
    chance, rate, bad = random.Random(recipe), values["lr"], 0
    height = 0.93 - 12 * (values["lr"] - 0.03) ** 2 - 0.3 * abs(values["momentum"] - 0.9)
    lowest, best, noise = 9.0, (0, -1.0), 0.04
    for epoch in range(values["epochs"]):
        accuracy = height * (1 - 0.75 ** (epoch + 1)) + chance.gauss(0, noise)
        loss = 2.3 * (1 - accuracy) + chance.gauss(0, noise)
        best = max(best, (epoch, accuracy), key=lambda pair: pair[1])
        yield EpochResult(
            epoch=epoch,
            metrics={
                "train_loss": 2.2 * (1 - accuracy) * 0.97**epoch, "train_accuracy": accuracy + 0.01,
                "val_loss": loss, "val_accuracy": accuracy,
            },
            diagnostics={"gradient_norm": 3 * 0.9**epoch, "update_size": rate * 0.9**epoch},
            learning_rates={"lr": rate}, epoch_seconds=1.0, reused=False, trained_by=request.run_id,
            best_epoch=best[0], best_value=best[1], is_finite=True,
        )  # fmt: skip
        bad = 0 if loss < lowest else bad + 1
        lowest = min(loss, lowest)
        if bad > values["patience"]:
            rate, bad, noise = rate * values["factor"], 0, noise / 2
    yield Done(epochs=values["epochs"], reused_epochs=0, is_diverged=False, peak_memory_bytes=None)


def make_store(folder: Path, *, trials: int, epochs: int) -> None:
    """A store with these trials: points of the grid, in the order in which a sweep takes them."""
    options = Options(spec=SPEC, store=folder, trials=trials, epochs=epochs, path_budget_bytes=0)
    plan = made_up_plan(options)
    plan = dataclasses.replace(plan, fixed=plan.fixed | {"sampler": "grid"})
    with open("/dev/null", "w") as nowhere:
        screen = Screen(Console(file=nowhere), ["lr"])
        session = SweepSession(options, plan, Limits(trials=trials), screen)
        Driver(session.store, Answering(prepared_run(SPEC), made_up_run), screen).run(session.tasks(), jobs=2)


def browse(page_path: Path) -> dict[str, float]:
    """Seconds until the page is drawn, the frames while the pointer drags along an axis, and the time that follows."""
    from playwright import sync_api

    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=list(FLAGS))
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        started = time.perf_counter()
        page.goto(page_path.absolute().as_uri(), wait_until="load")
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        opened = time.perf_counter() - started
        chart = page.locator("#parallel")
        chart.scroll_into_view_if_needed()
        box = chart.bounding_box()
        assert box is not None
        page.evaluate(WATCH)
        x, top, height = box["x"] + 48, box["y"] + 60, box["height"] - 110  # the first axis
        page.mouse.move(x, top)
        page.mouse.down()
        began = time.perf_counter()
        for step in range(1, MOVES + 1):
            page.mouse.move(x, top + 0.5 * height * step / MOVES)
        released = time.perf_counter()
        page.mouse.up()
        page.wait_for_timeout(400)  # longer than the curves wait for the pointer to rest
        page.evaluate("() => new Promise((done) => requestAnimationFrame(done))")
        settled = time.perf_counter() - released - 0.4
        frames = [float(frame) for frame in page.evaluate("window.frames_seen")][2:]
        assert "runs chosen" in page.locator("#count").inner_text(), "the axis was not met"
        browser.close()
    return {
        "opened, s": opened,
        "a move, ms": 1000 * (released - began) / MOVES,
        "longest frame, ms": max(frames),
        "after the drag, s": settled,
    }


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--trials", type=int, default=1_000)
    arguments.add_argument("--epochs", type=int, default=20)
    arguments.add_argument("--keep", type=Path, default=None, metavar="DIR")
    given = arguments.parse_args()
    if given.quick:
        given.trials, given.epochs = 12, 4
    if given.keep is not None:
        given.keep.mkdir(parents=True, exist_ok=True)
        measure(given, given.keep)
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(given, Path(folder))


def measure(given: argparse.Namespace, folder: Path) -> None:
    store, page = folder / "mlruns", folder / "page.html"
    if not store.exists():
        make_store(folder / "made", trials=given.trials, epochs=given.epochs)
        (folder / "made").rename(store)
    _, listed = run_command(harness("runs", SPEC, "--store", store, "--json"))
    runs = json.loads(listed)
    seconds, _ = run_command(harness("report", SPEC, "--store", store, "--output", page, "--device", "cpu"))
    found: dict[str, Any] = {"built, s": seconds, "size, MB": page.stat().st_size / 1e6}
    notes = []
    try:
        import playwright  # noqa: F401

        has_browser = find_chromium() is not None
    except ModuleNotFoundError:
        has_browser = False
    if has_browser:
        found |= browse(page)
    else:
        notes.append("no browser: chromium and playwright are needed for the rest")
    publish("report", given, ["trials", *found], [[f"{len(runs):,}", *found.values()]], notes)


if __name__ == "__main__":
    main()
