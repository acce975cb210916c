"""VGG-16 on images from a file; continuous ranges, so that no two trials share an epoch.

BENCH_IMAGES names the file, BENCH_WIDTH the width of the network (8).
"""

import os

from bench_images import load_images
from torch import optim

from harness import Experiment, search
from harness.models import vgg16


class Images(Experiment):
    epochs = 4
    batch_size = 64
    trials = 6

    lr: float = search.log_uniform(0.003, 0.1, default=0.02)
    momentum: float = search.uniform(0.8, 0.95, default=0.9)

    def data(self):
        return load_images()

    def model(self):
        return vgg16(classes=10, width=int(os.environ.get("BENCH_WIDTH", "8")))

    def optimizer(self, parameters):
        return optim.SGD(parameters, lr=self.lr, momentum=self.momentum, weight_decay=5e-4)

    def scheduler(self, optimizer):
        return optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=2)
