"""A spec that travels: used where it stands on machines that have it, and as it was sent on those that have not."""

import os
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from small import SPEC

from harness.errors import HarnessError
from harness.spec import Spec, load_spec
from harness.workers.messages import Describe, Train
from harness.workers.ray_actor import RayActor, unreachable
from harness.workers.shipping import Shipment, pack_spec


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose spec imports a module beside it and a package of the working folder."""
    project = tmp_path / "project"
    (project / "experiments").mkdir(parents=True)
    (project / "common" / "deep").mkdir(parents=True)
    text = SPEC.replace("import torch\n", "import torch\nfrom beside import WIDTH\nfrom common.deep import layers\n", 1)
    (project / "experiments" / "small.py").write_text(text)
    (project / "experiments" / "beside.py").write_text("from common import other\n\nWIDTH = 16\n")
    (project / "experiments" / "unrelated.py").write_text("raise RuntimeError\n")
    for name in ("__init__", "other", "deep/__init__", "deep/layers"):
        (project / "common" / f"{name}.py").write_text("")
    (project / "data").mkdir()
    (project / "data" / "large.bin").write_bytes(b"0" * 10_000)
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "path", [str(project), *sys.path])
    return project


def pack(project: Path) -> tuple[Shipment, Path]:
    folder = project.parent / "sent"
    return pack_spec(Path("experiments/small.py"), folder), folder


def test_the_spec_travels_with_the_local_modules_that_it_imports_and_nothing_else(project: Path) -> None:
    _, folder = pack(project)
    sent = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    own = {"experiments/small.py", "experiments/beside.py"}
    assert sent == own | {f"common/{name}.py" for name in ("__init__", "other", "deep/__init__", "deep/layers")}


def test_where_the_files_stand_they_are_used(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipment, folder = pack(project)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    loaded: list[Path] = []
    assert shipment.settle(loaded.append) and loaded == [Path("experiments/small.py")]
    assert Path.cwd() == project and str(folder) not in sys.path


@pytest.mark.parametrize("change", ["gone", "edited"])
@pytest.mark.parametrize("when", ["before", "while it is loaded"])
def test_elsewhere_those_that_were_sent_are_the_same_spec(
    when: str, change: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = load_spec("experiments/small.py")
    shipment, folder = pack(project)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    loaded: list[Spec] = []

    def alter() -> None:
        if change == "gone":
            project.rename(project.parent / "moved")
        else:
            (project / "experiments" / "beside.py").write_text("WIDTH = 17\n")

    def load(path: Path) -> None:
        if project.is_dir() and when != "before":
            alter()
        with suppress(HarnessError):  # as a worker does: it says so later
            loaded.append(load_spec(path))

    if when == "before":
        alter()
    assert not shipment.settle(load)
    assert Path.cwd() == folder
    assert loaded[-1].sources == here.sources, "the same recipe"


@pytest.mark.parametrize("is_edited", [False, True])
def test_what_is_edited_while_a_worker_waits_for_a_trial_does_not_reach_it(
    is_edited: bool, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = load_spec("experiments/small.py").describe()
    shipment, folder = pack(project)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("HARNESS_DATA_DIR", "")  # undone afterwards
    monkeypatch.delenv("HARNESS_DATA_DIR")
    worker = RayActor(shipment)  # without Ray, it is a plain object
    if is_edited:
        (project / "experiments" / "small.py").write_text("raise RuntimeError\n")
    worker.tell(Describe(spec=Path("small.py")))
    assert worker.listen() == [here]
    assert ("HARNESS_DATA_DIR" in os.environ) == is_edited, "where the spec stands, data is found where it always is"


def test_a_spec_outside_the_working_folder_travels_too(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project.parent / "work").mkdir()
    monkeypatch.chdir(project.parent / "work")
    shipment = pack_spec(project / "experiments" / "small.py", project.parent / "sent")
    assert (project.parent / "sent" / shipment.shipped_spec).read_text().startswith(SPEC[:60])


def test_a_spec_that_is_not_there_is_said_before_anything_travels(project: Path) -> None:
    with pytest.raises(HarnessError, match="Did you mean"):
        pack_spec(project / "experiments" / "smal.py", project.parent / "sent")


def test_a_node_that_does_not_see_the_drivers_folder_says_so(tmp_path: Path) -> None:
    request = Train(
        spec=Path("small.py"), values={}, run_id="1", device="cpu", is_demo=False, paths=tmp_path, budget_bytes=0,
        checkpoints=tmp_path, reach="word",
    )  # fmt: skip
    missing = unreachable(request)
    assert missing is not None and missing.message.startswith(f"it does not see the driver's folder {tmp_path}. ")
    (tmp_path / "another").touch()
    assert unreachable(request) is not None
    (tmp_path / "word").touch()
    assert unreachable(request) is None


def test_a_node_that_cannot_use_the_drivers_address_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = Train(
        spec=Path("small.py"), values={}, run_id="1", device="cpu", is_demo=False, paths="s3://bucket/unused",
        budget_bytes=0, checkpoints=None,
    )  # fmt: skip
    import fsspec  # noqa: F401

    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    missing = unreachable(request)
    assert missing is not None and missing.kind == "place"
    assert missing.message.endswith("needs a package that is not installed: pip install 'experiment-harness[s3]'")
    assert unreachable(replace(request, paths=f"memory://{tmp_path}")) is None
