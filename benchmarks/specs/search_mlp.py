"""Table A: an MLP with dropout on the digits, 972 configurations."""

from torch import optim

from harness import Experiment, search
from harness.data import digits
from harness.models import mlp


class SearchMLP(Experiment):
    epochs = 30
    objective = "val_loss"
    sampler = "grid"
    trials = 972

    lr: float = search.log_uniform(1e-3, 1e-1, points=9, default=1e-2)
    momentum: float = search.choice(0.8, 0.9, 0.95, 0.99, default=0.9)
    patience: int = search.integer(2, 10, default=6)
    factor: float = search.choice(0.1, 0.2, 0.5, default=0.1)

    def data(self):
        return digits()

    def model(self):
        return mlp(inputs=64, classes=10, hidden=(64, 32), dropout=0.1)

    def optimizer(self, parameters):
        return optim.SGD(parameters, lr=self.lr, momentum=self.momentum)

    def scheduler(self, optimizer):
        return optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=self.factor, patience=self.patience)
