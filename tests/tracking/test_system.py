"""What the machine did, beside what was trained."""

from collections.abc import Callable
from pathlib import Path

import pytest
from running import Finished

from harness.tracking import system
from harness.tracking.store import Store

CPU = {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"}


def test_a_sample_has_the_names_that_mlflow_looks_for() -> None:
    sample = system.SystemSampler().sample()
    assert sample.keys() >= CPU
    assert 0 <= sample["system/cpu_utilization_percentage"] <= 100
    assert 0 < sample["system/system_memory_usage_percentage"] < 100


def test_samples_in_one_breath_are_one_and_the_next_is_due_later(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = system.SystemSampler()
    assert sampler.sample() is sampler.sample() and not sampler.is_due
    monkeypatch.setattr(system, "SECONDS", 0.0)
    assert sampler.is_due


@pytest.mark.parametrize(("chosen", "expected"), [
    (None, [0, 1, 2]), ("1", [1]), ("2,0", [2, 0]), ("", []), ("-1", []), ("1,7,0", [1]),
    ("GPU-2b, 0", [2, 0]), ("MIG-5", ["slice"]),
])  # fmt: skip
def test_the_gpus_that_are_sampled_are_those_that_cuda_sees(
    monkeypatch: pytest.MonkeyPatch, chosen: str | None, expected: list[object]
) -> None:
    for name, function in {
        "nvmlInit": lambda: None, "nvmlDeviceGetCount": lambda: 3, "nvmlDeviceGetHandleByIndex": lambda number: number,
        "nvmlDeviceGetUUID": lambda gpu: f"GPU-{gpu}b", "nvmlDeviceGetHandleByUUID": lambda _: "slice",
    }.items():  # fmt: skip
        monkeypatch.setattr(system.pynvml, name, function)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert system.SystemSampler()._gpus == expected


def test_a_short_run_has_one_sample_which_tables_leave_out(swept: Path, harness: Callable[..., Finished]) -> None:
    store = Store(swept / "mlruns")
    for run in store.find_runs(store.experiment_id("small"), ""):
        assert run.data.metrics.keys() >= CPU
        assert len(store.client.get_metric_history(run.info.run_id, "system/cpu_utilization_percentage")) == 1
    listed = harness("runs", "small.py", "--json", "--store", swept / "mlruns").json
    assert not [name for run in listed for name in run["metrics"] if name.startswith("system/")]


def test_runs_can_be_filtered_by_spec_recipe_status_and_reuse(swept: Path) -> None:
    store = Store(swept / "mlruns")
    number = store.experiment_id("small")
    every = store.find_runs(number, "")
    recipe = every[0].data.tags["harness.recipe"]
    for tag, value in (("spec", "small"), ("status", "finished"), ("recipe", recipe), ("reused", "none")):
        found = store.find_runs(number, f"tags.\"harness.{tag}\" = '{value}'")
        assert found and {run.data.tags[f"harness.{tag}"] for run in found} == {value}
