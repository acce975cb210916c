"""The arguments that several commands have, and their help."""

from pathlib import Path
from typing import Annotated

import typer

SpecArgument = Annotated[
    Path, typer.Argument(metavar="SPEC", help="The spec file, such as experiments/vgg_cifar.py.", show_default=False)
]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run id, the beginning of one, or 'best'.")]
BestOf = "With RUN 'best': the spec whose best run is meant. Needed if the store has several."
Store = Annotated[Path, typer.Option("--store", metavar="DIR", help="Where runs, checkpoints and epochs are kept.")]
Device = Annotated[str, typer.Option("--device", metavar="auto|cuda|cpu|mps", help="What to compute on.")]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", metavar="DIR", help="Where downloaded data is kept.  [default: data]", show_default=False
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Demo = Annotated[bool, typer.Option("--demo", help="The demo's runs: generated data, few epochs, a small model.")]
Trust = Annotated[
    bool,
    typer.Option("--trust", help="Run the code kept with the runs, also if the store is another user's or a server."),
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
        help="End after about this time, such as 90s, 30m, 1h30m; what trains then is not cut off.",
        show_default=False,
    ),
]
EpochBudget = Annotated[
    int | None,
    typer.Option("--budget", metavar="EPOCHS", min=1, help="Epochs to train, in all.", show_default=False),
]
Until = Annotated[
    float | None,
    typer.Option("--until", metavar="VALUE", help="Begin nothing new once the objective is this.", show_default=False),
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
MLRUNS = Path("mlruns")
