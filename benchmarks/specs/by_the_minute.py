"""A small VGG on images from a file, and a stepped search space: see `benchmarks/by_the_minute.py`."""

from bench_images import load_images
from torch import nn, optim

from harness import Experiment, search


def block(before, channels):
    return [nn.Conv2d(before, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.MaxPool2d(2), nn.ReLU()]


def network():
    return nn.Sequential(*block(3, 32), *block(32, 64), *block(64, 64), nn.Flatten(), nn.Linear(1024, 10))


class ByTheMinute(Experiment):
    epochs = 30
    batch_size = 64

    lr: float = search.log_uniform(1e-3, 1e-1, points=9, default=1e-2)
    momentum: float = search.choice(0.8, 0.9, 0.95, 0.99, default=0.9)
    patience: int = search.integer(2, 10, default=7)
    factor: float = search.choice(0.1, 0.2, 0.5, default=0.1)

    def data(self):
        return load_images()

    def model(self):
        return network()

    def optimizer(self, parameters):
        return optim.SGD(parameters, lr=self.lr, momentum=self.momentum, weight_decay=5e-4)

    def scheduler(self, optimizer):
        return optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=self.factor, patience=self.patience)
