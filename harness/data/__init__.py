"""Training, validation and test parts of image data, as tensors on the device that trains."""

from harness.data.bundled import digits
from harness.data.download import cifar10, cifar100, fashion_mnist, mnist
from harness.data.folder import image_folder
from harness.data.generated import shapes
from harness.data.memory import tensors
from harness.data.part import Arrays, Data
from harness.data.wrapped import datasets

__all__ = [
    "Arrays",
    "Data",
    "cifar10",
    "cifar100",
    "datasets",
    "digits",
    "fashion_mnist",
    "image_folder",
    "mnist",
    "shapes",
    "tensors",
]
