"""A step's own process: calls its function, which adds rows to a file as it finds them."""

import importlib
import json
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from gpu.running import Given


class Rows:
    """What a step found, written at once: what it is, its value and unit, and whether it is as it must be."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def add(self, what: str, value: Any, unit: str = "", *, right: bool | None = None) -> None:
        """Adds a row; `right` is None for a measurement that is neither right nor wrong."""
        with open(self._file, "a") as file:
            file.write(json.dumps([what, value, unit, right]) + "\n")


def main() -> None:
    message = json.loads(sys.argv[1])
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    folder, images = Path(message["folder"]), message["images"]
    given = Given(
        device=message["device"], quick=message["quick"], work=Path(message["work"]),
        images=None if images is None else Path(images),
    )  # fmt: skip
    os.environ["HARNESS_DATA_DIR"] = str(given.work / "data")
    tempfile.tempdir = str(folder)
    module, _, name = message["call"].partition(":")
    getattr(importlib.import_module(module), name)(given, Rows(folder / "rows.jsonl"), **message["values"])


def end_with(parent: int) -> None:
    """Kills this step and all that it has started, once the check itself has been killed."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
