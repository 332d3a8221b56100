"""Principal components of a full model's offsets over a dataset: what ``rome distill basis`` runs."""

from __future__ import annotations

from pathlib import Path

from datamodules.evaluation import StoredClips
from datamodules.manifest import Manifest
from rome_lightning.distillation import BasisFit, OffsetStore, collect, fit_basis
from rome_lightning.distillation.figures import components_figure, curves_csv, curves_figure
from rome_lightning.distillation.fitting import beside, targets_of
from rome_lightning.head import HeadModel
from rome_lightning.media.atomic import write_atomic
from rome_lightning.media.digest import file_sha256
from rome_lightning.media.image import write_figure
from rome_lightning.media.provenance import code_and_versions
from rome_lightning.models import AvatarModel
from rome_lightning.models.checkpoint import load_avatar
from rome_lightning.workflows.options import BasisConfig
from rome_lightning.workflows.reporter import Reporter


def make_basis(config: BasisConfig, reporter: Reporter | None = None) -> BasisFit | None:
    """Collect offsets, fit the basis, and write it with curves, pictures and coefficients beside it.

    Args:
        config: with checkpoint, data and output.
        reporter: shows progress.

    Returns:
        The fit; None if only a part of the offsets was collected.

    Raises:
        FileNotFoundError: checkpoint or dataset do not exist.
        ValueError: an option is out of range, or the data have too few people for the components.
    """
    assert config.checkpoint is not None
    assert config.data is not None
    assert config.output is not None
    part = _part(config.part)
    if config.output.suffix != ".safetensors":
        raise ValueError(f"--output must be a .safetensors file, got {config.output}")
    model = load_avatar(config.checkpoint).to(config.device)
    splits = _splits(config, config.data, model.image_size)
    spec = {
        "checkpoint": file_sha256(config.checkpoint),
        "data": next(iter(splits.values())).hash,
        "sources_per_clip": config.sources_per_clip,
        "refine_steps": config.refine_steps,
    }
    store = OffsetStore(beside(config.output, "_offsets"), spec)
    _collect(config, model, splits, store, part, reporter or Reporter())
    if part[1] > 1:
        return None
    head = model.head.cpu()
    held_out = config.held_out_split if config.held_out_split in splits else None
    provenance = {**spec, "checkpoint_file": str(config.checkpoint), "code": code_and_versions()}
    fit = fit_basis(store, head, config.hair, config.neck, provenance, config.train_split, held_out)
    fit.basis.save(config.output)
    targets = targets_of(store, fit.basis, head, tuple(splits))
    targets.save(beside(config.output, "_coefficients.safetensors"), fit.basis)
    _draw(config.output, fit, head)
    return fit


def _part(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ValueError(f"--part must be I/N with 0 <= I < N, such as 0/4, got {text!r}")
    return int(index), int(count)


def _splits(config: BasisConfig, data: Path, image_size: int) -> dict[str, StoredClips]:
    """Clips of the training split and, if there is one, of the held-out split."""
    known = {shard.split for shard in Manifest.load(data).shards}
    wanted = [config.train_split]
    if config.held_out_split in known and config.held_out_split != config.train_split:
        wanted.append(config.held_out_split)
    return {split: StoredClips(data, split, image_size) for split in wanted}


def _collect(
    config: BasisConfig,
    model: AvatarModel,
    splits: dict[str, StoredClips],
    store: OffsetStore,
    part: tuple[int, int],
    reporter: Reporter,
) -> None:
    """Fill the store with this part's blocks."""
    for split, clips in splits.items():
        steps = collect(
            model,
            clips,
            store,
            split,
            image_size=model.image_size,
            sources_per_clip=config.sources_per_clip,
            refine_steps=config.refine_steps,
            part=part,
            device=config.device,
        )
        reporter.exhaust(steps, f"offsets of {split}")


def _draw(output: Path, fit: BasisFit, head: HeadModel) -> None:
    """Curves and pictures beside the basis."""
    write_atomic(beside(output, "_curves.csv"), curves_csv(fit))
    write_figure(beside(output, "_curves.png"), curves_figure(fit), dpi=120)
    write_figure(beside(output, "_components.png"), components_figure(fit.basis, head), dpi=120)
