"""`experiments/speedrun_cifar.py` on the images of BENCH_IMAGES."""

import sys
from functools import cache
from pathlib import Path

from bench_images import load_images

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))

import speedrun_cifar

load = cache(load_images)


class Speedrun(speedrun_cifar.SpeedrunCifar):
    def data(self):
        return load()
