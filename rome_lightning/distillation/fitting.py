"""A basis from stored offsets, and the error of leaving components out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rome_lightning.distillation.collect import OffsetStore
from rome_lightning.distillation.pca import StreamingPCA
from rome_lightning.head import HeadModel
from rome_lightning.head.moving import MOVING_REGIONS
from rome_lightning.media.tensors import read_tensors, write_tensors
from rome_lightning.models import LinearBasis
from rome_lightning.models.basis import mesh_fingerprint

PARTS = {"hair": ("scalp",), "neck": ("neck", "shoulders")}
"""Regions of the head that each part of the basis moves; each gets its own components."""
TARGETS_FORMAT = "rome-coefficients/1"
"""Of the file that ``Targets`` are stored in."""
_FLAT_M = 1e-6
"""Directions along which the vertices move less than this, root of the mean square in metres, are noise."""


@dataclass(frozen=True)
class Curve:
    """Variance and error of a part of the basis by number of components."""

    explained: Float[Tensor, " k"]
    """Cumulative share of the variance of the offsets that it was computed from."""
    error_mm: Float[Tensor, " n"]
    """Root of the mean square distance of a vertex with 0, 1, ... components, millimetres."""
    held_out_mm: Float[Tensor, " n"] | None
    """The same for people not in the basis; ``None`` without any."""


@dataclass(frozen=True)
class BasisFit:
    """A basis and how good it is."""

    basis: LinearBasis
    curves: dict[str, Curve]
    """By part, see ``PARTS``."""
    num_sources: int


def fit_basis(
    store: OffsetStore,
    head: HeadModel,
    num_hair: int,
    num_neck: int,
    provenance: dict[str, Any],
    train: str = "train",
    held_out: str | None = None,
) -> BasisFit:
    """Principal components of the stored offsets, hair apart from neck and shoulders.

    Args:
        store: complete.
        head: that the offsets belong to.
        num_hair: components of the scalp.
        num_neck: components of neck and shoulders.
        provenance: kept in the basis.
        train: split that the basis is computed from.
        held_out: split that only measures it.

    Raises:
        ValueError: the offsets are too few or vary in fewer directions than components are asked for.
    """
    moving = head.region(*MOVING_REGIONS).nonzero().squeeze(1)
    mean, count = _mean(store, train)
    components, stds, curves = [], [], {}
    for name, wanted in (("hair", num_hair), ("neck", num_neck)):
        local = head.region(*PARTS[name])[moving].nonzero().squeeze(1)
        vectors, std, curve = _fit_part(store, name, local, mean, count, wanted, train, held_out)
        full = torch.zeros(wanted, head.num_vertices, 3)
        full[:, moving[local]] = vectors.float().unflatten(1, (-1, 3))
        components.append(full)
        stds.append(std.float())
        curves[name] = curve
    full_mean = torch.zeros(head.num_vertices, 3)
    full_mean[moving] = mean.float()
    basis = LinearBasis(
        torch.cat(components),
        full_mean,
        torch.cat(stds),
        num_hair,
        head.name,
        mesh_fingerprint(head),
        {**provenance, "sources": count, "explained": {n: float(c.explained[-1]) for n, c in curves.items()}},
    )
    return BasisFit(basis, curves, count)


def _mean(store: OffsetStore, split: str) -> tuple[Float[Tensor, "m 3"], int]:
    total, count = None, 0
    for block in store.blocks(split):
        part = block.offsets.double().sum(0)
        total = part if total is None else total + part
        count += len(block.offsets)
    if total is None:
        raise ValueError(f"no offsets of split {split!r} in {store.folder}")
    return total / count, count


def _fit_part(
    store: OffsetStore,
    name: str,
    local: Int[Tensor, " m"],
    mean: Float[Tensor, "n 3"],
    count: int,
    wanted: int,
    train: str,
    held_out: str | None,
) -> tuple[Float[Tensor, "k d"], Float[Tensor, " k"], Curve]:
    if count <= wanted:
        raise ValueError(
            f"{wanted} {name} components need at least {wanted + 1} sources, the data provide {count}; set "
            f"--{name} to at most {count - 1}, raise --sources-per-clip, or use more clips"
        )
    pca = StreamingPCA(mean[local].flatten())
    for block in store.blocks(train):
        pca.add(block.offsets[:, local].flatten(1))
    directions, std = pca.components()
    rank = int((std > _FLAT_M * len(local) ** 0.5).sum())
    if rank < wanted:
        raise ValueError(
            f"the model's {name} offsets vary in only {rank} directions, but {wanted} components "
            "are requested; "
            + (f"set --{name} to at most {rank}" if rank else "the model gives everybody the same offsets")
            + ", train the model longer, or use --refine-steps"
        )
    variance = std.square()
    explained = variance[:wanted].cumsum(0) / variance.sum()
    error = _errors(store, train, local, mean, directions[:wanted])
    other = _errors(store, held_out, local, mean, directions[:wanted]) if held_out else None
    assert error is not None
    return directions[:wanted], std[:wanted], Curve(explained, error, other)


def _errors(
    store: OffsetStore,
    split: str,
    local: Int[Tensor, " m"],
    mean: Float[Tensor, "n 3"],
    directions: Float[Tensor, "k d"],
) -> Float[Tensor, " n"] | None:
    """Distance of a vertex from its reconstruction by the number of components, millimetres."""
    squares, count = torch.zeros(len(directions) + 1, dtype=torch.float64), 0
    for block in store.blocks(split):
        rows = (block.offsets.double() - mean)[:, local].flatten(1)
        explained = (rows @ directions.T).square().cumsum(1)
        total = rows.square().sum(1, keepdim=True)
        squares += torch.cat([total, total - explained], dim=1).sum(0)
        count += len(rows)
    if count == 0:
        return None
    return 1e3 * (squares.clamp_min(0) / (count * len(local))).sqrt()


@dataclass(frozen=True)
class Targets:
    """Coefficients of each clip, which the linear model learns to regress from its frames."""

    clips: dict[str, int]
    """Row of each clip."""
    coefficients: Float[Tensor, "c k"]
    """Mean over the clip's sources: hair does not change within a clip, metres."""

    def rows(self, clips: tuple[str, ...]) -> Float[Tensor, "b k"]:
        """Coefficients of some clips.

        Raises:
            ValueError: a clip was not distilled.
        """
        missing = [clip for clip in clips if clip not in self.clips]
        if missing:
            raise ValueError(
                f"clip {missing[0]} has no coefficients; run `rome distill basis` over the same dataset"
            )
        return self.coefficients[[self.clips[clip] for clip in clips]]

    def save(self, path: Path, basis: LinearBasis) -> None:
        """Write a safetensors file that belongs to a basis."""
        header = {"format": TARGETS_FORMAT, "clips": list(self.clips), "components": basis.digest}
        write_tensors(path, {"coefficients": self.coefficients}, header)

    @classmethod
    def load(cls, path: Path, basis: LinearBasis) -> Targets:
        """Read what ``save`` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged or belongs to another basis.
        """
        if not path.is_file():
            raise FileNotFoundError(
                f"no coefficients at {path}; `rome distill basis` writes them beside the basis"
            )
        tensors, header = read_tensors(path, TARGETS_FORMAT)
        if header["components"] != basis.digest:
            raise ValueError(
                f"the coefficients of {path} belong to another basis; run `rome distill basis` again"
            )
        return cls({name: row for row, name in enumerate(header["clips"])}, tensors["coefficients"])


def beside(basis: Path, suffix: str) -> Path:
    """A file or folder that goes with a basis file."""
    return basis.with_name(basis.stem + suffix)


def targets_of(store: OffsetStore, basis: LinearBasis, head: HeadModel, splits: tuple[str, ...]) -> Targets:
    """Coefficients of every clip of a store."""
    moving = head.region(*MOVING_REGIONS).nonzero().squeeze(1)
    components = basis.components[:, moving].flatten(1)
    sums: dict[str, tuple[Tensor, int]] = {}
    for split in splits:
        for block in store.blocks(split):
            rows = (block.offsets - basis.mean[moving]).flatten(1) @ components.T
            for clip, row in zip(block.clips, rows, strict=True):
                total, count = sums.get(clip, (torch.zeros_like(row), 0))
                sums[clip] = (total + row, count + 1)
    coefficients = torch.stack([total / count for total, count in sums.values()])
    return Targets({clip: row for row, clip in enumerate(sums)}, coefficients)
