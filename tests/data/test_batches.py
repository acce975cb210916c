import hashlib
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from harness.data import Data, shapes, tensors
from harness.errors import HarnessError


def numbered_images(count: int, *, size: int = 16, channels: int = 3) -> Tensor:
    """Images whose every pixel is different, so that any window of them can be told from all others."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(1, 256, (count, channels, size, size), generator=generator, dtype=torch.uint8)


def unnormalised(images: Tensor, targets: Tensor, augment: tuple[str, ...] = ()) -> Data:
    return tensors(
        images, targets, validation=(images[:2], targets[:2]), augment=augment, normalize=False, classes=1000
    )


def epoch_of(data: Data, *, seed: int = 0, epoch: int = 0, batch_size: int = 8) -> tuple[Tensor, Tensor]:
    batches = list(data.train_batches(batch_size=batch_size, seed=seed, epoch=epoch, device="cpu"))
    return torch.cat([batch[0] for batch in batches]), torch.cat([batch[1] for batch in batches])


def test_an_epoch_holds_every_image_once_with_its_target() -> None:
    images = numbered_images(30)
    inputs, targets = epoch_of(unnormalised(images, torch.arange(30)))
    assert sorted(targets.tolist()) == list(range(30))
    assert targets.tolist() != list(range(30))
    assert torch.equal(inputs, images[targets].float())


def test_an_epoch_depends_on_seed_and_epoch_and_nothing_else() -> None:
    data = shapes(train=40, validation=10, test=10, augment=("crop", "flip", "cutout"))
    first = epoch_of(data, seed=3, epoch=2)
    epoch_of(data, seed=3, epoch=5)
    torch.rand(7)
    again = epoch_of(data, seed=3, epoch=2)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    whole = epoch_of(data, seed=3, epoch=2, batch_size=40)
    assert torch.equal(first[0], whole[0])
    for seed, epoch in ((3, 3), (2, 3), (4, 2)):
        assert not torch.equal(first[0], epoch_of(data, seed=seed, epoch=epoch)[0])


def test_another_process_draws_the_same_epoch() -> None:
    program = (
        "import hashlib, torch\n"
        "from harness.data import shapes\n"
        "data = shapes(train=40, validation=10, test=10, augment=('crop', 'flip', 'cutout'))\n"
        "batches = data.train_batches(batch_size=8, seed=3, epoch=2, device='cpu')\n"
        "print(hashlib.sha256(torch.cat([x for x, _ in batches]).contiguous().numpy().data).hexdigest())\n"
    )
    there = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    data = shapes(train=40, validation=10, test=10, augment=("crop", "flip", "cutout"))
    inputs, _ = epoch_of(data, seed=3, epoch=2)
    assert there.strip() == hashlib.sha256(inputs.contiguous().numpy().data).hexdigest()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_crop_is_a_window_of_the_padded_image(channels: int) -> None:
    images = numbered_images(24, channels=channels)
    inputs, targets = epoch_of(unnormalised(images, torch.arange(24), ("crop",)))
    padded = torch.nn.functional.pad(images.float(), (2, 2, 2, 2))
    places = set()
    for image, target in zip(inputs, targets.tolist(), strict=True):
        found = [
            (y, x) for y in range(5) for x in range(5) if torch.equal(image, padded[target, :, y : y + 16, x : x + 16])
        ]
        assert len(found) == 1
        places.add(found[0])
    assert len(places) > 8


def test_crops_move_by_4_pixels_of_32() -> None:
    image = torch.zeros(400, 1, 32, 32, dtype=torch.uint8)
    image[:, :, 16, 16] = 255
    inputs, _ = epoch_of(unnormalised(image, torch.zeros(400, dtype=torch.int64), ("crop",)))
    rows, columns = inputs[:, 0].nonzero()[:, 1:].T
    for places in (rows, columns):
        assert set(places.tolist()) == set(range(12, 21))


def test_about_half_of_the_images_are_flipped_and_the_rest_are_not() -> None:
    images = numbered_images(200, size=8)
    inputs, targets = epoch_of(unnormalised(images, torch.arange(200), ("flip",)))
    plain = images[targets].float()
    same = (inputs == plain).flatten(1).all(1)
    mirrored = (inputs == plain.flip(3)).flatten(1).all(1)
    assert bool((same ^ mirrored).all())
    assert 70 < int(mirrored.sum()) < 130


def test_cutout_blanks_one_square_of_a_quarter_of_the_side() -> None:
    images = numbered_images(100, size=32)
    inputs, targets = epoch_of(unnormalised(images, torch.arange(100), ("cutout",)))
    blank = (inputs == 0).all(1)
    assert torch.equal(inputs[~blank.unsqueeze(1).expand_as(inputs)].sum(), _sum_outside(images, targets, blank))
    for mask in blank:
        rows, columns = mask.any(1).sum(), mask.any(0).sum()
        assert int(mask.sum()) == int(rows * columns)
        assert 4 <= int(rows) <= 8 and 4 <= int(columns) <= 8
    assert int(blank.sum((1, 2)).max()) == 64


def _sum_outside(images: Tensor, targets: Tensor, blank: Tensor) -> Tensor:
    plain = images[targets].float()
    return plain[~blank.unsqueeze(1).expand_as(plain)].sum()


def test_batches_are_normalised_and_in_channels_last_order() -> None:
    data = shapes(train=100, validation=20, test=10, augment=("crop",))
    inputs, _ = next(data.train_batches(batch_size=16, seed=0, epoch=0, device="cpu"))
    assert inputs.dtype == torch.float32 and inputs.shape == (16, 3, 32, 32)
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    whole, _ = epoch_of(shapes(train=100, validation=20, test=10))
    assert torch.allclose(whole.mean((0, 2, 3)), torch.zeros(3), atol=1e-4)
    assert torch.allclose(whole.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4)


def test_prepare_does_what_evaluation_does() -> None:
    data = shapes(train=50, validation=10, test=10)
    (inputs, _), *_ = data.batches(data.validation, batch_size=10, device="cpu")
    assert torch.equal(data.prepare(data.validation.inputs), inputs)
    assert torch.equal(data.prepare(data.validation.inputs.contiguous()), inputs)


def test_evaluation_is_in_order_whole_and_not_augmented() -> None:
    images = numbered_images(21)
    data = unnormalised(images, torch.arange(21), ("crop", "flip"))
    batches = list(data.batches(data.train, batch_size=8, device="cpu"))
    assert [len(targets) for _, targets in batches] == [8, 8, 5]
    assert torch.equal(torch.cat([inputs for inputs, _ in batches]), images.float())


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"), [(8, 4, [4, 4]), (7, 3, [3, 3]), (8, 3, [3, 3, 2]), (1, 4, [1]), (3, 1, [1] * 3)]
)
def test_a_last_batch_of_one_image_is_left_out(count: int, batch_size: int, sizes: list[int]) -> None:
    data = unnormalised(numbered_images(max(count, 2)), torch.arange(max(count, 2)))
    if count == 1:
        data = tensors(numbered_images(1), [0], validation=(numbered_images(1), [0]))
    batches = list(data.train_batches(batch_size=batch_size, seed=0, epoch=0, device="cpu"))
    assert [len(targets) for _, targets in batches] == sizes
    assert data.steps(batch_size) == len(sizes)


def test_data_moves_to_a_device_once() -> None:
    data = shapes(train=20, validation=10, test=10)
    assert data.to("cpu") is data
    assert data.to("meta") is data.to("meta")
    assert data.to("meta").train.inputs.device.type == "meta"
    assert data.to("meta").digest == data.digest


def test_float_images_are_augmented_but_not_normalised_unless_asked() -> None:
    images = numbered_images(20).float() / 255
    inputs, _ = epoch_of(tensors(images, torch.arange(20) % 2, validation=4, augment=("flip",)))
    assert inputs.dtype == torch.float32 and float(inputs.max()) <= 1
    normalised, _ = epoch_of(tensors(images, torch.arange(20) % 2, validation=4, normalize=True))
    assert abs(float(normalised.mean())) < 1e-4


def test_a_misspelt_augmentation_says_which_is_meant() -> None:
    with pytest.raises(HarnessError, match=r"no 'flips'.*Did you mean 'flip'\?"):
        shapes(augment=("crop", "flips"))


def test_feature_vectors_cannot_be_cropped() -> None:
    with pytest.raises(HarnessError, match="needs images"):
        tensors(torch.randn(10, 4), torch.arange(10) % 2, augment=("crop",))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_an_epoch_on_cuda_holds_every_image_once() -> None:
    images = numbered_images(30)
    data = unnormalised(images, torch.arange(30))
    batches = list(data.train_batches(batch_size=8, seed=0, epoch=0, device="cuda"))
    targets = torch.cat([batch[1] for batch in batches]).cpu()
    assert sorted(targets.tolist()) == list(range(30))
    assert torch.equal(torch.cat([batch[0] for batch in batches]).cpu(), images[targets].float())
