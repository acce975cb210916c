"""The tests' own helpers cannot hang."""

from pathlib import Path

import pytest
from running import Zygote, wait_until


def test_a_command_that_does_not_end_is_killed_and_the_next_one_runs(zygote: Zygote, tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text("import time\n\ntime.sleep(1000)\n")
    started = zygote.start("train", "endless.py", cwd=tmp_path)
    with pytest.raises(AssertionError, match=r"had not ended after 2 seconds(?s:.*)commands\.py"):
        started.wait(2)
    assert zygote.start("--help", cwd=tmp_path).wait().code == 0


def test_an_answer_that_came_too_late_is_not_taken_for_the_next_one(zygote: Zygote, tmp_path: Path) -> None:
    (tmp_path / "lasting.py").write_text("import time\n\ntime.sleep(1)\n")
    started = zygote.start("train", "lasting.py", cwd=tmp_path)
    with pytest.raises(AssertionError, match="no answer"):
        zygote.ask({"wait": started.pid, "seconds": 60}, 0)
    assert "Usage: harness" in zygote.start("--help", cwd=tmp_path).wait().out


def test_what_never_holds_is_said() -> None:
    with pytest.raises(AssertionError, match="no file"):
        wait_until(lambda: False, lambda: "no file", seconds=0)
