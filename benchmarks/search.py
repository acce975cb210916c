"""Which search finds one of the best configurations after the fewest epochs: ours and others, replayed.

    python benchmarks/search.py tables FOLDER [--images FOLDER] [--jobs N]     # minutes to an hour, once
    python benchmarks/search.py replay FOLDER [--seeds 50] [--jobs N]
    python benchmarks/search.py choice                 # how long a choice among 10,000 configurations takes

A table holds a whole stepped search space, each configuration trained to its end by the harness's grid. The images
are a folder with `train/` and `val/`. A replay counts the epochs that a search trains until it has seen a value that
only 0.4 % (1 %) of the configurations reach. A table of continuous ranges holds 2,000 random configurations, and the
nearest one stands for what a search asks for. Searches whose library is not installed are left out.
"""

import argparse
import importlib.util
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
from common import parser, publish
from searches.continuous import COUNT, Scattered, curve_of, random_point
from searches.peers import PEERS
from searches.replay import LIMIT, MARKS, Landscape, Outcome, Search, asha, replay, tree, tree_to_end
from searches.tables import SPECS, make_table, read_table

from harness.search import Choice, Integer, LogUniform
from harness.searching.space import Space
from harness.searching.tree import TreeSearch

TABLES = {"mlp": "search_mlp.py", "norm": "search_norm.py", "images": "search_images.py"}
CONTINUOUS: dict[str, tuple[str, int, dict[str, int]]] = {  # spec, number of the first random point, other values
    "mlp, continuous": (TABLES["mlp"], 0, {}),
    "norm, continuous": (TABLES["norm"], 0, {}),
    "mlp, continuous, seed 21": (TABLES["mlp"], 115_000, {"seed": 21}),
    "norm, continuous, seed 23": (TABLES["norm"], 125_000, {"seed": 23}),
}
NEEDS = {"Ray": "ray", "Syne": "syne_tune", "Optuna": "optuna", "NePS": "neps"}
COLUMNS = ("search", "table", "0.4 %: median", "quartiles", "1 %: median", *(f"regret after {mark}" for mark in MARKS))
OURS: dict[str, tuple[Search, bool]] = {  # and whether epochs are shared
    "harness": (tree, True),
    "harness, each trial to its end": (tree_to_end, True),
    "harness, nothing shared": (tree, False),
    "ASHA with promotion, epochs shared": (asha, True),
    "ASHA with promotion": (asha, False),
}


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("what", choices=("tables", "replay", "choice"))
    arguments.add_argument("folder", nargs="?", type=Path)
    arguments.add_argument("--images", type=Path)
    arguments.add_argument("--jobs", type=int, default=2)
    arguments.add_argument("--seeds", type=int, default=50)
    arguments.add_argument("--only", nargs="+", default=[""], help="searches whose name holds one of these")
    arguments.add_argument("--on", nargs="+", default=[*TABLES, *CONTINUOUS], help="tables, by their names")
    given = arguments.parse_args()
    if given.what == "choice":
        time_choice(given)
    elif given.what == "tables":
        make_all(given)
    else:
        replay_all(given)


def make_all(given: argparse.Namespace) -> None:
    """Trains the tables, one after the other."""
    if given.images is not None:
        os.environ["SEARCH_IMAGES"] = str(given.images.absolute())
    given.folder.mkdir(parents=True, exist_ok=True)
    for name in given.on:
        if name in CONTINUOUS:
            file, first, fixed = CONTINUOUS[name]
            points = [random_point(SPECS / file, first + place) for place in range(6 if given.quick else COUNT)]
            with processes(given.jobs) as pool:
                trained = [point | fixed for point in points]
                values = list(pool.map(curve_of, [SPECS / file] * len(points), trained, chunksize=8))
            np.savez_compressed(given.folder / f"{name}.npz", values=values, points=json.dumps(points))
        elif name != "images" or given.images is not None:
            make_table(name, SPECS / TABLES[name], given.folder, jobs=given.jobs, trials=6 if given.quick else None)


def replay_all(given: argparse.Namespace) -> None:
    seeds = range(2 if given.quick else given.seeds)
    rows = []
    with processes(given.jobs) as pool:
        for name, label in chosen(given):
            count = len(seeds)
            made = list(pool.map(replay_one, [given.folder] * count, [name] * count, [label] * count, seeds))
            found = {share: [m.found[share] or LIMIT for m in made] for share in (0.004, 0.01)}
            low, middle, high = np.quantile(found[0.004], [0.25, 0.5, 0.75])
            regrets = [statistics.median(m.regret.get(mark, np.inf) for m in made) for mark in MARKS]
            rows.append((label, name, middle, f"{low:.0f} to {high:.0f}", statistics.median(found[0.01]), *regrets))
            print(*rows[-1], sep="  ", flush=True)
    publish("search", given, COLUMNS, rows, [f"{LIMIT:,} epochs are the limit: not found by then"])


def chosen(given: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """The names of tables that are there, each with the names of the searches that are replayed on it."""
    installed = [name for name, module in NEEDS.items() if importlib.util.find_spec(module) is not None]
    peers = [label for label in PEERS if label.partition(" ")[0] in installed]
    for name in given.on:
        if not (given.folder / f"{name}.npz").exists():
            continue
        for label in [*OURS, *peers]:
            repeats = name in CONTINUOUS and OURS.get(label, (None, False))[1]  # nothing is shared in any case
            if any(text in label for text in given.only) and not repeats:
                yield name, label


def replay_one(folder: Path, name: str, label: str, seed: int) -> Outcome:
    """One search with one seed."""
    search, shares = OURS[label] if label in OURS else (PEERS[label], False)
    return replay(landscape(folder, name), search, seed, shares=shares)


@cache
def landscape(folder: Path, name: str) -> Landscape:
    """A table, read once in each process."""
    if name in CONTINUOUS:
        return Scattered(folder / f"{name}.npz", SPECS / CONTINUOUS[name][0])
    return read_table(folder / f"{name}.npz", SPECS / TABLES[name])


def processes(jobs: int) -> ProcessPoolExecutor:
    """Processes for replays, of one thread each."""
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
    return ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))


def time_choice(given: argparse.Namespace) -> None:
    """The seconds of a choice among 10,000 configurations, all of which have been begun and wait."""
    searched = {
        "lr": LogUniform(low=1e-4, high=1.0, count=25, default=1e-2),
        "momentum": Choice(options=(0.8, 0.9, 0.95, 0.99), default=0.9),
        "width": Integer(low=1, high=10, default=1),
        "patience": Integer(low=1, high=10, default=1),
    }
    epochs = 40
    search = TreeSearch(Space(searched, seed=0), epochs=epochs, seed=0)
    search.known[:] = 1
    chance = np.random.default_rng(0)
    seconds = []
    for _ in range(30 if given.quick else 300):
        started = time.perf_counter()
        move = search.choose({}, to_end=False)
        seconds.append(time.perf_counter() - started)
        assert move is not None
        search.note(
            search.space.points[move.point], (chance.random(move.until) + 1 / (1 + np.arange(move.until))).tolist()
        )
    rows = [(len(search.space), statistics.median(seconds) * 1e3, max(seconds) * 1e3)]
    publish("search", given, ("configurations that wait", "median ms", "longest ms"), rows)


if __name__ == "__main__":
    main()
