"""The mistakes of the best model: the part of a report for which the model is rebuilt."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.data import Arrays
from harness.data.collating import collate
from harness.errors import HarnessError
from harness.reporting.gather import Facts
from harness.reporting.pages import model
from harness.reporting.pages.drawing import shown
from harness.reporting.pages.page import Section, mixed_up_table, pairs_table
from harness.results.reload import LoadedRun, load
from harness.spec import Description
from harness.tracking.store import Store


def load_best(store: Store, facts: Facts, device: str) -> LoadedRun | str | None:
    """The best run's model, or the reason why it cannot be loaded."""
    if facts.best_run is None or facts.best is None:
        return None
    try:
        return load(store, facts.best_run, device=device)
    except HarnessError as error:  # moved data, a lost artifact: the rest of the report stands
        return f"{facts.best.name} cannot be measured again: {error}"


def describe_network(loaded: LoadedRun | str | None) -> str:
    """The class of the best model and its parameters; empty where it cannot be had."""
    if not isinstance(loaded, LoadedRun):
        return ""
    return f"{type(loaded.model).__name__}, {sum(p.numel() for p in loaded.model.parameters()):,} parameters"


def description_of(loaded: LoadedRun | str | None) -> Description | None:
    """The spec as it was when the best model was trained; None where that cannot be had."""
    return loaded.built.spec.describe() if isinstance(loaded, LoadedRun) else None


def model_sections(facts: Facts, loaded: LoadedRun | str | None) -> list[Section]:
    title, link = "Mistakes of the best model", "Mistakes"
    if facts.best is None or loaded is None:
        return [Section(title=title, link=link, missing="No run has finished yet.")]
    if isinstance(loaded, str):
        return [Section(title=title, link=link, missing=loaded)]
    outputs, targets = loaded.outputs()
    named = pairs_table(_identity(loaded, facts))
    if loaded.built.data.classes is None:
        picture = model.draw_residuals(outputs.double().numpy(), targets.double().numpy())
        return [Section(title=title, link=link, html=named, pictures=[picture])]
    answers = model.Answers(
        probabilities=outputs.double().softmax(1).numpy(),
        targets=(targets.argmax(1) if targets.ndim == 2 else targets).numpy(),
        classes=loaded.built.data.classes,
    )
    pairs, places = answers.mixed_up(), answers.most_wrong()
    images = _images(loaded, places)
    pictures = [model.draw_confusion(answers)]
    mixed = Section(title="Classes it mixes up", link="Classes", html=mixed_up_table(pairs)) if pairs else None
    return [
        Section(title=title, link=link, lead=model.mistakes_in_words(answers), html=named, pictures=pictures),
        *([mixed] if mixed else []),
        *([_worst(answers, places, images)] if places else []),
        Section(title="Calibration", pictures=[model.draw_calibration(answers)]),
        *_seen(loaded, answers.classes),
    ]


def _seen(loaded: LoadedRun, classes: Sequence[str]) -> list[Section]:
    """The first training images as the model saw them: cropped, flipped, normalised. None where they are no images."""
    data = loaded.built.data
    batches = data.train_batches(
        batch_size=loaded.experiment.batch_size, seed=loaded.experiment.seed, epoch=0, device=loaded.device
    )
    inputs, targets = (tensor.cpu() for tensor in next(iter(batches)))
    inputs, targets = inputs[: model.SEEN], targets[: model.SEEN]
    if inputs.ndim != 4 or inputs.shape[1] not in (1, 3):
        return []
    if data.mean is not None and data.std is not None:  # in the units of the images again, 0 to 255
        shape = (1, -1, 1, 1)
        inputs = inputs * data.std.cpu().reshape(shape) + data.mean.cpu().reshape(shape)
        pixels = inputs.round().clamp(0, 255).byte().numpy()
    else:
        pixels = _stretched(inputs)
    numbers = (targets.argmax(1) if targets.ndim == 2 else targets).tolist()
    images = [image[0] if len(image) == 1 else image.transpose(1, 2, 0) for image in pixels]
    picture = model.draw_seen(images, [classes[number] for number in numbers])
    return [Section(title="Training images as the model saw them", link="Training images", pictures=[picture])]


def _worst(answers: model.Answers, places: Sequence[int], images: Sequence[NDArray[np.uint8]]) -> Section:
    title, link = "The images it is most wrong about", "Images"
    if not images:
        numbers = ", ".join(f"{place}" for place in places)
        return Section(
            title=title, link=link, missing=f"The inputs are no images; their numbers in validation: {numbers}."
        )
    return Section(title=title, link=link, pictures=[model.draw_wrong(answers, places, images)])


def _images(loaded: LoadedRun, places: Sequence[int]) -> list[NDArray[np.uint8]]:
    """Inputs of the validation part as images (H, W) or (H, W, 3) uint8; none where they are no images."""
    part: Any = loaded.built.data.validation
    if not places:
        return []
    inputs = part.inputs[list(places)].cpu() if isinstance(part, Arrays) else collate([part[p] for p in places])[0]
    if inputs.ndim != 4 or inputs.shape[1] not in (1, 3):
        return []
    if not inputs.dtype.is_floating_point:
        pixels = inputs.numpy()
    else:  # normalised by the user's own transform
        pixels = _stretched(inputs)
    return [image[0] if len(image) == 1 else image.transpose(1, 2, 0) for image in pixels]


def _stretched(inputs: Any) -> NDArray[np.uint8]:
    """Images (N, C, H, W) of any range, each stretched to what can be seen."""
    low, high = inputs.amin((1, 2, 3), keepdim=True), inputs.amax((1, 2, 3), keepdim=True)
    return np.asarray(((inputs - low) / (high - low).clamp_min(1e-8) * 255).byte().numpy())


def _identity(loaded: LoadedRun, facts: Facts) -> dict[str, str]:
    assert facts.best is not None
    return {
        "run": f"{facts.best.name}, {facts.best.run_id}",
        "values": ", ".join(f"{name} {shown(value)}" for name, value in facts.best.params.items()),
        "measured": f"after epoch {loaded.epoch}, on the validation part, on {loaded.device}",
        "reload it": f'harness.load_run("{facts.best.run_id[:8]}")',
    }
