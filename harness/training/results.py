"""What a run and its rehearsal tell. Without torch, so that the process that only listens need not load it."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class EpochResult:
    """What one epoch gave. `epoch` counts from 0; times are in seconds."""

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
    """What the rehearsal proved of a recipe; see `training/rehearsal.py`. Without one, nothing is held against it.

    `repeats`: the same steps from scratch give the same bits. `resumes`: so does a checkpoint that was put into
    fresh objects. `shares`: building another trial in between changes nothing.
    """

    repeats: bool = True
    resumes: bool = True
    shares: bool = True
    differs: str | None = None  # what differed, and why, in a clause
    keeps_gradients: bool = False  # gradients at the end of an epoch belong to the state
    keeps_network: bool = False  # the spec gives each trial the same network: it is copied
    has_outputs: bool = True  # `step` returns what the metrics of the training part are measured on
    reads: frozenset[str] = frozenset()  # what step(), begin_epoch() and the model read
    nondeterministic: tuple[str, ...] = ()  # operations that torch says cannot repeat their bits
    fingerprint: str = ""  # of the first steps: losses and state
    structure: tuple[tuple[str, str], ...] = ()  # the values that it holds for: see `structure_of`
    no_graph: str | None = None  # on a GPU: why a step is no CUDA graph, where it was tried

    @property
    def private(self) -> str | None:
        """Why no other run may share the epochs, and no checkpoint may be gone on from; None where both may."""
        if self.nondeterministic:
            return f"{', '.join(self.nondeterministic)} cannot repeat its bits"
        if not (self.repeats and self.resumes and self.shares):
            return self.differs or "its steps do not repeat"
        return None

    def sentence(self) -> str:
        """What was proved, in one line."""
        if self.nondeterministic or not self.repeats:
            return f"rehearsed: {self.private}; a run of this is repeated by no other, and shares no epochs"
        if not self.resumes:
            return f"rehearsed: repeats its bits, but {self.differs}: an interrupted run of this begins anew"
        if not self.shares:
            return f"rehearsed: {self.differs}: trials share no epochs"
        return "rehearsed: repeats its bits, resumes exactly, shares its epochs"


def structure_of(values: dict[str, Any], names: set[str]) -> tuple[tuple[str, str], ...]:
    """The values among `names` that may change which code runs: all but numbers, of which only 0 is told apart."""

    def shown(value: Any) -> str:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return ("0" if value == 0 else "a number") if is_number else repr(value)

    return tuple((name, shown(values[name])) for name in sorted(names) if name in values)


@dataclass(frozen=True, kw_only=True)
class Fingerprints:
    """What the first steps of a family of recipes gave, each time that it was something else.

    A family has the same code, data, device and versions. A recipe that is trained when the newest fingerprint is
    number `n` has the generation `n`: where something changed unseen, old epochs are not used.
    """

    family: str  # a digest
    values: dict[str, Any] = field(default_factory=dict)  # that the steps were taken with
    prints: tuple[str, ...] = ()
