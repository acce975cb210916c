import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harness.data import Arrays, image_folder
from harness.demo import demo
from harness.errors import HarnessError

COLOURS = {"blue": (0, 0, 250), "green": (0, 250, 0), "red": (250, 0, 0)}


def write_images(folder: Path, count: int, *, size: tuple[int, int] = (8, 8)) -> Path:
    """`count` PNG files a class, of one colour with a mark that tells them apart."""
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            image = Image.new("RGB", size, colour)
            image.putpixel((0, 0), (number, number, number))
            image.save(folder / name / f"{number:04}.png")
    return folder


def cached(data_folder: Path) -> list[Path]:
    return sorted((data_folder / "cache").glob("*.npy"))


def test_a_folder_of_classes_is_split_and_stratified(tmp_path: Path) -> None:
    data = image_folder(write_images(tmp_path / "set", 20), size=8, validation=0.2)
    assert data.classes == ("blue", "green", "red") and data.name == "set"
    assert isinstance(data.train, Arrays) and isinstance(data.validation, Arrays)
    assert data.validation.targets.bincount().tolist() == [4, 4, 4]
    for image, target in zip(data.train.inputs, data.train.targets.tolist(), strict=True):
        assert tuple(image[:, 4, 4].tolist()) == list(COLOURS.values())[target]
    with pytest.raises(HarnessError, match="no test part"):
        _ = data.test


def test_train_val_and_test_folders_are_used_as_they_are(tmp_path: Path) -> None:
    for part, count in (("train", 5), ("val", 3), ("test", 2)):
        write_images(tmp_path / "set" / part, count)
    data = image_folder(tmp_path / "set", size=8)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [15, 9, 6]  # type: ignore[arg-type]
    assert data.description["split"] == "given"


def test_the_test_folder_is_read_only_when_asked(tmp_path: Path) -> None:
    write_images(tmp_path / "set" / "train", 5)
    write_images(tmp_path / "set" / "test", 2)
    (tmp_path / "set" / "test" / "red" / "0000.png").write_bytes(b"broken")
    data = image_folder(tmp_path / "set", size=8)
    with pytest.raises(HarnessError, match="1 image cannot be decoded"):
        _ = data.test


def test_images_of_another_size_are_resized_and_cropped_to_the_middle(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        wide = Image.new("RGB", (40, 20), (255, 0, 0))
        wide.paste((0, 255, 0), (10, 0, 30, 20))
        for number in range(2):
            wide.save(tmp_path / "set" / name / f"{number}.png")
    data = image_folder(tmp_path / "set", size=10, validation=2)
    assert isinstance(data.train, Arrays)
    assert data.train.inputs[0, :, 5, 2:8].tolist() == [[0] * 6, [255] * 6, [0] * 6]


def test_grey_is_one_channel(tmp_path: Path) -> None:
    assert image_folder(write_images(tmp_path / "set", 4), size=8, channels=1).input_shape == (1, 8, 8)


def test_images_are_decoded_once_until_the_folder_changes(tmp_path: Path, data_folder: Path) -> None:
    folder = write_images(tmp_path / "set", 4)
    first = image_folder(folder, size=8)
    (cache,) = cached(data_folder)
    written = cache.stat().st_mtime_ns
    assert image_folder(folder, size=8).digest == first.digest
    assert cache.stat().st_mtime_ns == written
    Image.new("RGB", (8, 8), (9, 9, 9)).save(folder / "red" / "0001.png")
    os.utime(folder / "red" / "0001.png", ns=(1, 1))
    changed = image_folder(folder, size=8)
    assert changed.digest != first.digest
    assert len(cached(data_folder)) == 1 and cached(data_folder) != [cache]


def test_the_digest_is_of_the_pixels_not_of_the_files(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "set", 4)
    first = image_folder(folder, size=8).digest
    for file in folder.glob("*/*.png"):
        os.utime(file, ns=(1, 1))
    assert image_folder(folder, size=8).digest == first


def test_broken_and_empty_images_are_named(tmp_path: Path, data_folder: Path) -> None:
    folder = write_images(tmp_path / "set", 9)
    (folder / "red" / "0000.png").write_bytes(b"")
    for number in range(6):
        (folder / "green" / f"000{number}.png").write_bytes(b"no image at all")
    with pytest.raises(HarnessError) as caught:
        image_folder(folder, size=8)
    message = str(caught.value)
    assert caught.value.exit_code == 1
    assert message.startswith("image_folder: 7 images cannot be decoded: ")
    assert str(folder / "green" / "0000.png") in message and "and 2 more. Remove or repair them" in message
    assert cached(data_folder) == [] and list((data_folder / "cache").glob("*.tmp")) == []


def test_an_empty_image_is_called_empty(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "set", 3)
    (folder / "red" / "0000.png").write_bytes(b"")
    with pytest.raises(HarnessError, match=r"red/0000.png \(empty\)"):
        image_folder(folder, size=8)


def test_many_images_are_decoded_by_processes_to_the_same_pixels(tmp_path: Path) -> None:
    from harness.data import decode

    files = sorted(str(file) for file in write_images(tmp_path / "set", 340).glob("*/*.png"))
    assert len(files) > decode.FEW
    assert decode.decode_files(files, tmp_path / "all.npy", size=8, channels=3) == []
    alone = np.stack([decode.read_image(file, size=8, channels=3) for file in files])
    assert np.array_equal(np.load(tmp_path / "all.npy"), alone)


def test_two_processes_decode_a_folder_once(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "set", 700)
    program = f"from harness.data import image_folder\nprint(image_folder({str(folder)!r}, size=8).digest)"
    children = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [child.communicate(timeout=120) for child in children]
    assert len({digest for digest, _ in outputs}) == 1 and outputs[0][0].strip()
    assert sum(errors.count("Decoding 2,100 images") for _, errors in outputs) == 1


@pytest.mark.parametrize("what", ["missing", "no classes", "empty class"])
def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "set"
    if what == "no classes":
        folder.mkdir()
    if what == "empty class":
        write_images(folder, 2)
        (folder / "yellow").mkdir()
    with pytest.raises(HarnessError, match=str(folder)) as caught:
        image_folder(folder)
    assert caught.value.exit_code == 2


def test_a_class_that_only_the_validation_folder_has_is_named(tmp_path: Path) -> None:
    write_images(tmp_path / "train", 2)
    write_images(tmp_path / "val", 2)
    (tmp_path / "val" / "pink").mkdir()
    with pytest.raises(HarnessError, match="pink is a class that the training images lack"):
        image_folder(tmp_path, size=8)


def test_demo_mode_keeps_size_and_number_of_classes(tmp_path: Path) -> None:
    with demo():
        data = image_folder(write_images(tmp_path / "set", 1), size=16, channels=1)
    assert (data.num_classes, data.input_shape) == (3, (1, 16, 16))


def test_real_photographs_give_the_published_means(tmp_path: Path) -> None:
    folder = os.environ.get("HARNESS_TEST_IMAGES")
    if folder is None:
        pytest.skip("HARNESS_TEST_IMAGES names no folder of CIFAR-10 images")
    data = image_folder(Path(folder) / "test")
    assert data.num_classes == 10 and data.mean is not None
    assert torch.allclose(data.mean, torch.tensor([125.3, 123.0, 113.9]), atol=2)
