"""VGG-11 on CIFAR-10 with the classic step decay: the learning rate is divided by 10 every 8 epochs.

The search varies the number of epochs between steps, and the factor. Made for a GPU; `--demo` runs anywhere.

    python -m harness sweep experiments/step_decay.py
"""

from torch import optim

from harness import Experiment, search
from harness.data import cifar10
from harness.models import vgg11


class StepDecay(Experiment):
    epochs = 24
    batch_size = 64

    lr: float = search.log_uniform(1e-3, 1e-1, points=5, default=1e-2)
    step_epochs: int = search.integer(4, 12, step=2, default=8)
    factor: float = search.choice(0.1, 0.2, 0.5, default=0.1)

    def data(self):
        return cifar10(augment=("crop", "flip"), validation=5_000)

    def model(self):
        return vgg11(classes=10)

    def optimizer(self, parameters):
        return optim.SGD(parameters, lr=self.lr, momentum=0.9, weight_decay=5e-4)

    def scheduler(self, optimizer):
        return optim.lr_scheduler.StepLR(optimizer, step_size=self.step_epochs, gamma=self.factor)
