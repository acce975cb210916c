"""`report --live`: the page in a real browser, which follows a store that others write to."""

import re
import shutil
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import chromium
from running import Started, Zygote

SECONDS = 120_000  # milliseconds that the page may take to show what was logged


@pytest.fixture
def folder(swept: Path, tmp_path: Path) -> Path:
    """A copy of a sweep of 4 trials and a training run."""
    return Path(shutil.copytree(swept, tmp_path / "copy"))


@pytest.fixture
def served(zygote: Zygote, folder: Path) -> Iterator[Started]:
    started = zygote.start("report", "small.py", "--live", cwd=folder)
    started.wait_for("Ctrl-C stops it")
    yield started
    started.signal(signal.SIGINT)
    done = started.wait()
    assert done.code == 130 and "Traceback" not in done.err, done


def test_the_page_shows_a_new_run_without_being_loaded_again(zygote: Zygote, folder: Path, served: Started) -> None:
    found = re.search(r"http://127\.0\.0\.1:\d+/", served.out.read_text())
    assert found
    with chromium() as browser:
        page = browser.new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.set_default_timeout(SECONDS)
        page.goto(found[0], timeout=SECONDS)
        page.locator("#runs").wait_for()
        page.evaluate("window.isTheSame = true")
        assert not page.get_by_role("button", name="train-0002").count()
        assert zygote.start("train", "small.py", "--set", "lr=0.05", cwd=folder).wait().code == 0
        page.get_by_role("button", name="train-0002").first.wait_for(state="attached")
        assert page.evaluate("window.isTheSame"), "the page was refreshed in place"
        assert page.locator("canvas").count() == 3 and not said
        page.close()
    with pytest.raises(urllib.error.HTTPError, match="403"):  # a page of elsewhere that pretends to be this one
        urllib.request.urlopen(urllib.request.Request(found[0], headers={"Host": "elsewhere.example"}))
