"""Cost of a large dataset besides the clips that are read: CPU seconds and megabytes by size.

    python benchmarks/scale.py                # 1,000, 10,000 and 100,000 clips, 16 to a shard, 50 frames each
    python benchmarks/scale.py --clips 1000 10000

The shards are hard links to one shard with small frames: work grows with their number, disk use does not.
Every step runs in its own process. Megabytes are what the step adds to the process, without memory-mapped
files, which all processes of a machine share; for a worker they are all of its memory.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from datamodules.codec import Clip
from datamodules.manifest import Manifest, build_manifest
from datamodules.shards import ShardWriter

CLIPS_PER_SHARD, FRAMES, SIZE = 16, 50, 32
_BYTES_PER_S, _ROUND_TRIP_S = 1e9 / 8, 0.05
"""Network model: 1 Gbit/s per machine, 50 ms from a request to its first byte."""
_SHARD_BYTES = 22e6
"""Of 16 clips of 50 frames of 256 pixels."""
_KINDS = ("tar", "frames.npy", "clips.npy", "params.npy")


def _clip(number: int) -> Clip:
    rng = np.random.default_rng(number)
    arrays = {
        "shape": rng.normal(size=100).astype(np.float32),
        "expression": rng.normal(size=(FRAMES, 50)).astype(np.float32),
        "pose": rng.normal(size=(FRAMES, 18)).astype(np.float32),
        "camera": rng.normal(size=(FRAMES, 3)).astype(np.float32),
        "landmarks": rng.uniform(0, SIZE, (FRAMES, 478, 2)).astype(np.float32),
        "bbox": np.tile(np.float32([0, 0, SIZE, SIZE]), (FRAMES, 1)),
        "confidence": np.ones(FRAMES, dtype=np.float32),
        "frame_number": np.arange(FRAMES, dtype=np.int32),
        "timestamp": np.arange(FRAMES) / 6,
        "valid": np.ones(FRAMES, dtype=np.uint8),
    }
    pixels = np.zeros((FRAMES, SIZE, SIZE), dtype=np.uint8)
    image = np.repeat(pixels[..., None], 3, axis=-1)
    return Clip(f"clip-{number:03d}", f"person-{number}", image, pixels, pixels, arrays, {"fps": "6"})


def make_dataset(folder: Path, num_clips: int) -> Manifest:
    """A dataset without joined indices; a tenth of its shards are for validation."""
    with ShardWriter(folder, "one", {}) as writer:
        for number in range(CLIPS_PER_SHARD):
            writer.add(_clip(number))
        info = writer.finish()
    head = {"name": "none", "num_shape": 100, "num_expression": 50}
    manifest = build_manifest("scale", SIZE, head, [("train", info)], {})
    (shard,) = manifest.shards
    shards = []
    for number in range(max(num_clips // CLIPS_PER_SHARD, 2)):
        split = "val" if number % 10 == 1 else "train"
        name = f"{split}-{number:05d}"
        for kind in _KINDS:
            os.link(folder / f"one.{kind}", folder / f"{name}.{kind}")
        people = [f"{name}-{identity}" for identity in shard.identities]
        shards.append(dataclasses.replace(shard, name=name, split=split, identities=people))
    return dataclasses.replace(manifest, shards=shards)


def _module(folder: Path, workers: int = 0):
    from datamodules.talking_heads import TalkingHeadDataModule

    return TalkingHeadDataModule(
        folder,
        image_size=SIZE,
        batch_size=8,
        pairs_per_epoch=8000,
        num_workers=workers,
        eval_source="typical",
    )


def _private_mb(process: int | str = "self") -> float:
    """Memory of a process without file mappings."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    values = {line.split(":")[0]: float(line.split()[1]) for line in lines if line.endswith("kB")}
    return values["Anonymous"] / 1024


def _cpu_s(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def joined_index(folder: Path) -> None:
    """Join the indices of all shards, as `rome prepare` does at the end."""
    from datamodules.split_index import with_indices

    with_indices(folder, Manifest.load(folder)).save(folder / "manifest.json")


def opening(folder: Path) -> None:
    """Read the manifest, check each shard's size, verify and map the index."""
    _module(folder).reader("train")


def planning(folder: Path) -> None:
    """Everything that training needs before its first step, validation included."""
    _module(folder).setup("fit")


def first_batch(folder: Path) -> None:
    """From nothing to the first batch, read in this process."""
    next(iter(_module(folder).train_dataloader()))


def resuming(folder: Path) -> None:
    """The same in the middle of the tenth epoch."""
    data = _module(folder)
    state = {**data.state_dict(), "epoch": 9, "position": 4000}
    data.load_state_dict(state)
    next(iter(data.train_dataloader()))


def validation(folder: Path) -> None:
    """Choose the validation pairs."""
    len(_module(folder).val_dataloader())


def verifying(folder: Path) -> None:
    """Read and index every byte again, like `rome shards verify`; it reports `NAME.json` as missing."""
    from datamodules.verifying import verify

    for _ in verify(folder, Manifest.load(folder, check_files=False)):
        pass


def leftovers(folder: Path) -> None:
    """Look for leftovers of killed builders, for each shard and video."""
    from datamodules.prepare.parts import remove_leftovers

    shards = [shard.name for shard in Manifest.load(folder).shards]
    remove_leftovers(set(shards), folder)
    remove_leftovers({f"{name}-{i}" for name in shards for i in range(CLIPS_PER_SHARD)}, folder / ".parts")


def ids(folder: Path) -> None:
    """Find the files of a list of ids in one folder."""
    from datamodules.prepare.inputs import expand_inputs

    expand_inputs([folder / "ids.txt"], folder / "videos")


def look_alikes(folder: Path) -> None:
    """Compare the faces of all videos, each of another person."""
    import torch

    from rome_lightning.tracking.identity import alike

    torch.set_num_threads(1)
    count = len((folder / "ids.txt").read_text().splitlines())
    faces = torch.nn.functional.normalize(torch.randn(count, 128, generator=torch.Generator()), dim=1)
    alike(faces, [str(number) for number in range(count)], 0.6, 60)


STEPS: tuple[Callable[[Path], None], ...] = (
    *(joined_index, opening, planning, first_batch, resuming, validation),
    *(verifying, leftovers, ids, look_alikes),
)


def _measured(step: Callable[[Path], None], folder: Path) -> tuple[float, float]:
    # Imports are the same for all sizes.
    import datamodules.prepare
    import datamodules.talking_heads  # noqa: F401

    before_mb, before_s = _private_mb(), time.process_time()
    step(folder)
    return time.process_time() - before_s, _private_mb() - before_mb


def _worker(folder: Path) -> tuple[float, float]:
    """CPU seconds and private megabytes of a worker that has written its first batch."""
    loader = _module(folder, workers=1).train_dataloader()
    next(iter(loader))
    assert loader._pool is not None
    (process,) = loader._pool.process_ids
    result = _cpu_s(process), _private_mb(process)
    loader.close()
    return result


def _from_store(folder: Path) -> str:
    """Data fetched from a URL for the first batch, and the time by the network model."""
    from datamodules.talking_heads import TalkingHeadDataModule

    with tempfile.TemporaryDirectory() as cache:
        os.environ["ROME_CACHE"] = cache
        start_s = time.monotonic()
        data = TalkingHeadDataModule(f"pipe:cat {folder}/{{}}", image_size=SIZE, batch_size=8)
        data.setup("fit")
        next(iter(data.train_dataloader()))
        here_s = time.monotonic() - start_s
        fetched = [path.name for path in Path(cache).rglob("*") if path.name[0] != "."]
    shards = [name for name in fetched if name.endswith(".tar")]
    sizes = [(folder / name).stat().st_size for name in fetched if name.endswith((".json", ".safetensors"))]
    requests = len(shards) + len(sizes)
    network_s = _ROUND_TRIP_S * requests + (sum(sizes) + len(shards) * _SHARD_BYTES) / _BYTES_PER_S
    what = f"{sum(sizes) / 1e6:.0f} MB of indices, {len(shards)} shards of {_SHARD_BYTES / 1e6:.0f} MB"
    how = f"{network_s:.1f} s by the model of the network, {here_s:.1f} s here without one"
    return f"first batch from a store: {what}: {how}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--folder", type=Path, help="On the disk to measure (default: a temporary folder).")
    args = parser.parse_args()
    columns: dict[int, dict[str, tuple[float, float]]] = {}
    for count in args.clips:
        folder = Path(tempfile.mkdtemp(prefix="rome-scale-", dir=args.folder))
        try:
            make_dataset(folder, count).save(folder / "manifest.json")
            (folder / "videos").mkdir()
            for number in range(count):
                (folder / "videos" / f"v{number:06d}.mp4").touch()
            (folder / "ids.txt").write_text("\n".join(f"v{number:06d}" for number in range(count)))
            columns[count] = {}
            for step in STEPS:
                with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                    columns[count][step.__name__] = pool.submit(_measured, step, folder).result()
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                columns[count]["a worker"] = pool.submit(_worker, folder).result()
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                store = pool.submit(_from_store, folder).result()
            print(f"{count} clips: {store}", flush=True)
        finally:
            shutil.rmtree(folder)
    print("| step (CPU s, MB) | " + " | ".join(f"{count:,} clips" for count in columns) + " |")
    print("|---|" + "---|" * len(columns))
    for name in next(iter(columns.values())):
        cells = (f"{rows[name][0]:.2f} s, {rows[name][1]:.0f} MB" for rows in columns.values())
        print(f"| {name.replace('_', ' ')} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
