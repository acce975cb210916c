"""The messages between the driver and its workers: plain values, without torch, the same for every kind of worker."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.spec import Description
from harness.training.origin import Origin
from harness.training.results import Fingerprints, Proof


@dataclass(frozen=True, kw_only=True)
class Describe:
    """Load a spec and describe it. Answer: `Description`, or `Failed`."""

    spec: Path


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """Try everything that a run does, with one batch. Answer: `PreflightReport`, or `Failed`."""

    spec: Path
    values: dict[str, Any]
    searched: tuple[str, ...]  # hyperparameters that the sweep will vary
    device: str
    is_demo: bool
    start: Origin | None = None  # a checkpoint to begin with
    paths: Path | str | None = None  # the tree of epochs: a folder, which need not exist yet, or an address
    no_graph: str | None = None  # why a step is not tried as a CUDA graph: that failed before


@dataclass(frozen=True, kw_only=True)
class PreflightReport:
    """What the preflight found. Times in seconds, sizes in bytes."""

    epoch_seconds: float
    state_bytes: int
    device: str
    precision: str
    threads: int | None
    recipe: dict[str, Any]
    recipe_digest: str
    code: dict[str, str]  # digests of the spec's parts, scheduler() included
    model: str
    parameters: int
    data: str
    train_images: int
    corner: dict[str, Any]  # the values that need most memory, where they are not the defaults
    proof: Proof  # of the rehearsal
    schedules_by: frozenset[str] = frozenset()  # settings and hyperparameters that scheduler() reads
    generation: int = 0  # of the family of recipes: see `training/fingerprints.py`
    fingerprints: Fingerprints | None = None  # to keep, where they are new
    fingerprint_note: str | None = None  # says that the first steps give other numbers than before
    gpu_bytes: int = 0  # free on the GPU
    trial_bytes: int = 0  # what the largest trial took there, with what a process takes
    start_note: str | None = None  # what was read of the checkpoint to begin with
    data_notes: tuple[str, ...] = ()  # what the user should know of the data
    paths_note: str | None = None  # what the address of the tree of epochs lacks


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train one run. Answers: `Prepared`, an `EpochResult` an epoch, `Checkpoint`s, then `Done`; or `Failed`."""

    spec: Path
    values: dict[str, Any]
    run_id: str
    device: str
    is_demo: bool
    paths: Path | str  # of the tree of epochs: a folder or an address
    budget_bytes: int
    checkpoints: Path | None  # a folder that the driver sees; None: they are sent to it at the end
    start: Origin | None = None
    expected_recipe: str | None = None  # of an interrupted run: another one is not continued
    code: dict[str, str] | None = None  # digests of the spec's parts when the command began: no other is trained
    awaits_verdict: bool = False  # after each epoch, wait for a `Verdict`
    proof: Proof | None = None  # of the rehearsal; None: rehearse first
    generation: int = 0
    fingerprints: Fingerprints | None = None  # to keep before the first epoch
    until: int | None = None  # the run waits after so many epochs; another request continues it
    no_graph: str | None = None  # as in `Preflight`
    reach: str | None = None  # a file that a worker on another machine finds in `paths`, if it sees the driver's


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a run continues after the last epoch that it reported."""

    goes_on: bool


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run is built, and about to follow its path."""

    recipe_digest: str
    base_digest: str
    recipe: dict[str, Any]
    summary: str
    data_name: str
    data_digest: str
    data_description: dict[str, Any]
    versions: dict[str, str]
    sources: dict[str, str]
    device: str
    precision: str
    step: str
    threads: int | None
    private: str | None
    rehearsal: str = ""  # what was proven, in a sentence
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint file of a run that came to its end where the driver does not see its folder."""

    name: str
    content: bytes


@dataclass(frozen=True, kw_only=True)
class Done:
    """A run came to its end; everything it wrote is on the disk."""

    epochs: int
    reused_epochs: int
    is_diverged: bool
    peak_memory_bytes: int | None
    shared: tuple[tuple[dict[str, Any], int], ...] = ()  # values of siblings, and the epochs that they share with it


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A request failed.

    `kind` is `spec`, `edited`, `user`, `memory`, `device`, `graph`, `machine`, `recipe`, `place`, `lost` or `bug`.
    """

    kind: str
    message: str
    trace: str | None = None
    exit_code: int = 1


Request = Describe | Preflight | Train
Answer = Description | PreflightReport | Prepared | Checkpoint | Done | Failed
