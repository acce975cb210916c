"""Augmentation of photographs, images of other kinds, and images that stay in their file."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional

from harness.data import Arrays, Data, image_folder, tensors
from harness.data.augment import generator_for
from harness.data.mapped import Mapped
from harness.data.photographs import draw_boxes, enlarged, tinted
from harness.errors import HarnessError

IMAGES = torch.randint(0, 256, (20, 3, 24, 20), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def grey(folder: Path, *, count: int = 12, suffix: str = ".png", kind: Any = np.uint8, scale: float = 255) -> Path:
    """Two classes of grey images that differ in brightness."""
    chance = np.random.default_rng(0)
    for index, label in enumerate(("a", "b")):
        (folder / label).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            values = scale * np.clip(0.3 + 0.3 * index + 0.1 * chance.standard_normal((8, 8)), 0, 1)
            image = Image.fromarray(values.astype(kind))
            image.save(folder / label / f"{number:03}{suffix}", {".jfif": "JPEG"}.get(suffix))
    return folder


def batches(data: Data, *, epoch: int = 0, device: str = "cpu", **more: Any) -> tuple[Tensor, Tensor]:
    found = list(data.train_batches(batch_size=8, seed=1, epoch=epoch, device=device, **more))
    return torch.cat([inputs for inputs, _ in found]), torch.cat([targets for _, targets in found])


def test_a_random_part_is_enlarged_as_torchvision_does() -> None:
    boxes = draw_boxes(20, 24, 20, generator_for(0, 0, torch.device("cpu")))
    images = IMAGES.permute(0, 2, 3, 1).contiguous()
    found = [enlarged(images, boxes), enlarged(images.float(), boxes)]  # two ways: bytes on a CPU, and all else
    for image, *made, box in zip(IMAGES, *found, boxes.T.tolist(), strict=True):
        exact = functional.resized_crop(image.double(), *box, size=[24, 20], antialias=False)
        assert [values.dtype for values in made] == [torch.uint8, torch.float32]
        for values, most in zip(made, (1.0, 1e-3), strict=True):
            assert torch.allclose(values.permute(2, 0, 1).double(), exact, atol=most)


def test_random_parts_have_the_published_sizes_and_lie_within_the_image() -> None:
    top, left, tall, wide = draw_boxes(4000, 40, 30, generator_for(0, 0, torch.device("cpu"))).double()
    assert bool((top >= 0).all() and (left >= 0).all() and (top + tall <= 40).all() and (left + wide <= 30).all())
    area, ratio = tall * wide / 1200, wide / tall
    assert 0.06 < area.min() < 0.1 and area.max() > 0.9 and 0.4 < area.mean() < 0.6
    assert ratio.min() > 0.65 and ratio.max() < 1.5


def test_light_and_colours_change_as_torchvision_changes_them() -> None:
    images = IMAGES[:3].permute(0, 2, 3, 1)
    for row, change in enumerate(
        (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)
    ):
        tints = torch.ones(3, 3)
        tints[row] = torch.tensor([0.6, 1.0, 1.4])
        made = tinted(images, tints).permute(0, 3, 1, 2)
        for image, factor, own in zip(IMAGES, tints[row].tolist(), made, strict=False):
            exact = 255 * change(image.double() / 255, factor)
            assert torch.allclose(own.double(), exact, atol=1.0), change.__name__


def test_each_image_is_augmented_for_itself_and_the_same_again() -> None:
    same = IMAGES[:1].expand(20, -1, -1, -1)
    targets = torch.arange(20) % 2
    for name in ("random_resized_crop", "color_jitter"):
        data = tensors(same, targets, validation=(same[:2], targets[:2]), augment=(name, "flip", "cutout"))
        first = batches(data)[0]
        assert len({row.numpy().tobytes() for row in first}) > 18
        assert torch.equal(first, batches(data)[0]) and not torch.equal(first, batches(data, epoch=1)[0])
        assert torch.equal(first, torch.cat([batches(data, epoch=e, epoch_steps=1)[0] for e in range(3)]))


def test_a_function_gets_batches_of_bytes_and_may_draw() -> None:
    seen = []

    def darker(images: Tensor) -> Tensor:
        seen.append((images.dtype, tuple(images.shape)))
        return images // 2 if torch.rand(()) < 2 else images

    targets = torch.arange(20) % 2
    part = (IMAGES[:2], targets[:2])
    data = tensors(IMAGES, targets, validation=part, augment=("random_resized_crop", darker), normalize=False)
    inputs, _ = batches(data)
    assert seen == [(torch.uint8, (8, 3, 24, 20))] * 2 + [(torch.uint8, (4, 3, 24, 20))]
    assert float(inputs.max()) <= 127 and data.description["augment"] == "random_resized_crop+darker"
    wrong = tensors(IMAGES, targets, validation=part, augment=lambda images: images[0])
    with pytest.raises(HarnessError, match="a function got images of shape"):
        batches(wrong)
    with pytest.raises(HarnessError, match="two ways to crop"):
        tensors(IMAGES, targets, validation=part, augment=("crop", "random_resized_crop"))


@pytest.mark.parametrize("augment", [("crop", "flip", "cutout"), ("random_resized_crop", "color_jitter"), ()])
def test_images_that_stay_in_their_file_train_to_the_same_bits(tmp_path: Path, augment: Any) -> None:
    folder = grey(tmp_path / "set")
    held = image_folder(folder, size=8, validation=0.25, augment=augment)
    mapped = image_folder(folder, size=8, validation=0.25, augment=augment, memory_gb=1e-6)
    assert isinstance(held.train, Arrays) and isinstance(mapped.train, Mapped)
    assert held.mean is not None and torch.equal(held.mean, mapped.mean) and torch.equal(held.std, mapped.std)  # type: ignore[arg-type]
    for more in ({}, {"epoch_steps": 2}):
        for epoch in range(2):
            for left, right in zip(
                batches(held, epoch=epoch, **more), batches(mapped, epoch=epoch, **more), strict=True
            ):
                assert torch.equal(left, right)
    pairs = [held.balanced(), mapped.balanced()]
    assert torch.equal(batches(pairs[0])[0], batches(pairs[1])[0])
    left, right = (list(data.batches(data.validation, batch_size=4, device="cpu")) for data in (held, mapped))
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(left, right, strict=True))
    assert mapped.digest == image_folder(folder, size=8, validation=0.25, augment=augment, memory_gb=1e-6).digest
    assert torch.equal(mapped.train[0][0], held.train.inputs[0])


@pytest.mark.parametrize(("kind", "suffix", "scale"), [(np.uint16, ".png", 65535), (np.float32, ".tif", 1.0)])
def test_images_of_more_than_8_bits_keep_their_values(tmp_path: Path, kind: Any, suffix: str, scale: float) -> None:
    folder = grey(tmp_path / "set", suffix=suffix, kind=kind, scale=scale)
    data = image_folder(folder, size=8, channels=1, validation=0.25)
    assert isinstance(data.train, Arrays) and data.train.inputs.dtype == torch.float32
    with Image.open(folder / "a" / "000.png" if suffix == ".png" else folder / "a" / "000.tif") as image:
        exact = torch.from_numpy(np.array(image).astype(np.float32))
    everything = torch.cat((data.train.inputs, data.validation.inputs))  # type: ignore[union-attr]
    assert bool((everything[:, 0] == exact).flatten(1).all(1).any())
    assert abs(float(batches(data)[0].mean())) < 0.2
    grey(folder, count=2)
    for number in range(2):
        os.rename(folder / "a" / f"{number:03}.png", folder / "a" / f"8-bit-{number}.png")
    with pytest.raises(HarnessError, match=r"images in .* have 16 bits or more a value, .*, and the others 8"):
        image_folder(folder, size=8, channels=1, validation=0.25)


def test_every_format_is_read_and_what_is_skipped_is_said(tmp_path: Path) -> None:
    folder = grey(tmp_path / "set")
    grey(folder, count=6, suffix=".jfif")
    grey(folder, count=5, suffix=".tga")
    (folder / "a" / "notes.txt").write_text("no image")
    data = image_folder(folder, size=8)
    assert len(data.train) + len(data.validation) == 2 * 23  # type: ignore[arg-type]
    assert data.notes == (f"1 file (.txt 1) in {folder}, which are no images by their names: skipped",)


def test_names_that_are_no_text_are_read(tmp_path: Path) -> None:
    folder = grey(tmp_path / "set")
    os.rename(folder / "a", os.fsencode(folder) + b"/a\xff")
    data = image_folder(folder, size=8)
    assert data.classes == ("a\\xff", "b") and str(data.description).isprintable()


@pytest.mark.parametrize(("make", "reason"), [
    (lambda path: path.symlink_to("nowhere.png"), "a link to nothing"), (os.mkfifo, "a pipe"),
])  # fmt: skip
def test_what_is_no_file_is_named(tmp_path: Path, make: Any, reason: str) -> None:
    folder = grey(tmp_path / "set")
    make(folder / "a" / "zzz.png")
    with pytest.raises(HarnessError, match=rf"1 image cannot be decoded: .*zzz.png \({reason}\)"):
        image_folder(folder, size=8)


def test_classes_with_too_few_images_are_said(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="has too few images: none is left to train on"):
        image_folder(grey(tmp_path / "tiny", count=1), size=8)
    folder = grey(tmp_path / "set")
    (folder / "rare").mkdir()
    Image.new("L", (8, 8), 9).save(folder / "rare" / "one.png")
    assert image_folder(folder, size=8).notes == ("the validation part has no image of rare: too few to validate",)


def test_images_that_parts_have_in_common_are_said(tmp_path: Path) -> None:
    root = tmp_path / "set"
    grey(root / "train")
    grey(root / "test", count=2)  # the same numbers are drawn
    (root / "test" / "a" / "gone.png").symlink_to("nowhere")
    notes = image_folder(root, size=8).notes
    assert len(notes) == 1 and notes[0].startswith("2 test images are also among the training images, such as")
    assert image_folder(root, size=8).notes == notes


def test_given_statistics_replace_those_of_the_training_images(tmp_path: Path) -> None:
    folder = grey(tmp_path / "set")
    plain, given = image_folder(folder, size=8), image_folder(folder, size=8, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
    assert given.mean is not None and torch.allclose(given.mean, torch.tensor([127.5, 102.0, 76.5]))
    assert given.digest != plain.digest
    with pytest.raises(HarnessError, match="3 numbers, one a channel"):
        image_folder(folder, size=8, mean=(0.5,), std=(0.5,))
