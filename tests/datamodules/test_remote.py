"""Datasets at URLs, and our tars read by the webdataset library."""

from __future__ import annotations

import functools
import http.server
import io
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from small_dataset import SIZE

from datamodules import fetching
from datamodules.codec import decode_image, decode_meta
from datamodules.manifest import Manifest, ManifestShard
from datamodules.reading import ClipReader
from datamodules.remote import RemoteFolder, open_remote
from datamodules.split_index import with_indices
from datamodules.talking_heads import TalkingHeadDataModule
from rome_lightning.cli.main import main as rome
from rome_lightning.media.atomic import temporary_for


class Server:
    """A local web server that counts requests."""

    def __init__(self, folder: Path) -> None:
        self.asked = Counter[str]()
        self.faults: dict[str, int] = {}
        """How often each file fails first."""
        self.delay_s = 0.0
        """Delay between the two halves of a shard."""
        owner = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.lstrip("/")
                owner.asked[name] += 1
                if owner.faults.get(name, 0) > 0:
                    owner.faults[name] -= 1
                    # Not there at all, or gone in the middle.
                    if owner.faults[name] % 2:
                        return self.send_error(503)
                    self.send_response(200)
                    self.send_header("Content-Length", "1000000")
                    self.end_headers()
                    self.wfile.write(b"x" * 1000)
                    return None
                return super().do_GET()

            def copyfile(self, source: Any, outputfile: Any) -> None:
                if owner.delay_s and self.path.endswith(".tar"):
                    for _ in range(4):
                        outputfile.write(source.read(2000))
                        outputfile.flush()
                        time.sleep(owner.delay_s)
                super().copyfile(source, outputfile)

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
    # Validation clips are in a separate shard that was not requested.
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
    with pytest.raises(ValueError, match=r"train-000000\.tar arrived 3 times .* the manifest wants"):
        remote.fetch_shard(manifest.shards[0])
    assert not list(remote.cache.glob("*.tar"))
    assert not list(remote.cache.glob(".*.tmp"))


def test_what_is_not_there(served: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.fetching.RETRY_DELAYS_S", (0.0,))
    with pytest.raises(OSError, match=r"^cannot fetch .*nowhere"):
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
    with pytest.raises(ValueError, match="is not a valid address"):
        open_remote(address, tmp_path)


@pytest.fixture
def joined(served: Server, tmp_path: Path) -> Manifest:
    """The served dataset with joined indices."""
    folder = tmp_path / "served"
    manifest = with_indices(folder, Manifest.load(folder))
    manifest.save(folder / "manifest.json")
    return manifest


def test_setup_fetches_one_index_and_no_tar(served: Server, joined: Manifest) -> None:
    data = TalkingHeadDataModule(served.address, image_size=SIZE, eval_source="typical")
    data.setup("fit")
    train, val = joined.index("train"), joined.index("val")
    assert train is not None
    assert val is not None
    assert served.asked == {"manifest.json": 1, train.name: 1, val.name: 1}


@pytest.mark.parametrize("kind", ["joined", "frames.npy", "clips.npy"])
@pytest.mark.parametrize("cut", [False, True])
def test_a_damaged_index_in_the_cache_is_fetched_again(
    served: Server, tmp_path: Path, cut: bool, kind: str, request: pytest.FixtureRequest
) -> None:
    if kind == "joined":
        request.getfixturevalue("joined")
    expected = clips_of(served.address)
    (path,) = (tmp_path / "cache").rglob(
        "train-*.index.safetensors" if kind == "joined" else f"train-000000.{kind}"
    )
    good = path.read_bytes()
    # Two bits, as no checksum of 16 bits finds them.
    bad = bytearray(good)
    bad[-200] ^= 3
    path.write_bytes(good[:300] if cut else bad)
    assert clips_of(served.address) == expected
    assert path.read_bytes() == good


def test_a_damaged_index_at_its_address_is_named(served: Server, joined: Manifest, tmp_path: Path) -> None:
    entry = joined.index("train")
    assert entry is not None
    path = tmp_path / "served" / entry.name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        ValueError, match=rf"{served.address}/{entry.name} arrived 3 times with the wrong content"
    ):
        clips_of(served.address)
    assert not list((tmp_path / "cache").rglob("*.index.safetensors"))


def test_faults_of_the_network_are_tried_again(
    served: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datamodules.fetching.RETRY_DELAYS_S", (0.0, 0.0, 0.0))
    served.faults.update({"manifest.json": 3, "train-000000.tar": 2})
    assert clips_of(served.address)
    served.faults["manifest.json"] = 4
    with pytest.raises(OSError, match=rf"cannot fetch {served.address}/manifest.json"):
        clips_of(served.address)


def test_many_processes_read_the_manifest_at_once(served: Server, tmp_path: Path) -> None:
    def opened(_: int) -> str:
        return open_remote(served.address, tmp_path / "other")[0].hash

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(opened, range(40)))) == 1


def test_the_cache_has_a_limit(served: Server, joined: Manifest, tmp_path: Path) -> None:
    shards = joined.split("train")
    size = max(shard.bytes for shard in shards)
    _, remote = open_remote(served.address, tmp_path / "other", limit_bytes=2 * size)
    for number, shard in enumerate((*shards[:2], shards[0], shards[2])):
        os.utime(remote.fetch_shard(shard), (number, number))
    kept = sorted(path.name for path in remote.cache.glob("*.tar"))
    # The least recently used one.
    assert kept == [f"{shards[0].name}.tar", f"{shards[2].name}.tar"]
    remote.fetch_shard(shards[1])
    assert served.asked[f"{shards[1].name}.tar"] == 2


_READER = """
import sys
from pathlib import Path
from datamodules.reading import ClipReader
from datamodules.remote import open_remote
manifest, remote = open_remote(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
for clip in sys.argv[4:]:
    # Each time a reader that has no file open.
    print(ClipReader(manifest, remote.cache, "train", remote).meta(int(clip))[1]["identity"])
"""


def test_processes_share_a_cache_that_is_too_small(
    served: Server, joined: Manifest, dataset: Path, tmp_path: Path
) -> None:
    shards = joined.split("train")
    clips = [sum(shard.clips for shard in shards[:number]) for number in range(len(shards))] * 2
    limit = max(shard.bytes for shard in shards)
    command = [sys.executable, "-c", _READER, served.address, str(tmp_path / "other"), str(limit)]
    processes = [
        subprocess.Popen([*command, *map(str, clips[start:])], stdout=subprocess.PIPE, text=True)
        for start in range(3)
    ]
    reader = ClipReader(Manifest.load(dataset), dataset, "train")
    for start, process in enumerate(processes):
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        assert out.split() == [reader.meta(clip)[1]["identity"] for clip in clips[start:]]
    assert sum(path.stat().st_size for path in (tmp_path / "other").glob("*/*.tar")) <= limit


def test_shards_that_were_fetched_at_the_same_time_do_not_stay_over_the_limit(
    served: Server, joined: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = joined.split("train")[:2]
    limit = max(first.bytes, second.bytes)
    _, remote = open_remote(served.address, tmp_path / "other", limit_bytes=limit)
    _, other = open_remote(served.address, tmp_path / "other", limit_bytes=limit)
    download = RemoteFolder._download

    def both(self: RemoteFolder, name: str, *args: object) -> None:
        if name == f"{first.name}.tar":
            # Its space is reserved, and another process fetches a shard to the end.
            other.fetch_shard(second)
            assert sorted(path.name for path in remote.cache.glob("*.tar")) == [f"{second.name}.tar"]
        download(self, name, *args)

    monkeypatch.setattr(RemoteFolder, "_download", both)
    remote.fetch_shard(first)
    assert [path.name for path in remote.cache.glob("*.tar")] == [f"{first.name}.tar"]


def test_a_shard_removed_before_it_is_opened_is_fetched_again(
    served: Server, joined: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, remote = open_remote(served.address, tmp_path / "other")
    reader = ClipReader(manifest, remote.cache, "train", remote)
    fetched, lost = RemoteFolder.fetch_shard, [1, 2]

    def fetch_and_lose(self: RemoteFolder, shard: ManifestShard) -> Path:
        path = fetched(self, shard)
        if lost:
            lost.pop()
            path.unlink()
        return path

    monkeypatch.setattr(RemoteFolder, "fetch_shard", fetch_and_lose)
    assert reader.meta(0)[1]["identity"]
    assert served.asked[f"{joined.split('train')[0].name}.tar"] == 3


def test_what_others_fetch_at_the_moment_takes_room(served: Server, joined: Manifest, tmp_path: Path) -> None:
    shards = joined.split("train")
    _, remote = open_remote(
        served.address, tmp_path / "other", limit_bytes=sum(shard.bytes for shard in shards[:2])
    )
    remote.fetch_shard(shards[0])
    # Another process has made room for its shard, and fetches it.
    os.truncate(temporary_for(remote.cache / "other.tar"), shards[1].bytes)
    remote.fetch_shard(shards[2])
    assert [path.name for path in remote.cache.glob("*.tar")] == [f"{shards[2].name}.tar"]


def test_a_download_takes_its_room_from_the_start(
    served: Server, joined: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = joined.split("train")[0]
    _, remote = open_remote(served.address, tmp_path / "other", limit_bytes=10 * shard.bytes)
    sizes = set()
    chunks = fetching._chunks

    def watched(url: str) -> Iterator[bytes]:
        for chunk in chunks(url):
            yield chunk
            sizes.update(path.stat().st_size for path in remote.cache.glob(".*.tar.*.tmp"))

    monkeypatch.setattr(fetching, "_chunks", watched)
    monkeypatch.setattr(fetching, "RETRY_DELAYS_S", (0.0,))
    served.faults[f"{shard.name}.tar"] = 1
    assert remote.fetch_shard(shard).stat().st_size == shard.bytes
    assert sizes == {shard.bytes}


def test_a_damaged_manifest_is_fetched_again_and_named_by_its_address(
    served: Server, joined: Manifest, tmp_path: Path
) -> None:
    path = tmp_path / "served" / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b"train", b"tRain"))
    address = f"{served.address}/manifest.json"
    with pytest.raises(ValueError, match=rf"^{address} arrived 3 times .*\({address} was edited") as found:
        open_remote(served.address, tmp_path / "other")
    assert ".tmp" not in str(found.value)
    assert served.asked["manifest.json"] == 3


def test_a_silent_command_counts_as_hung_after_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []
    monkeypatch.setattr(fetching, "_listener", lambda: told.append(time.monotonic()))
    monkeypatch.setattr(fetching, "STALL_S", 1.2)
    (tmp_path / "x").touch()
    begun_s = time.monotonic()
    assert fetching.download("pipe:sleep 3; echo done", tmp_path / "x")[0] == 5
    silent = [moment - begun_s for moment in told if moment - begun_s < 2.9]
    assert len(silent) >= 2
    assert max(silent) < 2.5


def test_a_slow_download_is_no_hang(served: Server, joined: Manifest) -> None:
    served.delay_s = 0.8
    # Each shard takes 3.2 s.
    data = TalkingHeadDataModule(
        served.address, image_size=SIZE, batch_size=1, pairs_per_epoch=1, num_workers=1, worker_timeout_s=2.5
    )
    loader = data.train_dataloader()
    batches = list(loader)
    loader.close()
    assert [batch.restarted for batch in batches] == [0]


def test_addresses_are_verified_and_counted(
    served: Server, joined: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    assert rome(["shards", "stats", served.address]) == 0
    assert "train" in capsys.readouterr().out
    assert rome(["shards", "verify", served.address]) == 0
    assert "6 files are intact" in capsys.readouterr().out
    path = tmp_path / "served" / f"{joined.shards[1].name}.tar"
    path.write_bytes(path.read_bytes()[:-7])
    assert rome(["shards", "verify", served.address]) == 1
    told = capsys.readouterr().out
    assert f"{joined.shards[1].name}.tar: {served.address}" in told
    assert "1 of 6 files are bad or missing" in told
