"""Training from a real S3 server that is slow, dies and has damaged files."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from virtual_slurm import free_ports

from datamodules.manifest import Manifest
from datamodules.split_index import with_indices
from datamodules.talking_heads import TalkingHeadDataModule

boto3 = pytest.importorskip("boto3", reason="make test-engines")
s3fs = pytest.importorskip("s3fs", reason="make test-engines")


class Store:
    """An S3 server in a separate process, behind a connection of limited speed."""

    def __init__(self, folder: Path) -> None:
        self.port, self.line_port = free_ports(2)
        self.folder = folder
        self.bytes_per_s = 0.0
        """Speed of each connection; 0 for no limit."""
        self._is_ready = False
        self._listener = socket.create_server(("127.0.0.1", self.line_port))
        threading.Thread(target=self._accept, daemon=True).start()
        self.start()

    def start(self) -> None:
        """Start the empty server and upload the folder."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        end_s = time.monotonic() + 120
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            except OSError:
                assert time.monotonic() < end_s, "the S3 server does not start"
                time.sleep(0.2)
        self.client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{self.port}")
        self.client.create_bucket(Bucket="heads")
        for path in sorted(self.folder.iterdir()):
            self.client.upload_file(str(path), "heads", f"set/{path.name}")
        # Clients never see it half filled, because a missing file is final.
        self._is_ready = True

    def stop(self) -> None:
        """Kill the server in the middle of its transfers."""
        self._is_ready = False
        self.process.kill()
        self.process.wait()

    def _accept(self) -> None:
        while True:
            ours, _ = self._listener.accept()
            if not self._is_ready:
                ours.close()
                continue
            try:
                theirs = socket.create_connection(("127.0.0.1", self.port), 5)
            except OSError:
                ours.close()
                continue
            for source, target in ((ours, theirs), (theirs, ours)):
                threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(8192):
                if self.bytes_per_s:
                    time.sleep(len(data) / self.bytes_per_s)
                target.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, target):
                end.close()


@pytest.fixture
def store(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    for path in dataset.iterdir():
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / "set" / path.name).write_bytes(path.read_bytes())
    manifest = with_indices(tmp_path / "set", Manifest.load(tmp_path / "set"))
    manifest.save(tmp_path / "set" / "manifest.json")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("ROME_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datamodules.fetching.RETRY_DELAYS_S", (1.0, 2.0, 4.0, 8.0, 16.0))
    # Clients are cached with the URL of their first store.
    s3fs.S3FileSystem.clear_instance_cache()
    store = Store(tmp_path / "set")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{store.line_port}")
    yield store
    store.stop()


def _images(manifest: str, workers: int = 0) -> list[bytes]:
    data = TalkingHeadDataModule(
        manifest, image_size=64, batch_size=2, pairs_per_epoch=20, num_workers=workers, worker_timeout_s=10.0
    )
    loaders = [data.train_dataloader(), data.val_dataloader()]
    try:
        return [batch.target.image.numpy().tobytes() for loader in loaders for batch in loader]
    finally:
        for loader in loaders:
            loader.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_bits_as_from_the_disk(store: Store, workers: int) -> None:
    assert _images("s3://heads/set", workers) == _images(str(store.folder))


def test_a_slow_line_is_no_hang(store: Store) -> None:
    largest = max(path.stat().st_size for path in store.folder.glob("train-*.tar"))
    # A shard takes twice a worker's time limit.
    store.bytes_per_s = largest / 20
    assert _images("s3://heads/set", workers=1) == _images(str(store.folder))


def test_a_server_that_dies_and_comes_back(store: Store) -> None:
    largest = max(path.stat().st_size for path in store.folder.glob("train-*.tar"))
    store.bytes_per_s = largest / 6

    def accident() -> None:
        time.sleep(4)
        store.stop()
        time.sleep(3)
        store.start()

    thread = threading.Thread(target=accident)
    thread.start()
    assert _images("s3://heads/set", workers=1) == _images(str(store.folder))
    thread.join()


def test_a_file_that_is_damaged_there_is_named(store: Store) -> None:
    shard = Manifest.load(store.folder).split("train")[0]
    data = bytearray((store.folder / f"{shard.name}.tar").read_bytes())
    data[5000] ^= 3
    store.client.put_object(Bucket="heads", Key=f"set/{shard.name}.tar", Body=bytes(data))
    with pytest.raises(ValueError, match=rf"s3://heads/set/{shard.name}.tar arrived 3 times"):
        _images("s3://heads/set")
