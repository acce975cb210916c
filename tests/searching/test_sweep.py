"""The sweep, as a person runs it: real Optuna, real MLflow, real workers."""

import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from comparing import assert_same_checkpoints, read_store, read_study
from mlflow import MlflowClient
from small import HOLD, HOLD_SECONDS, OWN_STEP, edit, slow

from harness.tracking.journal import open_journal

Harness = Callable[..., Any]


def totals(out: str) -> tuple[int, int, int]:
    """Epochs asked, trained and saved, as the last lines say."""
    found = re.search(r"epochs: (\d+) asked, (\d+) trained, (\d+) saved", out)
    assert found, out
    asked, trained, saved = map(int, found.groups())
    return asked, trained, saved


def test_trials_share_epochs_and_equal_training_from_scratch(harness: Harness, spec: Path, tmp_path: Path) -> None:
    shared = harness("sweep", spec, "--jobs", 1, "--trials", 8, "--store", "shared")
    asked, trained, saved = totals(shared.out)
    assert asked == 64 and trained + saved == asked and saved > 0

    runs = read_store(tmp_path / "shared")
    reusing = {name: run for name, run in runs.items() if run["metrics"]["reused_epochs"][0][1] > 0}
    assert reusing
    for name, run in sorted(reusing.items())[:2]:
        assert run["reused_from"] and set(run["reused_from"]) < set(runs) - {name}
        assert run["steps"]["epoch_seconds"] == list(range(8)), "its history is complete"
        values = [argument for item in run["params"].items() for argument in ("--set", "=".join(item))]
        harness("train", spec, *values, "--store", name)
        alone = read_store(tmp_path / name)["train-0001"]
        assert alone["metrics"]["reused_epochs"] == [(7, 0.0)]
        for metric in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr", "objective", "best_epoch"):
            assert alone["metrics"][metric] == run["metrics"][metric]


def test_trials_of_a_training_step_of_ones_own_share_epochs_and_equal_a_run_alone(
    harness: Harness, spec: Path, tmp_path: Path
) -> None:
    spec.write_text(OWN_STEP)
    space = ["--set", "lr=0.1", "--set", "momentum=0.9", "--set", "sampler=grid"]
    done = harness("sweep", spec, *space, "--trials", 6, "--jobs", 2)
    assert "rehearsed: repeats its bits, resumes exactly, shares its epochs" in done.out
    assert totals(done.out)[2] > 0
    runs = read_store(tmp_path / "mlruns")
    name, run = max(runs.items(), key=lambda item: item[1]["metrics"]["reused_epochs"][0][1])
    values = [argument for item in run["params"].items() for argument in ("--set", "=".join(item))]
    harness("train", spec, *values, "--store", "alone")
    alone = read_store(tmp_path / "alone")["train-0001"]
    for metric in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr", "lr_rest"):
        assert alone["metrics"][metric] == run["metrics"][metric], name


def test_two_jobs_give_the_results_of_one(harness: Harness, spec: Path, tmp_path: Path) -> None:
    # Up to ten trials are drawn at random, whatever else runs; later ones depend on what has ended.
    one = harness("sweep", spec, "--jobs", 1, "--trials", 8, "--store", "one")
    two = harness("sweep", spec, "--jobs", 2, "--trials", 8, "--store", "two")
    left, right = read_store(tmp_path / "one"), read_store(tmp_path / "two")
    for run in (*left.values(), *right.values()):  # who came first is a matter of timing
        del run["reused_from"], run["metrics"]["reused_epochs"]
    assert left == right
    assert totals(one.out) == totals(two.out), "no epoch is trained twice, not even at the same time"
    assert_same_checkpoints(tmp_path / "one", tmp_path / "two")


def test_it_goes_on_to_so_many_trials_in_all(harness: Harness, spec: Path, tmp_path: Path) -> None:
    harness("sweep", spec, "--trials", 2, "--jobs", 1, "--store", "parts")
    harness("sweep", spec, "--trials", 2, "--jobs", 1, "--store", "parts")
    harness("sweep", spec, "--trials", 5, "--jobs", 1, "--store", "parts")
    harness("sweep", spec, "--trials", 5, "--jobs", 1, "--store", "whole")
    assert read_study(tmp_path / "parts") == read_study(tmp_path / "whole")
    assert read_store(tmp_path / "parts") == read_store(tmp_path / "whole")


def test_more_epochs_extend_every_path(harness: Harness, spec: Path, tmp_path: Path) -> None:
    harness("sweep", spec, "--trials", 4, "--jobs", 1, "--epochs", 5)
    longer = harness("sweep", spec, "--trials", 4, "--jobs", 1, "--epochs", 8)
    assert "epochs (5 before, 8 now)" in longer.out
    asked, _, saved = totals(longer.out)
    assert asked == 32 and saved >= 20, "five epochs of each trial were known"


def test_ctrl_c_stops_amid_an_epoch_and_the_same_command_goes_on(
    harness: Harness, spec: Path, tmp_path: Path, zygote: Any
) -> None:
    harness("sweep", spec, "--jobs", 1, "--trials", 3, "--store", "whole")
    slow(spec, 0.1)
    started = zygote.start("sweep", spec, "--jobs", 1, "--trials", 3, "--store", "stopped", cwd=tmp_path)
    started.wait_for("trial-0001  epoch 3/8")
    (tmp_path / HOLD).touch()
    started.signal(signal.SIGINT)
    done = started.wait(HOLD_SECONDS / 2)
    (tmp_path / HOLD).unlink()
    assert done.code == 130, done
    assert "the same command goes on" in done.out
    assert "Traceback" not in done.err

    client = MlflowClient(f"sqlite:///{tmp_path / 'stopped' / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    assert {run.info.run_name: run.data.tags["harness.status"] for run in runs} == {
        "trial-0000": "finished",
        "trial-0001": "interrupted",
    }
    harness("sweep", spec, "--jobs", 1, "--trials", 3, "--store", "stopped")
    assert "goes on" not in harness("runs", spec, "--store", "stopped").out, "why it once ended is past"
    again = harness("sweep", spec, "--jobs", 1, "--trials", 3, "--store", "stopped").out
    assert "3 trials are already done; --trials N trains more" in again
    ours, theirs = read_store(tmp_path / "stopped"), read_store(tmp_path / "whole")
    for run in (*ours.values(), *theirs.values()):
        del run["recipe"]  # the slow loss is other code
    assert ours == theirs


def test_a_second_sweep_is_told_who_runs_and_another_spec_shares_the_store(
    harness: Harness, spec: Path, tmp_path: Path, zygote: Any
) -> None:
    other = spec.with_name("other.py")
    other.write_text(spec.read_text())
    slow(spec, 0.2)
    first = zygote.start("sweep", spec, "--trials", 3, "--jobs", 1, cwd=tmp_path)
    first.wait_for("trial-0000")
    (tmp_path / HOLD).touch()
    second = harness("sweep", spec, "--trials", 3, code=2)
    assert re.search(rf"small in mlruns is being run by process {first.pid} on .+, since 20\d\d-", second.err)
    assert len(second.err.strip().splitlines()) == 1
    harness("sweep", other, "--trials", 3, "--jobs", 1)
    assert first.kill().code == -9
    (tmp_path / HOLD).unlink()
    assert harness("sweep", spec, "--trials", 1, "--jobs", 1).code == 0, "the lock of the dead is taken over"
    assert len(read_store(tmp_path / "mlruns", "other")) == 3


def test_a_loss_that_is_not_finite_ends_the_trial_at_once(harness: Harness, spec: Path, tmp_path: Path) -> None:
    edit(spec, "lr=self.lr", "lr=self.lr if self.lr < 0.5 else float('inf')")
    harness("sweep", spec, "--trials", 8, "--jobs", 1)
    runs = read_store(tmp_path / "mlruns")
    diverged = {name: run for name, run in runs.items() if run["outcome"] == "diverged"}
    assert diverged and len(diverged) < len(runs)
    for run in diverged.values():
        assert run["status"] == "FAILED"
        assert len(run["steps"]["epoch_seconds"]) <= 2, "it ended at once"
        assert "objective" not in run["metrics"]
    by_number = {trial["number"]: trial for trial in read_study(tmp_path / "mlruns")}
    for name in diverged:
        assert by_number[int(name[-4:])]["state"] == "PRUNED", "the sampler learns from it"


def test_an_exception_fails_its_trial_and_three_alike_in_a_row_end_the_sweep(
    harness: Harness, spec: Path, tmp_path: Path
) -> None:
    edit(
        spec,
        "        return optim.SGD",
        "        if self.lr == 1.0:\n            raise ValueError('one is too much')\n        return optim.SGD",
    )
    done = harness("sweep", spec, "--trials", 8, "--jobs", 1)
    failed = [trial for trial in read_study(tmp_path / "mlruns") if trial["values"]["lr"] == 1.0]
    assert failed and {trial["state"] for trial in failed} == {"FAIL"}
    assert "ValueError: one is too much" in done.out
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlruns' / 'mlflow.db'}")
    runs = client.search_runs(["1"], "tags.\"harness.status\" = 'failed'")
    assert len(runs) == len(failed)
    trace = Path(runs[0].info.artifact_uri.removeprefix("file://"), "traceback.txt").read_text()
    assert "raise ValueError('one is too much')" in trace
    assert "harness/training" not in trace, "it begins at the user's frame"

    edit(spec, "if self.lr == 1.0", "if self.lr < 2 and self.lr != 0.1")  # all but the default
    edit(spec, "points=4", "points=9")
    done = harness("sweep", spec, "--trials", 12, "--jobs", 1, "--store", "failing", code=1)
    assert "3 trials in a row ended with the same error" in done.err
    assert "raise ValueError('one is too much')" in done.err
    assert "trial-0003" not in done.out


def test_a_worker_killed_from_outside_is_replaced_and_its_trial_goes_on(
    harness: Harness, spec: Path, tmp_path: Path
) -> None:
    harness("sweep", spec, "--jobs", 1, "--trials", 3, "--store", "whole")
    kill = """
    def loss(self):
        import os
        from pathlib import Path

        compute = nn.CrossEntropyLoss()
        steps = iter(range(10**9))

        def loss(outputs, targets):
            if next(steps) == 40 and not Path("killed").exists():
                Path("killed").touch()
                os.kill(os.getpid(), 9)
            return compute(outputs, targets)

        return loss
"""
    spec.write_text(spec.read_text() + kill)
    done = harness("sweep", spec, "--jobs", 1, "--trials", 3, "--store", "hit")
    assert "its worker was killed (signal 9); tried again" in done.out
    ours, theirs = read_store(tmp_path / "hit"), read_store(tmp_path / "whole")
    for run in (*ours.values(), *theirs.values()):
        del run["recipe"]
    assert ours == theirs

    spec.write_text(spec.read_text().replace(' and not Path("killed").exists()', ""))
    done = harness("sweep", spec, "--jobs", 1, "--trials", 2, "--store", "deadly", code=1)
    assert "its worker was killed 2 times (signal 9)" in done.out
    assert {trial["state"] for trial in read_study(tmp_path / "deadly")} == {"FAIL"}


def start_and_kill(zygote: Any, spec: Path, tmp_path: Path) -> None:
    slow(spec, 0.4)
    started = zygote.start("sweep", spec, "--jobs", 1, "--trials", 2, cwd=tmp_path)
    started.wait_for("trial-0000  epoch 3/8")
    assert started.kill().code == -9


def test_an_interrupted_trial_begins_anew_where_other_numbers_come_out(
    harness: Harness, zygote: Any, spec: Path, tmp_path: Path
) -> None:
    start_and_kill(zygote, spec, tmp_path)
    done = harness("sweep", spec, "--jobs", 1, "--trials", 2, "--set", "threads=2", HARNESS_PACE="0")
    assert "has changed since; it starts again, as another run" in done.out
    assert [trial["state"] for trial in read_study(tmp_path / "mlruns")] == ["COMPLETE", "COMPLETE"]
    runs = harness("runs", spec, "--json").json
    assert sorted((run["name"], run["status"]) for run in runs) == [
        ("trial-0000", "FAILED"), ("trial-0000", "FINISHED"), ("trial-0001", "FINISHED"),
    ]  # fmt: skip
    whole = next(run for run in runs if (run["name"], run["status"]) == ("trial-0000", "FINISHED"))
    history = MlflowClient(f"sqlite:///{tmp_path / 'mlruns' / 'mlflow.db'}").get_metric_history(whole["run_id"], "lr")
    assert [point.step for point in history] == list(range(8))


def test_a_trial_that_goes_on_where_other_numbers_come_out_is_not_mixed_from_both(
    harness: Harness, spec: Path, tmp_path: Path
) -> None:
    edit(spec, "import torch\n", "import os\nfrom pathlib import Path\n\nimport torch\n")
    edit(spec, "manual_seed(1)", "manual_seed(2 if Path('other').exists() else 1)")  # as another device would
    kill = """    def loss(self):
        compute = nn.CrossEntropyLoss()
        steps = iter(range(10**9))

        def loss(outputs, targets):
            if next(steps) == 40 and not Path("other").exists():
                Path("other").touch()
                os.kill(os.getpid(), 9)
            return compute(outputs, targets)

        return loss

    def model(self):"""
    edit(spec, "    def model(self):", kill)
    done = harness("sweep", spec, "--jobs", 1, "--trials", 2)
    assert "its worker was killed (signal 9); tried again" in done.out and "it starts again, as another run" in done.out
    harness("sweep", spec, "--jobs", 1, "--trials", 2, "--store", "whole")  # all of it in the second place
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlruns' / 'mlflow.db'}")
    runs = {(run["name"], run["status"]): run["run_id"] for run in harness("runs", spec, "--json").json}
    whole = read_store(tmp_path / "whole")
    for name in ("trial-0000", "trial-0001"):
        history = client.get_metric_history(runs[name, "FINISHED"], "val_loss")
        assert [(point.step, point.value) for point in history] == whole[name]["metrics"]["val_loss"]
    assert "has changed since" in client.get_run(runs["trial-0000", "FAILED"]).data.tags["harness.reason"]


def test_an_interrupted_trial_whose_run_was_deleted_goes_on_as_another_run(
    harness: Harness, zygote: Any, spec: Path, tmp_path: Path
) -> None:
    start_and_kill(zygote, spec, tmp_path)
    (run,) = harness("runs", spec, "--json").json
    MlflowClient(f"sqlite:///{tmp_path / 'mlruns' / 'mlflow.db'}").delete_run(run["run_id"])
    done = harness("sweep", spec, "--jobs", 1, "--trials", 2, HARNESS_PACE="0")
    assert f"run {run['run_id']} was deleted; it goes on as another run" in done.out
    assert "(reused)" in done.out, "no epoch is trained again"
    assert [trial["state"] for trial in read_study(tmp_path / "mlruns")] == ["COMPLETE", "COMPLETE"]


def test_a_run_that_is_deleted_meanwhile_ends_the_sweep_with_a_sentence(
    zygote: Any, harness: Harness, spec: Path, tmp_path: Path
) -> None:
    slow(spec, 0.4)
    started = zygote.start("sweep", spec, "--jobs", 2, "--trials", 4, cwd=tmp_path)
    started.wait_for("trial-0001  epoch 2/8")
    (tmp_path / HOLD).touch()
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlruns' / 'mlflow.db'}")
    runs = {run["name"]: run["run_id"] for run in harness("runs", spec, "--json").json}
    client.delete_run(runs["trial-0000"])
    (tmp_path / HOLD).unlink()
    done = started.wait()
    assert done.code == 1
    assert done.err.startswith(f"harness: MLflow refused a message about run {runs['trial-0000']}: ")
    assert len(done.err.strip().splitlines()) == 1
    assert client.get_run(runs["trial-0001"]).data.tags["harness.status"] == "interrupted"


def test_a_torn_line_is_cut_off_by_whoever_writes_next(tmp_path: Path) -> None:
    journal = tmp_path / "optuna.log"
    first, other = open_journal(journal), open_journal(journal)
    optuna.create_study(storage=first, study_name="one")
    with journal.open("ab") as file:
        file.write(b'{"op_code": 6, "worker_id": "disk fu')  # while the other one has the journal open
    optuna.create_study(storage=other, study_name="two")
    assert sorted(optuna.get_all_study_names(open_journal(journal))) == ["one", "two"]


@pytest.mark.parametrize("broken", [False, True])
def test_a_spec_that_is_edited_meanwhile_never_mixes_with_what_it_was(
    broken: bool, harness: Harness, spec: Path, tmp_path: Path
) -> None:
    text = (
        "import no_such_module"
        if broken
        else spec.read_text().replace("nn.Linear(6, 16)", "nn.Linear(6, 16, bias=False)")
    )
    (tmp_path / "edited").write_text(text)
    edit(
        spec,
        "    def model(self):",
        """    def loss(self):
        import os
        from pathlib import Path

        compute = nn.CrossEntropyLoss()
        steps = iter(range(10**9))

        def loss(outputs, targets):
            if next(steps) == 40 and Path("edited").exists():
                Path("edited").rename(Path("small.py"))  # an editor does
                os.kill(os.getpid(), 9)  # and another worker takes this one's place
            return compute(outputs, targets)

        return loss

    def model(self):""",
    )
    first = spec.read_text()
    done = harness("sweep", spec, "--jobs", 1, "--trials", 3, code=1)
    assert done.err.strip().splitlines()[-1] == (
        f"harness: {spec} was edited while it was running. Everything trained so far is kept; the same command goes on "
        "with the file as it is now."
    )
    assert {trial["state"] for trial in read_study(tmp_path / "mlruns")} == {"RUNNING"}
    spec.write_text(first)
    harness("sweep", spec, "--jobs", 1, "--trials", 3)
    harness("sweep", spec, "--jobs", 1, "--trials", 3, "--store", "whole")
    assert read_store(tmp_path / "mlruns") == read_store(tmp_path / "whole")


def test_a_full_disk_fails_no_trial(harness: Harness, spec: Path, tmp_path: Path) -> None:
    full = """    def loss(self):
        from pathlib import Path

        from harness.training import writer

        compute = nn.CrossEntropyLoss()
        steps = iter(range(10**9))

        def refuse(path, content):
            raise OSError(28, "No space left on device", str(path))

        def loss(outputs, targets):
            if next(steps) == 40 and Path("full").exists():
                writer.write_whole = refuse
            return compute(outputs, targets)

        return loss

    def model(self):"""
    edit(spec, "    def model(self):", full)
    (tmp_path / "full").touch()
    done = harness("sweep", spec, "--jobs", 1, "--trials", 3, code=1)
    last = done.err.strip().splitlines()[-1]
    assert last.startswith(f"harness: {tmp_path}/mlruns/") and ": No space left on device. Everything trained" in last
    assert {trial["state"] for trial in read_study(tmp_path / "mlruns")} == {"RUNNING"}
    (tmp_path / "full").unlink()
    harness("sweep", spec, "--jobs", 1, "--trials", 3)
    harness("sweep", spec, "--jobs", 1, "--trials", 3, "--store", "whole")
    assert read_store(tmp_path / "mlruns") == read_store(tmp_path / "whole")


def test_out_of_memory_fails_one_trial_and_names_the_batch_size(harness: Harness, spec: Path, tmp_path: Path) -> None:
    edit(
        spec,
        "        return optim.SGD",
        "        if self.lr == 1.0:\n            raise torch.OutOfMemoryError('no memory')\n        return optim.SGD",
    )
    done = harness("sweep", spec, "--trials", 6, "--jobs", 1)
    states = [trial["state"] for trial in read_study(tmp_path / "mlruns")]
    assert "FAIL" in states and "COMPLETE" in states
    assert "out of memory with batch_size 32" in done.out


def test_a_pruner_ends_bad_trials_early_and_the_same_ones_after_a_kill(
    harness: Harness, spec: Path, tmp_path: Path
) -> None:
    edit(spec, "    trials = 6", "    trials = 14\n    pruner = 'median'")
    harness("sweep", spec, "--jobs", 1)
    runs = read_store(tmp_path / "mlruns")
    pruned = [run for run in runs.values() if run["outcome"] == "pruned"]
    assert pruned and all(len(run["steps"]["epoch_seconds"]) < 8 for run in pruned)
    assert sum(trial["state"] == "PRUNED" for trial in read_study(tmp_path / "mlruns")) == len(pruned)
    harness("sweep", spec, "--jobs", 1, "--store", "again", "--trials", 7)
    harness("sweep", spec, "--jobs", 1, "--store", "again")
    assert read_study(tmp_path / "again") == read_study(tmp_path / "mlruns")


def test_a_changed_model_starts_a_new_study_and_reuses_nothing(harness: Harness, spec: Path, tmp_path: Path) -> None:
    harness("sweep", spec, "--trials", 2, "--jobs", 1)
    edit(
        spec,
        "nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2)",
        "nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)",
    )
    done = harness("sweep", spec, "--trials", 2, "--jobs", 1)
    assert "changed since the last sweep: Small.model()" in done.out
    assert totals(done.out)[2] == 0
    names = optuna.get_all_study_names(open_journal(tmp_path / "mlruns" / "optuna.log"))
    assert sorted(names) == ["small", "small~1"]

    edit(spec, '"""A small network', '"""Another docstring, and a')
    unchanged = harness("sweep", spec, "--trials", 2, "--jobs", 1)
    assert "changed since" not in unchanged.out


def test_a_torn_last_line_of_the_journal_is_mended(harness: Harness, spec: Path, tmp_path: Path) -> None:
    harness("sweep", spec, "--trials", 2, "--jobs", 1)
    journal = tmp_path / "mlruns" / "optuna.log"
    with journal.open("ab") as file:
        file.write(b'{"op_code": 6, "worker_id": "cut sh')
    harness("sweep", spec, "--trials", 3, "--jobs", 1)
    harness("sweep", spec, "--trials", 4, "--jobs", 1)
    assert len(read_study(tmp_path / "mlruns")) == 4


@pytest.mark.parametrize("damage", ["nodes", "states"])
def test_damaged_files_in_the_tree_are_trained_again(damage: str, harness: Harness, spec: Path, tmp_path: Path) -> None:
    harness("sweep", spec, "--trials", 3, "--jobs", 1)
    files = sorted((tmp_path / "mlruns" / "paths").glob("*/*.json" if damage == "nodes" else "*/states/*"))
    files = [path for path in files if path.name != "recipe.json"]
    assert files
    for path in files:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    harness("sweep", spec, "--trials", 6, "--jobs", 1)
    harness("sweep", spec, "--trials", 6, "--jobs", 1, "--store", "whole")
    ours, theirs = read_store(tmp_path / "mlruns"), read_store(tmp_path / "whole")
    for run in (*ours.values(), *theirs.values()):
        del run["reused_from"], run["metrics"]["reused_epochs"]
    assert ours == theirs


def test_a_hyperparameter_can_be_the_models_width_or_the_batch_size(
    harness: Harness, spec: Path, tmp_path: Path
) -> None:
    edit(
        spec,
        "    batch_size = 32\n",
        "    batch_size: int = search.choice(16, 64, default=16)\n    width: int = search.integer(4, 32, default=8)\n",
    )
    edit(
        spec,
        "nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2)",
        "nn.Linear(6, self.width), nn.ReLU(), nn.Linear(self.width, 2)",
    )
    done = harness("sweep", spec, "--trials", 4, "--jobs", 1)
    assert "the largest trial (batch_size=64, width=32) fits" in done.out
    widths = {run["params"]["width"] for run in read_store(tmp_path / "mlruns").values()}
    assert len(widths) > 1


def test_a_budget_of_nothing_keeps_no_state_and_changes_no_result(harness: Harness, spec: Path, tmp_path: Path) -> None:
    harness("sweep", spec, "--trials", 5, "--jobs", 1, "--store", "roomy")
    harness("sweep", spec, "--trials", 5, "--jobs", 1, "--store", "tight", "--path-budget", 0)
    assert not list((tmp_path / "tight" / "paths").glob("*/states/*"))
    assert read_store(tmp_path / "tight") == read_store(tmp_path / "roomy")
    assert_same_checkpoints(tmp_path / "tight", tmp_path / "roomy")


def test_epochs_kept_elsewhere_change_no_result(harness: Harness, spec: Path, tmp_path: Path) -> None:
    harness("sweep", spec, "--trials", 4, "--jobs", 1, "--store", "here")
    harness("sweep", spec, "--trials", 4, "--jobs", 1, "--store", "there", "--paths", "shared/epochs")
    assert not list((tmp_path / "there" / "paths").glob("*")), "its epochs are in the other folder"
    assert list((tmp_path / "shared" / "epochs").glob("*/states/*"))
    assert read_store(tmp_path / "there") == read_store(tmp_path / "here")
    assert_same_checkpoints(tmp_path / "there", tmp_path / "here")
    asked, trained, _ = totals(
        harness("sweep", spec, "--trials", 4, "--jobs", 1, "--store", "third", "--paths", "shared/epochs").out
    )
    assert (asked, trained) == (32, 0), "another store finds them"


def test_a_study_in_a_database_is_the_one_in_the_journal(harness: Harness, spec: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    harness("sweep", spec, "--trials", 2, "--jobs", 1, "--store", "database", "--study-storage", url)
    harness("sweep", spec, "--trials", 4, "--jobs", 1, "--store", "database", HARNESS_STUDY_STORAGE=url)
    harness("sweep", spec, "--trials", 4, "--jobs", 1, "--store", "journal")
    assert not (tmp_path / "database" / "optuna.log").exists()
    assert read_store(tmp_path / "database") == read_store(tmp_path / "journal")
    study = optuna.load_study(study_name="small", storage=url)
    assert [trial.value for trial in study.trials] == [trial["value"] for trial in read_study(tmp_path / "journal")]

    wrong = "postgresql+psycopg://me:secret@127.0.0.1:1/studies"
    done = harness("sweep", spec, "--trials", 4, "--jobs", 1, "--store", "other", "--study-storage", wrong, code=1)
    assert "--study-storage postgresql+psycopg://...@127.0.0.1:1/studies" in done.err and "secret" not in done.err
    assert len(done.err.strip().splitlines()) == 1
