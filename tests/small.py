"""A spec that trains in a moment, and ways to change it."""

from pathlib import Path

SPEC = '''
"""A small network on generated features: trains in a moment, and plateaus."""

import torch
from torch import nn, optim

from harness import Experiment, search
from harness.data import tensors


class Small(Experiment):
    epochs = 8
    batch_size = 32
    trials = 6

    lr: float = search.log_uniform(1e-3, 1.0, points=4, default=1e-1)
    momentum: float = search.choice(0.5, 0.9, default=0.9)
    patience: int = search.integer(0, 2, default=1)
    factor: float = search.choice(0.1, 0.5, default=0.1)

    def data(self):
        generator = torch.Generator().manual_seed(1)
        inputs = torch.randn(400, 6, generator=generator)
        targets = (inputs[:, :3].sum(1) + 0.8 * torch.randn(400, generator=generator) > 0).long()
        return tensors(inputs, targets, validation=0.25, test=0.25)

    def model(self):
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2))

    def optimizer(self, parameters):
        return optim.SGD(parameters, lr=self.lr, momentum=self.momentum)

    def scheduler(self, optimizer):
        return optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=self.factor, patience=self.patience)
'''


def edit(spec: Path, old: str, new: str) -> None:
    text = spec.read_text()
    assert old in text
    spec.write_text(text.replace(old, new, 1))


HOLD = "hold"
HOLD_SECONDS = 120


def slow(spec: Path, seconds: float) -> None:
    """Makes each epoch of a spec take so long, times `HARNESS_PACE` where that is set, without changing a number.

    While there is a file `hold` in the command's folder, training stands still: for two minutes, then it goes on.
    """
    text = spec.read_text().replace("import torch\n", "import os\nimport time\n\nimport torch\n", 1)
    text = text.replace("    def loss", "    def _loss")
    text += f"""
    def loss(self):
        compute = nn.CrossEntropyLoss()
        pause = {seconds} / 10 * float(os.environ.get("HARNESS_PACE", 1))  # about ten batches an epoch

        def loss(outputs, targets):
            time.sleep(pause)
            for _ in range({HOLD_SECONDS * 10}):
                if os.path.exists("{HOLD}"):
                    time.sleep(0.1)
            return compute(outputs, targets)

        return loss
"""
    spec.write_text(text)
