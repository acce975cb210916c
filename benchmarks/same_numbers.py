"""Did a change move any number? Compares two stores: parameters, metrics of every epoch, and checkpoints, bit for bit.

    git worktree add /tmp/before COMMIT
    (cd /tmp/before && python -m harness sweep experiments/mlp_digits.py --trials 8 --epochs 6 --jobs 1 --store /tmp/a)
    python -m harness sweep experiments/mlp_digits.py --trials 8 --epochs 6 --jobs 1 --store /tmp/b
    python benchmarks/same_numbers.py /tmp/a /tmp/b

Runs are paired by their names. Seconds are not compared, nor what names a run or the code that trained it.
"""

import argparse
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from harness.training.state import same_bits

PARTS = ("state_dict", "optimizer", "scheduler", "epoch", "params", "metrics", "rng")
QUERIES = {
    "parameters": "SELECT r.name, p.key, 0, p.value FROM params p JOIN runs r USING (run_uuid)",
    "metrics": "SELECT r.name, m.key, m.step, m.value FROM metrics m JOIN runs r USING (run_uuid) "
    "WHERE m.key NOT LIKE '%seconds' AND m.key NOT LIKE 'system/%' AND r.name != 'summary'",
}


def read_table(store: Path, query: str) -> dict[tuple[Any, ...], Any]:
    with closing(sqlite3.connect(f"file:{store / 'mlflow.db'}?mode=ro", uri=True)) as database:
        return {row[:-1]: row[-1] for row in database.execute(query)}


def read_checkpoints(store: Path) -> dict[tuple[str, str], Path]:
    with closing(sqlite3.connect(f"file:{store / 'mlflow.db'}?mode=ro", uri=True)) as database:
        names = dict(database.execute("SELECT run_uuid, name FROM runs"))
    return {(names[path.parts[-3]], path.name): path for path in store.glob("artifacts/*/*/checkpoints/*.pth.tar")} | {
        (names[path.parts[-4]], path.name): path for path in store.glob("artifacts/*/*/artifacts/checkpoints/*.pth.tar")
    }


def differences(left: Path, right: Path) -> list[str]:
    found = []
    for what, query in QUERIES.items():
        a, b = read_table(left, query), read_table(right, query)
        wrong = [key for key in a.keys() | b.keys() if a.get(key) != b.get(key)]
        print(f"{what}: {len(a)} and {len(b)}, {len(wrong)} differ")
        found += [f"{what} {key}: {a.get(key)} and {b.get(key)}" for key in sorted(wrong)]
    a, b = read_checkpoints(left), read_checkpoints(right)
    wrong = sorted(a.keys() ^ b.keys())
    for key in sorted(a.keys() & b.keys()):
        one, other = (torch.load(path, map_location="cpu", weights_only=True) for path in (a[key], b[key]))
        wrong += [(*key, part) for part in PARTS if not same_bits(one[part], other[part])]
    print(f"checkpoints: {len(a)} and {len(b)}, {len(wrong)} differ")
    return found + [f"checkpoint {key}" for key in wrong]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", nargs=2, type=Path, metavar="STORE")
    found = differences(*parser.parse_args().stores)
    print("\n".join(found[:20]) if found else "equal, bit for bit")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
