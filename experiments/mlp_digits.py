"""A multi-layer perceptron on scikit-learn's 1,797 digits: no download, seconds on a CPU.

The quickest example of a search: trials that differ only in `patience` or `factor` share epochs.

    python -m harness sweep experiments/mlp_digits.py
"""

from torch import optim

from harness import Experiment, search
from harness.data import digits
from harness.models import mlp


class MLPDigits(Experiment):
    epochs = 20
    batch_size = 64

    lr: float = search.log_uniform(1e-2, 1e-1, points=5, default=3.16228e-2)
    momentum: float = search.choice(0.8, 0.9, 0.95, default=0.9)
    patience: int = search.integer(2, 10, default=7)
    factor: float = search.choice(0.1, 0.2, 0.5, default=0.1)

    def data(self):
        return digits()

    def model(self):
        return mlp(inputs=8 * 8, classes=10, hidden=(64, 32))

    def optimizer(self, parameters):
        return optim.SGD(parameters, lr=self.lr, momentum=self.momentum, weight_decay=5e-4)

    def scheduler(self, optimizer):
        return optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=self.factor, patience=self.patience)
