"""Parts without a spec: a network, its optimizer, and the default training step."""

from typing import Any

from torch import nn, optim

from harness.experiment import Experiment
from harness.training.parts import Parts


def plain_parts(model: nn.Module, optimizer: optim.Optimizer, **more: Any) -> Parts:
    """Parts with cross-entropy, no scheduler and no measures, unless `more` says otherwise."""
    kept = {"experiment": Experiment(), "loss": nn.CrossEntropyLoss()} | more
    return Parts(model=model, optimizer=optimizer, **kept)
