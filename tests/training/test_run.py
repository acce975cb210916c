"""A run is a path: what is known is reused, the rest is trained, and the result is that of training from scratch."""

import multiprocessing
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from states import has_state

from harness.errors import HarnessError, UserCodeError
from harness.spec import load_spec
from harness.training.build import build
from harness.training.data_cache import DataCache
from harness.training.device import make_deterministic
from harness.training.rehearsal import rehearse
from harness.training.run import Walk
from harness.training.state import capture, restore, same_bits

WalkIt = Callable[..., Any]

SGD = "optim.SGD(parameters, lr=self.lr, momentum=0.9)"
PLATEAU = "lr_scheduler.ReduceLROnPlateau(optimizer, factor=self.factor, patience=self.patience)"
SCHEDULERS = {
    "none": "None",
    "plateau": PLATEAU,
    "step": "lr_scheduler.StepLR(optimizer, 2, gamma=self.factor)",
    "cosine": "lr_scheduler.CosineAnnealingLR(optimizer, 6)",
    "restarts": "lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 2)",
    "lambda": "lr_scheduler.LambdaLR(optimizer, lambda epoch: self.factor ** (epoch // 2))",
    "chained": "lr_scheduler.ChainedScheduler("
    "[lr_scheduler.StepLR(optimizer, 2), lr_scheduler.ExponentialLR(optimizer, 0.9)])",
    "cycle": "lr_scheduler.CyclicLR(optimizer, 0.01, 0.1, step_size_up=2)",
    "sequential": "lr_scheduler.SequentialLR(optimizer, [lr_scheduler.ConstantLR(optimizer, 0.5, 2), "
    "lr_scheduler.StepLR(optimizer, 2)], [2])",
}
OPTIMIZERS = {
    "SGD": SGD,
    "Adam": "optim.Adam(parameters, lr=self.lr / 10)",
    "AdamW": "optim.AdamW(parameters, lr=torch.tensor(self.lr / 10), betas=(0.8, 0.9), amsgrad=True)",
    "RMSprop": "optim.RMSprop([{'params': list(parameters)[:2], 'lr': 1e-3}], lr=self.lr / 10, momentum=0.5)",
}


def states(paths: Path) -> list[Path]:
    return sorted(paths.glob("*/states/*"))


@pytest.mark.parametrize("stop", range(1, 7))
def test_a_run_that_was_killed_goes_on_as_if_nothing_had_happened(
    write: Any, walk: WalkIt, assert_same: Any, stop: int
) -> None:
    spec = write()
    walk(spec, run_id="killed", stop=stop)
    resumed = walk(spec, run_id="killed")
    assert resumed.reused == [True] * stop + [False] * (6 - stop)
    assert_same(resumed, walk(spec, "another"))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_resumes_exactly(write: Any, walk: WalkIt, assert_same: Any, name: str) -> None:
    spec = write((PLATEAU, SCHEDULERS[name]))
    for stop in (1, 3):  # killed twice
        walk(spec, run_id="killed", stop=stop)
    resumed = walk(spec, run_id="killed")
    assert sum(resumed.reused) == 3
    alone = walk(spec, "another")
    assert_same(resumed, alone)
    assert name in ("none", "plateau") or len(set(alone.rates)) > 1, "the learning rate changed"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_resumes_exactly(write: Any, walk: WalkIt, assert_same: Any, name: str) -> None:
    spec = write((SGD, OPTIMIZERS[name]))
    walk(spec, run_id="killed", stop=3)
    assert_same(walk(spec, run_id="killed"), walk(spec, "another"))


def test_an_optimizer_that_turns_its_own_options_resumes_exactly(write: Any, walk: WalkIt, assert_same: Any) -> None:
    own = """class Own(optim.SGD):
    def step(self, closure=None):
        super().step()
        for group in self.param_groups:
            group["weight_decay"] += 1e-3


class Net(Experiment):"""
    spec = write(("optim.SGD", "Own"), ("class Net(Experiment):", own))
    for stop in (1, 3):
        walk(spec, run_id="killed", stop=stop)
    resumed = walk(spec, run_id="killed")
    assert sum(resumed.reused) == 3
    assert_same(resumed, walk(spec, "another"))


ONE_CYCLE = (
    (PLATEAU, "lr_scheduler.OneCycleLR(optimizer, max_lr=self.lr, total_steps=6 * 3)"),
    ("batch_size = 20", 'batch_size = 20\n    scheduler_step = "batch"'),
)


@pytest.mark.parametrize("stop", (1, 2, 5))
def test_a_scheduler_that_steps_every_batch_resumes_exactly(
    write: Any, walk: WalkIt, assert_same: Any, stop: int
) -> None:
    spec = write(*ONE_CYCLE)
    walk(spec, run_id="killed", stop=stop)
    resumed = walk(spec, run_id="killed")
    assert sum(resumed.reused) == stop
    assert_same(resumed, walk(spec, "another"))


def test_a_scheduler_that_steps_every_batch_keeps_its_epochs_to_itself(write: Any, walk: WalkIt) -> None:
    first = walk(write(*ONE_CYCLE))
    assert first.run.recipe.private is not None
    second = walk(write(*ONE_CYCLE, ("max_lr=self.lr", "max_lr=self.lr * self.factor")))
    assert not any(second.reused)
    assert not any(walk(write(*ONE_CYCLE, ("max_lr=self.lr", "max_lr=self.lr * self.factor")), factor=0.5).reused)


def test_a_sibling_starts_where_its_learning_rate_differs(write: Any, walk: WalkIt, assert_same: Any) -> None:
    spec = write()
    pairs = [(patience, factor) for patience in (2, 1, 0) for factor in (0.1, 0.5)]
    known: list[list[float]] = []
    shared_epochs = 0
    for patience, factor in pairs:
        shared = walk(spec, patience=patience, factor=factor)
        alone = walk(spec, f"alone-{patience}-{factor}", patience=patience, factor=factor)
        assert not any(alone.reused)
        assert_same(shared, alone)
        common = max((prefix(rates, alone.rates) for rates in known), default=0)
        assert shared.reused == [True] * common + [False] * (6 - common), "exactly what is known is reused"
        known.append(alone.rates)
        shared_epochs += common
    assert len({tuple(rates) for rates in known}) >= 4, "they took different paths"
    assert shared_epochs >= 6, "and shared much of them"


def prefix(left: list[float], right: list[float]) -> int:
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=True)) if a != b), len(left))


def test_a_sibling_finds_a_state_where_it_leaves_the_path(write: Any, walk: WalkIt) -> None:
    """With patience 2 the others of the search space leave after the first bad epochs: their states are kept."""
    spec = write()
    first = walk(spec, patience=2)
    second = walk(spec, patience=0)
    fork = prefix(first.rates, second.rates)
    assert 0 < fork < 6
    names = [step.node.name for step in second.run._steps]
    assert has_state(second.run.tree, names[fork - 1], kept=True)


@pytest.mark.parametrize("harm", ("all deleted", "some deleted", "some damaged", "kept ones deleted"))
def test_lost_states_cost_time_and_nothing_else(
    write: Any, walk: WalkIt, assert_same: Any, tmp_path: Path, harm: str
) -> None:
    spec = write()
    for patience in (2, 1):
        walk(spec, patience=patience)
    chosen = random.Random(harm)
    for path in states(tmp_path / "tree"):
        if harm == "some damaged" and chosen.random() < 0.7:
            content = bytearray(path.read_bytes())
            content[chosen.randrange(len(content))] ^= 1 << chosen.randrange(8)
            path.write_bytes(content)
        elif harm == "all deleted" or (harm == "some deleted" and chosen.random() < 0.7):
            path.unlink()
        elif harm == "kept ones deleted" and path.suffix == ".state":
            path.unlink()
    assert_same(walk(spec, patience=2), walk(spec, "another", patience=2))
    assert_same(walk(spec, patience=0), walk(spec, "another", patience=0))


def test_a_lost_epoch_in_the_middle_is_trained_again(
    write: Any, walk: WalkIt, assert_same: Any, tmp_path: Path
) -> None:
    spec = write()
    first = walk(spec)
    node = first.run._steps[2].node
    (first.run.tree.folder / f"{node.name}.json").write_text("{")
    again = walk(spec)
    assert again.reused == [True, True, False, True, True, True]
    assert_same(again, first)


def test_a_disk_budget_of_nothing_changes_no_result(write: Any, walk: WalkIt, assert_same: Any, tmp_path: Path) -> None:
    spec = write()
    for stop in (3, 5, None):
        resumed = walk(spec, run_id="killed", stop=stop, budget_bytes=0)
    assert states(tmp_path / "tree") == []
    assert_same(resumed, walk(spec, "another"))


def test_more_epochs_extend_the_path(write: Any, walk: WalkIt, assert_same: Any) -> None:
    spec = write()
    walk(spec, epochs=3)
    longer = walk(spec, epochs=8)
    assert longer.reused == [True] * 3 + [False] * 5
    assert_same(longer, walk(spec, "another", epochs=8))
    shorter = walk(spec, epochs=4)
    assert all(shorter.reused)
    assert_same(shorter, walk(spec, "a third", epochs=4))


def test_a_duplicate_costs_nothing_and_has_checkpoints_of_its_own(write: Any, walk: WalkIt, assert_same: Any) -> None:
    spec = write()
    first = walk(spec, run_id="first")
    second = walk(spec, run_id="second")
    assert all(second.reused)
    assert_same(second, first)
    assert {result.trained_by for result in second.results} == {"first"}
    for slot in ("last", "best"):
        checkpoint = second.checkpoint(slot)
        assert checkpoint["run_id"] == "second"
        assert checkpoint["params"] == {"lr": 0.1, "patience": 0, "factor": 0.1, "width": 4}
        assert checkpoint["spec"]["source"] == spec.read_text()
    assert second.checkpoint("last")["epoch"] == 5


def test_a_reused_run_records_its_own_scheduler_and_params(write: Any, walk: WalkIt) -> None:
    """Without a reduction both walk one path: their weights are the same, what led there is not."""
    spec = write((PLATEAU, "lr_scheduler.StepLR(optimizer, 100, gamma=self.factor)"))
    walk(spec, factor=0.1)
    second = walk(spec, factor=0.5)
    assert all(second.reused)
    assert second.checkpoint()["params"]["factor"] == 0.5
    assert second.checkpoint()["scheduler"]["gamma"] == 0.5


def test_keep_all_leaves_a_checkpoint_for_each_due_epoch_reused_or_not(
    write: Any, walk: WalkIt, assert_same: Any
) -> None:
    spec = write()
    walk(spec)
    reused = walk(spec, keep="all")
    trained = walk(spec, "another", keep="all")
    names = ["best", "epoch-0002", "epoch-0004", "epoch-0006", "last"]
    for run in (reused, trained):
        assert sorted(path.name.removesuffix(".pth.tar") for path in run.checkpoints.iterdir()) == names
    assert all(reused.reused)
    assert_same(reused, trained, *names)
    assert reused.checkpoint("epoch-0002")["run_id"] == reused.run_id


def test_keep_decides_which_checkpoints_are_left(write: Any, walk: WalkIt) -> None:
    run = walk(write(), keep="last")
    assert [path.name for path in run.checkpoints.iterdir()] == ["last.pth.tar"]


@pytest.mark.parametrize("objective", ("val_loss", "val_accuracy"))
def test_the_best_checkpoint_is_that_of_the_best_epoch(write: Any, walk: WalkIt, objective: str) -> None:
    run = walk(write(), objective=objective, patience=2)
    values = [metrics[objective] for metrics in run.metrics]
    best = min(values) if objective == "val_loss" else max(values)
    assert values[-1] != best, "the last one is another"
    checkpoint = run.checkpoint("best")
    assert checkpoint["epoch"] == values.index(best), "the first of equals"
    assert checkpoint["metrics"] == run.metrics[values.index(best)]
    assert (run.results[-1].best_epoch, run.results[-1].best_value) == (values.index(best), best)


def test_a_run_that_is_stopped_early_still_has_its_last_epoch(
    write: Any, walk: WalkIt, make: Any, tmp_path: Path
) -> None:
    """As a pruner does: no more epochs, but `finish`."""
    spec = write()
    run = Walk(
        make(spec), run_id="pruned", paths=tmp_path / "tree", budget_bytes=10**9, checkpoints=tmp_path / "pruned"
    )
    epochs = run.epochs()
    metrics = [next(epochs).metrics for _ in range(3)]
    run.finish()
    run.close()
    last = torch.load(tmp_path / "pruned" / "last.pth.tar", weights_only=True)
    assert (last["epoch"], last["metrics"]) == (2, metrics[-1])
    assert has_state(run.tree, last["node"], kept=True)
    assert walk(spec).reused == [True] * 3 + [False] * 3


@pytest.mark.parametrize("change", (
    (SGD, "optim.SGD(parameters, lr=1e30)"),
    ("    def optimizer", "    def loss(self):\n"
     "        return lambda outputs, targets: nn.functional.cross_entropy(outputs, targets) * float('nan')\n\n"
     "    def optimizer"),
))  # fmt: skip
def test_a_loss_that_is_not_finite_ends_the_run_at_once(write: Any, walk: WalkIt, change: tuple[str, str]) -> None:
    spec = write(change)
    run = walk(spec)
    assert not run.results[-1].is_finite
    assert all(result.is_finite for result in run.results[:-1])
    assert len(run.results) < 6
    again = walk(spec)
    assert all(again.reused) and len(again.results) == len(run.results), "it is not tried again"


def test_a_measure_that_is_not_a_number_is_no_divergence(write: Any, walk: WalkIt) -> None:
    """A precision without positives, say."""
    spec = write(("    def optimizer", "    def metrics(self):\n"
                  "        return {'precision': lambda outputs, targets: outputs.mean() * float('nan')}\n\n"
                  "    def optimizer"))  # fmt: skip
    run = walk(spec)
    assert len(run.results) == 6 and run.results[-1].is_finite
    assert run.checkpoint("best")["epoch"] == run.results[-1].best_epoch


def test_an_error_in_the_middle_leaves_the_path_walkable(write: Any, walk: WalkIt, tmp_path: Path) -> None:
    failing = ("    def optimizer", """    def begin_epoch(self, model, optimizer, epoch):
        if epoch == 2 and Path(__file__).with_name("fail").exists():
            raise RuntimeError("the user's own")

    def optimizer""")  # fmt: skip
    own = ("class Net(Experiment):", "from pathlib import Path\n\n\nclass Net(Experiment):")
    spec = write(failing, own)
    walk(spec, stop=2)
    (tmp_path / "fail").touch()
    with pytest.raises(UserCodeError, match="epoch 3, raised RuntimeError: the user's own"):
        walk(spec)
    (tmp_path / "fail").unlink()
    assert walk(spec).reused == [True] * 2 + [False] * 4


def test_what_the_process_did_before_does_not_matter(write: Any, walk: WalkIt, assert_same: Any) -> None:
    spec = write()
    first = walk(spec)
    torch.manual_seed(123)
    random.seed(123)
    torch.rand(100)
    walk(spec, "other", width=7)
    assert_same(walk(spec, "another"), first)


KEPT = """kept = nn.Linear(16, 8)


class Net"""


def test_a_network_that_the_spec_keeps_is_not_trained_itself(write: Any, tmp_path: Path) -> None:
    path = write(
        ("class Net", KEPT),
        ("nn.Linear(16 * self.width, 2)", "nn.Linear(16 * self.width, 16), kept, nn.Linear(8, 2)"),
    )
    spec, metrics = load_spec(path), []
    for number in range(2):  # one process loads a spec once
        built = build(spec, {"epochs": 2}, device=torch.device("cpu"), cache=DataCache())
        rehearse(built)
        run = Walk(
            built, run_id=str(number), paths=tmp_path / str(number), budget_bytes=10**9, checkpoints=tmp_path / "last"
        )
        metrics.append([result.metrics for result in run.epochs()])
        run.close()
    assert metrics[0] == metrics[1]


STATEFUL = """class Stateful(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.ones(()))

    def forward(self, outputs, targets):
        loss = nn.functional.cross_entropy(outputs, targets)
        self.mean.mul_(0.9).add_(0.1 * loss.detach())
        return loss / self.mean


class Net"""


@pytest.mark.parametrize("where", ["loss", "model"])
def test_buffers_that_no_state_dict_holds_are_in_the_checkpoint(
    write: Any, walk: WalkIt, assert_same: Any, where: str
) -> None:
    layer = STATEFUL.replace("torch.ones(())", "torch.ones(()), persistent=False").replace(
        "forward(self, outputs, targets)", "forward(self, outputs)"
    )
    layer = layer.replace("loss = nn.functional.cross_entropy(outputs, targets)", "loss = outputs.square().mean()")
    changes = {
        "loss": [
            ("class Net", STATEFUL),
            ("    def optimizer", "    def loss(self):\n        return Stateful()\n\n    def optimizer"),
        ],
        "model": [
            ("class Net", layer.replace("return loss /", "return outputs /")),
            ("nn.Linear(16 * self.width, 2),", "nn.Linear(16 * self.width, 2), Stateful(),"),
        ],
    }
    spec = write(*changes[where])
    walk(spec, run_id="killed", stop=3)
    resumed = walk(spec, run_id="killed")
    assert resumed.reused[:3] == [True] * 3 and resumed.run.recipe.private is None
    assert_same(resumed, walk(spec, "another", run_id="killed"))


def test_random_items_of_a_dataset_are_the_same_in_every_run(write: Any, walk: WalkIt, assert_same: Any) -> None:
    """Augmentation of the user's own, from each of the three generators that such code draws from."""
    own = ("class Net(Experiment):", """import random

import numpy

from harness.data import datasets


class Noisy(torch.utils.data.Dataset):
    classes = ("a", "b")

    def __init__(self, count):
        generator = torch.Generator().manual_seed(count)
        self.inputs = torch.randn(count, 1, 6, 6, generator=generator)
        self.targets = (self.inputs[:, 0, 0, 0] > 0).long()

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        noise = torch.randn(1) * 0.1 + random.random() * 0.1 + float(numpy.random.rand()) * 0.1
        return self.inputs[index] + noise, int(self.targets[index])


class Net(Experiment):""")  # fmt: skip
    given = ('return tensors(inputs, targets, validation=30, augment=("crop", "flip", "cutout"))',
             'return datasets(train=Noisy(60), validation=Noisy(30))')  # fmt: skip
    spec = write(own, given)
    walk(spec, run_id="killed", stop=3)
    assert_same(walk(spec, run_id="killed"), walk(spec, "another"))


def test_training_on_leaves_a_state_in_memory_as_it_was(write: Any, make: Any, tmp_path: Path) -> None:
    """`Optimizer.load_state_dict` keeps the tensors that it is given and then updates them in place."""
    built = make(write())
    run = Walk(built, run_id="run", paths=tmp_path / "tree", budget_bytes=10**9, checkpoints=tmp_path / "checkpoints")
    run._train_metrics(0)
    state = capture(built.parts)
    torch.save(state, tmp_path / "kept")
    kept = torch.load(tmp_path / "kept", weights_only=True)
    run._train_metrics(1)
    assert same_bits(state, kept)
    restore(built.parts, state)
    run._train_metrics(1)
    assert same_bits(state, kept)
    run.close()


def test_a_value_that_only_an_epoch_reads_is_refused(write: Any, walk: WalkIt) -> None:
    """Two runs that differ in it would otherwise share their epochs."""
    own = ("    def optimizer", "    def begin_epoch(self, model, optimizer, epoch):\n"
           "        late = self.hidden if epoch > 1 else 1.0\n\n"
           "    def optimizer")  # fmt: skip
    hidden = ("    width: int", "    hidden: float = search.uniform(0, 1, default=0.5)\n    width: int")
    with pytest.raises(HarnessError, match="hidden is read for the first time in epoch 3"):
        walk(write(own, hidden))


def _walk_together(path: Path, folder: Path, run_id: str, barrier: Any, results: Any) -> None:
    make_deterministic(1)
    built = build(load_spec(path), {}, device=torch.device("cpu"), cache=DataCache())
    run = Walk(
        built, run_id=run_id, paths=folder / "tree", budget_bytes=10**9, checkpoints=folder / "checkpoints" / run_id
    )
    barrier.wait(60)
    told = [(result.trained_by, result.reused, result.metrics) for result in run.epochs()]
    run.finish()
    run.close()
    results.put((run_id, told))


def test_two_processes_on_one_path_train_each_epoch_once(write: Any, walk: WalkIt, tmp_path: Path) -> None:
    spec = write()
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(3), context.Queue()
    together = [
        context.Process(target=_walk_together, args=(spec, tmp_path, f"process-{i}", barrier, results))
        for i in range(3)
    ]
    for process in together:
        process.start()
    told = dict(results.get(timeout=60) for _ in together)
    for process in together:
        process.join(60)
    alone = walk(spec, "another")
    for epoch in range(6):
        trainers = [run_id for run_id, epochs in told.items() if not epochs[epoch][1]]
        assert len(trainers) == 1, "one of them trained it"
        assert {epochs[epoch][0] for epochs in told.values()} == set(trainers)
    for run_id, epochs in told.items():
        assert [metrics for _, _, metrics in epochs] == alone.metrics
        last = torch.load(tmp_path / "checkpoints" / run_id / "last.pth.tar", weights_only=True)
        assert last["run_id"] == run_id
        assert same_bits(last["state_dict"], alone.checkpoint()["state_dict"])
        assert same_bits(last["optimizer"], alone.checkpoint()["optimizer"])
