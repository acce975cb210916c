"""The training step on a GPU as one CUDA graph: gather, augment, forward, backward and update are launched at once.

A small network's step is a few hundred kernels of microseconds each, and launching them one by one takes longer
than running them. A graph is captured once and replayed; what changes between steps (place in the epoch, learning
rate) lies in tensors on the device. A replay must give the bits of the step itself: see `training/capturing.py`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from harness.data import Arrays, Data
from harness.data.resident import Epoch
from harness.training.capturing import Captured, capture
from harness.training.device import free_memory
from harness.training.fused import FUSED, write_rates
from harness.training.loop import set_training
from harness.training.measures import Totals, is_object
from harness.training.parts import Parts
from harness.training.reach import Reach
from harness.training.step import in_precision

MOST_TURNS = 2  # captures again within an epoch, before steps are launched one by one
MOST_DELAYS = 3  # steps of an epoch after which an optimizer made more of its state


class StepGraph:
    """Trains epochs like `train_epoch`, to the same bits. `reason` says why it cannot, where it cannot.

    Raises `NotCaptured` where a step was tried as a graph and is none.
    """

    def __init__(
        self, parts: Parts, data: Data, *, device: torch.device, precision: str, batch_size: int,
        epoch_steps: int | None = None, reason: str | None = None,
    ) -> None:  # fmt: skip
        self.reason = reason or why_not(data, parts, device, batch_size=batch_size)
        self._parts, self._data = parts, data
        self._device, self._precision = device, precision
        self._batch_size, self._epoch_steps = batch_size, epoch_steps
        self._totals = Totals(parts.measures, device)
        self._range = torch.arange(batch_size, device=device)
        self._place = torch.zeros((), dtype=torch.int64, device=device)
        self._epoch: Epoch | None = None
        self._starts: list[int] = []  # of the epoch's full batches
        self._start = 0
        self._captured: Captured | None = None
        self._is_replayed = False  # the last step was a replay, which Python has not seen
        self._reach: Reach | None = None  # of the step when it was captured
        self._built_in: list[object] = []
        self._turns = self._delays = 0  # within an epoch
        self._has_begun = False  # a step was taken, which makes what is made only once
        self._has_outputs = True  # the step returns what the metrics are measured on

    def train_epoch(
        self, *, seed: int, epoch: int, after_step: Callable[[], None] = lambda: None, steps: int | None = None
    ) -> dict[str, float]:
        """Trains one epoch, or its first steps; the mean loss and measures over the images as they were seen."""
        set_training(self._parts)
        self._shuffle(seed, epoch)
        self._totals.reset()
        self._turns = self._delays = 0
        if self._reach is not None and not Reach(self._parts, self._device).is_where(self._reach):
            self._give_up()  # `begin_epoch`, a resume or a scheduler changed what the graph has built in
        spans = self._data.spans(self._batch_size, epoch=epoch, epoch_steps=self._epoch_steps)
        self._starts = [start for start, stop in spans if stop - start == self._batch_size]
        with in_precision([self._parts.model], self._device, self._precision):
            for start, stop in spans[:steps]:
                self._start = start
                self._place.fill_(start)
                self._take(stop - start)
                after_step()
        self._show_gradients()
        return self._totals.read()

    def _take(self, count: int) -> None:
        """One step on the images of a span."""
        if count < self._batch_size or not self._has_begun or not self._is_captured():
            self._show_gradients()
            self._step(self._place + self._range[:count])
            self._has_begun = True
            return
        assert self._captured is not None
        for optimizer in self._parts.optimizers.values():
            write_rates(optimizer)
        self._captured.replay()
        self._is_replayed = True
        self._totals.count += self._batch_size
        self._totals.measured += self._batch_size * self._has_outputs

    def _is_captured(self) -> bool:
        """Whether there is a graph of the step as it is now; captures it where it can."""
        if self.reason is None and (self._captured is None or self._built_in != self._options()):
            self._turns += self._captured is not None
            self._give_up()  # its memory goes before another graph takes as much
            if self._turns > MOST_TURNS:
                self.reason = "a scheduler turns other options than the learning rate"
            elif self._delays > MOST_DELAYS:
                self.reason = "an optimizer makes more of its state in each step"
            else:
                self._capture()
        return self._captured is not None

    def _capture(self) -> None:
        counts = self._totals.count, self._totals.measured
        self._captured = capture(self, self._parts, self._device)
        self._totals.count, self._totals.measured = counts
        self._delays += self._captured is None
        if self._captured is not None:
            self._reach, self._built_in = Reach(self._parts, self._device), self._options()

    def _give_up(self) -> None:
        """Frees the graph and its memory."""
        self._show_gradients()
        if self._captured is not None:
            self._captured = self._reach = None
            free_memory()

    def _show_gradients(self) -> None:
        if self._captured is not None and self._is_replayed:
            self._captured.show_gradients()
        self._is_replayed = False

    def play(self) -> None:
        """A step on the full batch at the present place."""
        self._step(self._place + self._range)

    def turn_to(self, number: int) -> None:
        """Goes so many full batches on in the epoch from the one whose turn it is; after the last comes the first."""
        first = self._starts.index(self._start)
        self._place.fill_(self._starts[(first + number) % len(self._starts)])

    def totals(self) -> list[Tensor]:
        """The sums of the metrics."""
        return self._totals.tensors()

    def _step(self, places: Tensor) -> None:
        """One step on the images at these places of the epoch: what `train_epoch` does with a batch."""
        assert self._epoch is not None
        parts = self._parts
        inputs, targets = self._data.batch(self._epoch, places)
        value, outputs = parts.experiment.step(parts.model, parts.loss, parts.optimizer, inputs, targets)
        self._has_outputs = outputs is not None
        self._totals.add(value, outputs, targets, count=len(places))

    def _shuffle(self, seed: int, epoch: int) -> None:
        """The epoch's order, in memory that stays where it is."""
        shuffled = self._data.shuffle(
            seed=seed, epoch=epoch, batch_size=self._batch_size, epoch_steps=self._epoch_steps
        )
        if self._epoch is None:
            self._epoch = shuffled
        else:
            self._epoch.copy_(shuffled)

    def _options(self) -> list[object]:
        """The options that a graph has built in as plain numbers."""
        return [
            [value for name, value in sorted(group.items()) if name not in ("lr", "params", "initial_lr")]
            for group in self._parts.groups
        ]


def has_graphs(device: torch.device) -> bool:
    """Whether steps can be graphs on this device."""
    return device.type == "cuda"


def why_not(data: Data, parts: Parts, device: torch.device, *, batch_size: int) -> str | None:
    """Why a step cannot be a CUDA graph; None where nothing speaks against it."""
    optimizers = parts.optimizers.values()
    if device.type != "cuda":
        return f"there are no graphs on {device.type}"
    if not isinstance(data.train, Arrays):
        return "the data does not live on the device"
    if any(map(callable, data.augment)):
        return "a function among the augmentations may decide anew in each step"
    if parts.scaler is not None:
        return "float16 looks at each step's gradients from the host"
    if parts.keeps_gradients:
        return "an epoch goes on with the gradients of the one before"
    for optimizer in optimizers:
        is_fused = all(group.get("fused") for group in optimizer.param_groups)
        if type(optimizer) not in FUSED or not is_fused:
            return f"the update of {type(optimizer).__name__} takes no learning rate from the device"
    for name in (name for name, measure in parts.measures.items() if is_object(measure)):
        return f"metric {name} keeps its own state (torchmetrics)"
    if len(data.train) < 2 * batch_size:
        return "an epoch has one full batch"
    return None
