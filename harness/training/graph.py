"""The training step on a GPU as one CUDA graph: gather, augment, forward, backward and update are launched at once.

A small network's step is a few hundred kernels of microseconds each, and launching them one by one takes longer
than running them. A graph is captured once and replayed; what changes between steps (place in the epoch, learning
rate) lies in tensors on the device. A replay must give the bits of the step itself: that is tried before it is used.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from harness.data import Arrays, Data
from harness.data.resident import Epoch
from harness.training.attributes import tensors_in
from harness.training.measures import Totals, is_object
from harness.training.parts import Parts
from harness.training.step import in_precision

MOST_TURNS = 2  # captures again within an epoch, before steps are launched one by one
OLDEST = (2, 13)  # torch's: before, an update rounded a learning rate from the device otherwise than a plain number
FUSED = (SGD, Adam, AdamW)  # whose fused update takes the learning rate as a tensor


class StepGraph:
    """Trains epochs like `train_epoch`, to the same bits. `reason` says why it cannot, where it cannot."""

    def __init__(
        self, parts: Parts, data: Data, *, device: torch.device, precision: str, batch_size: int,
        epoch_steps: int | None = None,
    ) -> None:  # fmt: skip
        self.reason = why_not(data, parts, device, batch_size=batch_size)
        self._parts, self._data = parts, data
        self._device, self._precision = device, precision
        self._batch_size, self._epoch_steps = batch_size, epoch_steps
        self._totals = Totals(parts.measures, device)
        self._range = torch.arange(batch_size, device=device)
        self._place = torch.zeros((), dtype=torch.int64, device=device)
        self._epoch: Epoch | None = None
        self._rates: list[Tensor] = []
        self._replay: Callable[[], None] | None = None
        self._captured: tuple[int, ...] = ()
        self._built_in: list[Any] = []
        self._turns = 0  # of options that a graph has built in
        self._has_outputs = True  # the step returns what the metrics are measured on

    def train_epoch(
        self, *, seed: int, epoch: int, after_step: Callable[[], None] = lambda: None, steps: int | None = None
    ) -> dict[str, float]:
        """Trains one epoch, or its first steps; the mean loss and measures over the images as they were seen."""
        self._parts.model.train()
        self._shuffle(seed, epoch)
        self._totals.reset()
        self._place.zero_()
        self._turns = 0
        if self._captured != self._addresses():  # nothing moves within an epoch
            self._replay = None
        with in_precision([self._parts.model], self._device, self._precision):
            for start, stop in self._data.spans(self._batch_size, epoch=epoch, epoch_steps=self._epoch_steps)[:steps]:
                self._take(start, stop)
                after_step()
        return self._totals.read()

    def _take(self, start: int, stop: int) -> None:
        """One step on the images of a span."""
        if stop - start < self._batch_size or self._is_first():
            self._step(self._place + self._range[: stop - start])
        else:
            if self._replay is None or self._built_in != self._options():
                self._recapture()
            assert self._replay is not None
            for rate, group in zip(self._rates, self._parts.groups, strict=True):
                rate.fill_(group["lr"])
            self._replay()
            self._totals.count += self._batch_size
            self._totals.measured += self._batch_size * self._has_outputs
        self._place += self._batch_size

    def _is_first(self) -> bool:
        """Whether an optimizer has yet to make its state, which only a step of its own does."""
        optimizers = self._parts.optimizers.values()
        return any(_keeps_state(optimizer) and not optimizer.state for optimizer in optimizers)

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

    def _recapture(self) -> None:
        self._turns += self._replay is not None
        if self._turns > MOST_TURNS:
            self.reason = "a scheduler turns other options than the learning rate"
        self._replay = None  # its memory goes before another graph takes as much
        self._replay = self._capture()

    def _capture(self) -> Callable[[], None]:
        """A graph of the step; the step itself, with the reason kept, where it cannot be captured or differs."""
        groups = self._parts.groups
        chosen = [group["lr"] for group in groups]
        self._rates = [torch.tensor(float(rate), device=self._device) for rate in chosen]
        self._captured, self._built_in = self._addresses(), self._options()
        counts = self._totals.count, self._totals.measured

        def step() -> None:
            self._step(self._place + self._range)
            self._totals.count -= self._batch_size  # whoever replays counts
            self._totals.measured -= self._batch_size * self._has_outputs

        if self.reason is not None:
            return step
        before = self._snapshot()
        try:
            step()
            eager = self._snapshot()
            before.restore()
            for group, rate in zip(groups, self._rates, strict=True):
                group["lr"] = rate
            replay = _graph_of(step, self._device, before)
            before.restore()
            replay()
            if not eager.equals(self._snapshot()):
                self.reason = "a replayed step gives other bits than the step itself"
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            torch.cuda.synchronize()
            cause = error.__context__ or error  # what was forbidden; the end of a failed capture raises as well
            self.reason = f"it cannot be captured: {str(cause).splitlines()[0]}"
        finally:
            for group, rate in zip(groups, chosen, strict=True):
                group["lr"] = rate
            before.restore()
            self._totals.count, self._totals.measured = counts
        return step if self.reason is not None else replay

    def _snapshot(self) -> "_Snapshot":
        return _Snapshot([*self._changing(), *self._totals.tensors()], self._device)

    def _changing(self) -> list[Tensor]:
        """The tensors that a step changes: of the model, the loss and the attributes, and the optimizers' states."""
        states = (
            value for o in self._parts.optimizers.values() for held in o.state.values() for value in held.values()
        )
        of_modules = (tensor for _, module in self._parts.modules() for tensor in tensors_in(module))
        of_spec = (tensor for value in self._parts.experiment.attributes().values() for tensor in tensors_in(value))
        found = [*of_modules, *of_spec, *(value for value in states if isinstance(value, Tensor))]
        return list({id(tensor): tensor for tensor in found if tensor.device == self._device}.values())

    def _addresses(self) -> tuple[int, ...]:
        """Where the tensors lie that a graph has built in."""
        return tuple(tensor.data_ptr() for tensor in self._changing())

    def _options(self) -> list[Any]:
        """The options that a graph has built in as plain numbers."""
        return [
            [value for name, value in sorted(group.items()) if name not in ("lr", "params")]
            for group in self._parts.groups
        ]


class _Snapshot:
    """Values of tensors and of the device's random generator, to go back to."""

    def __init__(self, tensors: list[Tensor], device: torch.device) -> None:
        self._tensors, self._device = tensors, device
        self._values = [tensor.detach().clone() for tensor in tensors]
        self._generator = torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()

    @torch.no_grad()
    def restore(self) -> None:
        for tensor, value in zip(self._tensors, self._values, strict=True):
            tensor.copy_(value)
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(self._generator, self._device)
        else:
            torch.set_rng_state(self._generator)

    def equals(self, other: "_Snapshot") -> bool:
        pairs = zip(self._values, other._values, strict=True)
        return all(torch.equal(_bytes(a), _bytes(b)) for a, b in pairs)


def _bytes(tensor: Tensor) -> Tensor:
    """The bits of a tensor: NaN equals NaN, 0 is not -0."""
    return tensor.reshape(-1).view(torch.uint8)


def why_not(data: Data, parts: Parts, device: torch.device, *, batch_size: int) -> str | None:
    """Why a step cannot be a CUDA graph; None where nothing speaks against it."""
    optimizers = parts.optimizers.values()
    if device.type != "cuda":
        return f"there are no graphs on {device.type}"
    if tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST:
        return f"torch {torch.__version__} is older than {'.'.join(map(str, OLDEST))}"
    if not isinstance(data.train, Arrays):
        return "the data does not live on the device"
    if any(map(callable, data.augment)):
        return "a function among the augmentations may decide anew in each step"
    if parts.scaler is not None:
        return "float16 looks at each step's gradients from the host"
    for kind in (type(optimizer) for optimizer in optimizers if type(optimizer) not in FUSED):
        return f"the update of {kind.__name__} takes no learning rate from the device"
    for name in (name for name, measure in parts.measures.items() if is_object(measure)):
        return f"metric {name} keeps its own state (torchmetrics)"
    if len(data.train) < 2 * batch_size:
        return "an epoch has one full batch"
    return None


def _keeps_state(optimizer: Optimizer) -> bool:
    return any(group.get("momentum", 1) for group in optimizer.param_groups)


def fuse(optimizer: Optimizer, model: nn.Module, device: torch.device) -> None:
    """Makes the update one kernel, on a GPU one that reads its learning rate there. The same in and out of a graph.

    Left as it is where the user chose how to update, and where torch's fused kernels refuse the parameters, or go
    through their memory as if it were dense.
    """
    if type(optimizer) not in FUSED or device.type not in ("cuda", "cpu"):
        return
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)]
    sparse = {id(module.weight) for module in embeddings if module.sparse}
    for group in optimizer.param_groups:
        is_chosen = group["foreach"] is not None or group["fused"] is not None or group["differentiable"]
        fits = all(p.is_floating_point() and is_dense(p) and id(p) not in sparse for p in group["params"])
        if not is_chosen and fits and not group.get("dampening"):
            group["fused"] = True
            if "capturable" in group and device.type == "cuda":
                group["capturable"] = True
    if type(optimizer) is SGD:
        optimizer.register_step_pre_hook(_begin_momentum)


def is_dense(tensor: Tensor) -> bool:
    """Whether a tensor fills its memory without gaps and overlaps, in whatever order of dimensions.

    >>> import torch
    >>> is_dense(torch.zeros(3, 4).t()), is_dense(torch.zeros(3, 4)[:, :2]), is_dense(torch.zeros(3, 1).expand(3, 4))
    (True, False, False)
    """
    filled = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride != filled:
            return False
        filled *= size
    return True


def _begin_momentum(optimizer: Optimizer, *_: Any) -> None:
    """Momentum of 0 for parameters that had no gradient before: SGD's fused step wants all of it, or none."""
    if len(optimizer.state) in (0, sum(len(group["params"]) for group in optimizer.param_groups)):
        return
    for group in optimizer.param_groups:
        if group["fused"] and group["momentum"]:
            for parameter in group["params"]:
                if parameter.grad is not None and optimizer.state[parameter].get("momentum_buffer") is None:
                    optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def _graph_of(step: Callable[[], None], device: torch.device, before: _Snapshot) -> Callable[[], None]:
    """Captures a step, after some on a stream of its own have made what is made only once."""
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
        before.restore()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph):
        step()
    return graph.replay
