"""VGG-16 on CIFAR-10: SGD with momentum, learning rate reduced on plateau.

The network of Simonyan and Zisserman (2014) for 32x32 images. Made for a GPU; `--demo` runs anywhere.

    python -m harness sweep experiments/vgg_cifar.py
"""

from torch import optim

from harness import Experiment, search
from harness.data import cifar10
from harness.models import vgg16


class VGGCifar(Experiment):
    epochs = 40
    batch_size = 64
    budget = 400  # epochs that a sweep trains, in all

    lr: float = search.log_uniform(1e-3, 1e-1, points=9, default=1e-2)
    momentum: float = search.choice(0.8, 0.9, 0.95, 0.99, default=0.9)
    patience: int = search.integer(2, 10, default=7)
    factor: float = search.choice(0.1, 0.2, 0.5, default=0.1)

    def data(self):
        return cifar10(augment=("crop", "flip"), validation=5_000)

    def model(self):
        return vgg16(classes=10)

    def optimizer(self, parameters):
        return optim.SGD(parameters, lr=self.lr, momentum=self.momentum, weight_decay=5e-4)

    def scheduler(self, optimizer):
        return optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=self.factor, patience=self.patience)
