"""Loader throughput against the decoder alone and against a plain WebDataset pipeline, on generated data.

``python benchmarks/loader.py [--sizes 256 512] [--workers 2] [--pairs 4000] [--batches 20000] [--json OUT]``

All in one run, as CPU time per pair (user and system, over all processes), so that a busy machine changes
little. ``jpeg`` decodes the JPEGs of a pair (two pictures, two mattes) from memory into that of a batch,
``decode`` unpacks the two region maps as well; ``loader`` adds reading, checksums, parameters and batches, up
to the tensors that a trainer gets. ``webdataset`` keeps the same clips with a tar member per frame and
takes one pair per visit of a clip, with the same decoder and in batches. ``stream_1`` and ``stream_8`` are
``datamodules.streaming``: WebDataset on our own shards, with one and eight pairs per visit of a clip, in this
process. ``read`` is what the loader asks of the file system over the bytes of its frames and parameters,
``stream_1_read`` and ``stream_8_read`` the same of the streams. ``growth`` is by how much the memory of
all processes grows from a tenth of the batches to the end.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import webdataset
from scipy.ndimage import gaussian_filter

from datamodules.codec import Clip, encode_image
from datamodules.loader import PairLoader
from datamodules.manifest import build_manifest
from datamodules.pairs import TrainingPairs
from datamodules.plan import TrainingPlan
from datamodules.reading import ClipReader
from datamodules.sampler import TrainingSampler
from datamodules.shards import ShardWriter
from datamodules.streaming import WebDatasetDataModule

HEAD = {"name": "benchmark", "num_shape": 100, "num_expression": 52}
FRAMES = 64
BATCH = 8


def make_clip(number: int, size: int) -> Clip:
    """Images with JPEGs about as large as those of talking heads: soft shapes with fine grain."""
    rng = np.random.default_rng(number)
    soft = gaussian_filter(rng.normal(size=(size, size, 3)), (size / 12, size / 12, 0))
    soft = 128 + soft * 45 / soft.std()
    grain = gaussian_filter(rng.normal(size=(size, size, 3)), (0.8, 0.8, 0))
    detail = grain * 8 / grain.std() * (np.abs(soft - 128) > 30)
    rows, columns = np.mgrid[:size, :size] / size - 0.5
    images, regions, mattes = [], [], []
    for frame in range(FRAMES):
        shift = int(3 * np.sin(frame / 5) * size / 256)
        images.append(np.roll(soft + detail, shift, axis=1).clip(0, 255).astype(np.uint8))
        radius = np.hypot(rows * 1.1, columns + shift / size)
        regions.append(np.select([radius < 0.25, radius < 0.3, radius < 0.36, rows > 0.3], [3, 2, 1, 4], 0))
        mattes.append(((0.4 - radius) * 40).clip(0, 1) * 255)
    count = FRAMES
    arrays = {
        "shape": rng.normal(size=HEAD["num_shape"]),
        "expression": rng.normal(size=(count, HEAD["num_expression"])),
        "pose": rng.normal(size=(count, 18)),
        "camera": rng.normal(size=(count, 3)),
        "landmarks": rng.uniform(0, size, (count, 478, 2)),
        "bbox": np.zeros((count, 4)),
        "confidence": np.ones(count),
        "frame_number": np.arange(count),
        "timestamp": np.arange(count) / 6,
        "valid": np.ones(count),
    }
    stacked = (np.stack(items).astype(np.uint8) for items in (images, regions, mattes))
    return Clip(f"clip-{number:05d}", f"person-{number}", *stacked, arrays)


def write_data(folder: Path, size: int, num_clips: int) -> ClipReader:
    """Our shard, and the same clips with a member per frame in ``plain.tar``."""
    with (
        ShardWriter(folder, "train-000000", {"size": size}) as writer,
        tarfile.open(folder / "plain.tar", "w") as plain,
    ):
        for number in range(num_clips):
            clip = make_clip(number, size)
            writer.add(clip)
            for frame in range(FRAMES):
                _add(plain, f"{clip.key}.{frame:03d}.jpg", encode_image(clip.images[frame]))
                _add(plain, f"{clip.key}.{frame:03d}.regions.npy", _npy(clip.regions[frame]))
                matte = simplejpeg.encode_jpeg(clip.matte[frame][..., None], 95, "GRAY", "Gray")
                _add(plain, f"{clip.key}.{frame:03d}.matte.jpg", matte)
            _add(plain, f"{clip.key}.params.npz", _npz(dict(clip.arrays)))
        info = writer.finish()
    manifest = build_manifest("benchmark", size, HEAD, [("train", info)], {})
    manifest.save(folder / "manifest.json")
    return ClipReader(manifest, folder, "train")


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    # Compressed: raw labels would make the peer read even more.
    np.savez_compressed(buffer, array)
    return buffer.getvalue()


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def make_loader(reader: ClipReader, pairs: int, workers: int, batch_size: int = BATCH) -> PairLoader:
    plan = TrainingPlan(tuple(reader.plan_clips()), seed=0, pairs_per_epoch=pairs)
    source = TrainingPairs(reader, plan, batch_size)
    return PairLoader(source, TrainingSampler(pairs, batch_size), workers)


def processes(loader: PairLoader) -> list[int]:
    return [os.getpid(), *(loader._pool.process_ids if loader._pool else ())]


def cpu_s(pids: list[int]) -> float:
    """User and system time of processes up to now."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_mb(pids: list[int]) -> float:
    """Proportional set size: shared memory counts once."""
    total = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def timed(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def decode_s(reader: ClipReader, size: int, pairs: int) -> tuple[float, float]:
    """CPU seconds per pair: JPEGs alone; JPEGs and region maps."""
    blobs = []
    for clip in range(len(reader)):
        for row in reader._index.frames[clip * FRAMES : clip * FRAMES + FRAMES : 8]:
            position, mask_position, length, crc32, mask_length, mask_crc32, *_ = row.item()
            masks = reader._read(0, mask_position, mask_length, mask_crc32)
            end = 4 + int.from_bytes(masks[:4], "little")
            blobs.append((reader._read(0, position, length, crc32), masks[end:], masks[4:end]))
    order = [blobs[i % len(blobs)] for i in range(2 * pairs)]
    rows = 2 * BATCH
    images, mattes = np.empty((rows, size, size, 3), np.uint8), np.empty((rows, size, size, 1), np.uint8)

    def decode(labels: bool) -> None:
        for number, (picture, matte, regions) in enumerate(order):
            simplejpeg.decode_jpeg(picture, "RGB", buffer=images[number % rows])
            simplejpeg.decode_jpeg(matte, "GRAY", buffer=mattes[number % rows])
            if labels:
                np.repeat(*np.frombuffer(regions, np.uint8).reshape(2, -1))

    decode(True)
    return timed(lambda: decode(False)) / pairs, timed(lambda: decode(True)) / pairs


def loader_s(reader: ClipReader, pairs: int, workers: int) -> float:
    """CPU seconds per pair, all processes; the first epoch warms up."""
    loader = make_loader(reader, pairs, workers)
    for _ in loader:
        pass
    pids = processes(loader)
    start = cpu_s(pids)
    for _ in loader:
        pass
    used = cpu_s(pids) - start
    loader.close()
    return used / pairs


def webdataset_s(folder: Path, visits: int) -> float:
    """CPU seconds per pair of the peer."""
    rng = random.Random(0)

    def pair(clip: dict[str, Any]) -> tuple[np.ndarray, ...]:
        arrays = np.load(io.BytesIO(clip["params.npz"]))
        frames = rng.sample(range(FRAMES), 2)
        items = [arrays[name][frames] for name in ("expression", "pose", "camera", "landmarks")]
        pictures = [simplejpeg.decode_jpeg(clip[f"{frame:03d}.jpg"], "RGB") for frame in frames]
        mattes = [simplejpeg.decode_jpeg(clip[f"{frame:03d}.matte.jpg"], "GRAY") for frame in frames]
        regions = [np.load(io.BytesIO(clip[f"{frame:03d}.regions.npy"]))["arr_0"] for frame in frames]
        return (arrays["shape"], *items, *(np.stack(x) for x in (pictures, mattes, regions)))

    def stream() -> Iterator[Any]:
        while True:
            shards = webdataset.WebDataset(str(folder / "plain.tar"), shardshuffle=False)
            yield from shards.map(pair).batched(BATCH)

    batches = stream()
    next(batches)
    count = max(visits // BATCH, 2)
    return timed(lambda: [next(batches) and None for _ in range(count)]) / (count * BATCH)


def stream_s(folder: Path, visits: int, pairs_per_clip: int) -> tuple[float, float]:
    """CPU seconds and bytes read per pair of ``datamodules.streaming``."""
    steps = max(visits * pairs_per_clip // BATCH, 2)
    data = WebDatasetDataModule(
        str(folder / "train-000000.tar"), "", batch_size=BATCH, steps_per_epoch=steps,
        pairs_per_clip=pairs_per_clip, shuffle_clips=8,
    )  # fmt: skip
    loader = data.train_dataloader()
    next(iter(loader))
    start = _bytes_read()
    used = timed(lambda: [None for _ in loader])
    return used / (steps * BATCH), (_bytes_read() - start) / (steps * BATCH)


def read_ratio(reader: ClipReader, pairs: int) -> tuple[float, float]:
    """Bytes asked of the file system over bytes of frames, masks and parameters, and the latter per pair."""
    loader = make_loader(reader, pairs, 0)
    plan = loader.source.plan  # type: ignore[attr-defined]
    per_frame = 4 * (HEAD["num_expression"] + 18 + 3 + 2 * 478)
    payload = 0
    for position in range(pairs):
        pair = plan.pair(0, position)
        payload += 4 * HEAD["num_shape"]
        for frame in (pair.source, *pair.drivers):
            row = reader._index.frames[pair.clip * FRAMES + frame]
            payload += int(row["length"]) + int(row["mask_length"]) + per_frame
    start = _bytes_read()
    for _ in loader:
        pass
    return (_bytes_read() - start) / payload, payload / pairs


def _bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])


def memory_growth(reader: ClipReader, batches: int, workers: int) -> tuple[float, float]:
    """Memory after a tenth of the batches, and its growth until the end, MB."""
    loader = make_loader(reader, 2 * batches, workers, batch_size=2)
    early = late = 0.0
    for number, _ in enumerate(loader):
        if number == batches // 10:
            early = memory_mb(processes(loader))
        late = memory_mb(processes(loader)) if number == batches - 1 else late
    loader.close()
    return early, late - early


def measure(size: int, options: argparse.Namespace) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reader = write_data(folder, size, options.clips)
        pairs = max(options.pairs * 256**2 // size**2, BATCH) // BATCH * BATCH
        # Interleaved, minimum of each: other load slows all of them by up to a half.
        rounds = [
            (*decode_s(reader, size, pairs), loader_s(reader, pairs, options.workers)) for _ in range(3)
        ]
        jpeg, decode, loader = map(min, zip(*rounds, strict=True))
        peer = webdataset_s(folder, pairs // 20)
        streams = {count: stream_s(folder, max(pairs // 20, 2 * options.clips), count) for count in (1, 8)}
        read, payload = read_ratio(reader, pairs)
        stored = reader._index.frames["length"].mean() + reader._index.frames["mask_length"].mean()
        row = {
            "size": size,
            "kB_per_frame": float(stored) / 1e3,
            "jpeg_us": jpeg * 1e6,
            "decode_us": decode * 1e6,
            "loader_us": loader * 1e6,
            "of_jpeg": jpeg / loader,
            "of_decode": decode / loader,
            "webdataset_us": peer * 1e6,
            "times_webdataset": peer / loader,
            "read": read,
        }
        for count, (used, num_bytes) in streams.items():
            row |= {f"stream_{count}_us": used * 1e6, f"stream_{count}_read": num_bytes / payload}
        if size == min(options.sizes) and options.batches:
            row["memory_MB"], row["growth_MB"] = memory_growth(reader, options.batches, options.workers)
        return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512], help="pixels")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--pairs", type=int, default=4000, help="at 256 pixels; fewer at larger sizes")
    parser.add_argument("--batches", type=int, default=20000, help="for the memory; 0 skips it")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = [measure(size, options) for size in options.sizes]
    for row in rows:
        print("  ".join(f"{name} {value:.4g}" for name, value in row.items()))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
