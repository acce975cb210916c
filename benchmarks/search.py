"""Which search finds one of the best configurations after the fewest epochs: ours and others, replayed over tables.

    python benchmarks/search.py tables FOLDER [--images FOLDER] [--jobs N]     # minutes to an hour, once
    python benchmarks/search.py replay FOLDER [--seeds 50]
    python benchmarks/search.py choice                 # how long a choice among 10,000 configurations takes

A table holds a whole stepped search space, each configuration trained to its end by the harness's grid. The images
are a folder with `train/` and `val/`. A replay counts the epochs that a search trains until it has seen a value that
only 0.4 % (1 %) of the configurations reach. Searches whose library is not installed are left out.
"""

import argparse
import importlib.util
import os
import statistics
import time
from pathlib import Path

import numpy as np
from common import parser, publish
from searches.peers import PEERS
from searches.replay import LIMIT, MARKS, Search, asha, replay, tree, tree_to_end
from searches.tables import SPECS, make_table, read_table

from harness.search import Choice, Integer, LogUniform
from harness.searching.space import Space
from harness.searching.tree import TreeSearch

TABLES = {"mlp": "search_mlp.py", "norm": "search_norm.py", "images": "search_images.py"}
NEEDS = {"Ray": "ray", "Syne": "syne_tune", "Optuna": "optuna"}
COLUMNS = ("search", "table", "0.4 %: median", "quartiles", "1 %: median", *(f"regret after {mark}" for mark in MARKS))


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("what", choices=("tables", "replay", "choice"))
    arguments.add_argument("folder", nargs="?", type=Path)
    arguments.add_argument("--images", type=Path)
    arguments.add_argument("--jobs", type=int, default=2)
    arguments.add_argument("--seeds", type=int, default=50)
    arguments.add_argument("--only", default="", help="searches whose name holds this")
    given = arguments.parse_args()
    if given.what == "choice":
        time_choice(given)
    elif given.what == "tables":
        if given.images is not None:
            os.environ["SEARCH_IMAGES"] = str(given.images.absolute())
        given.folder.mkdir(parents=True, exist_ok=True)
        for name, spec in TABLES.items():
            if name != "images" or given.images is not None:
                make_table(name, SPECS / spec, given.folder, jobs=given.jobs, trials=6 if given.quick else None)
    else:
        replay_all(given)


def searches() -> dict[str, tuple[Search, bool]]:
    """Each search by its name, and whether epochs are shared."""
    ours: dict[str, tuple[Search, bool]] = {
        "harness": (tree, True),
        "harness, each trial to its end": (tree_to_end, True),
        "harness, nothing shared": (tree, False),
        "ASHA with promotion, epochs shared": (asha, True),
        "ASHA with promotion": (asha, False),
    }
    installed = [name for name, module in NEEDS.items() if importlib.util.find_spec(module) is not None]
    return ours | {name: (peer, False) for name, peer in PEERS.items() if name.partition(" ")[0] in installed}


def replay_all(given: argparse.Namespace) -> None:
    rows = []
    for name, spec in TABLES.items():
        path = given.folder / f"{name}.npz"
        if not path.exists():
            continue
        table = read_table(path, SPECS / spec)
        for label, (search, shares) in searches().items():
            if given.only not in label:
                continue
            made = [replay(table, search, seed, shares=shares) for seed in range(2 if given.quick else given.seeds)]
            found = {s: [m.found[s] or LIMIT for m in made] for s in (0.004, 0.01)}
            low, middle, high = np.quantile(found[0.004], [0.25, 0.5, 0.75])
            regrets = [statistics.median(m.regret.get(mark, np.inf) for m in made) for mark in MARKS]
            rows.append((label, name, middle, f"{low:.0f} to {high:.0f}", statistics.median(found[0.01]), *regrets))
            print(*rows[-1], sep="  ", flush=True)
    publish("search", given, COLUMNS, rows, [f"{LIMIT:,} epochs are the limit: not found by then"])


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
