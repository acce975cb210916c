"""Specs that are wrong: the worker answers with a sentence, and only errors of the user's code have a traceback."""

from pathlib import Path
from typing import Any

import pytest
from small import SPEC

from harness.workers.messages import Describe, Failed, Preflight
from harness.workers.worker import Worker

DATA, MODEL = "        generator = torch.Generator", "        return nn.Sequential"
OPTIMIZER = "        return optim.SGD"


def edited(old: str, new: str) -> str:
    assert old in SPEC
    return SPEC.replace(old, new, 1)


def before(place: str, line: str) -> str:
    """The spec with a line before a place."""
    return edited(place, f"        {line}\n{place}")


def setting(line: str) -> str:
    return edited("    trials = 6\n", f"    trials = 6\n    {line}\n")


PRUNER = """
from optuna.pruners import NopPruner


class Own(NopPruner):
    pass

"""

# The text of a spec, or its bytes, and what is said of it.
CASES: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "no Experiment in it"),
    "a comment": ("# nothing\n", "no Experiment in it"),
    "zero bytes": (b"\0\0\0", "null bytes"),
    "latin-1": (SPEC.replace("plateaus", "plat\xe9").encode("latin-1"), "is not UTF-8"),
    "utf-16": (SPEC.encode("utf-16"), "is not UTF-8"),
    "random bytes": (bytes(range(256)), "is not UTF-8"),
    "a syntax error": (edited("class Small", "clas Small"), "invalid syntax"),
    "a tab among spaces": (edited("    epochs = 8", "\tepochs = 8"), "unindent does not match"),
    "nested without end": ("x = " + "(" * 5000 + ")" * 5000, ""),
    "a missing module": ("import nothing_like_this\n" + SPEC, "No module named 'nothing_like_this'"),
    "an import of nothing": ("from torch import nothing_like_this\n" + SPEC, "ImportError"),
    "an exception": ("1 / 0\n" + SPEC, "ZeroDivisionError"),
    "sys.exit": ("import sys\nsys.exit(3)\n" + SPEC, "SystemExit"),
    "raise SystemExit in data": (before(DATA, "raise SystemExit"), "SystemExit"),
    "a recursion": ("def f():\n    return f()\nf()\n" + SPEC, "RecursionError"),
    "an exception without a text": ("raise Exception\n" + SPEC, "raised Exception"),
    "an exception whose text raises": (
        "class E(Exception):\n    def __str__(self):\n        return 1\nraise E\n" + SPEC,
        "raised E",
    ),
    "no data": (edited("def data", "def _data"), "has no data()"),
    "no model": (edited("def model", "def _model"), "has no model()"),
    "no optimizer": (edited("def optimizer", "def _optimizer"), "has no optimizer()"),
    "two experiments": (SPEC + "\n\nclass Other(Small):\n    pass\n", "are both Experiments"),
    "a misspelt setting": (setting("batchsize = 3"), "batch_size"),
    "a misspelt method": (edited("def scheduler", "def schedular"), "scheduler"),
    "epochs of nothing": (edited("epochs = 8", "epochs = 0"), "epochs must be"),
    "epochs as text": (edited("epochs = 8", "epochs = '8'"), "epochs must be"),
    "epochs that are true": (edited("epochs = 8", "epochs = True"), "epochs must be"),
    "epochs that are NaN": (edited("epochs = 8", "epochs = float('nan')"), "epochs must be"),
    "a negative seed": (setting("seed = -1"), "seed must be"),
    "a seed as a list": (setting("seed = [1]"), "seed must be"),
    "an unknown precision": (setting("precision = 'float8'"), "precision must be"),
    "an unknown sampler": (setting("sampler = ['tpe']"), "sampler must be"),
    "an objective of nothing": (setting("objective = 'val_acuracy'"), "val_accuracy"),
    "an objective that is no text": (setting("objective = 3"), "objective must be"),
    "a monitor of nothing": (setting("monitor = 'loss'"), "monitor 'loss' is not measured"),
    "keep of nothing": (setting("keep = ('first',)"), "keep must be"),
    "threads of nothing": (setting("threads = 0"), "threads must be"),
    "a range upside down": (edited("log_uniform(1e-3, 1.0,", "log_uniform(1.0, 1e-3,"), "low 1.0 is above high"),
    "a range from zero": (edited("log_uniform(1e-3, 1.0,", "log_uniform(0.0, 1.0,"), "above 0"),
    "a range to infinity": (edited("log_uniform(1e-3, 1.0,", "log_uniform(1e-3, float('inf'),"), "not a finite number"),
    "a range as text": (edited("log_uniform(1e-3, 1.0,", "log_uniform('low', 1.0,"), "is not a finite number"),
    "a default outside": (edited("default=1e-1", "default=5.0"), "default 5.0 is outside"),
    "one point": (edited("points=4", "points=1"), "points=1"),
    "half a point": (edited("points=4", "points=2.5"), "points=2.5"),
    "no options": (edited("choice(0.5, 0.9, default=0.9)", "choice(default=0.9)"), "at least one option"),
    "a default that is no option": (
        edited("choice(0.5, 0.9,", "choice(0.5,"),
        "is not one of",
    ),
    "equal options": (edited("choice(0.5, 0.9, default=0.9)", "choice(False, 0, default=0)"), "are equal"),
    "an option that is an object": (
        edited("choice(0.5, 0.9,", "choice(nn, 0.9,"),
        "neither number",
    ),
    "a hyperparameter named as a method": (setting("loss = search.choice(1, default=1)"), "loss"),
    "a hyperparameter named values": (setting("values = search.choice(1, default=1)"), "values"),
    "a pruner of its own": (PRUNER + setting("pruner = Own()"), "a class that the spec defines"),
    "a pruner that does not travel": (PRUNER + setting("pruner = lambda: 0"), "cannot leave this file"),
    "data of nothing": (before(DATA, "return None"), "data() returns NoneType"),
    "data that raises": (before(DATA, "raise ValueError('broken')"), "ValueError: broken"),
    "data that is not there": (before(DATA, "open('none.csv')"), "FileNotFoundError"),
    "data without images": (edited("torch.randn(400, 6,", "torch.randn(0, 6,"), ""),
    "targets of another length": (edited("targets = (inputs[:, :3]", "targets = (inputs[:-1, :3]"), ""),
    "a model of nothing": (before(MODEL, "return None"), "model() returns NoneType"),
    "a model that is a class": (before(MODEL, "return nn.Linear"), "model() returns type"),
    "a model that raises": (before(MODEL, "raise KeyError('x')"), "KeyError"),
    "a model of other inputs": (edited("nn.Linear(6, 16)", "nn.Linear(7, 16)"), "mat1 and mat2"),
    "a model of other classes": (edited("nn.Linear(16, 2)", "nn.Linear(16, 3)"), "3 outputs an image"),
    "an optimizer of nothing": (before(OPTIMIZER, "return None"), "optimizer() returns NoneType"),
    "an optimizer that raises": (before(OPTIMIZER, "raise RuntimeError('x')"), "RuntimeError: x"),
    "a negative learning rate": (edited("lr=self.lr,", "lr=-1.0,"), "Invalid learning rate"),
    "a scheduler that is text": (edited("return optim.lr_scheduler.ReduceLROnPlateau(", "return str("), ""),
    "a misspelt hyperparameter": (edited("lr=self.lr", "lr=self.learning_rate"), "learning_rate"),
    "a late import": (before(MODEL, "import beside"), "at the top of the file"),
    "a metric of nothing": (SPEC + "\n    def metrics(self):\n        return {'a': 3}\n", ""),
    "a loss of many numbers": (
        SPEC + "\n    def loss(self):\n        return nn.MSELoss(reduction='none')\n",
        "",
    ),
    "a loss of nothing": (SPEC + "\n    def loss(self):\n        return None\n", ""),
}


def answer(worker: Worker, spec: Path) -> Any:
    """What a worker says to a spec: it is described, and then tried."""
    told: list[Any] = []
    worker.serve(Describe(spec=spec), told.append, lambda: None)
    if isinstance(told[-1], Failed):
        return told[-1]
    described = told[-1]
    values = {name: found.default for name, found in described.hyperparameters.items()} | described.settings
    values = {name: value for name, value in values.items() if name not in ("trials", "sampler", "pruner")}
    worker.serve(
        Preflight(spec=spec, values=values, searched=("lr",), device="cpu", is_demo=False), told.append, lambda: None
    )
    return told[-1]


@pytest.fixture(scope="module")
def worker() -> Worker:
    return Worker()


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_spec_gets_a_sentence(
    case: str, worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text, told = CASES[case]
    spec = tmp_path / "small.py"
    spec.write_bytes(text if isinstance(text, bytes) else text.encode())
    (tmp_path / "beside.py").write_text("")
    failed = answer(worker, spec)
    assert isinstance(failed, Failed), failed
    assert failed.kind in ("spec", "user"), f"{failed.message}\n{failed.trace}"
    assert str(spec) in failed.message or "small.py" in failed.message
    assert told in failed.message + (failed.trace or ""), failed.message
    assert len(failed.message) < 900 and failed.message.count("\n") < 4, failed.message
    if failed.trace is not None:
        assert "harness/workers/" not in failed.trace, "it begins at the user's frame"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["beside.py", "small.py"], "nothing was written"


def test_a_spec_may_begin_with_a_mark_and_end_lines_as_windows_does(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = tmp_path / "small.py"
    spec.write_bytes(b"\xef\xbb\xbf" + SPEC.replace("\n", "\r\n").encode())
    assert not isinstance(answer(worker, spec), Failed)
