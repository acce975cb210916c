"""The results of a run's epochs and of its rehearsal. Without torch, so that the driver need not load it."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class EpochResult:
    """The result of one epoch. `epoch` counts from 0; times are in seconds."""

    epoch: int
    metrics: dict[str, float]
    learning_rates: dict[str, float]  # `lr` is the first one; see `Parts.learning_rates`
    epoch_seconds: float
    reused: bool
    trained_by: str  # run id
    best_epoch: int | None
    best_value: float | None
    is_finite: bool
    note: str | None = None
    diagnostics: dict[str, float] = field(default_factory=dict)  # `gradient_norm`, `update_size`
    class_accuracy: tuple[float | None, ...] = ()  # of the validation part

    @property
    def learning_rate(self) -> float:
        """That of the first group of the first optimizer."""
        return self.learning_rates["lr"]


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What the rehearsal proved of a recipe: see `training/rehearsal.py`. Without one, all is assumed to hold.

    `repeats`: the same steps from scratch give the same bits. `resumes`: so do steps after a checkpoint was loaded
    into fresh objects. `shares`: building another trial in between changes nothing.
    """

    repeats: bool = True
    resumes: bool = True
    shares: bool = True
    differs: str | None = None  # what differed, and why, in a clause
    keeps_gradients: bool = False  # the state contains gradients: an epoch ends with some
    by_batch: bool = False  # the scheduler steps every batch: only trials with equal values have equal epochs
    keeps_network: bool = False  # the spec gives each trial the same network: it is copied
    has_outputs: bool = True  # `step` returns what the metrics of the training part are measured on
    reads: frozenset[str] = frozenset()  # hyperparameters that step(), begin_epoch() and the model read
    nondeterministic: tuple[str, ...] = ()  # operations that, says torch, do not repeat their bits
    fingerprint: str = ""  # of the first steps: losses and state
    structure: tuple[tuple[str, str], ...] = ()  # the values for which it was proved: see `structure_of`
    no_graph: str | None = None  # on a GPU: why a step is no CUDA graph, if it was tried

    @property
    def private(self) -> str | None:
        """Why no other run may share the epochs, or why no checkpoint can be resumed; None if both work."""
        if self.nondeterministic:
            return f"{', '.join(self.nondeterministic)} cannot repeat its bits"
        if not (self.repeats and self.resumes and self.shares):
            return self.differs or "its steps do not repeat"
        return None

    def sentence(self) -> str:
        """The proof in one line."""
        if self.nondeterministic or not self.repeats:
            return f"rehearsed: {self.private}; a run of this is repeated by no other, and shares no epochs"
        if not self.resumes:
            return f"rehearsed: repeats its bits, but {self.differs}: an interrupted run of this begins anew"
        if not self.shares:
            return f"rehearsed: {self.differs}: trials share no epochs"
        if self.by_batch:
            return (
                "rehearsed: repeats its bits, resumes exactly; the scheduler steps every batch, so only trials with "
                "equal values share epochs"
            )
        return "rehearsed: repeats its bits, resumes exactly, shares its epochs"


def structure_of(values: dict[str, Any], names: set[str]) -> tuple[tuple[str, str], ...]:
    """The values among `names` that may change which code runs: all except numbers, of which only 0 counts."""

    def shown(value: Any) -> str:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return ("0" if value == 0 else "a number") if is_number else repr(value)

    return tuple((name, shown(values[name])) for name in sorted(names) if name in values)


@dataclass(frozen=True, kw_only=True)
class Fingerprints:
    """The fingerprints of a family of recipes, one for each time that the first steps gave another result.

    The recipes of a family have the same code, data, device and versions. A recipe that is trained when the newest
    fingerprint is number `n` has the generation `n`. So after an unseen change, old epochs are not used.
    """

    family: str  # a digest
    values: dict[str, Any] = field(default_factory=dict)  # that the steps were taken with
    prints: tuple[str, ...] = ()
