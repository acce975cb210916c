"""The arguments that several commands have: their help, and the parsing of durations, sizes and numbers of jobs."""

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from harness.errors import HarnessError

SpecArgument = Annotated[
    Path, typer.Argument(metavar="SPEC", help="The spec file, such as experiments/vgg_cifar.py.", show_default=False)
]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run id, the beginning of one, or 'best'.")]
BestOf = "With RUN 'best': the spec whose best run is meant. Needed if the store has several."
Store = Annotated[Path, typer.Option("--store", metavar="DIR", help="Where runs, checkpoints and epochs are kept.")]
Device = Annotated[str, typer.Option("--device", metavar="auto|cuda|cpu|mps", help="What to compute on.")]
DataDir = Annotated[Path, typer.Option("--data-dir", metavar="DIR", help="Where downloaded data is kept.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Demo = Annotated[bool, typer.Option("--demo", help="The demo's runs: generated data, few epochs, a small model.")]
Trust = Annotated[
    bool,
    typer.Option("--trust", help="Run the code kept with the runs also where the store is another user's or a server."),
]
Study = Annotated[
    str | None,
    typer.Option(
        "--study",
        metavar="NUMBER|all",
        help="The number of the study, from 1.  [default: the newest]",
        show_default=False,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Fix a hyperparameter or a setting; can be repeated."),
]
Trials = Annotated[
    int | None,
    typer.Option(
        "--trials", metavar="N", min=1, max=1_000_000, help="Trials in all, including earlier ones.", show_default=False
    ),
]
Timeout = Annotated[
    str | None,
    typer.Option(
        "--timeout",
        metavar="TIME",
        help="Start no trial after this time, such as 90s, 30m, 1h30m.",
        show_default=False,
    ),
]
Register = Annotated[
    bool,
    typer.Option(
        "--register/--no-register", envvar="HARNESS_REGISTER", help="Put the best run into MLflow's model registry."
    ),
]
Epochs = Annotated[
    int | None,
    typer.Option(
        "--epochs",
        metavar="N",
        min=1,
        max=1_000_000,
        help="Epochs of a run, in all; known epochs are reused.",
        show_default=False,
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        "--path-budget",
        metavar="SIZE",
        help="Most disk space for states that later runs start from, such as 5GB.  "
        "[default: 20GB, or a tenth of the free disk; at an address 100GB]",
        show_default=False,
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Train on a Ray cluster: auto, local, HOST:PORT or ray://HOST:PORT.",
        show_default=False,
    ),
]
Cpus = Annotated[
    float | None,
    typer.Option(
        "--cpus-per-trial",
        metavar="N",
        min=0.01,
        help="Cores of a trial on Ray.  [default: its threads]",
        show_default=False,
    ),
]
Gpus = Annotated[
    float | None,
    typer.Option(
        "--gpus-per-trial",
        metavar="N",
        min=0,
        help="GPUs of a trial on Ray, such as 0.25.  [default: 1 if there are any]",
        show_default=False,
    ),
]
StudyStorage = Annotated[
    str | None,
    typer.Option(
        "--study-storage",
        metavar="URL",
        envvar="HARNESS_STUDY_STORAGE",
        help="A database for Optuna's study, such as postgresql+psycopg://USER@HOST/NAME.",
        show_default=False,
    ),
]
Paths = Annotated[
    str | None,
    typer.Option(
        "--paths",
        metavar="PLACE",
        help="Where epochs are kept, if not in the store: a folder that all nodes can reach, or an address such as "
        "s3://BUCKET/NAME.",
        show_default=False,
    ),
]
MLRUNS, DATA = Path("mlruns"), Path("data")


MOST_SECONDS, MOST_BYTES = 10 * 365 * 86400, 10**18


def parse_duration(text: str) -> float:
    """Seconds.

    >>> parse_duration("30m"), parse_duration("1h30m"), parse_duration("45")
    (1800.0, 5400.0, 45.0)
    """
    matched = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?", text.strip())
    if not matched or not any(matched.groups()):
        raise HarnessError(f"--timeout {text}: write it as 45s, 30m or 1h30m.")
    hours, minutes, seconds = (float(part or 0) for part in matched.groups())
    whole = hours * 3600 + minutes * 60 + seconds
    if whole > MOST_SECONDS:
        raise HarnessError(f"--timeout {text}: that is longer than ten years.")
    return whole


def parse_size(text: str) -> int:
    """Bytes.

    >>> parse_size("5GB"), parse_size("300 MB")
    (5000000000, 300000000)
    """
    units = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
    matched = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text.strip().upper())
    if not matched:
        raise HarnessError(f"--path-budget {text}: write it as 500MB or 5GB.")
    size = float(matched[1]) * units[matched[2]]
    if size > MOST_BYTES:
        raise HarnessError(f"--path-budget {text}: that is more than any disk holds.")
    return int(size)


def parse_place(text: str) -> Path | str:
    """A folder, or an address.

    >>> parse_place("/shared/epochs"), parse_place("s3://bucket/epochs/"), parse_place("file:///shared/epochs")
    (PosixPath('/shared/epochs'), 's3://bucket/epochs', PosixPath('/shared/epochs'))
    """
    text = text.removeprefix("file://")
    return text.rstrip("/") if "://" in text else Path(text)


def parse_jobs(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal() or len(text) > 6 or int(text) < 1:
        raise HarnessError(f"--jobs {text}: give a whole number from 1 to 999999, or auto.")
    return int(text)


def use_trust(trust: bool, store: Path) -> None:
    """Lets the code that is kept with the runs of a store be run, whoever's that store is."""
    if trust:
        named = os.environ.get("MLFLOW_TRACKING_URI") or str(store.absolute())
        os.environ["HARNESS_TRUST"] = ",".join(filter(None, (os.environ.get("HARNESS_TRUST"), named)))


def use_data(folder: Path) -> None:
    """Sets the folder for data and downloads."""
    if folder != DATA:
        os.environ["HARNESS_DATA_DIR"] = str(folder)
