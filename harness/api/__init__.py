"""Every command as a function of Python, with the same name.

`spec` is the path of a spec file, or an `Experiment` subclass that was imported from one. The options are those of the
command line: `store` is the folder of runs, checkpoints and epochs; `device` is `auto`, `cuda`, `cpu` or `mps`;
`data_dir` is the folder of downloaded data; `demo` means the demo's runs; `study` chooses a study: `1` is the first of
the spec, None the newest, `"all"` all of them. Epochs count from 1. An error of the user raises `HarnessError`. Nothing
is printed. In a terminal or a notebook, a bar shows the progress.
"""

from harness.api.finished import (
    best,
    compare,
    history,
    list_runs,
    load_run,
    predict,
    reload,
    report,
    runs,
    serve_report,
    ui,
)
from harness.api.training import confirm, new, sweep, train

__all__ = [
    "best",
    "compare",
    "confirm",
    "history",
    "list_runs",
    "load_run",
    "new",
    "predict",
    "reload",
    "report",
    "runs",
    "serve_report",
    "sweep",
    "train",
    "ui",
]
