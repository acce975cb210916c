"""Table C: a tiny VGG on real images in the folder SEARCH_IMAGES (with train/ and val/); 756 configurations."""

import os

from torch import nn, optim

from harness import Experiment, search
from harness.data import image_folder


def block(before, channels):
    return [nn.Conv2d(before, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.MaxPool2d(2), nn.ReLU()]


class SearchImages(Experiment):
    epochs = 30
    batch_size = 64
    objective = "val_accuracy"
    sampler = "grid"
    trials = 756

    lr: float = search.log_uniform(1e-3, 1e-1, points=7, default=1e-2)
    momentum: float = search.choice(0.8, 0.9, 0.95, 0.99, default=0.9)
    patience: int = search.integer(2, 10, default=6)
    factor: float = search.choice(0.1, 0.2, 0.5, default=0.1)

    def data(self):
        return image_folder(os.environ["SEARCH_IMAGES"], size=16, augment=("crop", "flip"))

    def model(self):
        return nn.Sequential(*block(3, 16), *block(16, 32), *block(32, 64), nn.Flatten(), nn.Linear(256, 10))

    def optimizer(self, parameters):
        return optim.SGD(parameters, lr=self.lr, momentum=self.momentum, weight_decay=5e-4)

    def scheduler(self, optimizer):
        return optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=self.factor, patience=self.patience)
