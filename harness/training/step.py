"""The precision in which the model runs, and the scaling of float16's gradients."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}
FIRST_SCALE = 2.0**16
GROWTH_STEPS = 2000  # steps without an overflow until the scale is doubled: as in torch.amp.GradScaler


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Mixed precision if `precision` has 16 bits; parameters stay float32."""
    return torch.autocast(device.type, dtype=HALF.get(precision, torch.bfloat16), enabled=precision in HALF)


def map_tensors(outputs: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same outputs with every tensor changed; tuples, named tuples, lists and mappings keep their kind."""
    if isinstance(outputs, Tensor):
        return change(outputs)
    if isinstance(outputs, tuple) and hasattr(outputs, "_fields"):
        return type(outputs)(*(map_tensors(value, change) for value in outputs))
    if isinstance(outputs, tuple | list):
        return type(outputs)(map_tensors(value, change) for value in outputs)
    if isinstance(outputs, Mapping):
        return type(outputs)(**{str(name): map_tensors(value, change) for name, value in outputs.items()})
    return outputs


def _float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


@contextmanager
def in_precision(
    models: Sequence[nn.Module], device: torch.device, precision: str, scaler: "LossScaler | None" = None
) -> Iterator[None]:
    """Inside the block, calling one of the models runs it in this precision and returns float32.

    The class of the module is exchanged for a subclass of it: what the user does with the module (`isinstance`,
    `state_dict`, submodules, hooks, a deep copy) stays as it is.
    """
    changed = [(model, model.__class__) for model in {id(model): model for model in models}.values()]
    for model, kind in changed:
        if scaler is not None and model is models[0]:
            model.__class__ = _scaled(kind, device.type, scaler)
        else:
            model.__class__ = _precise(kind, device.type, precision)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for model, kind in changed:
            model.__class__ = kind


@cache
def _precise(kind: type[nn.Module], device_type: str, precision: str) -> type[nn.Module]:
    is_half, dtype = precision in HALF, HALF.get(precision)

    def call(self: nn.Module, *inputs: Any, **named: Any) -> Any:
        if not is_half:
            return map_tensors(kind.__call__(self, *inputs, **named), _float32)
        with torch.autocast(device_type, dtype=dtype):
            return map_tensors(kind.__call__(self, *inputs, **named), _float32)

    return _subclass(kind, call)


def _scaled(kind: type[nn.Module], device_type: str, scaler: "LossScaler") -> type[nn.Module]:
    def call(self: nn.Module, *inputs: Any, **named: Any) -> Any:
        if torch.is_grad_enabled() and not scaler.is_inside:
            return scaler.run(self, inputs, named)
        with torch.autocast(device_type, dtype=torch.float16):
            return map_tensors(kind.__call__(self, *inputs, **named), _float32)

    return _subclass(kind, call)


def _subclass(kind: type[nn.Module], call: Callable[..., Any]) -> type[nn.Module]:
    return type(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__, "__doc__": kind.__doc__})


class LossScaler:
    """Keeps float16 gradients from underflow: they are scaled inside the model, and nowhere else.

    The gradient is multiplied at the model's outputs, and divided again at the parameters. So a step that uses
    gradients (clipping, accumulation, a second loss) sees their true values. If gradients are not finite, the
    optimizer's step is left out and the scale is halved; after 2,000 steps without this it is doubled, as in
    `torch.amp.GradScaler` (Micikevicius et al., 2018).
    """

    def __init__(self) -> None:
        self.scale, self.good_steps = FIRST_SCALE, 0
        self.is_inside = False  # of the model's forward pass

    def state_dict(self) -> dict[str, float]:
        """The scale, and the steps since it last changed."""
        return {"scale": self.scale, "good_steps": self.good_steps}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Takes over the state of another scaler."""
        self.scale, self.good_steps = float(state["scale"]), int(state["good_steps"])

    def run(self, model: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Calls a model between the two changes of scale."""
        parameters = {name: self._divided(parameter) for name, parameter in model.named_parameters()}
        self.is_inside = True
        try:
            given = tuple(map_tensors(value, self._divided) for value in inputs)
            outputs = torch.func.functional_call(model, parameters, given, named)
        finally:
            self.is_inside = False
        return map_tensors(outputs, lambda value: _multiplied(value, self.scale))

    def _divided(self, value: Tensor) -> Tensor:
        return _multiplied(value, 1 / self.scale)

    @contextmanager
    def guarding(self, optimizers: Sequence[Optimizer]) -> Iterator[Callable[[], None]]:
        """Inside the block, an optimizer's step is left out if its gradients overflowed.

        Yields a function to call after each training step, which adapts the scale.
        """
        overflows: list[bool] = []

        def guarded(optimizer: Optimizer, step: Callable[..., Any]) -> Callable[..., Any]:
            def run(*given: Any, **named: Any) -> Any:
                gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
                # Waits for the device, once a step: float16 cannot know otherwise.
                is_finite = not gradients or bool(
                    torch.stack([gradient.isfinite().all().to(gradients[0].device) for gradient in gradients]).all()
                )
                overflows.append(not is_finite)
                return step(*given, **named) if is_finite else None

            return run

        def adapt() -> None:
            if not overflows:
                return
            self.good_steps = 0 if any(overflows) else self.good_steps + 1
            if any(overflows):
                self.scale = max(self.scale / 2, 1.0)
            elif self.good_steps == GROWTH_STEPS:
                self.scale, self.good_steps = self.scale * 2, 0
            overflows.clear()

        own = [(optimizer, vars(optimizer).get("step"), optimizer.step) for optimizer in optimizers]
        for optimizer, _, step in own:
            optimizer.step = guarded(optimizer, step)  # type: ignore[method-assign]
        try:
            yield adapt
        finally:
            for optimizer, before, _ in own:
                if before is None:
                    del optimizer.step
                else:
                    optimizer.step = before  # type: ignore[method-assign]


class _Multiplied(torch.autograd.Function):
    """The same values; the gradient is multiplied by a number."""

    @staticmethod
    def forward(context: Any, value: Tensor, factor: float) -> Tensor:
        context.factor = factor
        return value.view_as(value)

    @staticmethod
    def backward(context: Any, *gradients: Any) -> Any:
        return gradients[0] * context.factor, None


def _multiplied(value: Tensor, factor: float) -> Tensor:
    multiplied: Tensor = _Multiplied.apply(value, factor) if value.requires_grad else value
    return multiplied
