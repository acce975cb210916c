"""A regression: the progress of diabetes after a year, from ten measurements of 442 patients (scikit-learn).

No download, seconds on a CPU. Errors are in hundreds of the data's own units.

    python -m harness sweep experiments/diabetes_regression.py
"""

import torch
from sklearn.datasets import load_diabetes
from torch import nn, optim

from harness import Experiment, search
from harness.data import tensors
from harness.models import mlp


class DiabetesRegression(Experiment):
    epochs = 40
    batch_size = 32
    objective = "val_mean_absolute_error"

    lr: float = search.log_uniform(1e-3, 1e-2, points=3, default=1e-2)
    hidden: int = search.choice(16, 32, 64, default=32)
    dropout: float = search.uniform(0.0, 0.4, step=0.2, default=0.2)
    patience: int = search.integer(2, 10, default=5)

    def data(self):
        measurements, progress = load_diabetes(return_X_y=True, scaled=False)
        inputs = torch.tensor(measurements, dtype=torch.float32)  # (N, 10)
        targets = torch.tensor(progress / 100, dtype=torch.float32).unsqueeze(1)  # (N, 1), as the model's outputs
        return tensors(inputs, targets, validation=0.2, test=0.2, normalize=True, name="diabetes")

    def model(self):
        return mlp(inputs=10, classes=1, hidden=(self.hidden,), dropout=self.dropout)

    def loss(self):
        return nn.MSELoss()

    def optimizer(self, parameters):
        return optim.AdamW(parameters, lr=self.lr)

    def scheduler(self, optimizer):
        return optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.2, patience=self.patience)
