"""A tracking server and a study on PostgreSQL, as Debian packages it."""

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient
from serving import Server

Harness = Callable[..., Any]
BINARIES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
AS_POSTGRES = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BINARIES is None, reason="needs PostgreSQL: apt-get install postgresql"),
]


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """A PostgreSQL of its own on this machine; the beginning of its addresses."""
    assert BINARIES is not None
    pytest.importorskip("psycopg", reason="needs psycopg: pip install 'harness[postgres]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(*arguments: object) -> str:
        done = subprocess.run(
            [*AS_POSTGRES, *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True, cwd="/"
        )
        return done.stdout.strip()

    folder = Path(run("mktemp", "-d"))  # of that user's own: a server refuses folders of others
    run(BINARIES / "initdb", "-D", folder / "data", "-U", "harness", "--auth=trust")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    run(BINARIES / "pg_ctl", "-D", folder / "data", "-l", folder / "log", "-o", options, "-w", "start")
    for name in ("mlflow", "studies"):
        run(BINARIES / "createdb", "-h", "127.0.0.1", "-p", port, "-U", "harness", name)
    yield f"postgresql+psycopg://harness@127.0.0.1:{port}/"
    run(BINARIES / "pg_ctl", "-D", folder / "data", "-m", "immediate", "stop")
    shutil.rmtree(folder)


def test_runs_and_study_on_postgresql(postgres: str, harness: Harness, spec: Path, tmp_path: Path) -> None:
    server = Server(tmp_path, f"{postgres}mlflow")
    try:
        on_server = {"MLFLOW_TRACKING_URI": server.uri, "HARNESS_STUDY_STORAGE": f"{postgres}studies"}
        harness("sweep", spec, "--jobs", 2, "--trials", 2, **on_server)
        harness("sweep", spec, "--jobs", 2, "--trials", 4, **on_server)
        client = MlflowClient(server.uri)
        found = client.get_experiment_by_name("small")
        assert found is not None
        runs = client.search_runs([found.experiment_id])
        assert len(runs) == 4 and {run.info.status for run in runs} == {"FINISHED"}
        for run in runs:
            points = client.get_metric_history(run.info.run_id, "val_loss")
            assert sorted(point.step for point in points) == list(range(8))
        storage = optuna.storages.RDBStorage(f"{postgres}studies")
        study = optuna.load_study(study_name="small", storage=storage)
        assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 4
        storage.remove_session()
        storage.engine.dispose()
        assert harness("reload", "best", spec, "--json", MLFLOW_TRACKING_URI=server.uri).json["match"]
    finally:
        server.stop()
