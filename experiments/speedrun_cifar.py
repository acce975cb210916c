"""CIFAR-10 in as little time as possible: a small, wide network, a fixed first layer, a learning rate for each step.

After cifar10-airbench (Jordan, 2024), which reaches 94% in 2.6 s on an A100. The first convolution whitens 2x2 patches
and is not trained; the others start as identities. Labels are smoothed. The learning rate rises for a fifth of the
steps and then falls to zero. Lookahead, alternating flips, and averaging over flipped test images are left out. It is
made for a GPU, where each step is one CUDA graph; on a CPU an epoch takes minutes.

    python -m harness train experiments/speedrun_cifar.py
"""

from functools import cache

import torch
from torch import nn, optim

from harness import Experiment, search
from harness.data import cifar10

WIDTHS = (64, 256, 256)


@cache
def load():
    return cifar10(augment=("crop", "flip"), validation=5_000)


class SpeedrunCifar(Experiment):
    epochs = 12
    batch_size = 512
    objective_at = "last"
    scheduler_step = "batch"
    keep = ("last",)

    lr: float = search.log_uniform(0.1, 1.6, points=5, default=0.4)
    weight_decay: float = search.choice(5e-4, 1e-3, 2e-3, default=1e-3)
    smoothing: float = search.choice(0.0, 0.1, 0.2, default=0.2)

    def data(self):
        return load()

    def model(self):
        whiten = whitening(self.data().train.inputs[:5_000].float().cpu())
        layers: list[nn.Module] = [whiten, nn.GELU()]
        channels = whiten.out_channels
        for width in WIDTHS:
            layers += [
                *(identity(channels, width), nn.MaxPool2d(2), nn.BatchNorm2d(width), nn.GELU()),
                *(identity(width, width), nn.BatchNorm2d(width), nn.GELU()),
            ]
            channels = width
        return nn.Sequential(*layers, nn.MaxPool2d(3), nn.Flatten(), nn.Linear(channels, 10, bias=False))

    def loss(self):
        return nn.CrossEntropyLoss(label_smoothing=self.smoothing)

    def optimizer(self, parameters):
        learned = [parameter for parameter in parameters if parameter.requires_grad]
        return optim.SGD(learned, lr=self.lr, momentum=0.85, nesterov=True, weight_decay=self.weight_decay)

    def scheduler(self, optimizer):
        steps = self.epochs * self.data().steps(self.batch_size)
        rise = max(1, steps // 5)
        return optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / rise, (steps - step) / max(1, steps - rise))
        )


def identity(inputs: int, outputs: int) -> nn.Conv2d:
    """A 3x3 convolution that begins by passing its first channels on."""
    layer = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    nn.init.dirac_(layer.weight[:inputs])
    return layer


def whitening(images: torch.Tensor) -> nn.Conv2d:
    """A fixed 2x2 convolution whose outputs have no correlation over the patches of images (N, C, H, W)."""
    scaled = (images - images.mean((0, 2, 3), keepdim=True)) / images.std((0, 2, 3), keepdim=True)
    patches = scaled.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)
    values, vectors = torch.linalg.eigh(patches.double().T @ patches.double() / len(patches))
    filters = (vectors / (values + 5e-4).sqrt()).T.flip(0).float().view(-1, images.shape[1], 2, 2)
    layer = nn.Conv2d(images.shape[1], 2 * len(filters), 2, bias=False)
    layer.weight = nn.Parameter(torch.cat((filters, -filters)), requires_grad=False)
    return layer
