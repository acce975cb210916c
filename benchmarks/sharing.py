"""How many epochs the tree saves: the digits data, 40 epochs a trial, searched over the tree, by TPE and by the grid.

    python benchmarks/sharing.py

Prints a table: epochs asked, epochs trained, their ratio, and the seconds of the whole command with its share
of start-up. Takes a few minutes on two cores. The sweeps run in a temporary store.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SPEC = Path(__file__).parent / "specs" / "digits.py"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--jobs", default="1")
    jobs = arguments.parse_args().jobs
    print(f"{'search':22}{'trials':>8}{'asked':>8}{'trained':>9}{'trained/asked':>15}{'seconds':>9}")
    for name, options in (
        ("over the tree", ["--trials", "60"]),
        ("TPE", ["--set", "sampler=tpe", "--trials", "60"]),
        ("grid", ["--set", "sampler=grid", "--trials", "180"]),
    ):
        with tempfile.TemporaryDirectory() as store:
            started = time.perf_counter()
            command = [sys.executable, "-m", "harness", "sweep", str(SPEC), "--store", store, "--jobs", jobs, *options]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            seconds = time.perf_counter() - started
        found = re.search(r"epochs: (\d+) asked, (\d+) trained", done.stdout)
        if done.returncode or not found:
            sys.exit(f"{name} failed:\n{done.stdout[-2000:]}{done.stderr}")
        asked, trained = int(found[1]), int(found[2])
        print(f"{name:22}{options[-1]:>8}{asked:>8}{trained:>9}{trained / asked:>15.2f}{seconds:>9.0f}", flush=True)


if __name__ == "__main__":
    main()
