"""Datasets at addresses, and our tars in the hands of the webdataset library."""

from __future__ import annotations

import functools
import http.server
import io
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import webdataset
from small_dataset import SIZE

from datamodules.codec import decode_image, decode_meta
from datamodules.manifest import Manifest
from datamodules.reading import ClipReader
from datamodules.remote import RemoteFolder, open_remote
from datamodules.talking_heads import TalkingHeadDataModule

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="webdataset fetches with curl")


class Server:
    """A local web server that counts what it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.asked = Counter[str]()
        asked = self.asked

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                asked[self.path.lstrip("/")] += 1
                super().do_GET()

            def log_message(self, *_: object) -> None:
                pass

        handler = functools.partial(Handler, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def served(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    shutil.copytree(dataset, tmp_path / "served")
    monkeypatch.setenv("ROME_CACHE", str(tmp_path / "cache"))
    server = Server(tmp_path / "served")
    yield server
    server.server.shutdown()
    server.server.server_close()


def clips_of(address: str, workers: int = 0) -> list[tuple[str, ...]]:
    data = TalkingHeadDataModule(
        address, image_size=SIZE, batch_size=2, pairs_per_epoch=20, num_workers=workers
    )
    loader = data.train_dataloader()
    clips = [batch.clips for batch in loader]
    loader.close()
    return clips


def test_trains_from_an_address_and_fetches_every_file_once(served: Server, dataset: Path) -> None:
    expected = clips_of(str(dataset))
    assert clips_of(served.address, workers=1) == expected
    assert clips_of(f"{served.address}/manifest.json") == expected
    fetched = {name: count for name, count in served.asked.items() if name != "manifest.json"}
    assert fetched
    assert set(fetched.values()) == {1}
    # Validation clips are in a shard of their own that nobody asked for.
    assert not any(name.startswith("val") and name.endswith(".tar") for name in fetched)


def test_a_shard_is_fetched_once_by_many(served: Server, tmp_path: Path) -> None:
    manifest, remote = open_remote(served.address, tmp_path / "other")
    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(lambda _: remote.fetch_shard(manifest.shards[0]), range(8)))
    assert len(paths) == 1
    assert served.asked[f"{manifest.shards[0].name}.tar"] == 1


def test_commands(served: Server, dataset: Path, tmp_path: Path) -> None:
    assert clips_of(f"pipe:cat {tmp_path / 'served'}/{{}}") == clips_of(str(dataset))
    with pytest.raises(ValueError, match=r"needs \{\}"):
        open_remote("pipe:cat x", tmp_path)


def test_s3_goes_through_its_program(
    served: Server, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/aws"
    program.write_text(
        f'#!/bin/sh\ntest "$1 $2 $4" = "s3 cp -" && cat "{tmp_path}/served/${{3#s3://b/d/}}"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    assert clips_of("s3://b/d") == clips_of(str(dataset))


@pytest.mark.parametrize("cut", [False, True])
def test_a_damaged_shard_is_refused_and_not_kept(served: Server, tmp_path: Path, cut: bool) -> None:
    manifest, remote = open_remote(served.address, tmp_path / "other")
    path = tmp_path / "served" / f"{manifest.shards[0].name}.tar"
    data = bytearray(path.read_bytes())
    data[2000] ^= 1
    path.write_bytes(data[:3000] if cut else data)
    with pytest.raises(ValueError, match=r"train-000000\.tar has .* the manifest wants"):
        remote.fetch_shard(manifest.shards[0])
    assert not list(remote.cache.glob("*.tar"))
    assert not list(remote.cache.glob(".*.tmp"))


def test_what_is_not_there(served: Server, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"cannot fetch .*nowhere"):
        open_remote(f"{served.address}/nowhere", tmp_path / "other")
    with pytest.raises(OSError, match="cannot fetch"):
        RemoteFolder(f"pipe:cat {tmp_path}/missing/{{}}", tmp_path / "other").fetch("x.tar")


def test_webdataset_streams_our_tars_and_sees_the_same_bytes(dataset: Path) -> None:
    reader = ClipReader(Manifest.load(dataset), dataset, "train")
    urls = [str(dataset / f"{shard.name}.tar") for shard in reader.shards]
    streamed = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    assert [clip["__key__"] for clip in streamed] == [reader.key(i) for i in range(len(reader))]
    for number, clip in enumerate(streamed):
        assert set(clip) - {"__key__", "__url__", "__local_path__"} == {
            "frames.bin", "masks.bin", "meta.safetensors",
        }  # fmt: skip
        arrays, header = decode_meta(clip["meta.safetensors"])
        ours, our_header = reader.meta(number)
        assert header == our_header
        for name, value in arrays.items():
            np.testing.assert_array_equal(value, ours[name])
        for frame in range(len(arrays["pose"])):
            start, end = arrays["frame_offsets"][frame : frame + 2]
            image = decode_image(io.BytesIO(clip["frames.bin"]).getvalue()[int(start) : int(end)])
            np.testing.assert_array_equal(image, reader.frame(number, frame).image)


@pytest.mark.parametrize(
    "address",
    ["https://host/x'; touch evil; '", "https://host/a b", "https://host/\n", "gs://x`id`", "s3://a$(id)"],
)
def test_an_address_is_no_command(tmp_path, address):
    with pytest.raises(ValueError, match="is no address"):
        open_remote(address, tmp_path)
