"""A dataset of synthetic heads, and the settings of a model that trains on it in seconds."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers import small_config

from datamodules.codec import Clip
from datamodules.manifest import build_manifest
from datamodules.shards import ShardWriter
from datamodules.synthetic import SyntheticHeads
from rome_lightning import assets
from rome_lightning.head import load_head
from rome_lightning.models import FullAvatar
from rome_lightning.models.checkpoint import CONFIG_KEY
from rome_lightning.models.official import write_checkpoint

ROOT = Path(__file__).parents[1]
BASE = ROOT / "experiments" / "full" / "base.yaml"
NUM_FRAMES = 5
"""Length of the driving videos, frames."""
IMAGE_SIZE = 64
SPLITS = {"train": (0, 1), "val": (2,)}
"""Persons by split."""


def need(*names: str) -> None:
    """Skip the test if an asset can be neither found nor fetched."""
    for name in names:
        try:
            assets.resolve(name)
        except OSError as error:
            pytest.skip(f"asset {name} is not available: {error}")


def write_synthetic_dataset(folder: Path, num_frames: int = 4, spoil: str | None = None) -> Path:
    """Write shards of three people; ``spoil`` names an array of the clips to fill with NaN."""
    heads = SyntheticHeads(load_head("open"), IMAGE_SIZE, texture_size=128, rasterizer="torch")
    shards = []
    for split, people in SPLITS.items():
        with ShardWriter(folder, f"{split}-000000", {"people": list(people)}) as writer:
            for person in people:
                writer.add(_clip(heads, person, num_frames, spoil))
            shards.append((split, writer.finish()))
    head = {
        "name": heads.head.name,
        "num_shape": heads.head.num_shape,
        "num_expression": heads.head.num_expression,
    }
    build_manifest("synthetic", IMAGE_SIZE, head, shards, {}).save(folder / "manifest.json")
    return folder


def _clip(heads: SyntheticHeads, person: int, num_frames: int, spoil: str | None) -> Clip:
    frames, _ = heads.draw([person] * num_frames, list(range(num_frames)))
    params = frames.params
    arrays = {
        "shape": params.shape[0].numpy(),
        "expression": params.expression.numpy(),
        "pose": params.stored_pose.numpy(),
        "camera": params.camera.numpy(),
        "landmarks": frames.landmarks.numpy(),
        "bbox": np.tile(np.float32([0, 0, IMAGE_SIZE, IMAGE_SIZE]), (num_frames, 1)),
        "confidence": np.ones(num_frames, dtype=np.float32),
        "frame_number": np.arange(num_frames, dtype=np.int32),
        "timestamp": np.arange(num_frames) / 25,
        "valid": np.ones(num_frames, dtype=np.uint8),
    }
    if spoil is not None:
        arrays[spoil] = np.full_like(arrays[spoil], np.nan)
    image = (frames.image.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
    matte = (frames.foreground_mask[:, 0] * 255).round().to(torch.uint8).numpy()
    return Clip(
        f"synthetic-{person}", f"person-{person}", image, frames.regions.numpy(), matte, arrays, {"fps": "25"}
    )


def tiny_overlay(dataset: Path, run_dir: Path, **data: Any) -> dict[str, Any]:
    """Settings over ``experiments/full/base.yaml``: networks of ``small_config``, two steps an epoch."""
    config = dataclasses.asdict(small_config())
    return {
        "run_dir": str(run_dir),
        "wandb": "disabled",
        "trainer": {
            "accelerator": "cpu",
            "max_epochs": 2,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": [
                {"class_path": "rome_lightning.callbacks.ImageGrid", "init_args": {"num_rows": 2}},
                {"class_path": "rome_lightning.callbacks.Throughput"},
                {"class_path": "rome_lightning.callbacks.RunSummary"},
                {
                    "class_path": "rome_lightning.callbacks.RunCheckpoint",
                    "init_args": {"monitor": "val/psnr", "mode": "max"},
                },
            ],
        },
        "model": {
            "class_path": "rome_lightning.training.FullModule",
            "init_args": {
                "avatar": {key: config[key] for key in ("rasterizer", "texture", "offsets", "decoder")},
                "losses": {"perceptual": 0.0, "chamfer_points": 64},
                "optimizer": {"learning_rate": 0.002, "warmup_steps": 0},
            },
        },
        "data": {
            "class_path": "datamodules.talking_heads.TalkingHeadDataModule",
            "init_args": {
                "manifest": str(dataset),
                "image_size": IMAGE_SIZE,
                "batch_size": 1,
                "num_driving": 2,
                "pairs_per_epoch": 2,
                "num_workers": 0,
                "eval_pairs_per_clip": 2,
                **data,
            },
        },
    }


def tiny_arguments(command: str, overlay: dict[str, Any], folder: Path, *more: str) -> list[str]:
    """Arguments of ``rome`` for a training command; writes the overlay into ``folder``."""
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(overlay))
    return [command, "--config", str(BASE), "--config", str(path), *more]


def untrained_checkpoint(path: Path, seed: int = 0) -> Path:
    """A checkpoint file of an untrained small model."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        avatar = FullAvatar(small_config())
    state = {f"avatar.{key}": value for key, value in avatar.state_dict().items()}
    checkpoint = {
        "state_dict": state,
        CONFIG_KEY: dataclasses.asdict(avatar.config),
        "image_size": IMAGE_SIZE,
    }
    write_checkpoint(checkpoint, path)
    return path
