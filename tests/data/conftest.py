from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has a folder of its own for downloads and decoded images."""
    folder = tmp_path / "downloads"
    monkeypatch.setenv("HARNESS_DATA_DIR", str(folder))
    return folder
