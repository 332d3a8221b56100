"""Small datasets of smooth images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datamodules.codec import Clip
from datamodules.manifest import Manifest, build_manifest
from datamodules.shards import ShardWriter

SIZE, NUM_SHAPE, NUM_EXPRESSION, NUM_LANDMARKS = 48, 5, 7, 9


def make_clip(key: str, identity: str, num_frames: int = 12, seed: int = 0) -> Clip:
    """Smooth images whose mean red is the frame number, so that readers can be checked."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 120, SIZE)
    images = np.zeros((num_frames, SIZE, SIZE, 3), dtype=np.uint8)
    images[..., 0] = (np.arange(num_frames) * 10 + 20)[:, None, None]
    images[..., 1] = ramp[None, :, None]
    images[..., 2] = ramp[None, None, :]
    regions = rng.integers(0, 6, (num_frames, SIZE, SIZE)).astype(np.uint8)
    matte = np.broadcast_to(ramp.astype(np.uint8), (num_frames, SIZE, SIZE))
    arrays = {
        "shape": rng.normal(size=NUM_SHAPE).astype(np.float32),
        "expression": rng.normal(size=(num_frames, NUM_EXPRESSION)).astype(np.float32),
        "pose": rng.normal(size=(num_frames, 18)).astype(np.float32),
        "camera": rng.normal(size=(num_frames, 3)).astype(np.float32),
        "landmarks": rng.uniform(0, SIZE, (num_frames, NUM_LANDMARKS, 2)).astype(np.float32),
        "bbox": np.tile(np.float32([0, 0, SIZE, SIZE]), (num_frames, 1)),
        "confidence": np.ones(num_frames, dtype=np.float32),
        "frame_number": np.arange(num_frames, dtype=np.int32) * 4,
        "timestamp": np.arange(num_frames) * 0.16,
        "valid": np.ones(num_frames, dtype=np.uint8),
    }
    return Clip(key, identity, images, regions, matte, arrays, {"fps": "25", "tracker": "none"})


def write_dataset(
    folder: Path, clips: dict[str, list[list[Clip]]], configuration: dict[str, object] | None = None
) -> Manifest:
    """Write shards per split and the manifest."""
    shards = []
    for split, groups in clips.items():
        for index, group in enumerate(groups):
            with ShardWriter(folder, f"{split}-{index:06d}", {"clips": [c.key for c in group]}) as writer:
                for clip in group:
                    writer.add(clip)
                shards.append((split, writer.finish()))
    head = {"name": "test-head", "num_shape": NUM_SHAPE, "num_expression": NUM_EXPRESSION}
    manifest = build_manifest("test", SIZE, head, shards, {"fps": 6, **(configuration or {})})
    manifest.save(folder / "manifest.json")
    return manifest


def standard_clips() -> dict[str, list[list[Clip]]]:
    """Five training clips in three shards, one validation clip."""
    train = [make_clip(f"clip-{i}", f"person-{i}", seed=i) for i in range(5)]
    return {"train": [train[:2], train[2:4], train[4:]], "val": [[make_clip("clip-5", "person-5", seed=5)]]}
