"""A sweep on a real Ray cluster of one-core nodes on this machine, where nodes come and go."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from comparing import assert_same_checkpoints, read_store
from running import environment
from small import SPEC, edit, slow

cluster_utils = pytest.importorskip("ray.cluster_utils", reason="needs Ray: pip install 'harness[ray]'")

Harness = Callable[..., Any]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]
TRIALS = 12
PATIENCE_SECONDS = 150  # a worker loads torch on each node, and here all nodes are one machine


class Cluster:
    """Three nodes of one core each, the first of them the head."""

    def __init__(self) -> None:
        self._cluster = cluster_utils.Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
        )
        self.address = str(self._cluster.address)
        self._nodes = [self._cluster.add_node(wait=False, num_cpus=1) for _ in range(2)]
        self._cluster.wait_for_nodes()

    def add(self) -> None:
        self._cluster.add_node(num_cpus=1)

    def kill_one_of(self, names: set[str]) -> None:
        """Kills a node, not the head, whose id begins with one of these names."""
        node = next(node for node in self._nodes if node.node_id[:8] in names)
        self._nodes.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)

    def kill_the_head(self) -> None:
        for processes in self._cluster.head_node.all_processes.values():
            for process in processes:
                os.kill(process.process.pid, signal.SIGKILL)

    def close(self) -> None:
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    started = Cluster()
    yield started
    started.close()


@pytest.fixture(scope="module")
def slow_spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spec whose trials do not depend on which ended first, and take a second or two each."""
    path = tmp_path_factory.mktemp("ray") / "small.py"
    path.write_text(SPEC)
    edit(path, "    trials = 6", f"    trials = {TRIALS}\n    sampler = 'random'")
    slow(path, 0.2)
    return path


@pytest.fixture(scope="module")
def local(zygote: Any, slow_spec: Path) -> Path:
    """The store of the same sweep on local workers."""
    done = zygote.start("sweep", slow_spec, "--jobs", 2, "--store", "local", cwd=slow_spec.parent).wait()
    assert done.code == 0, done
    return slow_spec.parent / "local"


def wait_for_nodes(started: Any, count: int) -> set[str]:
    """Waits until so many nodes have trials; the nodes."""
    ends = time.monotonic() + PATIENCE_SECONDS
    while len(nodes := set(re.findall(r"trial-\d+ is on \S+ \((\w+)\)", started.out.read_text()))) < count:
        assert time.monotonic() < ends, started.out.read_text() + started.err.read_text()
        time.sleep(0.05)
    return nodes


def assert_equal(store: Path, local: Path) -> None:
    """Bit for bit, but for who came first where two runs share epochs: that is a matter of timing."""
    ours, theirs = read_store(store), read_store(local)
    for run in (*ours.values(), *theirs.values()):
        del run["reused_from"], run["metrics"]["reused_epochs"]
    assert len(ours) == TRIALS and ours == theirs
    assert {run["status"] for run in ours.values()} == {"FINISHED"}
    assert_same_checkpoints(store, local)


def test_a_sweep_that_loses_one_node_and_gets_another_equals_a_local_one(
    cluster: Cluster, local: Path, slow_spec: Path, zygote: Any
) -> None:
    started = zygote.start("sweep", slow_spec, "--ray", cluster.address, "--store", "nodes", cwd=slow_spec.parent)
    cluster.kill_one_of(wait_for_nodes(started, 2))
    cluster.add()
    done = started.wait()
    assert done.code == 0, done
    assert f"{TRIALS} trials of 8 epochs, 3 at once" in done.out
    assert "its node was lost" in done.out and "once more, from its last state" in done.out
    assert_equal(slow_spec.parent / "nodes", local)


def test_a_driver_that_is_killed_goes_on_by_the_same_command(
    cluster: Cluster, local: Path, slow_spec: Path, zygote: Any
) -> None:
    arguments = ["sweep", slow_spec, "--ray", cluster.address, "--store", "killed", "--jobs", 2]
    started = zygote.start(*arguments, cwd=slow_spec.parent)
    started.wait_for("trial-0002  epoch 3/8", PATIENCE_SECONDS)
    assert started.kill().code == -9
    done = zygote.start(*arguments, cwd=slow_spec.parent).wait()
    assert done.code == 0, done
    assert "was interrupted and goes on" in done.out
    assert_equal(slow_spec.parent / "killed", local)


def test_verdicts_reach_the_workers(cluster: Cluster, harness: Harness, spec: Path, tmp_path: Path) -> None:
    edit(spec, "    trials = 6", "    trials = 10\n    pruner = 'median'")
    harness("sweep", spec, "--jobs", 1, "--ray", cluster.address, "--store", "ray")
    harness("sweep", spec, "--jobs", 1, "--store", "local")
    ours = read_store(tmp_path / "ray")
    assert [run for run in ours.values() if run["outcome"] == "pruned"]
    assert ours == read_store(tmp_path / "local")


def test_a_head_that_dies_ends_the_driver_and_the_sweep_goes_on_later(
    cluster: Cluster, local: Path, slow_spec: Path, zygote: Any
) -> None:
    sweep = ["sweep", slow_spec, "--jobs", 2, "--store", "headless"]
    started = zygote.start(*sweep, "--ray", cluster.address, cwd=slow_spec.parent)
    started.wait_for("trial-0001  epoch 2/8", PATIENCE_SECONDS)
    before = time.monotonic()
    cluster.kill_the_head()
    done = started.wait()
    assert time.monotonic() - before < 20
    assert done.code == 1, done
    assert "the Ray cluster" in done.err and "the same command goes on" in done.err
    assert len(done.err.strip().splitlines()) == 1

    done = zygote.start(*sweep, "--ray", cluster.address, cwd=slow_spec.parent).wait()
    assert done.code == 1 and "nothing answers there" in done.err
    done = zygote.start(*sweep, cwd=slow_spec.parent).wait()
    assert done.code == 0, done
    assert_equal(slow_spec.parent / "headless", local)


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
    assert done.stderr == "harness: --ray needs Ray, which is not installed: pip install 'harness[ray]'\n"
