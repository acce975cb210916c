"""Every network with dropout on generated images, for each kind of optimizer; `drop_at` moves the learning rate's drop.

BENCH_WIDTH is the width of the network, BENCH_TRAIN the number of training images.
"""

import os

from torch import optim

from harness import Experiment, search
from harness.data import shapes
from harness.models import googlenet, mlp, vgg16

WIDTH, TRAIN = int(os.environ.get("BENCH_WIDTH", "4")), int(os.environ.get("BENCH_TRAIN", "192"))


class Repeat(Experiment):
    epochs = 3
    batch_size = 64

    network: str = search.choice("vgg16", "googlenet", "mlp", default="vgg16")
    kind: str = search.choice("SGD", "AdamW", default="SGD")
    drop_at: int = search.integer(1, 3, default=1)

    def data(self):
        return shapes(train=TRAIN, validation=64, test=1, augment=("crop", "flip"))

    def model(self):
        if self.network == "mlp":
            return mlp(inputs=3 * 32 * 32, classes=10, hidden=(16 * WIDTH, 8 * WIDTH), dropout=0.2)
        build = {"vgg16": vgg16, "googlenet": googlenet}[self.network]
        return build(classes=10, width=WIDTH, dropout=0.2)

    def optimizer(self, parameters):
        if self.kind == "AdamW":
            return optim.AdamW(parameters, lr=2e-3)
        return optim.SGD(parameters, lr=0.02, momentum=0.9, weight_decay=5e-4)

    def scheduler(self, optimizer):
        return optim.lr_scheduler.MultiStepLR(optimizer, [self.drop_at], gamma=0.1)
