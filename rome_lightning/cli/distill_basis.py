"""``rome distill basis``: principal components of a full model's offsets over a dataset."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rome_lightning.cli.progress import shown
from rome_lightning.media.atomic import write_atomic

if TYPE_CHECKING:
    from rome_lightning.models import AvatarModel


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
    """Frames of each clip that are made avatars of: the typical one, then evenly spaced ones."""
    refine_steps: int = 100
    """Steps that fit each avatar to its photograph's outline before its offsets are taken, as
    `rome avatar create` does; 0 takes the network's own."""
    train_split: str = "train"
    """Split that the basis is made of."""
    held_out_split: str = "val"
    """Split that measures it on other people; left out if the dataset has none."""
    part: str = "0/1"
    """I/N: collect only every N-th block of clips from the I-th on, for N processes or machines that share
    the output; then run once more without it."""
    device: str = "cpu"
    """Where the model runs: cpu, cuda, cuda:1."""


def make_basis(config: BasisConfig) -> bool:
    """Collect offsets and fit the basis.

    Returns:
        Whether the basis was written; not if other parts are still to be collected.
    """
    from rome_lightning.distillation import OffsetStore, fit_basis
    from rome_lightning.distillation.collect import file_digest
    from rome_lightning.distillation.fitting import beside, targets_of
    from rome_lightning.models.checkpoint import load_avatar, read_checkpoint

    assert config.checkpoint is not None
    assert config.data is not None
    assert config.output is not None
    part = _part(config.part)
    if config.output.suffix != ".safetensors":
        raise ValueError(f"the basis is a .safetensors file, got --output {config.output}")
    image_size = int(read_checkpoint(config.checkpoint)["image_size"])
    model = load_avatar(config.checkpoint).to(config.device)
    splits = _splits(config, image_size)
    spec = {
        "checkpoint": file_digest(config.checkpoint),
        "data": next(iter(splits.values())).hash,
        "sources_per_clip": config.sources_per_clip,
        "refine_steps": config.refine_steps,
    }
    store = OffsetStore(beside(config.output, "_offsets"), spec)
    complete = _collect(config, model, splits, store, image_size, part)
    if not complete:
        print(f"part {config.part} is done; run without --part when all are", file=sys.stderr)
        return False
    head = model.head.cpu()
    held_out = config.held_out_split if config.held_out_split in splits else None
    provenance = {**spec, "checkpoint_file": str(config.checkpoint), "code": _code()}
    fit = fit_basis(store, head, config.hair, config.neck, provenance, config.train_split, held_out)
    fit.basis.save(config.output)
    targets = targets_of(store, fit.basis, head, tuple(splits))
    targets.save(beside(config.output, "_coefficients.safetensors"), fit.basis)
    _describe(config.output, fit, head)
    return True


def _part(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ValueError(f"--part must be I/N with 0 <= I < N, such as 0/4, got {text!r}")
    return int(index), int(count)


def _splits(config: BasisConfig, image_size: int) -> dict[str, Any]:
    """Clips of the training split and, if there is one, of the held-out split."""
    from datamodules.evaluation import StoredClips
    from datamodules.manifest import Manifest

    assert config.data is not None
    known = {shard.split for shard in Manifest.load(config.data).shards}
    wanted = [config.train_split]
    if config.held_out_split in known and config.held_out_split != config.train_split:
        wanted.append(config.held_out_split)
    return {split: StoredClips(config.data, split, image_size) for split in wanted}


def _collect(
    config: BasisConfig,
    model: AvatarModel,
    splits: dict[str, Any],
    store: Any,
    image_size: int,
    part: tuple[int, int],
) -> bool:
    """Fill the store; returns whether it is complete."""
    from rome_lightning.distillation import collect

    for split, clips in splits.items():
        steps = collect(
            model,
            clips,
            store,
            split,
            image_size=image_size,
            sources_per_clip=config.sources_per_clip,
            refine_steps=config.refine_steps,
            part=part,
            device=config.device,
        )
        # How many there are is said with the first.
        _, total = next(steps, (0, 0))
        with shown(f"offsets of {split}", total) as update:
            for done, _ in steps:
                update(done)
    return part[1] == 1


def _code() -> dict[str, Any]:
    from rome_lightning.callbacks import code_and_versions

    return dict(code_and_versions())


def _describe(output: Path, fit: Any, head: Any) -> None:
    """Curves and pictures beside the basis, and a summary on the screen."""
    from rome_lightning.distillation.figures import components_figure, curves_csv, curves_figure
    from rome_lightning.distillation.fitting import beside

    write_atomic(beside(output, "_curves.csv"), curves_csv(fit))
    curves_figure(fit).savefig(beside(output, "_curves.png"), dpi=120)
    components_figure(fit.basis, head).savefig(beside(output, "_components.png"), dpi=120)
    for name, curve in fit.curves.items():
        held_out = "" if curve.held_out_mm is None else f", {curve.held_out_mm[-1]:.2f} mm on other people"
        print(
            f"{name}: {len(curve.explained)} components of {fit.num_sources} sources keep "
            f"{100 * curve.explained[-1]:.1f} % of the variance; error {curve.error_mm[-1]:.2f} mm of "
            f"{curve.error_mm[0]:.2f} mm{held_out}"
        )
    print(f"{output}; look at {beside(output, '_components.png')}")
