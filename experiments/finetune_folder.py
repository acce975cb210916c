"""A ResNet-18 that was trained on ImageNet, fitted to a folder of your own images in a few epochs.

One folder a class. For the first epochs (`frozen`) the learning rate of all but the new last layer is 0; then the whole
network follows, at a tenth of its rate, along a cosine. Trials that differ in `frozen` share the epochs before.
Torchvision's weights are downloaded once; `WEIGHTS=resnet18.pth` takes those of a file.

    FOLDER=photos python -m harness sweep experiments/finetune_folder.py
"""

import math
import os
from functools import cache

from torch import optim

from harness import Experiment, search
from harness.data import image_folder
from harness.models import pretrained

FOLDER = os.environ.get("FOLDER", "data/photos")
WEIGHTS = os.environ.get("WEIGHTS", "DEFAULT")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which the weights were trained with


@cache
def photos():
    augment = ("random_resized_crop", "flip", "color_jitter")
    return image_folder(FOLDER, size=224, validation=0.2, augment=augment, mean=MEAN, std=STD)


class FinetuneFolder(Experiment):
    epochs = 6
    batch_size = 32
    trials = 8

    lr: float = search.log_uniform(1e-3, 1e-1, points=5, default=1e-2)
    frozen: int = search.integer(0, 4, default=2)
    weight_decay: float = search.choice(0.0, 1e-4, 1e-3, default=1e-4)

    def data(self):
        return photos()

    def model(self):
        return pretrained("resnet18", classes=photos().num_classes, weights=WEIGHTS)

    def optimizer(self, parameters):
        *backbone, weight, bias = parameters
        groups = [{"params": [weight, bias]}, {"params": backbone, "lr": self.lr / 10}]
        return optim.SGD(groups, lr=self.lr, momentum=0.9, weight_decay=self.weight_decay)

    def scheduler(self, optimizer):
        def along_cosine(epoch):
            return 0.5 + 0.5 * math.cos(math.pi * epoch / self.epochs)

        def after_frozen(epoch):
            return 0.0 if epoch < self.frozen else along_cosine(epoch)

        return optim.lr_scheduler.LambdaLR(optimizer, [along_cosine, after_frozen])
