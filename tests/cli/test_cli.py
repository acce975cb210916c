"""The command line as a person meets it: what it prints, what it writes, how it ends."""

import json
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small import SPEC, edit
from torch import nn

from harness.amounts import parse_duration, parse_size
from harness.errors import HarnessError
from harness.experiment import Experiment
from harness.reporting.tables import runs_table
from harness.search import choice, integer, log_uniform, uniform
from harness.spec import Description
from harness.tracking.runs import RunRecord, list_runs
from harness.tracking.store import Store

Harness = Callable[..., Any]


def changed(old: str, new: str, *, pattern: bool = False) -> str:
    """The spec with one thing changed."""
    text = re.sub(old, new, SPEC, count=1, flags=re.DOTALL) if pattern else SPEC.replace(old, new, 1)
    assert text != SPEC
    return text


WRONG = {
    "a syntax error": (changed("class Small(Experiment):", "class Small(Experiment:"), r"wrong\.py:\d+: "),
    "no experiment": ("import torch\n", r"wrong\.py: no Experiment in it"),
    "two experiments": (
        SPEC + "\n\nclass Other(Small):\n    epochs = 3\n",
        r"wrong\.py: Small and Other are both Experiments; a spec file holds one",
    ),
    "low above high": (
        changed("search.log_uniform(1e-3, 1.0, points=4, default=1e-1)", "search.log_uniform(1.0, 1e-3, default=0.1)"),
        r"wrong\.py: lr: low 1\.0 is above high 0\.001",
    ),
    "a default outside": (
        changed("(0, 2, default=1)", "(0, 2, default=9)"),
        r"wrong\.py: patience: default 9 is outside",
    ),
    "no model": (changed(r"    def model.*?\n\n", "", pattern=True), r"wrong\.py: Small has no model\(\)"),
    "no data": (changed(r"    def data.*?\n\n", "", pattern=True), r"wrong\.py: Small has no data\(\)"),
    "other outputs than classes": (
        changed("nn.Linear(16, 2))", "nn.Linear(16, 5))"),
        r"wrong\.py: the model gives 5 outputs an image, but data\(\) has 2 classes",
    ),
    "a misspelt setting": (
        changed("batch_size = 32", "batchsize = 32"),
        r"wrong\.py: there is no setting 'batchsize'\. Did you mean 'batch_size'\?",
    ),
    "a misspelt objective": (
        changed("epochs = 8", "epochs = 8\n    objective = 'val_acuracy'"),
        r"wrong\.py: objective 'val_acuracy' is not measured\. Did you mean 'val_accuracy'\?",
    ),
    "an unknown pruner": (changed("epochs = 8", "epochs = 8\n    pruner = 'medain'"), r"Did you mean 'median'\?"),
    "a missing library": (
        changed("import torch\n", "import torhc\n"),
        r"wrong\.py: No module named 'torhc'; install it",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_spec_gets_one_sentence_and_leaves_nothing(harness: Harness, tmp_path: Path, what: str) -> None:
    text, message = WRONG[what]
    (tmp_path / "wrong.py").write_text(text)
    done = harness("sweep", "wrong.py", code=2)
    assert re.search(message, done.err), done
    assert done.err.startswith("harness: ") and len(done.err.splitlines()) == 1
    assert done.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["wrong.py"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["train", "small.py", "--set", "momentun=0.9"],
            "no hyperparameter or setting 'momentun'. Did you mean 'momentum'?",
        ),
        (["train", "small.py", "--set", "lr"], "--set lr: write it as NAME=VALUE."),
        (["train", "small.py", "--set", "lr=fast"], "--set lr=fast: 'fast' is not a number"),
        (["train", "small.py", "--set", "epochs=0"], "epochs must be a whole number of at least 1, not 0."),
        (["train", "small.py", "--device", "tpu"], "--device tpu: choose auto, cuda, cpu or mps."),
        (["train", "small.py", "--from", "none.pth.tar"], "--from none.pth.tar: there is no such file."),
        (["sweep", "small.py", "--cpus-per-trial", "2"], "--cpus-per-trial and --gpus-per-trial need --ray."),
        (["train", "smal.py"], "smal.py does not exist. Did you mean 'small.py'?"),
        (["train", "README.md"], "README.md is not a spec: a spec is a Python file"),
        (["sweep", "small.py", "--jobs", "none"], "--jobs none: give a whole number from 1 to 999999, or auto."),
        (["sweep", "small.py", "--timeout", "soon"], "--timeout soon: write it as 45s, 30m or 1h30m."),
        (["sweep", "small.py", "--path-budget", "much"], "--path-budget much: write it as 500MB or 5GB."),
        (["sweep", "small.py", "--trials", "0"], "Invalid value for '--trials'"),
        (["sweep", "small.py", "--trails", "3"], "No such option: --trails"),
        (["sweep"], "Missing argument 'SPEC'"),
        (["swep", "small.py"], "No such command 'swep'. Did you mean 'sweep'?"),
        (["runs", "small.py"], "holds no runs yet; start with: python -m harness sweep"),
        (["best", "small.py"], "holds no runs yet"),
        (["reload", "best"], "holds no runs yet"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_command_says_what_is_right(
    harness: Harness, spec: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = harness(*arguments, code=2)
    assert message in done.err
    assert "Traceback" not in done.err and done.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["small.py"]


def test_an_error_in_the_users_code_shows_their_frames_alone(harness: Harness, spec: Path, tmp_path: Path) -> None:
    spec.write_text(changed("        return nn.Sequential", "        helper()\n        return nn.Sequential"))
    spec.write_text(spec.read_text() + "\n\ndef helper():\n    raise LookupError('no such layer')\n")
    done = harness("sweep", spec, code=2)
    assert done.err.count("small.py") >= 3 and "in helper" in done.err and "in model" in done.err
    assert "/harness/" not in done.err, "no frames of the package"
    assert done.err.splitlines()[-1].endswith("model() raised LookupError: no such layer")
    assert not (tmp_path / "mlruns").exists()


def test_an_error_in_the_middle_of_training_ends_with_1(harness: Harness, spec: Path) -> None:
    forward = "class Late(nn.Module):\n    calls = 0\n\n    def forward(self, x):\n        Late.calls += 1\n"
    forward += (
        "        if Late.calls > 60:\n            raise LookupError('too late')\n        return x\n\n\nclass Small("
    )
    spec.write_text(changed("class Small(", forward).replace("nn.Dropout(0.2)", "Late()"))
    done = harness("train", spec, "--epochs", 60, code=1)
    assert "LookupError: too late" in done.err and "in forward" in done.err
    assert "/harness/" not in done.err
    [run] = harness("runs", spec, "--json").json
    assert run["status"] == "FAILED" and run["value"] is None


def test_help_lists_every_command_and_explains_the_words(harness: Harness) -> None:
    shown = harness("--help").out
    for name in ("sweep", "train", "runs", "best", "reload", "predict"):
        assert re.search(rf"^  {name} +\w", shown, re.MULTILINE)
    assert "SPEC is a spec file" in shown and "RUN is an MLflow run" in shown
    for name in ("sweep", "train", "runs", "best", "reload", "predict"):
        command = harness(name, "--help").out
        assert "--store DIR" in command
        assert all(len(line) <= 80 for line in command.splitlines())


def test_runs_as_json_are_one_document_the_best_first(swept: Path, tmp_path: Path, zygote: Any) -> None:
    done = zygote.start("runs", "small.py", "--json", cwd=swept).wait()
    assert done.code == 0 and done.err == ""
    listed = done.json
    assert len(listed) == 5
    for run in listed:
        assert list(run) == ["run_id", "name", "status", "value", "params", "metrics"]
        assert run["status"] == "FINISHED" and re.fullmatch("[0-9a-f]{32}", run["run_id"])
        assert set(run["params"]) == {"lr", "momentum", "patience", "factor"}
        assert isinstance(run["params"]["lr"], float) and isinstance(run["params"]["patience"], int)
        assert run["metrics"]["best_val_accuracy"] == run["value"]
    values = [run["value"] for run in listed]
    assert values == sorted(values, reverse=True)

    best = zygote.start("best", "small.py", "--json", cwd=swept).wait()
    assert best.json == listed[0]
    shutil.copytree(swept, tmp_path / "copy")  # that the test part was looked at is kept
    tested = zygote.start("best", "small.py", "--json", "--test", cwd=tmp_path / "copy").wait().json
    assert set(tested) == {*listed[0], "test"} and set(tested["test"]) == {"test_loss", "test_accuracy"}

    by_loss = zygote.start("runs", "small.py", "--json", "--sort", "val_loss", cwd=swept).wait().json
    losses = [run["metrics"]["val_loss"] for run in by_loss]
    assert losses == sorted(losses)


def test_a_run_is_reloaded_by_the_beginning_of_its_id(swept: Path, zygote: Any) -> None:
    run = list_runs(Store(swept / "mlruns"), "small")[-1]
    done = zygote.start("reload", run.run_id[:12], "--json", cwd=swept).wait()
    assert (done.code, done.err) == (0, "")
    assert done.json == {
        "run_id": run.run_id,
        "logged": done.json["logged"],
        "measured": done.json["logged"],
        "match": True,
    }
    shown = zygote.start("reload", run.run_id[:12], cwd=swept).wait()
    assert shown.code == 0 and shown.out.splitlines()[-1] == "equal, bit for bit"
    assert run.name in shown.out and repr(done.json["logged"]["val_loss"]) in shown.out
    assert zygote.start("reload", "ffffffff", cwd=swept).wait().code == 2


def test_best_as_text_names_the_run_and_its_values(swept: Path, zygote: Any) -> None:
    best = list_runs(Store(swept / "mlruns"), "small")[0]
    shown = zygote.start("best", "small.py", cwd=swept).wait().out
    assert shown.splitlines()[0].startswith(f"{best.name}  val_accuracy {best.value:.4f}  (finished")
    assert best.run_id in shown and f"lr {best.params['lr']:g}" in shown


def record(number: int, **params: Any) -> RunRecord:
    return RunRecord(
        run_id=f"{number:032x}", name=f"trial-{number:04d}", status="FAILED" if number == 1 else "FINISHED",
        value=0.5 + number / 100,
        params=params, metrics={"val_loss": 1.0, "val_accuracy": 0.5, "best_epoch": 3, "reused_epochs": 0},
        objective="val_accuracy", recipe="0123456789abcdef", reason="why" if number == 1 else None,
    )  # fmt: skip


@pytest.mark.parametrize("width", [80, 100, 200])
def test_the_table_of_runs_fits_the_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(width))
    records = [record(n, lr=0.1 / (n + 1), momentum=0.9, patience=n, factor=0.1) for n in range(3)]
    runs_table(records)
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, lines)) <= width and not any("…" in line for line in lines)
    assert lines[0].split()[:4] == ["name", "run", "status", "val_accuracy"]
    assert lines[1].split()[:4] == ["trial-0000", "00000000", "finished", "0.5000"]
    assert lines[-1] == "trial-0001: why"
    assert ("all runs: momentum 0.9" in lines[-2]) == (width < 200)
    assert ("recipe" in lines[0]) == (width == 200)


def test_the_table_of_runs_in_a_file_has_everything(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    runs_table([record(n, lr=0.1, momentum=0.9, patience=n, factor=0.1) for n in range(3)], sort="val_loss")
    heading, *rows = capsys.readouterr().out.splitlines()
    assert heading.split()[:5] == ["name", "run", "status", "val_loss", "val_accuracy"]
    assert {"lr", "momentum", "patience", "factor", "reused", "recipe"} <= set(heading.split())
    assert len(rows) == 4 and len(rows[0].split()) == 13


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(harness: Harness, spec: Path, tmp_path: Path) -> None:
    done = harness("sweep", spec, "--dry-run", "--trials", 3)
    assert "small: 3 trials of 8 epochs" in done.out
    assert "lr: log 0.001 to 1, 4 points (default 0.1)" in done.out
    assert "dry run: nothing was written." in done.out
    assert [path.name for path in tmp_path.iterdir()] == ["small.py"]


def test_set_fixes_a_hyperparameter_of_a_sweep(harness: Harness, spec: Path) -> None:
    harness("sweep", spec, "--trials", 3, "--epochs", 2, "--set", "lr=0.05", "--set", "batch_size=16")
    listed = harness("runs", spec, "--json").json
    assert {run["params"]["lr"] for run in listed} == {0.05} and len(listed) == 3
    opened = Store(spec.parent / "mlruns")
    tags = [run.data.tags for run in opened.find_runs(opened.experiment_id("small"), "")]
    assert {(tag["harness.batch_size"], tag["harness.epochs"]) for tag in tags} == {("16", "2")}


def test_a_value_is_read_by_its_declared_type() -> None:
    class Typed(Experiment):
        rate: float = log_uniform(1e-3, 1e-1, default=1e-2)
        share: float = uniform(0, 1, default=0.5)
        width: int = integer(1, 64, default=8)
        act: str = choice("relu", "gelu", default="relu")
        bias: bool = choice(True, False, default=True)
        kernel: tuple[int, int] = choice((3, 3), (5, 5), default=(3, 3))

    description = Description(
        name="typed", path=Path("typed.py"), summary="",
        hyperparameters=Typed.hyperparameters, settings=Typed.defaults(),
    )  # fmt: skip
    given = [
        "rate=1e-2",
        "share=1",
        "width = 32",
        "act=gelu",
        "bias=False",
        "kernel=(5, 5)",
        "pruner=median",
        "keep=all",
    ]
    parsed = description.parse(given)
    assert parsed == {
        "rate": 0.01, "share": 1.0, "width": 32, "act": "gelu", "bias": False, "kernel": (5, 5),
        "pruner": "median", "keep": "all",
    }  # fmt: skip
    assert type(parsed["share"]) is float and parsed["bias"] is False
    for wrong in ("width=3.5", "act=relue", "rate=nan", "seed=-1", "keep=some"):
        with pytest.raises(HarnessError, match=f"--set {wrong}: "):
            description.parse([wrong])


def test_training_goes_on_from_a_run_with_its_values(swept: Path, tmp_path: Path, zygote: Any) -> None:
    shutil.copytree(swept, tmp_path / "copy")
    opened = Store(tmp_path / "copy" / "mlruns")
    first = next(run for run in list_runs(opened, "small") if run.name == "train-0001")
    short = zygote.start("train", "small.py", "--from", first.run_id[:12], cwd=tmp_path / "copy").wait()
    assert short.code == 2 and "has 8 epochs already; say how many in all, such as --epochs" in short.err
    arguments = ["train", "small.py", "--from", first.run_id[:12], "--epochs", "12"]
    done = zygote.start(*arguments, cwd=tmp_path / "copy").wait()
    assert done.code == 0, done
    new = {run.name: run for run in list_runs(opened, "small")}["train-0002"]
    assert new.params == first.params and new.params["lr"] == 0.3
    assert f"run {new.run_id}" in done.out
    history = opened.client.get_metric_history(new.run_id, "epoch_seconds")
    assert max(point.step for point in history) == 11
    before = {p.step: p.value for p in opened.client.get_metric_history(first.run_id, "val_loss")}
    after = {p.step: p.value for p in opened.client.get_metric_history(new.run_id, "val_loss")}
    assert before.items() <= after.items(), "its own history first, bit for bit"


def test_more_epochs_extend_a_run_and_what_changed_since_is_said(swept: Path, tmp_path: Path, zygote: Any) -> None:
    shutil.copytree(swept, tmp_path / "copy")
    arguments = ["train", "small.py", "--set", "lr=0.3", "--epochs", "11"]
    done = zygote.start(*arguments, cwd=tmp_path / "copy").wait()
    assert done.code == 0, done
    assert done.out.count("(reused)") == 8 and "8 epochs reused" in done.out
    assert "changed since" not in done.out
    edit(tmp_path / "copy" / "small.py", "nn.Dropout(0.2)", "nn.Dropout(0.3)")
    again = zygote.start("train", "small.py", "--epochs", "1", cwd=tmp_path / "copy").wait()
    assert "changed since train-0002: Small.model(); lr (0.3 before, 0.1 now). Its epochs are not reused." in again.out


def test_training_begins_with_the_weights_of_anyones_checkpoint(harness: Harness, spec: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    torch.save(
        {"epoch": 2, "state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "a.pth.tar"
    )
    done = harness("train", spec, "--from", "a.pth.tar", "--epochs", 5, "--set", "lr=1e-20")
    assert "begins with a.pth.tar: weights" in done.out
    run_id = done.out.splitlines()[-1].removeprefix("run ")
    opened = Store(tmp_path / "mlruns")
    steps = [point.step for point in opened.client.get_metric_history(run_id, "val_loss")]
    assert sorted(steps) == [3, 4], "epochs 0 to 2 were trained elsewhere"

    torch.save({"losses": [0.5, 0.4]}, tmp_path / "b.pth.tar")
    wrong = harness("train", spec, "--from", "b.pth.tar", code=2)
    assert "b.pth.tar has no weights: expected one of the keys state_dict" in wrong.err
    other = nn.Linear(6, 2)
    torch.save({"state_dict": other.state_dict()}, tmp_path / "c.pth.tar")
    assert "the checkpoint does not fit model()" in harness("train", spec, "--from", "c.pth.tar", code=2).err


def test_an_objective_of_set_does_not_change_what_is_best(swept: Path, tmp_path: Path, zygote: Any) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(swept, folder)
    before = zygote.start("best", "small.py", "--json", cwd=folder).wait().json
    arguments = ["train", "small.py", "--epochs", "1", "--set", "objective=val_loss", "--set", "seed=3"]
    assert zygote.start(*arguments, cwd=folder).wait().code == 0
    assert zygote.start("best", "small.py", "--json", cwd=folder).wait().json == before
    listed = zygote.start("runs", "small.py", "--json", cwd=folder).wait().json
    assert listed[0] == before and listed[-1]["value"] == listed[-1]["metrics"]["best_val_loss"]


def test_an_interrupt_ends_with_130_and_the_same_command_goes_on(spec: Path, tmp_path: Path, zygote: Any) -> None:
    lingering = """    def metrics(self):
        def accuracy(outputs, targets):
            time.sleep(0.1 if Path("slow").exists() else 0)  # seconds a batch
            return (outputs.argmax(1) == targets).float()

        return {"accuracy": accuracy}

    def scheduler"""
    spec.write_text("import time\nfrom pathlib import Path\n" + changed("    def scheduler", lingering))
    (tmp_path / "slow").touch()
    started = zygote.start("train", spec, "--epochs", 12, cwd=tmp_path)
    started.wait_for("epoch  2/12")
    started.signal(signal.SIGINT)
    done = started.wait()
    assert done.code == 130, done
    assert "the same command goes on" in done.out + done.err and "Traceback" not in done.err
    [run] = zygote.start("runs", spec, "--json", cwd=tmp_path).wait().json
    assert run["status"] == "INTERRUPTED"
    (tmp_path / "slow").unlink()
    again = zygote.start("train", spec, "--epochs", 12, cwd=tmp_path).wait()
    assert again.code == 0 and "(reused)" in again.out
    [finished] = zygote.start("runs", spec, "--json", cwd=tmp_path).wait().json
    assert (finished["run_id"], finished["status"]) == (run["run_id"], "FINISHED")


def test_the_demo_has_an_experiment_of_its_own(harness: Harness, tmp_path: Path) -> None:
    text = SPEC.replace("from harness.data import tensors", "from harness.data import mnist")
    text = re.sub(
        r"        generator = .*?validation=0.25, test=0.25\)", "        return mnist()", text, flags=re.DOTALL
    )
    text = text.replace("nn.Sequential(nn.Linear(6, 16)", "nn.Sequential(nn.Flatten(), nn.LazyLinear(16)").replace(
        "nn.Linear(16, 2)", "nn.Linear(16, 10)"
    )
    (tmp_path / "drawn.py").write_text(text.replace("nn.LazyLinear(16)", "nn.Linear(784, 16)"))
    done = harness("sweep", "drawn.py", "--demo", "--trials", 2, "--epochs", 1)
    assert "drawn-demo: 2 trials of 1 epochs" in done.out
    assert {path.name for path in tmp_path.iterdir()} == {"drawn.py", "mlruns"}, "nothing was downloaded"
    listed = harness("runs", "drawn.py", "--demo", "--json").json
    assert len(listed) == 2
    assert "has no runs of 'drawn'. It has: drawn-demo." in harness("runs", "drawn.py", code=2).err
    assert harness("reload", "best", "drawn.py", "--demo", "--json").json["match"] is True


def test_durations_and_sizes() -> None:
    assert [parse_duration(text) for text in ("45", "45s", "30m", "1h30m", "0.5s")] == [45, 45, 1800, 5400, 0.5]
    assert [parse_size(text) for text in ("5GB", "1.5 MB", "100", "2k")] == [5 * 10**9, 1_500_000, 100, 2000]


def test_what_is_not_a_number_is_null_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    from harness.reporting.document import print_json

    print_json({"a": float("nan"), "b": [float("inf"), (1.5, None)]})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, [1.5, None]]}
