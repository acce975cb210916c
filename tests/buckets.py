"""A real S3 server on this machine, moto's, that can be stopped and started again."""

import socket
import subprocess
import sys
import urllib.request
from xml.etree import ElementTree

from running import environment, wait_until

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


class S3:
    """The server, and its one bucket, `bucket`."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._url = f"http://127.0.0.1:{self._port}"
        self.environment = KEYS | {"AWS_ENDPOINT_URL": self._url}
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._port)],
            env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_until(self._has_bucket, lambda: "the S3 server did not start", seconds=120)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait(30)

    def names(self, beginning: str = "") -> list[str]:
        """The names of all objects that begin so."""
        listed = ElementTree.fromstring(self._send("GET", f"?list-type=2&prefix={beginning}"))
        assert listed.findtext("{*}IsTruncated") == "false"
        return [str(entry.text) for entry in listed.findall("{*}Contents/{*}Key")]

    def read(self, name: str) -> bytes:
        return self._send("GET", f"/{name}")

    def write(self, name: str, content: bytes) -> None:
        self._send("PUT", f"/{name}", content)

    def _has_bucket(self) -> bool:
        assert self._process.poll() is None, "the S3 server has ended"
        try:
            self._send("PUT", "")
        except OSError:
            return False
        return True

    def _send(self, method: str, path: str, content: bytes | None = None) -> bytes:
        request = urllib.request.Request(f"{self._url}/bucket{path}", data=content, method=method)
        request.add_header("Content-Type", "application/octet-stream")
        request.add_header("Authorization", "AWS4-HMAC-SHA256 Credential=key/20300101/us-east-1/s3/aws4_request")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return bytes(answer.read())
