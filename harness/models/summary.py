"""A plain-text table of a model's parameters."""

from collections.abc import Iterator

from torch import nn
from torch.nn.parameter import UninitializedParameter

HEADER = ("layer", "type", "weight", "bias", "parameters")


def summarize(model: nn.Module) -> str:
    """A table of the layers that have parameters: name, type, shapes of weight and bias, their number.

    A parameter with another name than `weight` or `bias` has a line of its own. One that several layers
    share is counted once and marked where it comes again. One whose shape only the first batch tells (a lazy
    layer's) counts as 0.

    >>> from torch import nn
    >>> print(summarize(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))))
    layer  type    weight   bias  parameters
    ----------------------------------------
    0      Linear  32 x 64  32         2,080
    2      Linear  10 x 32  10           330
    ----------------------------------------
    total                              2,410
    """
    rows = list(_find_rows(model))
    parameters = [parameter for parameter in model.parameters() if not isinstance(parameter, UninitializedParameter)]
    total = sum(parameter.numel() for parameter in parameters)
    trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    footer = [("total", "", "", "", f"{total:,}")]
    if trainable != total:
        footer.append(("trainable", "", "", "", f"{trainable:,}"))
    widths = [max(map(len, column)) for column in zip(HEADER, *rows, *footer, strict=True)]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines = [_align(row, widths) for row in (HEADER, *rows, *footer)]
    return "\n".join([lines[0], rule, *lines[1 : len(rows) + 1], rule, *lines[len(rows) + 1 :]])


def _find_rows(model: nn.Module) -> Iterator[tuple[str, ...]]:
    seen: set[nn.Parameter] = set()
    for layer, module in model.named_modules(remove_duplicate=False):
        shapes: dict[str, str] = {}
        counts: dict[str, int] = {}
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            is_shared = parameter in seen
            seen.add(parameter)
            shapes[name] = _describe_shape(parameter) + (" (shared)" if is_shared else "")
            is_counted = not is_shared and not isinstance(parameter, UninitializedParameter)
            counts[name] = parameter.numel() if is_counted else 0
        if "weight" in shapes or "bias" in shapes:
            weight, bias = (shapes.pop(name, "-") for name in ("weight", "bias"))
            count = counts.pop("weight", 0) + counts.pop("bias", 0)
            yield layer, type(module).__name__, weight, bias, f"{count:,}"
        for name, shape in shapes.items():
            yield f"{layer}.{name}".lstrip("."), "Parameter", shape, "-", f"{counts[name]:,}"


def _describe_shape(parameter: nn.Parameter) -> str:
    if isinstance(parameter, UninitializedParameter):
        return "not known yet"
    return " x ".join(map(str, parameter.shape)) or "scalar"


def _align(row: tuple[str, ...], widths: list[int]) -> str:
    *texts, number = row
    cells = [text.ljust(width) for text, width in zip(texts, widths, strict=False)]
    return "  ".join([*cells, number.rjust(widths[-1])])
