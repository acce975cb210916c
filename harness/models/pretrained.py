"""`pretrained`: torchvision's networks with weights that were trained on other images, for classes of one's own."""

from pathlib import Path
from typing import Any

from torch import nn

from harness.demo import is_demo
from harness.errors import FAILED, HarnessError, did_you_mean
from harness.models.weightfile import read_weight_file
from harness.models.weights import find_weights, fit_weights

THEIRS = 1000  # classes of ImageNet


def pretrained(name: str, *, classes: int, weights: str | Path | None = "DEFAULT", **options: Any) -> nn.Module:
    """A network of torchvision for images of `classes` classes, that begins with trained weights.

    `weights` is a name of torchvision's, such as "DEFAULT" or "IMAGENET1K_V1" (downloaded once), or a file:
    any checkpoint that `--from` takes. None leaves it untrained. The layers that give the classes are new, with
    random weights. Other `options` go to torchvision. Raises `HarnessError` for unknown names, for a file that
    does not fit, and where a download fails. Under `--demo` nothing is loaded.

    Trained weights expect images of ImageNet's mean and deviation: `image_folder(...,
    mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))`.

    >>> pretrained("resnet18", classes=5, weights=None).fc
    Linear(in_features=512, out_features=5, bias=True)
    """
    from torchvision import models

    names = models.list_models(module=models)
    if name not in names:
        raise HarnessError(f"pretrained: torchvision has no network '{name}'.{did_you_mean(name, names)}")
    network: nn.Module = models.get_model(name, weights=None, **options)
    heads = [path for path, module in network.named_modules() if _gives_classes(module)]
    if not heads:
        raise HarnessError(f"pretrained: no layer of {name} gives {THEIRS} classes; leave num_classes out.")
    if weights is not None and not is_demo():
        if Path(weights).exists() or isinstance(weights, Path) or Path(weights).suffix:
            path = Path(weights)
            found = find_weights(read_weight_file(path), path)
            fitted = fit_weights(found, network, heads, path=path, where=f"pretrained('{name}')")
            network.load_state_dict(fitted.weights)
        else:
            network.load_state_dict(_download(name, str(weights)))
    for path in heads:
        parent, _, last = path.rpartition(".")
        setattr(network.get_submodule(parent), last, _for_classes(network.get_submodule(path), classes))
    return network


def _download(name: str, weights: str) -> Any:
    from torchvision import models

    known = models.get_model_weights(name)
    if weights not in known.__members__:
        options = list(known.__members__)
        hint = did_you_mean(weights, options) or f" It has {', '.join(options)}."
        raise HarnessError(f"pretrained: {name} has no weights '{weights}', and there is no such file.{hint}")
    try:
        return known[weights].get_state_dict(progress=False, check_hash=True)
    except OSError as error:  # no network, no such address, a full disk
        raise HarnessError(
            f"pretrained: the weights of {name} cannot be downloaded from {known[weights].url}: {error}. Bring the "
            "file here by other means, and give its path as weights.",
            exit_code=FAILED,
        ) from None


def _gives_classes(module: nn.Module) -> bool:
    if isinstance(module, nn.Linear):
        return module.out_features == THEIRS
    return isinstance(module, nn.Conv2d) and module.out_channels == THEIRS


def _for_classes(head: nn.Module, classes: int) -> nn.Module:
    """A new layer in place of one that gave ImageNet's classes."""
    if isinstance(head, nn.Conv2d):
        return nn.Conv2d(head.in_channels, classes, kernel_size=head.kernel_size, stride=head.stride)  # type: ignore[arg-type]
    assert isinstance(head, nn.Linear)
    return nn.Linear(head.in_features, classes, bias=head.bias is not None)
