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

OWN_STEP = (
    SPEC.partition("    def model")[0].replace(
        "from torch import nn, optim\n",
        "from torch import nn, optim\nfrom torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn\n",
    )
    + """    def model(self):
        net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2))
        self.average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
        return net

    def optimizer(self, parameters):
        parameters = list(parameters)
        return {
            "matrices": optim.Muon([p for p in parameters if p.ndim == 2], lr=self.lr, momentum=self.momentum),
            "rest": optim.AdamW([p for p in parameters if p.ndim != 2], lr=1e-3),
        }

    def scheduler(self, optimizer):
        plateau = optim.lr_scheduler.ReduceLROnPlateau
        return {n: plateau(one, factor=self.factor, patience=self.patience) for n, one in optimizer.items()}

    def step(self, model, loss, optimizer, inputs, targets):
        share = float(torch.distributions.Beta(0.4, 0.4).sample())
        other = torch.randperm(len(inputs))
        outputs = model(share * inputs + (1 - share) * inputs[other])
        value = share * loss(outputs, targets) + (1 - share) * loss(outputs, targets[other])
        for one in optimizer.values():
            one.zero_grad(set_to_none=True)
        value.backward()
        for one in optimizer.values():
            one.step()
        self.average.update_parameters(model)
        return value, outputs

    def evaluation_model(self, model):
        return self.average.module
"""
)  # mixup, two optimizers with a scheduler each, and an average of the weights

LINE = '''
"""A line with noise: regression."""

import torch
from torch import nn, optim

from harness import Experiment, search
from harness.data import tensors


class Line(Experiment):
    epochs = 5
    batch_size = 16
    objective = "val_loss"
    lr: float = search.log_uniform(1e-4, 1e-1, points=4, default=1e-1)

    def data(self):
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(200, 3, generator=generator)
        return tensors(inputs, inputs.sum(1, keepdim=True) + 0.1 * torch.randn(200, 1, generator=generator))

    def model(self):
        return nn.Linear(3, 1)

    def loss(self):
        return nn.MSELoss()

    def optimizer(self, parameters):
        return optim.SGD(parameters, lr=self.lr)
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
