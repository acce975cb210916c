"""Checkpoints as other people's loops save them: what is read, what is refused, and that training goes on."""

import argparse
import enum
import json
import pickle
import struct
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness.errors import HarnessError
from harness.training.build import Built
from harness.training.device import seed_all
from harness.training.foreign import load_foreign_checkpoint
from harness.training.origin import Origin
from harness.training.state import same_bits

Write, Walk, Make = Callable[..., Path], Callable[..., Any], Callable[..., Built]
WEIGHTS = {"weight": torch.ones(2, 2)}
RAN = Path("/tmp/it-ran")


class Runs:
    """Would run code when it is unpickled."""

    def __reduce__(self) -> Any:
        return Path.touch, (RAN,)


class Phase(enum.Enum):
    TRAIN = 1


EXTRAS = {
    "args": argparse.Namespace(lr=0.1, path=Path("x"), when=Phase.TRAIN),
    "history": defaultdict(list, {"loss": [0.1]}),
    "best": np.float64(0.9),
    "curve": np.arange(3),
    "kind": nn.ReLU,
    "rng": {"numpy": np.random.get_state(), "cuda": torch.get_rng_state()},
    "danger": Runs(),
}


@pytest.mark.parametrize("zipped", (True, False))
@pytest.mark.parametrize(("saved", "epochs", "has_optimizer"), [
    ({"state_dict": WEIGHTS, "optimizer": {"state": {}, "param_groups": [{"params": [0]}]}, "epoch": 4}, 5, True),
    ({"model_state_dict": WEIGHTS, "optimizer_state_dict": {}, "epoch": 4, "loss": 0.1}, 5, False),
    ({"estado_diccionario": WEIGHTS, "epoca": 7}, 8, False),
    ({"model": WEIGHTS}, None, False),
    ({"net": WEIGHTS, "acc": 91.2, "epoch": torch.tensor(3)}, 4, False),
    ({"state_dict": WEIGHTS, "epoch": np.int64(3), "best_acc1": np.float32(50)}, 3, False),
    ({"state_dict": WEIGHTS, "start_epoch": 3}, 3, False),
    ({"model": {"state_dict": WEIGHTS}}, None, False),
    ({"state_dict_ema": WEIGHTS, "epoch": 1}, 2, False),
    (WEIGHTS, None, False),
    ({"state_dict": WEIGHTS, "epoch": 9, "lr_scheduler": {"last_epoch": 10}}, 10, False),
    ({"state_dict": WEIGHTS, "epoch": 10, "lr_scheduler": {"last_epoch": 10}}, 10, False),
    ({"state_dict": WEIGHTS, "epoch": 9, "loops": {"fit_loop": {"epoch_progress": {"current":
        {"completed": 9, "processed": 10}}}}}, 10, False),
    ({"state_dict": WEIGHTS, "epoch": "last", "node": 3}, "no count of epochs", False),
])  # fmt: skip
def test_weights_and_epochs_are_found(
    tmp_path: Path, saved: Any, epochs: int | str | None, has_optimizer: bool, zipped: bool
) -> None:
    path = tmp_path / "theirs.pth"
    torch.save(saved if saved is WEIGHTS else saved | EXTRAS, path, _use_new_zipfile_serialization=zipped)
    if isinstance(epochs, str):
        with pytest.raises(HarnessError, match=epochs):
            load_foreign_checkpoint(path)
        return
    read = load_foreign_checkpoint(path)
    assert torch.equal(read.weights.weights["weight"], WEIGHTS["weight"])
    assert (read.epochs, read.optimizer is not None, read.node) == (epochs, has_optimizer, None)
    assert load_foreign_checkpoint(path, epochs=2).epochs == 2
    assert not RAN.exists()


def test_a_network_saved_whole_gives_its_weights_and_runs_nothing(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.BatchNorm1d(3)))
    network.danger = Runs()  # type: ignore[assignment]
    torch.save(network, tmp_path / "whole.pth")
    torch.save({"model": network, "epoch": 1}, tmp_path / "held.pth")
    for name in ("whole", "held"):
        read = load_foreign_checkpoint(tmp_path / f"{name}.pth").weights
        assert same_bits(dict(read.weights), dict(network.state_dict()))
    assert not RAN.exists()


def safetensors(path: Path, tensors: dict[str, Tensor], *, cut: int = 0) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    content = b""
    for name, tensor in tensors.items():
        part = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        kind = {torch.float32: "F32", torch.bfloat16: "BF16", torch.int64: "I64"}[tensor.dtype]
        offsets = [len(content), len(content) + len(part)]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": offsets}
        content += part
    text = json.dumps(header).encode()
    path.write_bytes((struct.pack("<Q", len(text)) + text + content)[: -cut or None])


def test_safetensors_are_read(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 4), "b": torch.randn(5).bfloat16(), "c": torch.tensor(7), "d": torch.zeros(0, 2)}
    safetensors(tmp_path / "model.safetensors", tensors)
    read = load_foreign_checkpoint(tmp_path / "model.safetensors")
    assert same_bits(dict(read.weights.weights), tensors) and read.epochs is None
    safetensors(tmp_path / "cut.safetensors", tensors, cut=3)
    with pytest.raises(HarnessError, match="damaged safetensors"):
        load_foreign_checkpoint(tmp_path / "cut.safetensors")


@pytest.mark.parametrize(("content", "message"), [
    (b"", "is empty"),
    (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    (b"  <!DOCTYPE html><html>", "is a web page"),
    (b"\x1f\x8b123", "compressed"),
    (b"no checkpoint at all", "damaged or not a torch file"),
    (pickle.dumps(Path), "damaged or not a torch file"),
])  # fmt: skip
def test_a_file_that_is_no_checkpoint_says_what_it_is(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "theirs.pth").write_bytes(content)
    with pytest.raises(HarnessError, match=message):
        load_foreign_checkpoint(tmp_path / "theirs.pth")


@pytest.mark.parametrize(("saved", "message"), [
    ({"epoch": 3}, "has no weights: expected one of the keys state_dict, model_state_dict"),
    (3, "holds a int, not a dict"),
    ({0: WEIGHTS}, "has no weights by name: its keys are 0"),
    (Phase.TRAIN, "holds an object"),
    ({"state_dict": WEIGHTS, "optimizer": {"param_groups": 5}}, r"not the state_dict\(\) of an optimizer"),
    ({"state_dict": WEIGHTS, "epoch": -5}, "say how many are done: --epoch N"),
])  # fmt: skip
def test_what_cannot_be_understood_is_said(tmp_path: Path, saved: Any, message: str) -> None:
    torch.save(saved, tmp_path / "theirs.pth")
    with pytest.raises(HarnessError, match=message):
        load_foreign_checkpoint(tmp_path / "theirs.pth")


PLATEAU = "lr_scheduler.ReduceLROnPlateau(optimizer, factor=self.factor, patience=self.patience)"
STEP = "lr_scheduler.StepLR(optimizer, 2, gamma=self.factor)"
COSINE = "lr_scheduler.CosineAnnealingLR(optimizer, T_max=5)"


def wrapped(weights: Any, prefix: str) -> Any:
    return OrderedDict((prefix + name, value) for name, value in weights.items())


FORMATS: dict[str, Callable[[dict[str, Any], int], Any]] = {
    "torchvision": lambda s, e: {"model": s["model"], "optimizer": s["optimizer"], "lr_scheduler": s["scheduler"],
                                 "epoch": e - 1, "args": argparse.Namespace(lr=0.1)},
    "imagenet": lambda s, e: {"epoch": e, "arch": "x", "state_dict": wrapped(s["model"], "module."),
                              "best_acc1": torch.tensor(5.0), "optimizer": s["optimizer"], "scheduler": s["scheduler"]},
    "timm": lambda s, e: {"epoch": e - 1, "arch": "x", "state_dict": s["model"], "optimizer": s["optimizer"],
                          "version": 2, "state_dict_ema": s["model"], "args": argparse.Namespace(lr=0.1)},
    "lightning": lambda s, e: {"pytorch-lightning_version": "2.5", "epoch": e - 1, "global_step": 9,
                               "state_dict": wrapped(s["model"], "model.") | {"loss.weight": torch.ones(2)},
                               "optimizer_states": [s["optimizer"]], "lr_schedulers": [s["scheduler"]]},
    "compiled": lambda s, e: {"model_state_dict": wrapped(s["model"], "_orig_mod.module."), "epoch": e - 1,
                              "optimizer_state_dict": s["optimizer"], "scheduler_state_dict": s["scheduler"]},
    "counted from 1": lambda s, e: {"net": s["model"], "epoch": e, "optimizer": s["optimizer"],
                                    "scheduler": s["scheduler"]},
}  # fmt: skip


def own_loop(built: Built, epochs: int, save_after: int) -> tuple[dict[str, Any], list[tuple[float, float]]]:
    """A plain loop over the same batches; what it has after some epochs, and loss and rate of those that follow."""
    model, loss, parts = built.model, built.parts.loss, built.parts
    optimizer, scheduler = parts.optimizer, parts.scheduler
    saved: dict[str, Any] = {}
    told = []
    for epoch in range(epochs):
        seed_all(0, "epoch", epoch)
        model.train()
        rate, total, count = optimizer.param_groups[0]["lr"], 0.0, 0
        for inputs, targets in built.data.train_batches(batch_size=20, seed=0, epoch=epoch, device="cpu"):
            value = loss(model(inputs), targets)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            total, count = total + float(value.detach()) * len(inputs), count + len(inputs)
        model.eval()
        (inputs, targets), *_ = built.data.batches(built.data.validation, batch_size=30, device="cpu")
        with torch.no_grad():
            metric = float(loss(model(inputs), targets))
        scheduler.step(*[metric] * isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau))
        if epoch + 1 == save_after:
            kept = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
            saved = pickle.loads(pickle.dumps({name: part.state_dict() for name, part in kept.items()}))
        if epoch + 1 > save_after:
            told.append((total / count, rate))
    return saved, told


@pytest.mark.parametrize("scheduler", (STEP, COSINE, PLATEAU))
@pytest.mark.parametrize("name", FORMATS)
def test_training_goes_on_with_the_loss_and_rate_that_the_loop_would_have_had(
    write: Write, make: Make, walk: Walk, tmp_path: Path, name: str, scheduler: str
) -> None:
    spec = write((PLATEAU, scheduler))
    saved, told = own_loop(make(spec), epochs=5, save_after=3)
    torch.save(FORMATS[name](saved, 3), tmp_path / "theirs.pth")
    begun = walk(spec, start=tmp_path / "theirs.pth", epochs=5)
    assert [result.epoch for result in begun.results] == [3, 4]
    rates = [rate for _, rate in told]
    if not (name == "timm" and scheduler == PLATEAU):  # whose state is not in the file: it begins anew
        assert begun.rates == pytest.approx(rates, rel=1e-12)
    assert begun.rates[0] == pytest.approx(rates[0], rel=1e-12)
    assert begun.metrics[0]["train_loss"] == pytest.approx(told[0][0], rel=1e-5)


def test_a_head_of_other_classes_is_left_out_and_training_begins_anew(write: Write, walk: Walk, tmp_path: Path) -> None:
    spec = write()
    start = walk(spec, epochs=4).checkpoints / "last.pth.tar"
    other = write(("nn.Linear(16 * self.width, 2)", "nn.Linear(16 * self.width, 3)"), name="other.py")
    other.write_text(other.read_text().replace("validation=30", "validation=30, classes=3"))
    with pytest.raises(HarnessError, match=r"size mismatch for 5.weight: 2x64 in the file, 3x64 .*: --except 5"):
        walk(other, start=start, epochs=8)
    begun = walk(other, start=Origin(path=start, without=("5",)), epochs=2)
    assert [result.epoch for result in begun.results] == [0, 1]
    assert begun.rates[0] == 0.1 and begun.metrics != walk(other, "anew", epochs=2).metrics
    with pytest.raises(HarnessError, match="--except hed: neither model"):
        walk(other, start=Origin(path=start, without=("hed",)), epochs=8)


def test_epochs_that_the_user_counts_are_counted(write: Write, walk: Walk, tmp_path: Path) -> None:
    spec = write((PLATEAU, STEP))
    torch.save({"state_dict": walk(spec, epochs=4).checkpoint()["state_dict"], "epoch": 77}, tmp_path / "theirs.pth")
    with pytest.raises(HarnessError, match="has 78 epochs already"):
        walk(spec, start=tmp_path / "theirs.pth")
    begun = walk(spec, start=Origin(path=tmp_path / "theirs.pth", epochs=4), epochs=6)
    assert [result.epoch for result in begun.results] == [4, 5] and begun.rates == pytest.approx([1e-3, 1e-3])
    anew = walk(spec, start=Origin(path=tmp_path / "theirs.pth", epochs=0), epochs=2)
    assert [result.epoch for result in anew.results] == [0, 1] and anew.rates == [0.1, 0.1]


@pytest.mark.parametrize("change", ("order", "shape"))
def test_an_optimizer_that_does_not_fit_is_refused_and_can_be_left_out(
    write: Write, walk: Walk, tmp_path: Path, change: str
) -> None:
    spec = write()
    saved = walk(spec, epochs=2).checkpoint()
    state = saved["optimizer"]["state"]
    if change == "shape":
        state[1] = {"momentum_buffer": torch.zeros(3)}
    else:
        saved["optimizer"]["state"] = dict(zip(state, reversed(state.values()), strict=True))
    del saved["node"]
    torch.save(saved, tmp_path / "theirs.pth")
    with pytest.raises(HarnessError, match=r"optimizer does not fit optimizer\(\): momentum_buffer .*--except optimi"):
        walk(spec, start=tmp_path / "theirs.pth")
    begun = walk(spec, start=Origin(path=tmp_path / "theirs.pth", without=("optimizer",)))
    assert [result.epoch for result in begun.results] == [2, 3, 4, 5]
