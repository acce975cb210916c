"""The digits data over a stepped space of 180 points: 5 learning rates, 2 momenta, 6 patiences, 3 factors."""

from torch import optim

from harness import Experiment, search
from harness.data import digits
from harness.models import mlp


class Digits(Experiment):
    epochs = 40
    trials = 60

    lr: float = search.log_uniform(1e-3, 1e-1, points=5, default=1e-2)
    momentum: float = search.choice(0.8, 0.9, default=0.9)
    patience: int = search.integer(2, 12, step=2, default=6)
    factor: float = search.choice(0.1, 0.2, 0.5, default=0.1)

    def data(self):
        return digits()

    def model(self):
        return mlp(inputs=64, classes=10, hidden=(64, 32), dropout=0.1)

    def optimizer(self, parameters):
        return optim.SGD(parameters, lr=self.lr, momentum=self.momentum)

    def scheduler(self, optimizer):
        return optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=self.factor, patience=self.patience)
