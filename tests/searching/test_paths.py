"""Sweeps that keep their epochs in a bucket of a real S3 server equal those that keep them in a folder."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from buckets import S3
from comparing import assert_same_checkpoints, read_store
from small import SPEC, edit, slow

Harness = Callable[..., Any]
pytest.importorskip("s3fs", reason="needs s3fs: pip install 'experiment-harness[s3]'")


FIXED = ("--jobs", 2, "--set", "lr=0.1", "--set", "momentum=0.9")  # so that trials share epochs


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    server = S3()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a spec whose trials do not depend on which ended first."""
    folder = tmp_path_factory.mktemp("paths")
    (folder / "small.py").write_text(SPEC)
    edit(folder / "small.py", "    trials = 6", "    trials = 4\n    sampler = 'random'")
    slow(folder / "small.py", 0.02)
    return folder


@pytest.fixture(scope="module")
def sweep(zygote: Any, project: Path, s3: S3) -> Callable[..., Any]:
    """Sweeps the spec into a store, on a node with a cache of its own; gives what it printed."""

    def sweep(store: str, *arguments: object, code: int | None = 0, server: S3 = s3) -> Any:
        more = server.environment | {"HARNESS_CACHE_DIR": f"cache-{store}"}
        started = zygote.start("sweep", "small.py", *FIXED, "--store", store, *arguments, cwd=project, **more)
        if code is None:
            return started
        done = started.wait()
        assert done.code == code, done
        return done

    return sweep


@pytest.fixture(scope="module")
def local(sweep: Callable[..., Any]) -> Any:
    """What a sweep printed that kept its epochs in a folder: the store `local`."""
    return sweep("local")


@pytest.fixture(scope="module")
def in_bucket(sweep: Callable[..., Any]) -> Any:
    """What the same sweep printed that kept them in a bucket: the store `bucket`."""
    return sweep("bucket", "--paths", "s3://bucket/epochs")


def epochs(done: Any) -> tuple[int, int, int]:
    """Of all epochs how many were asked, trained and saved."""
    found = re.search(r"epochs: (\d+) asked, (\d+) trained, (\d+) saved", done.out)
    assert found, done
    asked, trained, saved = map(int, found.groups())
    return asked, trained, saved


def assert_equal(ours: Path, theirs: Path) -> None:
    """Bit for bit, but for which of two runs trained the epochs that they share."""
    left, right = read_store(ours), read_store(theirs)
    for run in (*left.values(), *right.values()):
        del run["reused_from"], run["metrics"]["reused_epochs"]
    assert left == right
    assert {run["status"] for run in left.values()} == {"FINISHED"}
    assert_same_checkpoints(ours, theirs)


def test_a_sweep_with_its_epochs_in_a_bucket_equals_one_with_them_in_a_folder(
    in_bucket: Any, local: Any, project: Path, s3: S3
) -> None:
    assert 0 < epochs(local)[2] and epochs(in_bucket) == epochs(local), "as many epochs saved"
    assert_equal(project / "bucket", project / "local")
    nodes = [
        name for name in s3.names("epochs/") if re.fullmatch(r"epochs/(?!fingerprints)\w+/[0-9a-f]{16}\.json", name)
    ]
    assert len(nodes) == epochs(in_bucket)[1]
    assert not s3.names("epochs/claims/") and not s3.names("epochs/check-")
    assert not (project / "bucket" / "paths").exists()


def test_another_node_with_another_store_trains_nothing_again(
    sweep: Callable[..., Any], in_bucket: Any, project: Path
) -> None:
    done = sweep("fresh", "--paths", "s3://bucket/epochs/")
    assert epochs(done)[1:] == (0, epochs(in_bucket)[0])
    assert_equal(project / "fresh", project / "bucket")


def test_what_is_damaged_in_the_bucket_is_noticed_and_trained_again(
    sweep: Callable[..., Any], in_bucket: Any, project: Path, s3: S3
) -> None:
    for name in s3.names("epochs/"):
        s3.write(name.replace("epochs", "damaged", 1), s3.read(name))
    states = [name for name in s3.names("damaged/") if "/states/" in name]
    records = [name for name in s3.names("damaged/") if re.search(r"/[0-9a-f]{16}\.json$", name)]
    for number, name in enumerate([*states, *records[::5]]):
        content = s3.read(name)
        middle = len(content) // 2
        s3.write(name, content[:middle] if number % 2 else content[:middle] + b"!" + content[middle + 1 :])
    after, wanted = sweep("after", "--paths", "s3://bucket/damaged", "--epochs", 10), sweep("wanted", "--epochs", 10)
    assert epochs(wanted)[2] < epochs(after)[2], "what is not damaged is used"
    assert "note:" not in after.out, "an epoch trained again gave the same"
    assert_equal(project / "after", project / "wanted")


def test_two_nodes_at_once_train_each_epoch_once(sweep: Callable[..., Any], local: Any, project: Path) -> None:
    started = [sweep(name, "--paths", "s3://bucket/two", code=None) for name in ("one", "two")]
    done = [each.wait() for each in started]
    assert [each.code for each in done] == [0, 0], done
    assert sum(epochs(each)[1] for each in done) == epochs(local)[1]
    for name in ("one", "two"):
        assert_equal(project / name, project / "local")


def test_a_server_that_goes_away_is_said_and_changes_no_result(
    sweep: Callable[..., Any], local: Any, project: Path
) -> None:
    server = S3()
    try:
        started = sweep("gone", "--paths", "s3://bucket/gone", code=None, server=server)
        started.wait_for("trial-0001  epoch 2/8")
    finally:
        server.stop()
    done = started.wait()
    assert done.code == 0, done
    assert 1 <= done.out.count("s3://bucket/gone cannot be reached (Could not connect") <= 2, "each worker says it once"
    assert epochs(done) == epochs(local), "this node's cache has them all"
    assert_equal(project / "gone", project / "local")


def test_a_bucket_that_does_not_exist_is_said_before_anything_is_written(
    sweep: Callable[..., Any], project: Path
) -> None:
    done = sweep("nowhere", "--paths", "s3://bukcet/epochs", code=1)
    assert done.err == (
        "harness: --paths s3://bukcet/epochs: there is no bucket s3://bukcet. "
        "Make it first, such as with: aws s3 mb s3://bukcet\n"
    )
    assert not (project / "nowhere").exists()


@pytest.mark.slow
def test_on_ray_checkpoints_reach_the_driver(sweep: Callable[..., Any], local: Any, project: Path) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'experiment-harness[ray]'")
    done = sweep("ray", "--ray", "local", "--paths", "s3://bucket/ray")
    assert epochs(done) == epochs(local)
    assert_equal(project / "ray", project / "local")
    assert not list((project / "cache-ray").rglob("*.pth.tar"))
