import contextlib
import gzip
import hashlib
import io
import pickle
import struct
import tarfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, MNIST

from harness.data import Arrays, cifar10, mnist
from harness.errors import HarnessError


class Server:
    """Files of a folder on loopback, and a list of what was asked for."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.asked: list[str] = []
        asked = self.asked

        class Handler(SimpleHTTPRequestHandler):
            def __init__(self, *args: Any) -> None:
                super().__init__(*args, directory=str(folder))

            def log_message(self, *_: Any) -> None:
                asked.append(self.path)

            def copyfile(self, source: Any, outputfile: Any) -> None:
                with contextlib.suppress(BrokenPipeError):  # who only asks where an address leads hangs up
                    super().copyfile(source, outputfile)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()

    def stop(self) -> None:
        self.http.shutdown()
        self.thread.join(60)
        self.http.server_close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    found = Server(tmp_path / "served")
    yield found
    found.stop()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def serve_cifar(server: Server, monkeypatch: pytest.MonkeyPatch) -> np.ndarray[Any, Any]:
    """An archive in CIFAR-10's format with 40 training and 10 test images; gives the training images."""
    pixels = np.random.default_rng(0).integers(0, 256, (50, 3072), dtype=np.uint8)
    labels = [number % 10 for number in range(50)]
    files = {
        "data_batch_1": {"data": pixels[:20], "labels": labels[:20]},
        "data_batch_2": {"data": pixels[20:40], "labels": labels[20:40]},
        "test_batch": {"data": pixels[40:], "labels": labels[40:]},
        "batches.meta": {"label_names": [f"class {number}" for number in range(10)]},
    }
    packed = {name: pickle.dumps(content) for name, content in files.items()}
    with tarfile.open(server.folder / "cifar.tar.gz", "w:gz") as archive:
        for name, content in packed.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    sums = {name: md5(content) for name, content in packed.items()}
    monkeypatch.setattr(CIFAR10, "url", server.url + "cifar.tar.gz")
    monkeypatch.setattr(CIFAR10, "filename", "cifar.tar.gz")
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5((server.folder / "cifar.tar.gz").read_bytes()))
    monkeypatch.setattr(CIFAR10, "train_list", [[name, sums[name]] for name in ("data_batch_1", "data_batch_2")])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": sums["batches.meta"]})
    return pixels[:40].reshape(-1, 3, 32, 32)


def test_cifar_is_downloaded_once_and_read_whole(
    server: Server, monkeypatch: pytest.MonkeyPatch, data_folder: Path
) -> None:
    pixels = serve_cifar(server, monkeypatch)
    data = cifar10(validation=10, augment=("crop",))
    asked = list(server.asked)
    assert set(asked) == {"/cifar.tar.gz"}
    assert isinstance(data.train, Arrays) and isinstance(data.validation, Arrays)
    assert (len(data.train), len(data.validation)) == (30, 10)
    assert data.validation.targets.bincount().tolist() == [1] * 10
    assert data.classes is not None and data.classes[3] == "class 3"
    assert any(torch.equal(data.train.inputs[0], torch.tensor(image)) for image in pixels)
    assert len(data.test) == 10  # type: ignore[arg-type]
    assert cifar10(validation=10, augment=("crop",)).digest == data.digest
    assert server.asked == asked
    assert (data_folder / "cifar-10-batches-py" / "test_batch").exists()


def test_processes_that_start_together_download_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    serve_cifar(server, monkeypatch)
    digests: list[str] = []
    threads = [threading.Thread(target=lambda: digests.append(cifar10(validation=10).digest)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(digests) == 3 and len(set(digests)) == 1
    assert len(server.asked) <= 2  # torchvision asks where the address leads, then for the file


def test_a_file_with_a_wrong_checksum_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    serve_cifar(server, monkeypatch)
    monkeypatch.setattr(CIFAR10, "tgz_md5", "0" * 32)
    with pytest.raises(HarnessError, match="corrupted"):
        cifar10(validation=10)


def test_mnist_is_downloaded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    resources = []
    for (name, _), count in zip(MNIST.resources, (30, 30, 10, 10), strict=True):
        is_image = "images" in name
        header = struct.pack(">IIII", 2051, count, 28, 28) if is_image else struct.pack(">II", 2049, count)
        body = bytes(number % 10 for number in range(count * (784 if is_image else 1)))
        content = gzip.compress(header + body)
        (server.folder / name).write_bytes(content)
        resources.append((name, md5(content)))
    monkeypatch.setattr(MNIST, "mirrors", [server.url])
    monkeypatch.setattr(MNIST, "resources", resources)
    data = mnist(validation=10)
    assert data.input_shape == (1, 28, 28) and data.num_classes == 10
    assert len(data.test) == 10  # type: ignore[arg-type]


def test_offline_the_message_names_file_folder_and_demo(
    server: Server, monkeypatch: pytest.MonkeyPatch, data_folder: Path
) -> None:
    url = "http://127.0.0.1:9/cifar-10-python.tar.gz"
    monkeypatch.setattr(CIFAR10, "url", url)
    with pytest.raises(HarnessError) as caught:
        cifar10()
    message = str(caught.value)
    assert caught.value.exit_code == 1 and "\n" not in message
    assert url in message and str(data_folder) in message and "--demo" in message


def test_offline_mnist_names_all_its_files(monkeypatch: pytest.MonkeyPatch, data_folder: Path) -> None:
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(HarnessError) as caught:
        mnist()
    message = str(caught.value)
    assert message.count(".gz") == 4 and str(data_folder / "MNIST" / "raw") in message
