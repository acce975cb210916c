"""Table B: a network with batch norm on the digits, another seed, batches of 32; 972 configurations."""

from torch import nn, optim

from harness import Experiment, search
from harness.data import digits


class SearchNorm(Experiment):
    epochs = 30
    batch_size = 32
    seed = 3
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
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Dropout(0.3), nn.Linear(48, 10)
        )

    def optimizer(self, parameters):
        return optim.SGD(parameters, lr=self.lr, momentum=self.momentum)

    def scheduler(self, optimizer):
        return optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=self.factor, patience=self.patience)
