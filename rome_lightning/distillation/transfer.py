"""Offsets and bases carried from one head model to another by registering their templates."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

from rome_lightning.distillation.fitting import PARTS
from rome_lightning.geometry import similarity
from rome_lightning.head import HeadModel
from rome_lightning.models import LinearBasis
from rome_lightning.models.basis import mesh_fingerprint
from rome_lightning.types import HeadParams

LANDMARKS = "ibug68"
"""Embedding that both heads need."""
_NUM_NEIGHBOURS = 3
_SAME_M = 1e-7
"""Distance below which a vertex takes its neighbour's values unmixed."""


def transfer_basis(basis: LinearBasis, source: HeadModel, target: HeadModel) -> LinearBasis:
    """The same hair, neck and shoulders on another head.

    The templates are aligned by the similarity that brings their 68 landmarks together; every vertex of the
    target that may move then takes the mean of the nearest source vertices of its part, and the components
    are made orthonormal again with as little change of what they span as the target's vertices allow.

    Args:
        basis: of ``source``.
        source: head that the basis was made with.
        target: head that is to get it.

    Raises:
        ValueError: a head has no landmarks, or the target lacks a region.
    """
    basis.check(source)
    rows = torch.cat([basis.mean[None], basis.components * basis.std[:, None, None]])
    carried = _carried(rows, source, target)
    parts = [_orthonormal(part.flatten(1)) for part in carried[1:].split([basis.num_hair, basis.num_neck])]
    return LinearBasis(
        torch.cat([components for components, _ in parts]).unflatten(1, (-1, 3)),
        carried[0],
        torch.cat([std for _, std in parts]),
        basis.num_hair,
        target.name,
        mesh_fingerprint(target),
        {**basis.provenance, "transferred_from": basis.head},
    )


def transfer_offsets(
    offsets: Float[Tensor, "v 3"], source: HeadModel, target: HeadModel
) -> Float[Tensor, "w 3"]:
    """One person's hair, neck and shoulders on another head, registered as ``transfer_basis`` does.

    Args:
        offsets: of ``source`` at rest, metres.
        source: head that the offsets were made with.
        target: head that is to get them.

    Raises:
        ValueError: a head has no landmarks, or the target lacks a region.
    """
    return _carried(offsets[None], source, target)[0]


def _carried(rows: Float[Tensor, "n v 3"], source: HeadModel, target: HeadModel) -> Float[Tensor, "n w 3"]:
    """Vectors at the source's vertices, at the target's vertices that may move."""
    for head in (source, target):
        if LANDMARKS not in head.landmark_names:
            raise ValueError(
                f"heads are registered by their 68 landmarks; {head.name} has none, FLAME gets them from "
                "landmark_embedding.npy beside its model"
            )
    here, there = (head.landmarks(rest_vertices(head)[None], LANDMARKS)[0] for head in (source, target))
    scale, rotation, shift = (part.float() for part in similarity(here.double(), there.double()))
    placed = scale * rest_vertices(source) @ rotation.T + shift
    wanted = rest_vertices(target)
    turned = scale * rows @ rotation.T
    carried = turned.new_zeros(len(turned), target.num_vertices, 3)
    for names in PARTS.values():
        moving = target.region(*names).nonzero().squeeze(1)
        if len(moving) == 0:
            raise ValueError(f"head {target.name} has no vertices in {' and '.join(names)}")
        givers = source.region(*names).nonzero().squeeze(1)
        nearest, weights = _neighbours(wanted[moving], placed[givers])
        carried[:, moving] = (turned[:, givers[nearest]] * weights[..., None]).sum(2)
    return carried


def rest_vertices(head: HeadModel) -> Float[Tensor, "v 3"]:
    """The mean person's vertices, unposed, metres."""
    vertices: Tensor = head(HeadParams.neutral(1, head.num_shape, head.num_expression))[0]
    return vertices


def _neighbours(
    points: Float[Tensor, "n 3"], givers: Float[Tensor, "m 3"]
) -> tuple[Int[Tensor, "n k"], Float[Tensor, "n k"]]:
    """Nearest givers of each point and weights that fall with the squared distance; rows sum to 1."""
    distance, index = cKDTree(givers.numpy()).query(points.numpy(), k=min(_NUM_NEIGHBOURS, len(givers)))
    weights = 1 / torch.from_numpy(distance).clamp_min(_SAME_M).square()
    return torch.from_numpy(index), (weights / weights.sum(1, keepdim=True)).float()


def _orthonormal(scaled: Float[Tensor, "k d"]) -> tuple[Float[Tensor, "k d"], Float[Tensor, " k"]]:
    """Directions and standard deviations of offsets whose coefficients on ``scaled`` have unit variance."""
    _, singular, directions = torch.linalg.svd(scaled.double(), full_matrices=False)
    # Rounding must not move vertices of other parts.
    directions = directions * (scaled != 0).any(0)
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    return (directions * largest.sign()).float(), singular.float()
