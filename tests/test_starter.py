"""`new`: what it writes trains as it stands."""

from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
from PIL import Image
from running import Finished

import harness as package
from harness import HarnessError
from harness.spec import load_spec
from harness.starter import survey

Harness = Callable[..., Finished]


def draw(folder: Path, *, size: tuple[int, int], mode: str = "RGB", classes: int = 2, count: int = 10) -> None:
    """Images of noise, one folder a class."""
    noise = numpy.random.default_rng(0)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    for number in range(classes):
        (folder / f"class {number}").mkdir(parents=True)
        for index in range(count):
            pixels = noise.integers(0, 256, shape, dtype=numpy.uint8)
            Image.fromarray(pixels).save(folder / f"class {number}" / f"{index}.png")


def test_what_is_written_without_data_trains_at_once(harness: Harness, tmp_path: Path) -> None:
    said = harness("new", "specs/my_first.py").out
    assert "python -m harness train specs/my_first.py" in said
    assert load_spec(tmp_path / "specs" / "my_first.py").experiment.__name__ == "MyFirst"
    assert "finished at" in harness("train", "specs/my_first.py", "--epochs", 1).out


def test_what_is_written_for_a_folder_of_images_trains_on_them(harness: Harness, tmp_path: Path) -> None:
    draw(tmp_path / "my photos", size=(40, 50), mode="L", classes=3)
    harness("new", "photos.py", "--data", "my photos")
    text = (tmp_path / "photos.py").read_text()
    assert 'image_folder("my photos", size=32, validation=0.2, augment=("flip",), channels=1)' in text
    assert "nn.Linear(channels, 3)" in text
    assert "finished at" in harness("train", "photos.py", "--epochs", 1).out


def test_a_folder_is_surveyed_with_or_without_parts(tmp_path: Path) -> None:
    draw(tmp_path / "parted" / "train", size=(300, 200))
    draw(tmp_path / "parted" / "val", size=(300, 200), count=1)
    draw(tmp_path / "plain", size=(70, 90))
    (tmp_path / "plain" / "class 0" / "notes.txt").write_text("not an image")
    assert str(survey(tmp_path / "parted")) == "2 classes, colour images, to be 128 by 128"
    assert survey(tmp_path / "parted").is_split and not survey(tmp_path / "plain").is_split
    assert survey(tmp_path / "plain").size == 64


def test_nothing_is_overwritten_and_every_refusal_is_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("mine")
    with pytest.raises(HarnessError, match="exists already"):
        package.new(file)
    assert file.read_text() == "mine"
    with pytest.raises(HarnessError, match="is not a Python file"):
        package.new(tmp_path / "mine.yaml")
    with pytest.raises(HarnessError, match="there is no such folder"):
        package.new(tmp_path / "other.py", data=tmp_path / "nowhere")
    (tmp_path / "one" / "class").mkdir(parents=True)
    with pytest.raises(HarnessError, match="it holds 1 folders; at least 2 are needed"):
        package.new(tmp_path / "other.py", data=tmp_path / "one")
    assert not (tmp_path / "other.py").exists()
