"""Sweeps on a real Ray cluster of one-core nodes on this machine: nodes, servers and drivers go, no result changes."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from comparing import assert_same_checkpoints, read_store
from mlflow import MlflowClient
from running import environment, wait_until
from serving import Database, Server
from small import OWN_STEP, SPEC, edit, slow

cluster_utils = pytest.importorskip("ray.cluster_utils", reason="needs Ray: pip install 'experiment-harness[ray]'")

Harness = Callable[..., Any]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]
TRIALS = 12
AWAY_SECONDS = 20
PATIENCE_SECONDS = 150  # a worker loads torch on each node, and here all nodes are one machine


class Cluster:
    """Three nodes of one core each, the first of them the head."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.has_head = True
        self._cluster = cluster_utils.Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
        )
        self.address = str(self._cluster.address)
        self._nodes = [self._cluster.add_node(wait=False, num_cpus=1) for _ in range(2)]
        self._cluster.wait_for_nodes()

    def add(self) -> str:
        """Adds a node; what its id begins with."""
        self._nodes.append(self._cluster.add_node(num_cpus=1))
        return str(self._nodes[-1].node_id[:8])

    def kill_one_of(self, names: set[str]) -> None:
        """Kills a node, not the head, whose id begins with one of these names."""
        node = next(node for node in self._nodes if node.node_id[:8] in names)
        self._nodes.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)

    def kill_the_head(self) -> None:
        self.has_head = False
        for processes in self._cluster.head_node.all_processes.values():
            for process in processes:
                os.kill(process.process.pid, signal.SIGKILL)

    def close(self) -> None:
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def started_cluster() -> Iterator[Cluster]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    started = Cluster()
    yield started
    started.close()


@pytest.fixture
def cluster(started_cluster: Cluster) -> Cluster:
    """A cluster that is up: one whose head a test has killed is started anew."""
    if not started_cluster.has_head:
        started_cluster.close()
        started_cluster.start()
    return started_cluster


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    started = Database()
    yield started
    started.stop()


@pytest.fixture(scope="module")
def server(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("server"), database.create("mlflow"))
    yield started
    started.stop()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a spec and a module beside it. Its trials do not depend on which ended first."""
    folder = tmp_path_factory.mktemp("ray") / "project"
    folder.mkdir()
    (folder / "widths.py").write_text("HIDDEN = 16\n")
    spec = folder / "small.py"
    spec.write_text(SPEC)
    edit(spec, "import torch\n", "import torch\nfrom widths import HIDDEN\n")
    edit(spec, "nn.Linear(6, 16)", "nn.Linear(6, HIDDEN)")
    edit(spec, "    trials = 6", f"    trials = {TRIALS}\n    sampler = 'random'")
    slow(spec, 0.2)
    return folder


@pytest.fixture(scope="module")
def local(zygote: Any, project: Path) -> Path:
    """The store of the same sweep on local workers."""
    store = project.parent / "local"
    done = zygote.start("sweep", "small.py", "--jobs", 2, "--store", store, cwd=project, HARNESS_PACE="0").wait()
    assert done.code == 0, done
    return store


def wait_for_nodes(started: Any, count: int) -> set[str]:
    """Waits until so many nodes have trials; the nodes."""

    def nodes() -> set[str]:
        return set(re.findall(r"trial-\d+ is on \S+ \((\w+)\)", started.out.read_text()))

    wait_until(lambda: len(nodes()) >= count, started.printed, PATIENCE_SECONDS)
    return nodes()


def assert_equal(uri: str, local: Path) -> None:
    """Bit for bit, but for who came first where two runs share epochs: that is a matter of timing."""
    ours, theirs = read_store(uri), read_store(local)
    for run in (*ours.values(), *theirs.values()):
        del run["reused_from"], run["metrics"]["reused_epochs"]
    assert len(ours) == TRIALS and ours == theirs
    assert {run["status"] for run in ours.values()} == {"FINISHED"}
    assert_same_checkpoints(uri, local)


def assert_all_told(storage: str) -> None:
    """The study has every trial, complete."""
    opened = optuna.storages.RDBStorage(storage)
    states = [trial.state.name for trial in optuna.load_study(study_name="small", storage=opened).trials]
    opened.remove_session()
    opened.engine.dispose()
    assert states == ["COMPLETE"] * TRIALS


def test_a_sweep_that_loses_a_node_its_servers_and_its_spec_equals_a_local_one(
    cluster: Cluster, database: Database, server: Server, local: Path, project: Path, zygote: Any
) -> None:
    store, servers = project.parent / "store", {"MLFLOW_TRACKING_URI": server.uri}
    servers["HARNESS_STUDY_STORAGE"] = database.create("studies")
    sweep = ["sweep", "small.py", "--ray", cluster.address, "--store", store]
    started = zygote.start(*sweep, cwd=project, HARNESS_REGISTER="1", **servers)
    cluster.kill_one_of(wait_for_nodes(started, 2))
    server.stop()
    away = time.monotonic()
    elsewhere = project.rename(project.parent / "renamed")  # what starts from now on finds no spec where it was
    new = cluster.add()
    started.wait_for("training goes on")
    time.sleep(max(0, AWAY_SECONDS - (time.monotonic() - away)))
    server.start()
    done = started.wait()
    elsewhere.rename(project)
    assert done.code == 0, done
    assert f"{TRIALS} trials of 8 epochs, 3 at once" in done.out
    assert "its node was lost" in done.out and "tried again, from its last state" in done.out
    assert "raylet" not in done.out + done.err, "what Ray has to say of it is in Ray's own log"
    assert "the tracking server is back" in done.out
    assert re.search(rf"trial-\d+ is on \S+ \({new}\)", done.out), f"nothing trained on node {new}:\n{done.out}"
    assert_equal(server.uri, local)
    assert_all_told(servers["HARNESS_STUDY_STORAGE"])

    ask = {"cwd": project, **servers}
    assert len(zygote.start("runs", "small.py", "--json", **ask).wait().json) == TRIALS
    best = zygote.start("best", "small.py", "--json", **ask).wait().json
    reloaded = zygote.start("reload", "best", "small.py", "--json", **ask).wait().json
    assert reloaded["match"] and reloaded["run_id"] == best["run_id"]
    client = MlflowClient(server.uri)
    assert client.get_model_version_by_alias("small", "best").run_id == best["run_id"]
    client.rename_experiment(client.get_experiment_by_name("small").experiment_id, "first")  # type: ignore[union-attr]


def test_the_same_with_its_driver_killed_goes_on_by_the_same_command(
    cluster: Cluster, database: Database, server: Server, local: Path, project: Path, zygote: Any
) -> None:
    store, servers = project.parent / "killed", {"MLFLOW_TRACKING_URI": server.uri}
    servers["HARNESS_STUDY_STORAGE"] = database.create("killed")
    sweep = ["sweep", "small.py", "--ray", cluster.address, "--store", store]
    started = zygote.start(*sweep, cwd=project, **servers)
    cluster.kill_one_of(wait_for_nodes(started, 2))
    server.stop()
    letters = store / "outbox" / "letters"
    wait_until(lambda: any(letters.glob("*.json")), started)
    assert started.kill().code == -9
    cluster.add()
    server.start()
    done = zygote.start(*sweep, cwd=project, **servers).wait()
    assert done.code == 0, done
    assert "was interrupted and goes on" in done.out
    assert not any(letters.glob("*.json"))
    assert_equal(server.uri, local)
    assert_all_told(servers["HARNESS_STUDY_STORAGE"])


def test_a_training_step_of_ones_own_gives_the_same_on_a_cluster(
    cluster: Cluster, harness: Harness, spec: Path, tmp_path: Path
) -> None:
    spec.write_text(OWN_STEP)
    given = [f"--set={value}" for value in ("lr=0.1", "momentum=0.9", "sampler=grid")]
    sweep = ["sweep", spec, *given, "--trials", 6, "--store"]
    harness(*sweep, "local", "--jobs", 2)
    harness(*sweep, "ray", "--jobs", 2, "--ray", cluster.address)
    ours, theirs = read_store(tmp_path / "ray"), read_store(tmp_path / "local")
    for run in (*ours.values(), *theirs.values()):
        del run["reused_from"], run["metrics"]["reused_epochs"]
    assert len(ours) == 6 and ours == theirs
    assert_same_checkpoints(tmp_path / "ray", tmp_path / "local")


def test_trials_wait_and_go_on_on_a_cluster(cluster: Cluster, harness: Harness, spec: Path, tmp_path: Path) -> None:
    for budget in (14, 30):
        harness("sweep", spec, "--budget", budget, "--jobs", 1, "--store", "local")
        harness("sweep", spec, "--budget", budget, "--jobs", 1, "--store", "ray", "--ray", cluster.address)
    ours, theirs = read_store(tmp_path / "ray"), read_store(tmp_path / "local")
    assert ours == theirs and {run["outcome"] for run in ours.values()} == {"finished", "waiting"}
    assert_same_checkpoints(tmp_path / "ray", tmp_path / "local")


def test_verdicts_reach_the_workers_and_a_head_that_dies_ends_the_driver(
    cluster: Cluster, harness: Harness, spec: Path, tmp_path: Path, zygote: Any
) -> None:
    edit(spec, "import torch\n", "import torch\nfrom optuna.pruners import MedianPruner\n")
    edit(spec, "    trials = 6", "    trials = 14\n    pruner = MedianPruner(n_startup_trials=1)")
    slow(spec, 0.4)
    sweep = ["sweep", spec, "--jobs", 1, "--store"]
    harness(*sweep, "local", HARNESS_PACE="0")
    started = zygote.start(*sweep, "ray", "--ray", cluster.address, cwd=tmp_path)
    started.wait_for("pruned: ", PATIENCE_SECONDS)
    cluster.kill_the_head()
    done = started.wait(60)
    assert done.code == 1, done
    assert "the Ray cluster" in done.err and "the same command goes on" in done.err
    assert len(done.err.strip().splitlines()) == 1

    assert "nothing answers there" in harness(*sweep, "ray", "--ray", cluster.address, code=1).err
    harness(*sweep, "ray", HARNESS_PACE="0")
    ours = read_store(tmp_path / "ray")
    assert [run for run in ours.values() if run["outcome"] == "pruned"]
    assert ours == read_store(tmp_path / "local")
    assert_same_checkpoints(tmp_path / "ray", tmp_path / "local")


def test_an_address_that_is_none_is_said_in_one_sentence(harness: Harness, spec: Path) -> None:
    done = harness("sweep", spec, "--ray", "somewhere", code=2)
    assert done.err == "harness: --ray somewhere: write it as auto, local, HOST:PORT or ray://HOST:PORT.\n"


def test_without_ray_it_is_said_how_to_get_it(spec: Path) -> None:
    code = "import sys; sys.modules['ray'] = None; from harness.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "sweep", str(spec), "--ray", "auto"],
        capture_output=True, text=True, env=environment(), cwd=spec.parent,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "harness: --ray needs Ray, which is not installed: pip install 'experiment-harness[ray]'\n"
