"""Runs side by side: what differs, and whether the difference is real, on real runs."""

import dataclasses
import re
import shutil
from pathlib import Path

import pytest
import torch
from running import Finished, Zygote
from small import LINE, edit

from harness.api import load_run
from harness.data import Arrays
from harness.errors import HarnessError
from harness.reporting.comparison import as_json
from harness.results.compare import compare, compare_pair
from harness.results.sentences import verdict
from harness.results.statistics import mcnemar, paired_bootstrap
from harness.tracking.runs import list_runs
from harness.tracking.store import Store


@pytest.fixture(scope="module")
def folder(zygote: Zygote, swept: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep of `small.py`, its best run with another seed, edited specs, and two runs of a regression."""
    folder = tmp_path_factory.mktemp("compared") / "folder"
    shutil.copytree(swept, folder)
    small = folder / "small.py"
    (folder / "line.py").write_text(LINE)

    def train(*arguments: str) -> None:
        done = zygote.start("train", *arguments, cwd=folder).wait()
        assert done.code == 0, done

    best = next(record for record in list_runs(Store(folder / "mlruns"), "small") if record.kind == "trial")
    same = [text for name, value in best.params.items() for text in ("--set", f"{name}={value}")]
    train("small.py", *same, "--set", "seed=1")
    edit(small, "nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2)", "nn.Linear(6, 2)")
    edit(small, "test=0.25", "test=0.25, normalize=True")
    train("small.py", *same, "--epochs", "4")
    edit(small, "manual_seed(1)", "manual_seed(2)")
    train("small.py", *same)
    train("line.py")
    train("line.py", "--set", "lr=0.001")
    return folder


@pytest.fixture(scope="module")
def ids(folder: Path) -> dict[str, str]:
    """Run ids by what the run is an example of."""
    store = Store(folder / "mlruns")
    small = list_runs(store, "small", study="all")
    trials = [record for record in small if record.kind == "trial" and record.value is not None]
    found = {record.name: record.run_id for record in small} | {"good": trials[0].run_id, "bad": trials[-1].run_id}
    found |= {"seed": found["train-0002"], "narrow": found["train-0003"], "elsewhere": found["train-0004"]}
    lines = {record.name: record.run_id for record in list_runs(store, "line", study="all")}
    return found | {"line": lines["train-0001"], "flat": lines["train-0002"]}


@pytest.fixture(scope="module")
def store(folder: Path) -> Path:
    return folder / "mlruns"


def run(zygote: Zygote, folder: Path, *arguments: object, code: int = 0, **more: str) -> Finished:
    done = zygote.start("compare", *arguments, cwd=folder, **more).wait()
    assert done.code == code, done
    return done


def test_a_good_and_a_bad_run_really_differ(zygote: Zygote, folder: Path, store: Path, ids: dict[str, str]) -> None:
    done = run(zygote, folder, ids["bad"][:8], ids["good"][:8], "--json")
    (found,) = done.json["comparisons"]
    assert found["is_real"] is True
    assert (found["first"], found["second"]) == (ids["good"], ids["bad"]), "the better one first"
    assert re.fullmatch(r"B is better by \d+\.\d points, 95% interval \d+\.\d to \d+\.\d", found["verdict"])

    params = [load_run(ids[name], store=store).params for name in ("bad", "good")]
    differing = {name: [one[name] for one in params] for name in params[0] if params[0][name] != params[1][name]}
    assert done.json["differences"] == {
        "params": differing,
        "settings": {},
        "environment": {},
        "code": [{"run_id": ids["good"], "parts": [], "diff": ""}],
    }

    correct = {}
    for name in ("good", "bad"):
        outputs, targets = load_run(ids[name], store=store).outputs()
        correct[name] = (outputs.argmax(1) == targets).double()
    right = found["right"]
    assert sum(right.values()) == found["images"] == 100
    assert right["only_first"] == int((correct["good"] > correct["bad"]).sum())
    assert found["p_value"] == mcnemar(right["only_first"], right["only_second"]) < 0.05
    expected = paired_bootstrap((correct["good"] - correct["bad"]).numpy())
    assert found["difference"] == expected.value == pytest.approx(found["values"][0] - found["values"][1])
    assert found["interval"] == [expected.low, expected.high]


def test_two_seeds_of_the_same_params_do_not(store: Path, ids: dict[str, str]) -> None:
    compared = compare([ids["good"], ids["seed"]], store=store)
    assert not compared.pairs[0].is_real
    assert verdict(compared.pairs[0]).startswith("no real difference: ")
    assert compared.differing == {"params": {}, "settings": {"seed": (0, 1)}, "environment": {}}
    assert compared.code == compared.diffs == ([],)


def test_a_model_that_is_its_double_differs_in_no_image(store: Path, ids: dict[str, str]) -> None:
    compared = compare([ids["good"], ids["seed"]], store=store)
    double = compare_pair(compared.sides[0], dataclasses.replace(compared.sides[0], label="B"))
    assert not double.is_real and double.p_value == 1.0
    assert verdict(double) == "no difference: both are right on the same images"


def test_few_images_that_differ_are_not_enough(store: Path, ids: dict[str, str]) -> None:
    first = compare([ids["good"], ids["seed"]], store=store).sides[0]
    assert first.measured is not None
    scores = first.measured.scores.copy()
    scores[scores.nonzero()[0][:5]] = 0  # five images less: the interval is above zero, McNemar's p is 0.06
    second = dataclasses.replace(first, label="B", measured=dataclasses.replace(first.measured, scores=scores))
    pair = compare_pair(first, second)
    assert pair.difference is not None and pair.difference.excludes_zero and not pair.is_real
    assert re.fullmatch(r"no clear difference: A is ahead by 5\.0 points, .*, but only 5 images tell them apart",
                        verdict(pair))  # fmt: skip


def test_changed_code_is_named_and_shown(zygote: Zygote, folder: Path, ids: dict[str, str]) -> None:
    done = run(zygote, folder, ids["good"], ids["narrow"])
    assert "code: Small.data() changed, Small.model() changed" in done.out
    lines = done.out.splitlines()
    assert "--- A/small.py" in lines and "+++ B/small.py" in lines
    assert "+        return nn.Sequential(nn.Linear(6, 2))" in lines
    assert sum(line.startswith("-        return nn.Sequential(nn.Linear(6, 16)") for line in lines) == 1
    assert lines.index("--- A/small.py") < next(i for i, line in enumerate(lines) if "95% interval" in line)


def test_metrics_stand_side_by_side_at_the_best_and_the_last_epoch(store: Path, ids: dict[str, str]) -> None:
    compared = compare([ids["good"], ids["narrow"]], store=store)
    for side, epochs in zip(compared.sides, (8, 4), strict=True):
        record = side.record
        assert side.measured is not None
        assert side.best["epoch"] == record.best_epoch
        assert side.best["val_accuracy"] == record.value == side.measured.mean
        assert side.last == {name: record.metrics[name] for name in side.last if name != "epoch"} | {"epoch": epochs}
    assert compared.differing["settings"] == {"epochs": (8, 4)}


def test_the_same_validation_images_are_compared_whatever_else_the_data_does(store: Path, ids: dict[str, str]) -> None:
    compared = compare([ids["good"], ids["narrow"]], store=store)
    assert "data" in compared.differing["environment"], "normalised"
    assert compared.pairs[0].difference is not None


def test_other_validation_images_are_not(zygote: Zygote, folder: Path, store: Path, ids: dict[str, str]) -> None:
    done = run(zygote, folder, ids["good"], ids["elsewhere"])
    assert "A and B: their validation parts differ, so they cannot be compared image by image" in done.out
    assert "points" not in done.out and "best epoch" in done.out
    found = as_json(compare([ids["good"], ids["elsewhere"]], store=store))["comparisons"][0]
    assert found["is_real"] is None and "interval" not in found


def test_of_several_runs_each_stands_against_the_best(
    zygote: Zygote, folder: Path, store: Path, ids: dict[str, str]
) -> None:
    some = [ids[name] for name in ("bad", "seed", "good", "narrow")]
    compared = compare(some, store=store)
    best = compared.pairs[0].first
    means = {side.label: side.measured.mean for side in compared.sides if side.measured}
    assert means[best.label] == max(means.values())
    assert [pair.second.label for pair in compared.pairs] == [label for label in "ABCD" if label != best.label]
    for pair in compared.pairs:  # all three together hold at 95%
        assert pair.difference is not None and pair.difference.level == pytest.approx(1 - 0.05 / 3)
    out = run(zygote, folder, *some, COLUMNS="80").out
    assert "98.3% interval" in out and "all 3 together hold at 95%" in out
    command = f"python -m harness compare {some[0][:8]} {some[3][:8]}"
    assert f"code of D against A: Small.data() changed, Small.model() changed. See: {command}" in out


def test_a_regression_is_compared_by_its_absolute_error(store: Path, ids: dict[str, str]) -> None:
    found = as_json(compare([ids["flat"], ids["line"]], store=store))["comparisons"][0]
    assert found["measure"] == "mean_absolute_error" and "p_value" not in found
    assert found["first"] == ids["line"] and found["is_real"] is True
    said = found["verdict"]
    assert said.startswith("B is better by ") and " of mean absolute error, 95% interval " in said
    errors = []
    for name in ("flat", "line"):
        outputs, targets = load_run(ids[name], store=store).outputs()
        errors.append((outputs - targets).abs().mean())
    assert found["difference"] == pytest.approx(float(errors[0] - errors[1]), rel=1e-5)
    mixed = compare([ids["good"], ids["line"]], store=store).pairs[0]
    assert verdict(mixed) == "A and B: A is measured by accuracy, B by mean absolute error"


def test_a_run_whose_checkpoint_is_gone_is_still_compared_as_far_as_it_goes(
    store: Path, ids: dict[str, str], tmp_path: Path
) -> None:
    shutil.copytree(store, tmp_path / "mlruns")
    (gone,) = tmp_path.rglob(f"{ids['bad']}/artifacts/checkpoints")
    shutil.rmtree(gone)
    compared = compare([ids["good"], ids["bad"]], store=tmp_path / "mlruns")
    assert "B cannot be measured: trial-" in verdict(compared.pairs[0])
    assert "lr" in compared.differing["params"]
    assert compared.sides[1].last["epoch"] == 8


def test_best_is_the_best_of_the_spec(store: Path, ids: dict[str, str]) -> None:
    compared = compare(["best", ids["bad"][:10]], store=store, experiment="small")
    best = list_runs(Store(store), "small")[0]
    assert [side.record.run_id for side in compared.sides] == [best.run_id, ids["bad"]]


def test_what_cannot_be_compared_is_said_in_one_sentence(store: Path, ids: dict[str, str]) -> None:
    for runs in ([ids["good"]], [ids["good"], ids["good"][:9]]):
        with pytest.raises(HarnessError, match="Name at least two different runs"):
            compare(runs, store=store)
    with pytest.raises(HarnessError, match="begins with 'ffffffff'"):
        compare([ids["good"], "ffffffff"], store=store)


@pytest.mark.parametrize("columns", [80, 120])
def test_the_screen_fits(zygote: Zygote, folder: Path, ids: dict[str, str], columns: int) -> None:
    out = run(zygote, folder, ids["good"], ids["bad"], COLUMNS=str(columns)).out
    tables = [line for line in out.splitlines() if not line.startswith((" ", "the same"))]
    assert all(len(line.rstrip()) <= columns for line in tables), out
    assert max(len(line) for line in out.splitlines()) <= 110


def test_outputs_belong_to_the_images_in_order(store: Path, ids: dict[str, str]) -> None:
    loaded = load_run(ids["good"], store=store)
    outputs, targets = loaded.outputs()
    validation = loaded.built.data.validation
    assert isinstance(validation, Arrays)
    assert outputs.shape == (100, 2) and torch.equal(targets, validation.targets.cpu())
    assert float((outputs.argmax(1) == targets).double().mean()) == pytest.approx(loaded.metrics["val_accuracy"])
