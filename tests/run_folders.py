"""Run folders with scores of known truth, as written by training and evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from PIL import Image

PROTOCOL = "demo"
METRICS: dict[str, dict[str, Any]] = {
    "psnr/full": {"higher_is_better": True, "ceiling": 100.0, "floor": 15.0, "worst": 0.0},
    "lpips_alex/full": {"higher_is_better": False, "ceiling": 0.0, "floor": 0.4, "worst": 1.0},
}


def write_run(
    path: Path,
    seed: int = 0,
    settings: dict[str, Any] | None = None,
    gain: float = 0.0,
    seed_noise: float = 0.0,
    num_identities: int = 6,
    clips_per_identity: int = 2,
    pairs_per_clip: int = 3,
    pictures: bool = False,
) -> Path:
    """Write a run whose PSNR is ``gain`` dB above 20 and whose LPIPS falls accordingly.

    Args:
        path: folder to create.
        seed: of training; shifts all scores together by ``seed_noise`` dB (one standard deviation).
        settings: entries of ``config.yaml``.
        gain: of this configuration, dB.
        seed_noise: see ``seed``.
        num_identities: number of people.
        clips_per_identity: clips per person.
        pairs_per_clip: target frames per clip.
        pictures: whether to write the images of the first pair of each clip.
    """
    path.mkdir(parents=True)
    config = {"seed_everything": seed, "run_dir": str(path), "model": {"init_args": settings or {}}}
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    people = np.random.default_rng(0)
    noise = np.random.default_rng([seed, abs(hash_of(settings))])
    shift = gain + seed_noise * noise.standard_normal()
    rows = []
    for identity in range(num_identities):
        ability = people.standard_normal() * 2
        for clip in range(clips_per_identity):
            level = 20 + ability + people.standard_normal()
            for frame in range(pairs_per_clip):
                psnr = level + shift + 0.3 * noise.standard_normal()
                key = f"clip-{identity}-{clip}"
                unit = ("self", f"person-{identity}", key, "000000", f"{frame + 1:06d}", "")
                rows.append((*unit, psnr, 0.5 - psnr / 100, False, False))
    columns = ["task", "identity", "clip", "source", "frame", "driver_identity", *METRICS]
    pairs = pd.DataFrame(rows, columns=[*columns, "undetected_prediction", "undetected_target"])
    write_evaluation(path, pairs)
    _write_curve(path / "metrics.csv", shift)
    summary = {"seed": seed, "metrics": {"val/psnr": 20 + shift, "val/lpips": 0.3 - shift / 100}}
    (path / "summary.json").write_text(json.dumps(summary))
    if pictures:
        _write_pictures(path / "evaluation" / PROTOCOL / "frames", pairs, shift)
    return path


def hash_of(settings: dict[str, Any] | None) -> int:
    """A hash that is the same in every process."""
    return sum(map(ord, json.dumps(settings, sort_keys=True)))


def write_evaluation(run: Path, pairs: pd.DataFrame, **summary: Any) -> None:
    """Write scores into a run folder; ``summary`` replaces entries of the summary."""
    folder = run / "evaluation" / PROTOCOL
    folder.mkdir(parents=True, exist_ok=True)
    pairs.to_parquet(folder / "pairs.parquet")
    metrics = {
        name: {
            **fact,
            "mean": float(pairs[name].mean()),
            "penalised": float(pairs[name].mean()),
            "num": len(pairs),
        }
        for name, fact in METRICS.items()
    }
    content = {
        "protocol": PROTOCOL,
        "protocol_hash": "a" * 64,
        "pairs_hash": "b" * 64,
        "dataset_hash": "c" * 64,
        "networks": {"lpips_alexnet": "d" * 64},
        "metrics": {"self": metrics},
        **summary,
    }
    (folder / "summary.json").write_text(json.dumps(content))


def read_pairs(run: Path) -> pd.DataFrame:
    """The scores of a run folder."""
    return pd.read_parquet(run / "evaluation" / PROTOCOL / "pairs.parquet")


def _write_curve(path: Path, shift: float) -> None:
    lines = ["epoch,step,train/loss,val/psnr"]
    for epoch in range(5):
        lines.append(f"{epoch},{epoch * 10},{1 / (epoch + 1):.4f},")
        lines.append(f"{epoch},{epoch * 10 + 9},,{20 + shift - 5 / (epoch + 1):.4f}")
    path.write_text("\n".join(lines) + "\n")


def _write_pictures(folder: Path, pairs: pd.DataFrame, shift: float) -> None:
    for row in pairs[pairs["frame"] == "000001"].itertuples():
        path = folder / row.task / row.clip / f"{row.source}__{row.frame}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        level = int(np.clip(60 + 20 * shift, 0, 255))
        image = np.full((64, 64, 3), level, dtype=np.uint8)
        image[:32, :, 0] = int(np.clip(row[7] * 8, 0, 255))
        Image.fromarray(image).save(path)
