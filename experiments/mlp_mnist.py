"""A multi-layer perceptron on MNIST. The search varies its size, its dropout and the learning rate.

It runs on a CPU; the first run downloads the images. Bad trials are stopped early.

    python -m harness sweep experiments/mlp_mnist.py
"""

from torch import optim

from harness import Experiment, search
from harness.data import mnist
from harness.models import mlp


class MLPMnist(Experiment):
    epochs = 10
    batch_size = 128
    pruner = "median"

    lr: float = search.log_uniform(1e-4, 1e-2, points=5, default=1e-3)
    hidden: tuple[int, ...] = search.choice((128,), (256, 128), (512, 256), default=(256, 128))
    dropout: float = search.uniform(0.0, 0.4, step=0.1, default=0.2)

    def data(self):
        return mnist(validation=5_000)

    def model(self):
        return mlp(inputs=28 * 28, classes=10, hidden=self.hidden, dropout=self.dropout)

    def optimizer(self, parameters):
        return optim.Adam(parameters, lr=self.lr)
