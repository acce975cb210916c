"""VGG-16 on the images of BENCH_IMAGES over a stepped space, as in `experiments/vgg_cifar.py`.

BENCH_WIDTH is the width of the network (8).
"""

import os

from bench_images import load_images
from torch import optim

from harness import Experiment, search
from harness.models import vgg16


class Tree(Experiment):
    epochs = 10
    batch_size = 128
    trials = 20

    lr: float = search.log_uniform(1e-3, 1e-1, points=5, default=1e-2)
    momentum: float = search.choice(0.8, 0.9, 0.95, default=0.9)
    patience: int = search.integer(1, 3, default=2)
    factor: float = search.choice(0.1, 0.2, 0.5, default=0.1)

    def data(self):
        return load_images()

    def model(self):
        return vgg16(classes=10, width=int(os.environ.get("BENCH_WIDTH", "8")))

    def optimizer(self, parameters):
        return optim.SGD(parameters, lr=self.lr, momentum=self.momentum, weight_decay=5e-4)

    def scheduler(self, optimizer):
        return optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=self.factor, patience=self.patience)
