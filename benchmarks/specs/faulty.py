"""Four trials of a small VGG on generated images, which go wrong as BENCH_FAULT says.

`assert` is a label that is no class, which CUDA notices inside a kernel, and `memory` asks for more memory than any GPU
has: in one trial. `host` reads the loss on the host, which a CUDA graph cannot hold, and `capture` waits for the
device, which ends a capture: in all trials. In all trials a step takes BENCH_HOG bytes of memory for a moment.
"""

import os

import torch
from torch import optim

from harness import Experiment, search
from harness.data import shapes
from harness.models import vgg11

FAULT, HOG = os.environ.get("BENCH_FAULT"), int(os.environ.get("BENCH_HOG", "0"))


class Faulty(Experiment):
    epochs = 3
    batch_size = 64
    trials = 4
    sampler = "grid"

    number: int = search.integer(0, 3, default=0)

    def data(self):
        return shapes(train=256, validation=64, test=1)

    def model(self):
        return vgg11(classes=10, width=4, dropout=0.2)

    def optimizer(self, parameters):
        return optim.SGD(parameters, lr=0.01 * (1 + self.number), momentum=0.9)

    def step(self, model, loss, optimizer, inputs, targets):
        if HOG:
            torch.empty(HOG, dtype=torch.uint8, device=inputs.device)
        if FAULT == "assert" and self.number == 1:
            targets = targets + 1000
        if FAULT == "memory" and self.number == 1:
            torch.empty(2**44, dtype=torch.uint8, device=inputs.device)
        value, outputs = super().step(model, loss, optimizer, inputs, targets)
        if FAULT == "host":
            float(value)
        if FAULT == "capture":
            torch.cuda.synchronize()
        return value, outputs
