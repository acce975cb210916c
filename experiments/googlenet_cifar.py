"""GoogLeNet on CIFAR-10: SGD with Nesterov momentum, learning rate along a cosine.

The network of Szegedy et al. (2014) for 32x32 images. Made for a GPU; `--demo` runs anywhere.

    python -m harness sweep experiments/googlenet_cifar.py
"""

from torch import optim

from harness import Experiment, search
from harness.data import cifar10
from harness.models import googlenet


class GoogLeNetCifar(Experiment):
    epochs = 40
    batch_size = 128

    lr: float = search.log_uniform(1e-2, 1e-1, points=5, default=3.16228e-2)
    weight_decay: float = search.choice(1e-4, 5e-4, 1e-3, default=5e-4)
    dropout: float = search.uniform(0.0, 0.4, step=0.2, default=0.2)

    def data(self):
        return cifar10(augment=("crop", "flip"), validation=5_000)

    def model(self):
        return googlenet(classes=10, dropout=self.dropout)

    def optimizer(self, parameters):
        return optim.SGD(parameters, lr=self.lr, momentum=0.9, nesterov=True, weight_decay=self.weight_decay)

    def scheduler(self, optimizer):
        return optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.epochs)
