"""The best run again with other seeds, and the test part looked at once, on real runs and with real signals."""

import doctest
import re
import shutil
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from running import Finished, Zygote
from scipy import stats
from small import edit

from harness.api import load_run
from harness.tracking.looks import LOOKED, MOST_LOOKS, describe_looks, list_looks, note_look
from harness.tracking.runs import RunRecord, find_best, list_runs
from harness.tracking.store import Store

Harness = Callable[..., Finished]
CONFIRM = ("confirm", "small.py", "--seeds", "3")


@pytest.fixture(scope="module")
def folder(swept: Path, zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep of `small.py`, confirmed with three seeds."""
    folder = tmp_path_factory.mktemp("confirmed") / "folder"
    shutil.copytree(swept, folder)
    (folder / "out.txt").write_text(run(zygote, folder, *CONFIRM).out)
    return folder


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy of it, to change."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def run(zygote: Zygote, folder: Path, *arguments: object, code: int = 0) -> Finished:
    done = zygote.start(*arguments, cwd=folder).wait()
    assert done.code == code, done
    return done


def confirmed(folder: Path) -> list[RunRecord]:
    records = [record for record in list_runs(Store(folder / "mlruns"), "small") if record.kind == "confirm"]
    return sorted(records, key=lambda record: record.name)


def values(records: list[RunRecord]) -> list[float]:
    return [record.value for record in records if record.value is not None]


def looks(folder: Path) -> list[str]:
    opened = Store(folder / "mlruns")
    return [str(look) for look in list_looks(opened, opened.experiment_id("small"))]


def test_the_best_values_are_trained_with_the_next_seeds(
    folder: Path, swept: Path, zygote: Zygote, tmp_path: Path
) -> None:
    best = find_best(Store(folder / "mlruns"), "small")
    runs = confirmed(folder)
    assert [record.name for record in runs] == ["confirm-0001", "confirm-0002", "confirm-0003"]
    client = Store(folder / "mlruns").client
    for seed, record in enumerate(runs, start=1):
        tags = client.get_run(record.run_id).data.tags
        assert (tags["harness.seed"], tags["harness.confirms"]) == (str(seed), best.info.run_id)
        assert client.get_run(record.run_id).data.params == best.data.params
        assert load_run(record.run_id, store=folder / "mlruns").experiment.seed == seed

    same = [text for name, value in runs[1].params.items() for text in ("--set", f"{name}={value}")]
    elsewhere = Path(shutil.copytree(swept, tmp_path / "elsewhere"))  # where no epoch of this seed is known
    run(zygote, elsewhere, "train", "small.py", *same, "--set", "seed=2")
    alone = next(record for record in list_runs(Store(elsewhere / "mlruns"), "small") if record.name == "train-0002")
    assert alone.metrics["reused_epochs"] == 0
    assert alone.value == runs[1].value and alone.metrics["val_loss"] == runs[1].metrics["val_loss"]


def test_mean_deviation_and_interval_are_those_of_the_seeds(folder: Path, copy: Path, zygote: Zygote) -> None:
    found = run(zygote, copy, *CONFIRM, "--json").json
    assert [one["seed"] for one in found["runs"]] == [1, 2, 3]
    assert set(found["over_seeds"]) == {"val_accuracy", "test_loss", "test_accuracy"}
    runs = confirmed(folder)
    for name, spread in found["over_seeds"].items():
        measured = values(runs) if name == "val_accuracy" else [record.metrics[name] for record in runs]
        assert spread["mean"] == pytest.approx(statistics.mean(measured))
        assert spread["standard_deviation"] == pytest.approx(statistics.stdev(measured))
        interval = stats.t.interval(0.95, 2, loc=statistics.mean(measured), scale=stats.sem(measured))
        assert spread["interval"] == pytest.approx(list(interval))
    mean, deviation = (found["over_seeds"]["val_accuracy"][name] for name in ("mean", "standard_deviation"))
    assert f"val_accuracy over 3 seeds: {mean:.4f} ± {deviation:.4f}" in (folder / "out.txt").read_text()


def test_the_test_part_is_looked_at_once_and_that_is_kept(folder: Path, copy: Path, zygote: Zygote) -> None:
    out = (folder / "out.txt").read_text()
    assert "The test part had not been looked at before." in out
    client = Store(folder / "mlruns").client
    for record in confirmed(folder):
        measured = load_run(record.run_id, store=folder / "mlruns").measure("test")
        assert measured == {name: value for name, value in record.metrics.items() if name.startswith("test_")}
        assert re.fullmatch(r"20\d\d-\d\d-\d\d \S+ by confirm", client.get_run(record.run_id).data.tags[LOOKED])
    (look,) = looks(folder)
    assert look.endswith("by `confirm` (3 runs)")

    again = run(zygote, copy, *CONFIRM)
    assert "epoch" not in again.out, "nothing is trained again"
    assert f"looked at before: {look}. These are its numbers; it was not measured again." in again.out
    assert looks(copy) == [look] and confirmed(copy) == confirmed(folder)

    tested = run(zygote, copy, "best", "small.py", "--test")
    assert f"The test part was looked at before: {look}." in tested.out
    assert [one.split("by ")[1] for one in looks(copy)][1:] == [
        f"`best --test` (run {find_best(Store(copy / 'mlruns'), 'small').info.run_id[:8]})"
    ]
    document = run(zygote, copy, "best", "small.py", "--test", "--json")
    assert document.json["test"].keys() == {"test_loss", "test_accuracy"}
    assert "2 times in all" in document.err

    more = run(zygote, copy, "confirm", "small.py", "--seeds", "4")
    assert "confirm-0004  finished" in more.out and "confirm-0003  epoch" not in more.out
    assert "looked at before" in more.out and len(looks(copy)) == 4
    assert confirmed(copy)[:3] == confirmed(folder)


def test_a_lucky_seed_is_never_the_best_run(copy: Path) -> None:
    opened = Store(copy / "mlruns")
    before = find_best(opened, "small").info.run_id
    lucky = confirmed(copy)[0].run_id
    opened.client.log_metric(lucky, "objective", 0.999, step=99)
    assert find_best(opened, "small").info.run_id == before
    records = list_runs(opened, "small")
    assert records[0].run_id == before
    assert [record.kind for record in records[-3:]] == ["confirm"] * 3


def test_it_goes_on_where_it_was_killed(folder: Path, swept: Path, tmp_path: Path, zygote: Zygote) -> None:
    killed = Path(shutil.copytree(swept, tmp_path / "killed"))
    started = zygote.start("confirm", "small.py", "--seeds", 8, "--jobs", 1, cwd=killed)
    started.wait_for("confirm-0002  epoch 3/8")
    assert started.kill().code == -9
    assert 2 <= len(confirmed(killed)) < 8 and looks(killed) == []

    done = run(zygote, killed, *CONFIRM, "--jobs", 1)
    assert "confirm-0001  epoch" not in done.out, "what was finished is not trained again"
    ours, theirs = confirmed(killed)[:3], confirmed(folder)
    assert [record.name for record in ours] == [record.name for record in theirs]
    for one, other in zip(ours, theirs, strict=True):
        for name in ("val_loss", "val_accuracy", "objective", "best_epoch", "test_loss", "test_accuracy"):
            assert one.metrics[name] == other.metrics[name]
    assert len(looks(killed)) == 1


def test_another_spec_than_the_best_run_had_is_refused(copy: Path, zygote: Zygote) -> None:
    edit(copy / "small.py", "    lr: float", "    # a comment changes nothing\n    lr: float")
    run(zygote, copy, *CONFIRM)
    edit(copy / "small.py", "nn.Linear(6, 16)", "nn.Linear(6, 16, bias=False)")
    done = run(zygote, copy, "confirm", "small.py", "--seeds", "4", code=2)
    assert re.search(r"is not what run \w{8} was trained with; changed: Small\.model\(\)\. Sweep again", done.err)
    assert len(confirmed(copy)) == 3


def test_data_without_a_test_part_is_confirmed_all_the_same(copy: Path, zygote: Zygote) -> None:
    untested = copy / "untested.py"
    shutil.copy(copy / "small.py", untested)
    edit(untested, ", test=0.25", "")
    edit(untested, "epochs = 8", "epochs = 3")
    run(zygote, copy, "train", untested)
    done = run(zygote, copy, "confirm", untested, "--seeds", 2)
    assert "The data has no test part." in done.out and "val_accuracy over 2 seeds" in done.out
    assert run(zygote, copy, "best", untested, "--test", code=1).err.endswith("has no test part to measure on.\n")
    opened = Store(copy / "mlruns")
    assert list_looks(opened, opened.experiment_id("untested")) == [], "an error is no look"


def test_what_cannot_be_confirmed_is_said(harness: Harness, spec: Path) -> None:
    assert "holds no runs yet" in harness("confirm", spec, code=2).err
    assert "--seeds" in harness("confirm", spec, "--seeds", 1, code=2).err


def test_a_long_list_of_looks_keeps_the_first_and_the_last(copy: Path) -> None:
    opened = Store(copy / "mlruns")
    log = opened.create_run(opened.experiment_id("many", tags={}), "trial-0000", params={}, tags={})
    for number in range(MOST_LOOKS + 5):
        note_look(opened, [log.run], by=f"look {number}")
    kept = list_looks(opened, log.run.info.experiment_id)
    assert [look.by for look in kept][:2] == ["look 0", "look 6"] and kept[-1].by == f"look {MOST_LOOKS + 4}"
    assert len(kept) == MOST_LOOKS
    assert describe_looks(kept).startswith(
        f"The test part was looked at before: {kept[0]}; {MOST_LOOKS + 5} times in all, last {kept[-1]}"
    )


def test_the_examples_in_the_docstrings_run() -> None:
    assert doctest.testmod(sys.modules["harness.tracking.looks"]).failed == 0
