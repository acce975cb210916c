"""Runs back from the store: rebuilt from their artifacts, measured again, asked for predictions."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from PIL import Image
from small import LINE
from torch import nn

import harness as package
from harness.api import load_run
from harness.errors import HarnessError
from harness.results.reload import LoadedRun, verify
from harness.spec import source_digest
from harness.tracking.runs import find_run
from harness.tracking.store import Store
from harness.tracking.tags import SOURCE

Harness = Callable[..., Any]

IMAGES = '''
"""{channels} channels: is an image brighter on its left or on its right?"""

import torch
from torch import nn, optim

from harness import Experiment
from harness.data import tensors


class Sides(Experiment):
    epochs = 4
    batch_size = 16

    def data(self):
        print("data() is called")  # a spec may print what it likes
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 60, (160, {channels}, 8, 8), generator=generator, dtype=torch.uint8)
        right = torch.arange(160) % 2
        images[right == 0, :, :, :4] += 150
        images[right == 1, :, :, 4:] += 150
        return tensors(images, right, validation=40, classes=("left", "right"), name="sides")

    def model(self):
        return nn.Sequential(nn.Flatten(), nn.Linear({channels} * 64, 2))

    def optimizer(self, parameters):
        return optim.SGD(parameters, lr=0.05)
'''


@pytest.fixture(scope="module")
def loaded(swept: Path) -> LoadedRun:
    """The best run of the shared store."""
    return load_run("best", swept / "small.py", store=swept / "mlruns", device="cpu")


@pytest.fixture(scope="module")
def trained(zygote: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a colour, a grey and a regression spec, and a training run of each in `mlruns`."""
    folder = tmp_path_factory.mktemp("trained")
    for name, text in (
        ("colour", IMAGES.replace("{channels}", "3")),
        ("grey", IMAGES.replace("{channels}", "1")),
        ("line", LINE),
    ):
        (folder / f"{name}.py").write_text(text)
        done = zygote.start("train", f"{name}.py", "--device", "cpu", cwd=folder).wait()
        assert done.code == 0, done
    for name, bright in (("left", slice(0, 16)), ("right", slice(16, 32))):
        pixels = numpy.full((32, 32, 3), 20, dtype=numpy.uint8)
        pixels[:, bright] = 200
        Image.fromarray(pixels).save(folder / f"{name}.png")
        Image.fromarray(pixels[:, :, 0]).save(folder / f"{name}-grey.png")
    return folder


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_a_loaded_run_is_ready_to_use(loaded: LoadedRun, swept: Path) -> None:
    best = package.runs("small", store=swept / "mlruns").iloc[0]
    assert (loaded.run_id, loaded.name) == (best["run_id"], best["name"])
    assert isinstance(loaded.model, nn.Sequential) and not loaded.model.training
    assert loaded.params == {name: best[name] for name in ("lr", "momentum", "patience", "factor")}
    assert loaded.experiment.params() == loaded.params and loaded.experiment.epochs == 8
    assert loaded.epoch == best["best_epoch"] >= 1
    assert loaded.metrics["val_accuracy"] == best["value"]
    assert loaded.checkpoint.name == "best.pth.tar"
    assert same(loaded.model.state_dict(), torch.load(loaded.checkpoint, weights_only=True)["state_dict"])
    assert best["name"] in repr(loaded) and f"after epoch {loaded.epoch}" in repr(loaded)


def test_the_measures_of_the_validation_part_are_equal_to_the_last_bit(loaded: LoadedRun) -> None:
    measured = loaded.measure()
    assert measured == {name: value for name, value in loaded.metrics.items() if name.startswith("val_")}
    assert set(loaded.measure("test")) == {"test_loss", "test_accuracy"}
    assert loaded.measure("test") != measured
    with pytest.raises(HarnessError, match="choose 'validation' or 'test'"):
        loaded.measure("val")


def test_the_last_checkpoint_can_be_asked_for(swept: Path) -> None:
    last = load_run("best", "small", store=swept / "mlruns", device="cpu", checkpoint="last")
    assert last.epoch == 8 and last.checkpoint.name == "last.pth.tar"
    assert last.measure()["val_loss"] == last.metrics["val_loss"]
    with pytest.raises(HarnessError, match="has no artifact checkpoints/epoch-0003"):
        load_run("best", "small", store=swept / "mlruns", checkpoint="epoch-0003")


def test_loading_leaves_torch_and_the_generators_as_they_were(swept: Path) -> None:
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.manual_seed(3), random.seed(3), numpy.random.seed(3)
    expected = torch.rand(1).item(), random.random(), numpy.random.rand()
    torch.manual_seed(3), random.seed(3), numpy.random.seed(3)
    load_run("best", "small", store=swept / "mlruns").measure()
    assert (torch.rand(1).item(), random.random(), numpy.random.rand()) == expected
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == (threads, strict)


def test_a_run_reloads_after_its_spec_was_edited_and_deleted(swept: Path, tmp_path: Path, harness: Harness) -> None:
    shutil.copytree(swept / "mlruns", tmp_path / "mlruns")
    spec = tmp_path / "small.py"
    spec.write_text("raise SystemExit('never to be run')\n")
    edited = harness("reload", "best", spec, "--json").json
    spec.unlink()
    deleted = harness("reload", "best", spec, "--json").json
    assert edited == deleted
    assert list(edited) == ["run_id", "logged", "measured", "match"]
    assert edited["match"] is True and edited["logged"] == edited["measured"]
    assert set(edited["measured"]) == {"val_loss", "val_accuracy"}


def test_a_store_in_another_place_reloads_without_the_first_one(swept: Path, tmp_path: Path) -> None:
    shutil.copytree(swept / "mlruns", tmp_path / "first" / "mlruns")
    Store(tmp_path / "first" / "mlruns")
    shutil.copytree(tmp_path / "first" / "mlruns", tmp_path / "moved here")
    shutil.rmtree(tmp_path / "first")
    opened = Store(tmp_path / "moved here")
    for run in opened.find_runs(opened.experiment_id("small"), ""):
        found = verify(opened, run, device="cpu")
        assert found.match and found.tolerance is None and found.note is None, found
    assert load_run("best", "small", store=opened.folder).checkpoint.is_relative_to(opened.folder)


def test_plain_mlflow_finds_the_artifacts_of_a_moved_store_after_one_command(
    swept: Path, tmp_path: Path, harness: Harness
) -> None:
    first, moved = tmp_path / "first", tmp_path / "mlruns"
    shutil.copytree(swept / "mlruns", first)
    Store(first)
    first.rename(moved)
    client = MlflowClient(tracking_uri=f"sqlite:///{moved / 'mlflow.db'}")
    (run, *_) = client.search_runs([client.get_experiment_by_name("small").experiment_id], max_results=1)
    with pytest.raises(MlflowException):
        client.download_artifacts(run.info.run_id, "checkpoints/last.pth.tar")
    harness("runs", "small.py")
    found = client.download_artifacts(run.info.run_id, "checkpoints/last.pth.tar")
    assert torch.load(found, weights_only=True)["state_dict"]


def test_changed_weights_are_found_out(swept: Path, tmp_path: Path, harness: Harness) -> None:
    shutil.copytree(swept / "mlruns", tmp_path / "mlruns")
    opened = Store(tmp_path / "mlruns")
    run = find_run(opened, "best", "small")
    file = opened.artifact(run, "checkpoints/best.pth.tar")
    checkpoint = torch.load(file, weights_only=True)
    checkpoint["state_dict"]["0.weight"] += 0.05
    torch.save(checkpoint, file)
    told = harness("reload", run.info.run_id[:10], code=1)
    assert "NOT equal, bit for bit" in told.out and told.err == ""
    document = harness("reload", run.info.run_id, "--json", code=1).json
    assert document["match"] is False and document["logged"] != document["measured"]


def test_a_damaged_checkpoint_is_an_error_in_one_sentence(swept: Path, tmp_path: Path) -> None:
    shutil.copytree(swept / "mlruns", tmp_path / "mlruns")
    opened = Store(tmp_path / "mlruns")
    run = find_run(opened, "best", "small")
    file = opened.artifact(run, "checkpoints/best.pth.tar")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(HarnessError, match=r"best\.pth\.tar is damaged or not a torch file") as error:
        load_run("best", "small", store=opened.folder)
    assert error.value.exit_code == 1 and "\n" not in str(error.value)

    checkpoint = torch.load(file.with_name("last.pth.tar"), weights_only=True)
    del checkpoint["state_dict"]["0.weight"]
    torch.save(checkpoint, file)
    with pytest.raises(HarnessError, match=r"does not fit the model of its spec: .*0\.weight") as error:
        load_run("best", "small", store=opened.folder)
    assert "\n" not in str(error.value)

    shutil.rmtree(file.parent)
    with pytest.raises(HarnessError, match=r"has no artifact checkpoints/last\.pth\.tar"):
        load_run("best", "small", store=opened.folder)


def test_other_data_than_the_runs_is_named(swept: Path, tmp_path: Path) -> None:
    shutil.copytree(swept / "mlruns", tmp_path / "mlruns")
    opened = Store(tmp_path / "mlruns")
    run = find_run(opened, "best", "small")
    spec = opened.artifact(run, "spec/small.py")
    spec.write_text(spec.read_text().replace("manual_seed(1)", "manual_seed(2)"))
    opened.client.set_tag(run.info.run_id, SOURCE, source_digest({"small.py": spec.read_text()}))
    found = verify(opened, opened.client.get_run(run.info.run_id), device="cpu")
    assert not found.match and found.note == "the data is not what the run was trained on"


def test_on_another_device_numbers_may_differ_a_little(
    swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(swept / "mlruns", tmp_path / "mlruns")
    opened = Store(tmp_path / "mlruns")
    run_id = find_run(opened, "best", "small").info.run_id
    opened.client.set_tag(run_id, "harness.device", "cuda (of another machine)")
    found = verify(opened, find_run(opened, run_id), device="cpu")
    assert found.match and found.tolerance == "loss within 2%, other measures within 0.01"
    points = opened.client.get_metric_history(run_id, "val_accuracy")
    value = next(point.value for point in points if point.step + 1 == found.epoch)
    for difference, match in ((0.005, True), (0.02, False)):
        monkeypatch.setattr(LoadedRun, "measure", lambda _, d=difference: found.measured | {"val_accuracy": value + d})
        assert verify(opened, find_run(opened, run_id), device="cpu").match is match


@pytest.mark.parametrize(("name", "suffix"), [("colour", ""), ("colour", "-grey"), ("grey", ""), ("grey", "-grey")])
def test_image_files_are_predicted_whatever_their_mode_and_size(trained: Path, name: str, suffix: str) -> None:
    run = load_run("best", name, store=trained / "mlruns")
    found = run.predict([trained / f"left{suffix}.png", trained / f"right{suffix}.png"])
    assert found.shape == (2, 2) and torch.allclose(found.sum(1), torch.ones(2))
    assert found[0, 0] > 0.9 and found[1, 1] > 0.9
    pixels = torch.full((1, *run.built.data.input_shape), 20, dtype=torch.uint8)
    pixels[..., :4] = 200
    assert run.predict(pixels)[0, 0] > 0.9


def test_predictions_on_the_command_line(trained: Path, zygote: Any) -> None:
    arguments = ["left.png", "right.png", "--spec", "colour.py"]
    listed = zygote.start("predict", "best", *arguments, "--json", cwd=trained).wait()
    assert listed.code == 0, listed
    assert [(row["image"], row["class"]) for row in listed.json] == [("left.png", "left"), ("right.png", "right")]
    assert all(0.9 < row["probability"] <= 1 for row in listed.json)
    shown = zygote.start("predict", "best", *arguments, cwd=trained).wait()
    lines = [line for line in shown.out.splitlines() if ".png" in line]
    assert [line.split()[:2] for line in lines] == [["left.png", "left"], ["right.png", "right"]]


def test_what_is_no_image_is_named(trained: Path, tmp_path: Path) -> None:
    run = load_run("best", "colour", store=trained / "mlruns")
    with pytest.raises(HarnessError, match=r"none\.png does not exist") as error:
        run.predict([tmp_path / "none.png"])
    assert error.value.exit_code == 2
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(HarnessError, match=r"text\.png is not an image that can be read") as error:
        run.predict([tmp_path / "text.png"])
    assert error.value.exit_code == 1
    with pytest.raises(HarnessError, match="takes inputs of shape 3x8x8, not 3x9x9"):
        run.predict(torch.zeros(1, 3, 9, 9, dtype=torch.uint8))


def test_a_model_of_features_takes_no_image_files(loaded: LoadedRun, trained: Path) -> None:
    with pytest.raises(HarnessError, match="only a model of square uint8 images"):
        loaded.predict([trained / "left.png"])
    assert loaded.predict(torch.randn(5, 6)).shape == (5, 2)


def test_a_regression_reloads_and_predicts_values(trained: Path) -> None:
    run = load_run("best", "line", store=trained / "mlruns")
    assert set(run.metrics) == {f"{p}_{m}" for p in ("train", "val") for m in ("loss", "mean_absolute_error")}
    assert run.measure() == {name: value for name, value in run.metrics.items() if name.startswith("val_")}
    found = run.predict(torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]))
    assert found.shape == (2, 1) and found[0, 0] > found[1, 0] + 1
    with pytest.raises(HarnessError, match="has no test part"):
        run.measure("test")
