"""Two studies of one spec: what every command says is about the newest one, unless another one is named."""

import html
import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from running import Finished, Zygote
from small import SPEC, edit

import harness
from harness.errors import HarnessError
from harness.tracking.store import Store
from harness.tracking.view import TAG, links

Run = Callable[..., Finished]


@pytest.fixture(scope="module")
def run(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a command in a folder where `small.py` was swept, edited, and swept again.

    After the edit its data, which are the same images, are put in differently, and much of it is dropped.
    """
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
    edit(spec, "validation=0.25, test=0.25", "validation=0.25, test=0.25, normalize=False")
    edit(spec, "nn.Dropout(0.2)", "nn.Dropout(0.9)")
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


def text_of(page: Path) -> str:
    """The words of a page, as someone reads them: no markup, no scripts."""
    body = re.sub(r"<(script|style)\b.*?</\1>", "", page.read_text(), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def rows_of(page: Path) -> list[str]:
    """The rows of a page's table of runs, each as text."""
    rows = re.findall(r'<tr data-row="\d+">.*?</tr>', page.read_text(), re.DOTALL)
    return [" ".join(html.unescape(re.sub(r"<[^>]+>", " ", row)).split()) for row in rows]


def test_the_report_as_written_is_about_the_newest_study_and_sets_it_against_the_earlier_one(
    run: Run, folder: Path
) -> None:
    name, value = value_of((folder / "said.txt").read_text())
    earlier = run("best", "small.py", "--study", "1", "--json").json
    run("report", "small.py")
    page = folder / "mlruns" / "reports" / "small.html"
    text, rows = text_of(page), rows_of(page)
    assert "Sweep 2 of 2: 3 trials" in text
    assert f"Which run is best? {name} reached val_accuracy {value}" in text
    assert rows[0].startswith(f"1 {name}") and value in rows[0]
    listed = re.findall(r"(trial-\d{4})(?: \u00d7(\d))?", " ".join(rows))
    assert sum(int(count or 1) for _, count in listed) == 3, "each run once, copies counted"
    assert f"From sweep 1 to sweep 2 the best val_accuracy went from {earlier['value']:.4f} to {value}" in text
    assert re.search(r"On the same validation images, one by one: .*the best of sweep 1 is (better|ahead)", text)
    assert re.search(r"epochs \(8 before, 2 now\)", text) and "first sweep" in text
    assert f"{earlier['name']}: {earlier['value']:.4f}" in text and f"{name}: {value}" in text


def test_the_report_of_an_earlier_study_and_of_all_of_them_from_python(run: Run, folder: Path) -> None:
    store = folder / "mlruns"
    earlier = harness.best("small", study=1, store=store)
    page = harness.report("small", study=1, store=store).page
    assert page.name == "small-sweep-1.html" and rows_of(page)[0].startswith(f"1 {earlier.name}")
    assert "What did the edit do?" not in text_of(page) and "train-0001" in " ".join(rows_of(page))
    every = harness.report("small", study="all", store=store)
    assert {row.split()[2] for row in rows_of(every.page)} <= {"1", "2", "\u00d72", "\u00d73"}
    assert "8 runs" in text_of(every.page).lower() or "7 trials" in text_of(every.page)


def test_ui_serves_the_newest_study_with_its_best_run_first(run: Run, folder: Path, zygote: Zygote) -> None:
    best = run("best", "small.py", "--json").json
    served = zygote.start("ui", "small.py", cwd=folder)
    try:
        served.wait_for("Ctrl-C stops it")
        pages = dict(re.findall(r"^(\S.*?)  +(http\S+)$", served.out.read_text(), re.MULTILINE))
        assert best["run_id"] in pages["best run"] and "viewStateShareKey" in pages["compare"]
        client = MlflowClient(tracking_uri=pages["runs"].partition("/#/")[0])
        experiment = client.get_experiment_by_name("small")
        view = json.loads(experiment.tags[TAG])
        shown = client.search_runs(
            [experiment.experiment_id],
            view["searchFilter"],
            order_by=[f"{view['orderByKey']} {'ASC' if view['orderByAsc'] else 'DESC'}"],
        )
        assert len(shown) == 3 and shown[0].info.run_id == best["run_id"]
    finally:
        served.signal(signal.SIGINT)
        assert served.wait().code == 130


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
