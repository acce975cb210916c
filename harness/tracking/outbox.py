"""Messages that a tracking server has not taken yet. They wait on disk, in order, until it answers again."""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from harness.errors import FAILED, HarnessError, without_login
from harness.faults import explain
from harness.files import write_whole
from harness.tracking.making import is_odd_answer
from harness.tracking.tags import DATA_CONTEXT

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")
RETRY_SECONDS = 2.0  # between attempts while the server cannot be reached
LATE_SECONDS = 30.0  # between attempts to send artifacts to a server that answers but does not take them
UPLOAD_SECONDS = "600"  # the most that a server may need for an artifact, such as to copy it into a bucket
PATIENCE_SECONDS = 600.0  # the longest wait at the end of a command
TRANSIENT = (408, 429)  # and all from 500 on


class Outbox:
    """Delivers messages about runs, each once and in order, also after a restart.

    A letter is a JSON document in a file of its own, named by the time when it was written. If the server's answer was
    lost, the letter is sent again. It still counts once: MLflow ignores a point, param, tag or file that it has.
    Artifacts that the server does not take are sent later; nothing else waits for them.
    """

    def __init__(self, folder: Path, client: "MlflowClient", say: Callable[[str], None]) -> None:
        self._folder, self._client, self._say = folder, client, say
        self._is_away = bool(self._letters())
        self._late: set[Path] = set()  # artifacts that the server did not take, although it answered
        self._tried = 0.0
        self.check_stop: Callable[[], None] = lambda: None

    @property
    def is_open(self) -> bool:
        """Whether the server took everything so far."""
        return not self._is_away

    def send(self, letter: Mapping[str, Any]) -> None:
        """Delivers a letter, or keeps it if the server is unreachable. Raises `HarnessError` if it is refused."""
        path = self._folder / f"{time.time_ns():020d}.json"
        if not self._is_away:
            try:
                return deliver(self._client, letter)
            except Exception as error:
                if not is_transient(error):
                    raise refusal(letter, error) from None
                if "artifacts" in letter and self._answers():
                    self._put_off(path, error)
                else:
                    self._leave(error)
        write_whole(path, json.dumps(letter))

    def retry(self, *, now: bool = False) -> None:
        """Delivers the letters that wait, until the server takes no more; tries every few seconds at most."""
        pause = RETRY_SECONDS if self._is_away else LATE_SECONDS
        is_waiting = self._is_away or self._late
        if not is_waiting or (not now and time.monotonic() - self._tried < pause):
            return
        try:
            self._deliver_all()
        finally:
            self._tried = time.monotonic()  # after the attempt, which can take long

    def _deliver_all(self) -> None:
        count = 0
        self._folder.mkdir(parents=True, exist_ok=True)
        with open(self._folder / "lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another command may deliver for this store too
            if not self._answers():
                return
            self._late &= set(self._letters())
            for path in self._letters():
                letter = json.loads(path.read_text())
                try:
                    deliver(self._client, letter)
                except Exception as error:
                    if is_transient(error):
                        if "artifacts" not in letter or not self._answers():
                            return
                        self._put_off(path, error)
                        continue
                    if is_of_machine(error):
                        raise
                    kept = self._folder / "refused" / path.name  # such as one about a run that was deleted since
                    kept.parent.mkdir(exist_ok=True)
                    path.rename(kept)
                    self._say(f"the tracking server refused a message, now in {kept}: {_reason(error)}")
                else:
                    path.unlink()
                    count += 1
                self._late.discard(path)
        was_away, self._is_away = self._is_away, False
        if was_away:
            self._say("the tracking server is back" + (f": {count} messages delivered" if count else ""))

    def flush(self) -> None:
        """Waits for the server while letters are left, up to a limit. What is not delivered by then stays on disk."""
        ends = time.monotonic() + PATIENCE_SECONDS
        while self._is_away or self._late:
            self.check_stop()
            self.retry()
            if time.monotonic() > ends:
                count = len(self._letters())
                self._say(f"{count} messages for the tracking server wait in {self._folder} for the next command")
                return
            time.sleep(0.1 if self._is_away or self._late else 0)

    def ask(self, question: Callable[[], T]) -> T:
        """The server's answer to a question. Delivers earlier letters first, and waits for the server if needed."""
        while True:
            self.retry(now=self._is_away)
            if not self._is_away:
                try:
                    return question()
                except Exception as error:
                    if not is_transient(error):
                        raise
                    self._leave(error)
            tried = time.monotonic()
            while time.monotonic() - tried < RETRY_SECONDS:
                self.check_stop()
                time.sleep(0.1)

    def _answers(self) -> bool:
        """Whether the server answers."""
        try:
            self._client.search_experiments(max_results=1)
        except Exception as error:
            if not is_transient(error):
                raise
            return False
        return True

    def _leave(self, error: Exception) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._is_away, self._tried = True, time.monotonic()
        self._say(
            f"the tracking server does not take messages ({_reason(error)}); training goes on, and the messages "
            f"wait in {self._folder}"
        )

    def _put_off(self, path: Path, error: Exception) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        if not self._late:
            self._say(
                f"the tracking server does not take artifacts ({_reason(error)}); they wait in "
                f"{self._folder.parent} and are sent later"
            )
        self._late.add(path)

    def _letters(self) -> list[Path]:
        try:
            names = os.listdir(self._folder)  # `glob` would take a folder that it may not read for an empty one
        except FileNotFoundError:
            return []
        return sorted(self._folder / name for name in names if name.endswith(".json"))


def deliver(client: "MlflowClient", letter: Mapping[str, Any]) -> None:
    """Writes the content of a letter into MLflow."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

    run_id = letter["run"]
    if "dataset" in letter:
        inputs = DatasetInput(Dataset(**letter["dataset"]), [InputTag(DATA_CONTEXT, "training")])
        client.log_inputs(run_id, [inputs])
    elif "artifacts" in letter:
        folder = Path(letter["artifacts"])
        with _patience():
            for file in _files_below(folder):
                inside = file.parent.relative_to(folder).as_posix()
                client.log_artifact(run_id, str(file), None if inside == "." else inside)
    elif "status" in letter and "end_time" not in letter:
        client.update_run(run_id, status=letter["status"])
    elif "status" in letter:
        client.set_terminated(run_id, letter["status"], letter["end_time"])
    else:
        client.log_batch(
            run_id,
            metrics=[Metric(*values) for values in letter.get("metrics", ())],
            params=[Param(*values) for values in letter.get("params", {}).items()],
            tags=[RunTag(*values) for values in letter.get("tags", {}).items()],
        )


def _files_below(folder: Path) -> list[Path]:
    """All files below a folder. Raises `OSError` if one cannot be listed: MLflow's client would leave it out."""

    def refuse(error: OSError) -> None:
        raise error

    return [Path(place) / name for place, _, names in os.walk(folder, onerror=refuse) for name in sorted(names)]


@contextmanager
def _patience() -> Iterator[None]:
    before = os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT")
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = UPLOAD_SECONDS
    try:
        yield
    finally:
        if before is None:
            del os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]
        else:
            os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = before


def is_transient(error: Exception) -> bool:
    """Whether an error of MLflow's client means that the server is unreachable or busy, not a wrong request."""
    import requests
    from mlflow.exceptions import MlflowException

    if is_odd_answer(error):
        return True
    if isinstance(error, requests.HTTPError) and error.response is not None:
        status = error.response.status_code
    elif isinstance(error, requests.RequestException):
        return True
    elif isinstance(error, MlflowException):
        status = int(error.get_http_status_code())  # type: ignore[no-untyped-call]
    else:
        return False
    return status >= 500 or status in TRANSIENT


def is_of_machine(error: Exception) -> bool:
    """Whether a letter could not be delivered because this machine could not read its files: it waits."""
    import requests

    is_here = isinstance(error, OSError) and not isinstance(error, requests.RequestException)
    return is_here and not isinstance(error, FileNotFoundError)


def refusal(letter: Mapping[str, Any], error: Exception) -> Exception:
    """The error to raise for a letter that MLflow refuses; an error that is not MLflow's stays as it is."""
    from mlflow.exceptions import MlflowException

    if not isinstance(error, MlflowException):
        return error
    if "(sqlite3." in str(error):
        return HarnessError(explain(error) or str(error), exit_code=FAILED)
    return HarnessError(f"MLflow refused a message about run {letter['run']}: {_reason(error)}", exit_code=FAILED)


def _reason(error: Exception) -> str:
    text = without_login(str(error))
    for known, reason in (("refused", "connection refused"), ("timed out", "no answer in time")):
        if known in text:
            return reason
    return text.splitlines()[0][:120]
