"""Arguments that mean nothing: exit code 2, a sentence that says what is right, nothing written."""

from pathlib import Path

import pytest
from inprocess import assert_sentence, listing, run
from small import SPEC

MANY = "9" * 400
LONG = "x" * 5000

# What is given, and what the sentence says; `small.py` is a good spec, `file` a file, `folder` an empty folder.
CASES: list[tuple[tuple[str, ...], str]] = [
    (("swep", "small.py"), "No such command"),
    (("sweep",), "Missing argument"),
    (("sweep", "small.py", "--trails", "3"), "--trails"),
    *(
        (("sweep", "small.py", "--trials", text), "--trials")
        for text in ("0", "-1", "x", "", "1.5", "1e3", "nan", "٣x", MANY)
    ),
    *((("sweep", "small.py", "--epochs", text), "--epochs") for text in ("0", "-3", "many", "", "2.5", MANY)),
    *((("sweep", "small.py", "--jobs", text), "--jobs") for text in ("0", "-1", "x", "", "1.5", "auto2", "²", MANY)),
    *((("sweep", "small.py", "--timeout", text), "--timeout") for text in ("x", "", "1 hour", "-5m", "30x", "m")),
    (("sweep", "small.py", "--timeout", f"{MANY}s"), "--timeout"),
    *(
        (("sweep", "small.py", "--path-budget", text), "--path-budget")
        for text in ("x", "", "5 XB", "-1GB", "GB", "1..5GB")
    ),
    (("sweep", "small.py", "--path-budget", f"{MANY}TB"), "--path-budget"),
    (("sweep", "small.py", "--cpus-per-trial", "2"), "--ray"),
    (("sweep", "small.py", "--gpus-per-trial", "1"), "--ray"),
    (("sweep", "none.py"), "none.py does not exist"),
    (("sweep", "smal.py"), "Did you mean"),
    (("sweep", "folder"), "folder is not a spec"),
    (("sweep", "file"), "file is not a spec"),
    (("sweep", "folder.py"), "folder.py cannot be read: Is a directory"),
    (("sweep", "file/small.py"), "cannot be read: Not a directory"),
    (("sweep", f"{LONG}.py"), "File name too long"),
    (("sweep", "../" * 2000 + "small.py"), "File name too long"),
    (("sweep", "."), "is not a spec"),
    (("sweep", ""), "is not a spec"),
    (("sweep", "loop.py"), "symbolic links"),
    (("sweep", "small.py", "--store", "file"), "file is a file"),
    (("sweep", "small.py", "--store", "file/store"), "file/store"),
    (("sweep", "small.py", "--store", LONG), "File name too long"),
    (("sweep", "small.py", "--store", "small.py"), "small.py is a file"),
    (("sweep", "small.py", "--paths", "file"), "file is a file"),
    (("sweep", "small.py", "--paths", "file/x"), "file/x"),
    (("sweep", "small.py", "--dry-run", "--paths", "file"), "file is a file"),
    (("sweep", "small.py", "--dry-run", "--store", "file"), "file is a file"),
    (("train", "small.py", "--from", "none.pth.tar"), "there is no such file"),
    (("train", "small.py", "--from", "zzz"), "holds no runs yet"),
    (("train", "small.py", "--from", f"{LONG}.pth"), "--from"),
    (("train", "small.py", "--epochs", "0"), "--epochs"),
    (("train", "small.py", "--store", "file"), "file is a file"),
    (("runs",), "Missing argument"),
    (("runs", "small.py"), "holds no runs yet"),
    (("runs", "small.py", "--store", "none"), "none holds no runs yet"),
    (("runs", "small.py", "--store", "file"), "file"),
    (("runs", "small.py", "--store", LONG), "File name too long"),
    (("runs", "small.py", "--store", "folder"), "folder holds no runs yet"),
    (("best", "small.py"), "holds no runs yet"),
    (("best", "small.py", "--test", "--store", "folder"), "folder holds no runs yet"),
    (("reload", "best"), "holds no runs yet"),
    (("reload",), "Missing argument"),
    (("predict", "best"), "Missing argument"),
    (("predict", "best", "small.png"), "holds no runs yet"),
    (("compare", "best", "best"), "holds no runs yet"),
    (("confirm", "small.py", "--seeds", "1"), "--seeds"),
    (("confirm", "small.py", "--seeds", MANY), "--seeds"),
    (("confirm", "small.py"), "holds no runs yet"),
    (("report", "small.py"), "holds no runs yet"),
    (("report", "small.py", "--store", "file"), "file"),
    (("ui", "--port", "1"), "--port"),
    (("ui", "--port", "x"), "--port"),
    (("ui", "--port", MANY), "--port"),
    (("ui", "small.py"), "holds no runs yet"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "small.py").write_text(SPEC)
    (tmp_path / "file").write_text("a file")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "loop.py").symlink_to("loop.py")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "told"), CASES, ids=[f"{i}-{' '.join(a)[:40]}" for i, (a, _) in enumerate(CASES)]
)
def test_what_means_nothing_is_said_in_a_sentence(arguments: tuple[str, ...], told: str, folder: Path) -> None:
    before = listing(folder)
    done = run(*arguments, cwd=folder)
    assert_sentence(done, 2, told)
    assert listing(folder) == before
