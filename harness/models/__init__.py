"""Networks for small images, trained ones for larger images, and a table that describes any network."""

from harness.models.googlenet import googlenet
from harness.models.mlp import mlp
from harness.models.pretrained import pretrained
from harness.models.summary import summarize
from harness.models.vgg import vgg11, vgg13, vgg16, vgg19

__all__ = ["googlenet", "mlp", "pretrained", "summarize", "vgg11", "vgg13", "vgg16", "vgg19"]
