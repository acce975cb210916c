"""Two studies of one spec: what every command says is about the newest one, unless another one is named."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from running import Finished, Zygote
from small import SPEC, edit

import harness
from harness.errors import HarnessError
from harness.tracking.store import Store
from harness.tracking.view import TAG, links

Run = Callable[..., Finished]


@pytest.fixture(scope="module")
def run(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a command in a folder where `small.py` was swept, made harder and shorter, and swept again."""
    folder = tmp_path_factory.mktemp("studies")
    spec = folder / "small.py"
    spec.write_text(SPEC)

    def run_here(*arguments: object, code: int = 0) -> Finished:
        done = zygote.start(*arguments, cwd=folder).wait()
        assert done.code == code, done
        return done

    run_here("train", "small.py", "--set", "lr=0.3")
    run_here("sweep", "small.py", "--trials", "4")
    edit(spec, "epochs = 8", "epochs = 2")
    edit(spec, "0.8 * torch.randn(400", "4 * torch.randn(400")
    assert "epochs (8 before, 2 now)" in run_here("sweep", "small.py", "--trials", "3", "--dry-run").out
    said = run_here("sweep", "small.py", "--trials", "3").out
    (folder / "said.txt").write_text(said)
    return run_here


@pytest.fixture(scope="module")
def folder(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return next(tmp_path_factory.getbasetemp().glob("studies*"))


def value_of(said: str) -> tuple[str, str]:
    """The name and the value of the best run that a sweep's last lines name."""
    found = re.search(r"^best: (\S+)  val_accuracy (\S+)", said, re.MULTILINE)
    assert found, said
    return found[1], found[2]


def test_the_sweep_says_that_a_new_study_starts_and_how_to_see_the_earlier_one(folder: Path) -> None:
    said = (folder / "said.txt").read_text()
    assert "A new study starts; the earlier one and its runs are kept as small~1: --study 1 shows them." in said


def test_sweep_best_runs_reload_report_and_python_agree_on_the_newest_study(run: Run, folder: Path) -> None:
    name, value = value_of((folder / "said.txt").read_text())
    best = run("best", "small.py", "--json").json
    assert (best["name"], f"{best['value']:.4f}") == (name, value)
    assert run("best", "small.py").out.startswith(f"{name}  val_accuracy {value}")
    listed = run("runs", "small.py", "--json").json
    assert listed[0]["name"] == name and len(listed) == 3
    assert len({r["name"] for r in listed}) == 3
    assert run("reload", "best", "small.py", "--json").json["run_id"] == best["run_id"]
    frame = harness.runs("small", store=folder / "mlruns")
    assert len(frame) == 3 and frame.iloc[0]["run_id"] == best["run_id"] and set(frame["study"]) == {2}
    assert harness.load_run("best", "small", store=folder / "mlruns").run_id == best["run_id"]


def test_an_earlier_study_is_seen_by_its_number_and_all_of_them_together(run: Run, folder: Path) -> None:
    newest, earlier = (run("best", "small.py", "--json", *study).json for study in ((), ("--study", "1")))
    assert earlier["value"] > newest["value"] and earlier["run_id"] != newest["run_id"]
    assert run("reload", "best", "small.py", "--study", "small~1", "--json").json["run_id"] == earlier["run_id"]
    assert {r["name"] for r in run("runs", "small.py", "--study", "1", "--json").json} == {
        "train-0001", "trial-0000", "trial-0001", "trial-0002", "trial-0003"
    }  # fmt: skip
    every = harness.runs("small", study="all", store=folder / "mlruns")
    assert len(every) == 8 and every["study"].value_counts().to_dict() == {1: 5, 2: 3}
    heading, *rows = run("runs", "small.py", "--study", "all").out.splitlines()
    assert heading.split()[:2] == ["name", "sweep"] and "started" in heading and len(rows) == 8
    assert run("runs", "small.py").out.splitlines()[-1] == "5 more runs of sweep 1: --study all"


def test_a_study_that_there_is_not_is_an_error_that_lists_those_there_are(run: Run, folder: Path) -> None:
    assert "There are 1 and 2; 2 is the newest" in run("best", "small.py", "--study", "7", code=2).err
    with pytest.raises(HarnessError, match="no such study"):
        harness.load_run("best", "small", study="other", store=folder / "mlruns")


def test_mlflows_pages_show_the_trials_of_the_study_that_is_meant(run: Run, folder: Path) -> None:
    store = Store(folder / "mlruns")
    number = store.experiment_id("small")
    for study, count in ((None, 3), (1, 4), ("all", 8)):
        pages = links(store, "http://127.0.0.1:5000", "small", study=study)
        view: dict[str, Any] = json.loads(store.client.get_experiment(number).tags[TAG])
        assert len(store.find_runs(number, view["searchFilter"])) == count
        assert harness.runs("small", study=study, store=folder / "mlruns").iloc[0]["run_id"] in pages["best run"]
