"""The best run in MLflow's registry: loaded and served without this project."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import Finished, Zygote, environment
from serving import free_port, wait_for_server

from harness.api import load_run
from harness.results import export
from harness.results.registry import Registrar, find_registered
from harness.tracking.runs import find_best
from harness.tracking.store import Store

IMAGES = '''
"""A small convolutional network on generated images, normalised and with batch norm."""

from torch import nn, optim

from harness import Experiment, search
from harness.data import shapes


class Images(Experiment):
    epochs = 1
    trials = 1

    lr: float = search.log_uniform(1e-3, 1e-1, points=3, default=1e-2)

    def data(self):
        return shapes(train=200, validation=60, test=20)

    def model(self):
        layers = nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 8 * 8, 10)
        return nn.Sequential(*layers)

    def optimizer(self, parameters):
        return optim.SGD(parameters, lr=self.lr)
'''

WITHOUT_US = """
import sys
import threading
sys.modules["harness"] = None  # importing it would raise
import mlflow, numpy, torch
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pytorch.load_model(sys.argv[2])
images = torch.from_numpy(numpy.load("images.npy"))
outputs = [model(images[:count]).numpy() for count in (1, 3, len(images))]
numpy.savez("outputs.npz", *outputs)
"""


@pytest.fixture(scope="module")
def folder(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `images.py` and a sweep of it, whose best run is registered."""
    made = tmp_path_factory.mktemp("registered")
    (made / "images.py").write_text(IMAGES)
    done = sweep(zygote, made, "images.py")
    assert "registered as models:/images@best (version 1)" in done.out
    return made


@pytest.fixture(scope="module")
def images(folder: Path) -> np.ndarray[Any, Any]:
    """Images of the validation part as the data holds them: (N, 3, 32, 32) uint8."""
    data = load_run("best", folder / "images.py", store=folder / "mlruns").built.data
    pixels: np.ndarray[Any, Any] = data.validation.inputs[:7].numpy()  # type: ignore[union-attr]
    return pixels


def sweep(zygote: Zygote, folder: Path, *arguments: object) -> Finished:
    done = zygote.start("sweep", *arguments, "--register", cwd=folder).wait()
    assert done.code == 0, done
    return done


def test_the_best_run_is_a_model_version_with_the_alias_best(folder: Path) -> None:
    store = Store(folder / "mlruns")
    version, best = find_registered(store, "images"), find_best(store, "images")
    assert version is not None and version.run_id == best.info.run_id
    assert "0 to 255" in version.description and best.info.run_name in version.description
    [output] = best.outputs.model_outputs
    assert version.source == f"models:/{output.model_id}"


def test_it_gives_the_runs_probabilities_without_this_project_and_without_pickle(
    folder: Path, images: np.ndarray[Any, Any], tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder / "mlruns", moved)
    store = Store(moved)  # finds what lies in it, wherever it was copied to
    shutil.move(folder / "mlruns", folder / "away")
    try:
        np.save(tmp_path / "images.npy", images)
        command = [sys.executable, "-c", WITHOUT_US, store.uri, "models:/images@best"]
        done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
    finally:
        shutil.move(folder / "away", folder / "mlruns")
    expected = load_run("best", "images", store=moved).predict(torch_of(images)).numpy()
    for count, outputs in zip((1, 3, 7), np.load(tmp_path / "outputs.npz").values(), strict=True):
        np.testing.assert_allclose(outputs, expected[:count], rtol=1e-4, atol=1e-6)
    [archive] = moved.rglob("model.pt2")
    assert not [name for name in zipfile.ZipFile(archive).namelist() if name.endswith((".pkl", ".pickle"))]


def test_it_is_registered_once_and_again_when_another_run_is_the_best(zygote: Zygote, folder: Path) -> None:
    copy = folder.parent / "again"
    shutil.copytree(folder, copy)
    assert "registered" not in sweep(zygote, copy, "images.py").out
    store = Store(copy / "mlruns")
    number = store.experiment_id("images")
    first = find_best(store, "images").info.run_id
    assert "registered" not in sweep(zygote, copy, "images.py", "--trials", 1).out
    done = zygote.start("sweep", "images.py", "--trials", 2, "--no-register", cwd=copy).wait()
    assert done.code == 0 and "registered" not in done.out
    other = next(run for run in store.find_runs(number, "") if run.info.run_id != first)
    store.client.log_metric(other.info.run_id, "objective", 2.0, step=9)
    assert "(version 2)" in sweep(zygote, copy, "images.py", "--trials", 2).out
    version = find_registered(store, "images")
    assert version is not None and version.run_id == other.info.run_id


def test_a_model_that_cannot_be_exported_costs_a_line_and_not_the_sweep(zygote: Zygote, tmp_path: Path) -> None:
    branching = IMAGES.replace(
        "return nn.Sequential(*layers)",
        "return Branching(*layers)",
    ) + (
        "\n\nclass Branching(nn.Sequential):\n"
        "    def forward(self, images):\n"
        "        return super().forward(images if images.mean() > 0 else -images)\n"
    )
    (tmp_path / "branching.py").write_text(branching)
    done = sweep(zygote, tmp_path, "branching.py")
    assert "trial-0000 could not be registered: " in done.out and "Traceback" not in done.out + done.err
    store = Store(tmp_path / "mlruns")
    assert find_registered(store, "branching") is None
    assert not store.client.search_logged_models([store.experiment_id("branching")])


@pytest.mark.slow
def test_it_answers_over_http_when_mlflow_serves_it(folder: Path, images: np.ndarray[Any, Any], tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/images@best"]
    options = ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    found = environment(
        MLFLOW_TRACKING_URI=Store(folder / "mlruns").uri,
        MLFLOW_DEFAULT_PREDICTION_DEVICE="cpu",
        PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    )
    log = tmp_path / "log"
    with open(log, "w") as output:
        server = subprocess.Popen([*command, *options], env=found, stdout=output, stderr=output, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for_server(f"{address}/ping", server, log)
        request = urllib.request.Request(
            f"{address}/invocations",
            data=json.dumps({"inputs": images.tolist()}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            probabilities = np.array(json.load(answer)["predictions"])
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
    expected = load_run("best", "images", store=folder / "mlruns").predict(torch_of(images)).numpy()
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4, atol=1e-6)


def torch_of(array: np.ndarray[Any, Any]) -> Any:
    import torch

    return torch.from_numpy(array)


@pytest.mark.parametrize("method", ("fork", "forkserver"))
def test_a_process_that_has_nothing_to_register_ends(
    folder: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_START_METHOD", method)
    registrar = Registrar(Store(folder / "mlruns"))
    closing = threading.Thread(target=registrar.close, daemon=True)
    closing.start()
    closing.join(60)
    assert not closing.is_alive()


@pytest.mark.filterwarnings("ignore")  # as in the process that exports
def test_a_tiny_model_is_saved_while_there_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[list[str]] = []

    def save(model: Any, path: Path, *given: Any, **more: Any) -> None:
        real(model, path, *given, **more)
        saved.append(sorted(file.name for file in path.rglob("*")))

    real = export.save
    monkeypatch.setattr(export, "save", save)
    export.warm_up()
    (files,) = saved
    assert "MLmodel" in files and "model.pt2" in files, "in the form of the export"
