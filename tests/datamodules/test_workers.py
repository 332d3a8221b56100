"""Workers that die, hang, fail, or lose their parent."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small_dataset import SIZE

from datamodules import fetching, worker
from datamodules.loader import PairLoader
from datamodules.pairs import BatchNote
from datamodules.talking_heads import TalkingHeadDataModule
from datamodules.workers import WorkerError


def make_loader(dataset: Path, workers: int, **changes: Any) -> PairLoader:
    options = {"image_size": SIZE, "batch_size": 2, "pairs_per_epoch": 24, **changes}
    return TalkingHeadDataModule(dataset, num_workers=workers, **options).train_dataloader()


def content(batch: Any) -> tuple[Any, ...]:
    """The parts of a batch that must not depend on the decoding worker, copied from shared memory."""
    source, target = batch.source, batch.target
    pixels = [x.clone() for f in (source, target) for x in (f.image, f.matte, f.regions, f.params.pose)]
    return (*batch.clips, *(float(x.double().sum()) for x in pixels))


@pytest.fixture(scope="module")
def expected(dataset: Path) -> list[tuple[Any, ...]]:
    return [content(batch) for batch in make_loader(dataset, 0)]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_batches_do_not_depend_on_workers(
    dataset: Path, expected: list[tuple[Any, ...]], workers: int
) -> None:
    loader = make_loader(dataset, workers)
    assert [content(batch) for batch in loader] == expected
    # All batches together outnumber the slots, so the later ones are copies.
    assert [content(batch) for batch in list(loader)] == expected
    loader.close()


def test_an_epoch_left_early_leaves_nothing_behind(dataset: Path, expected: list[tuple[Any, ...]]) -> None:
    loader = make_loader(dataset, 2)
    for _ in range(2):
        assert content(next(iter(loader))) == expected[0]
    assert [content(batch) for batch in loader] == expected
    pool = loader._pool
    assert pool is not None
    assert sorted(pool._free) == list(range(7))
    loader.close()


def consume(loader: PairLoader, sent: signal.Signals, after: Any) -> tuple[list[Any], int]:
    """The batches seen, and the restarts, if the first worker gets a signal after some batches."""
    seen, restarted = [], 0
    for number, batch in enumerate(loader):
        seen.append(content(batch))
        restarted += batch.restarted
        if number in after:
            assert loader._pool is not None
            os.kill(loader._pool.process_ids[0], sent)
    return seen, restarted


@pytest.mark.parametrize(
    ("sent", "what"), [(signal.SIGKILL, "killed by signal 9"), (signal.SIGSTOP, "no answer")]
)
def test_a_lost_worker_is_replaced_and_nothing_is_lost(
    dataset: Path, expected: list[tuple[Any, ...]], sent: signal.Signals, what: str
) -> None:
    loader = make_loader(dataset, 2, worker_timeout_s=3.0)
    with pytest.warns(UserWarning, match=f"{what}.*restarted"):
        seen, restarted = consume(loader, sent, after=[3])
    assert seen == expected
    assert restarted == 1
    loader.close()


@pytest.mark.filterwarnings("ignore:worker")
def test_training_stops_after_too_many_restarts(dataset: Path) -> None:
    loader = make_loader(dataset, 1)
    with pytest.raises(WorkerError, match=r"signal 9 .*after 3 restarts .*num_workers"):
        consume(loader, signal.SIGKILL, after=range(100))
    loader.close()


def test_errors_in_workers_are_named(dataset: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(dataset, tmp_path / "copy")
    loader = make_loader(folder, 2)
    for tar in folder.glob("train-*.tar"):
        tar.unlink()
    with pytest.raises(WorkerError, match=r"pairs 0 to 1 of epoch 0: FileNotFoundError: .*\.tar"):
        list(loader)
    loader.close()


def test_batches_outlive_their_pool(dataset: Path) -> None:
    loader = make_loader(dataset, 1)
    batch = next(iter(loader))
    image = batch.source.image.clone()
    loader.close()
    del loader
    assert torch.equal(batch.source.image, image)


class _Fetching:
    """A stand-in for a source of pairs whose first batch needs a long download."""

    layout = SimpleNamespace(num_bytes=0, arrays=lambda memory, start: {})

    def __init__(self) -> None:
        self.done = threading.Event()

    def write(self, places: Any, arrays: Any) -> BatchNote:
        for _ in range(2000):
            fetching.tell_alive()
        self.done.set()
        return BatchNote(())


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Connection, _Fetching]]:
    """A worker, in a thread, that constantly sends messages."""
    monkeypatch.setattr(worker, "_ALIVE_S", 0.0)
    monkeypatch.setattr(fetching, "_listener", None)
    ours, theirs = Pipe()
    source = _Fetching()
    thread = threading.Thread(target=worker.serve, args=(theirs, None, source), daemon=True)
    thread.start()
    yield ours, source
    ours.close()
    thread.join(20)
    theirs.close()


def test_a_worker_does_not_wait_for_a_parent_that_does_not_listen(serving: Any) -> None:
    ours, source = serving
    ours.send(worker.Task(7, 0, []))
    assert source.done.wait(20)
    replies = []
    while not any(isinstance(reply, worker.Reply) for reply in replies):
        assert ours.poll(20)
        replies.append(ours.recv())
    assert len(replies) > 10


def test_a_download_ends_with_the_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_ALIVE_S", 0.0)
    ours, theirs = Pipe()
    attempts = []

    class Downloading(_Fetching):
        def write(self, places: Any, arrays: Any) -> BatchNote:
            attempts.append(1)
            ours.close()
            (tmp_path / "x").touch()
            fetching.download(f"pipe:cat {__file__}", tmp_path / "x")
            return BatchNote(())

    ours.send(worker.Task(7, 0, []))
    with pytest.raises(SystemExit):
        worker.serve(theirs, None, Downloading())
    assert attempts == [1]
    monkeypatch.setattr(fetching, "_listener", None)


_TRAINER = """
import sys, time
from datamodules.talking_heads import TalkingHeadDataModule
data = TalkingHeadDataModule(sys.argv[1], image_size=48, batch_size=2, num_workers=2, pairs_per_epoch=24)
loader = data.train_dataloader()
stream = iter(loader)
next(stream)
print(*loader._pool.process_ids, flush=True)
time.sleep(60)
"""


def test_workers_and_memory_go_with_a_killed_trainer(dataset: Path) -> None:
    before = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    command = [sys.executable, "-c", _TRAINER, str(dataset)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None
        workers = [int(number) for number in trainer.stdout.readline().split()]
        assert len(workers) == 2
        trainer.kill()
    end = time.monotonic() + 20
    while (alive := [pid for pid in workers if _runs(pid)]) and time.monotonic() < end:
        time.sleep(0.1)
    assert not alive
    if os.path.isdir("/dev/shm"):
        assert not {name for name in set(os.listdir("/dev/shm")) - before if "rome" in name}


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_fewer_clips_and_shards_than_readers(dataset: Path, tmp_path: Path) -> None:
    """Readers share positions, not shards: 3 shards feed 4 workers of 2 ranks."""
    pools = []
    for rank in range(2):
        loader = make_loader(dataset, 4, batch_size=1)
        sampler = loader.batch_sampler.sampler
        sampler.num_replicas, sampler.rank, sampler.steps = 2, rank, 12
        pools.append([batch.clips[0] for batch in loader])
        loader.close()
    mixed = [clip for pair in zip(*pools, strict=True) for clip in pair]
    assert mixed == [batch.clips[0] for batch in make_loader(dataset, 0, batch_size=1)]
    assert np.all(np.array([len(pool) for pool in pools]) == 12)
