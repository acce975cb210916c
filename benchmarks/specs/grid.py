"""1,296 configurations for a report of many trials; nothing of it is trained: see `benchmarks/report.py`."""

from torch import optim

from harness import Experiment, search
from harness.data import shapes
from harness.models import vgg11


class Grid(Experiment):
    epochs = 20

    lr: float = search.log_uniform(1e-3, 1e-1, points=9, default=1e-2)
    momentum: float = search.choice(0.8, 0.9, 0.95, 0.99, default=0.9)
    patience: int = search.integer(2, 10, default=7)
    factor: float = search.choice(0.1, 0.2, 0.3, 0.5, default=0.1)

    def data(self):
        return shapes()

    def model(self):
        return vgg11(classes=10)

    def optimizer(self, parameters):
        return optim.SGD(parameters, lr=self.lr, momentum=self.momentum)

    def scheduler(self, optimizer):
        return optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=self.factor, patience=self.patience)
