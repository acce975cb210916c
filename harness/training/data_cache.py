"""Keeps the data of the last experiment in this process: the next run uses it if it needs the same."""

from dataclasses import dataclass, field
from typing import Any

import torch

from harness.data import Data
from harness.errors import HarnessError
from harness.experiment import Experiment
from harness.spec import Spec
from harness.training.device import seed_all
from harness.training.user_code import calling


@dataclass(eq=False)
class DataCache:
    """Keeps one `Data`, with what `data()` read and what it put on `self`."""

    key: tuple[Any, ...] | None = None
    reads: set[str] = field(default_factory=set)
    attributes: dict[str, Any] = field(default_factory=dict)
    data: Data | None = None

    def get(self, spec: Spec, experiment: Experiment, device: torch.device, *, is_demo: bool) -> Data:
        """`experiment.data()` on the device. What it reads and sets on `self` is as if it was called."""
        if self.data is None or self.key != self._key(spec, experiment, device, is_demo):
            seed_all(0, "data")  # data() does not depend on the run's seed, nor on earlier runs in this process
            with experiment.recording() as reads, calling(spec, "data()"):
                data = experiment.data()
            if not isinstance(data, Data):
                raise HarnessError(
                    f"{spec.path}: data() returns {type(data).__name__}; return one of harness.data, "
                    "such as tensors(...) or datasets(...)."
                )
            self.data, self.reads, self.attributes = data.to(device), reads, experiment.attributes()
            self.key = self._key(spec, experiment, device, is_demo)
        for name in self.reads:
            experiment.read(name)
        for name, value in self.attributes.items():
            setattr(experiment, name, value)
        return self.data

    def _key(self, spec: Spec, experiment: Experiment, device: torch.device, is_demo: bool) -> tuple[Any, ...]:
        values = experiment.values()
        return (
            spec.digest,
            str(spec.path),
            str(device),
            is_demo,
            *(repr(values[name]) for name in sorted(self.reads)),
        )
