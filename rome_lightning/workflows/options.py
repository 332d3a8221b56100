"""Options of the workflows; imports nothing heavy, so that help answers at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass
class EvaluateConfig:
    """Options of an evaluation."""

    protocol: Path | None = None
    """Protocol: a file, or the name of a shipped one, such as demo. Required."""
    checkpoint: Path | None = None
    """Model to evaluate, written by `rome fit` or `rome distill`."""
    predictions: Path | None = None
    """Another system's answers instead: a folder of frames or videos (docs/evaluation.md), or one video."""
    untrained: Path | None = None
    """A model with its initial weights instead: the YAML of a training run, or just the options of an
    avatar."""
    baseline: Literal["source", "mean", "warp"] | None = None
    """A trivial system instead: the source copied, the mean face, or the source warped by landmarks."""
    targets: Path | None = None
    """With --predictions VIDEO: the ground-truth video, compared frame by frame; --data is then not
    needed."""
    data: Path | None = None
    """manifest.json of a dataset made by `rome prepare`, or its folder."""
    split: str | None = None
    """Split of the dataset (default: the protocol's, or the last frames of the training clips if the dataset
    lacks it)."""
    groups: Path | None = None
    """CSV table with a column `identity` and columns of groups, such as gender or glasses: each group is
    scored on its own too."""
    output: Path | None = None
    """Run folder; results go to OUTPUT/evaluation/PROTOCOL (default: the checkpoint's run folder, or the
    folder of predictions)."""
    photo_size: int | None = None
    """Side, in pixels, of the photographs that the model or the warp starts from, and at which they draw
    before the result is reduced to the protocol's size; at most what the dataset stores (default: the
    protocol's size). `rome avatar create` keeps 512 pixels."""
    refine_steps: int = 16
    """Steps that fit each avatar to its photograph's outline, as `rome avatar create` does; 0 for none."""
    keep_frames: Literal["examples", "all"] = "examples"
    """Images to keep: a few per clip including the worst, median and best cases, or all."""
    num_processes: int = 1
    """Processes that share the work on this machine. Keep it at 1 under torchrun or srun, where each rank
    takes its part."""
    device: str = "cpu"
    """Device of the model and LPIPS: cpu, cuda, cuda:1."""
    restart: bool = False
    """Delete the results of an earlier evaluation in the folder."""


@dataclass
class BasisConfig:
    """Options of ``rome distill basis``."""

    checkpoint: Path | None = None
    """Full model, written by `rome fit`. Required."""
    data: Path | None = None
    """manifest.json of a dataset made by `rome prepare`, or its folder. Required."""
    output: Path | None = None
    """Basis to write, FILE.safetensors; curves, pictures, the clips' coefficients and the collected offsets
    go beside it, under the same name. Required."""
    hair: int = 50
    """Components of the scalp (paper: 50)."""
    neck: int = 10
    """Components of neck and shoulders (paper: 10)."""
    sources_per_clip: int = 1
    """Frames per clip that become avatars: the typical one, then evenly spaced ones."""
    refine_steps: int = 16
    """Steps that fit each avatar to its photograph's outline before its offsets are collected, as `rome
    avatar create` does; 0 keeps the network's own."""
    train_split: str = "train"
    """Split that the basis is computed from."""
    held_out_split: str = "val"
    """Split that measures the basis on other people; skipped if the dataset has none."""
    part: str = "0/1"
    """I/N: collect only every N-th block of clips from the I-th on, for N processes or machines that share
    the output; then run once more without this option."""
    device: str = "cpu"
    """Device of the model: cpu, cuda, cuda:1."""


@dataclass
class DistillConfig:
    """Options of ``rome distill all``."""

    checkpoint: Path | None = None
    """Full model, written by `rome fit`. Required."""
    data: Path | None = None
    """manifest.json of a dataset made by `rome prepare`, or its folder. Required."""
    output: Path | None = None
    """Folder for basis, run, scores and report. Required."""
    hair: int = 50
    """Components of the scalp (paper: 50)."""
    neck: int = 10
    """Components of neck and shoulders (paper: 10)."""
    sources_per_clip: int = 1
    """Frames per clip whose offsets the basis is computed from."""
    refine_steps: int = 16
    """Steps that fit each avatar to its photograph's outline before its offsets are taken."""
    fit_config: list[Path] = field(default_factory=lambda: [Path("linear/base")])
    """Configurations of the training, base first, then overlays; files, or names of shipped ones."""
    fit_options: list[str] = field(default_factory=list)
    """Further options of `rome fit`, such as ["--trainer.max_epochs=10"]."""
    protocol: Path = Path("demo")
    """Protocol of the scores for self- and cross-reenactment."""
    geometry: Path = Path("geometry_synthetic")
    """Protocol of the scores against synthetic ground truth."""
    split: str = "val"
    """Split of the dataset that is scored."""
    evaluate_refine_steps: int = 0
    """Steps that fit the avatars to the photograph before they are scored; 0 by default because the fit would
    hide what the models predict, and the model without offsets has none to fit."""
    device: str = "cpu"
    """Device for basis and scores: cpu, cuda; the training follows its configuration."""
