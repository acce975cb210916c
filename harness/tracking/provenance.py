"""The git commit of a run's code, and whether there were uncommitted changes."""

import subprocess
from pathlib import Path

from harness.tracking.tags import COMMIT, DIRTY


def git_tags(path: Path) -> dict[str, str]:
    """MLflow tags for the git repository of a file; empty if there is none."""
    folder = path.resolve().parent
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return {}
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {COMMIT: commit, DIRTY: str(bool(changes)).lower()}


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
