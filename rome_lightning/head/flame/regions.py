"""Vertex regions of a FLAME mesh: from FLAME's own mask file, or from its skeleton and shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rome_lightning.head.data import REGIONS
from rome_lightning.head.topology import (
    FloatArray,
    IntArray,
    boundary_loops,
    face_components,
)
from rome_lightning.pretrained.pickled_data import to_array
from rome_lightning.pretrained.restricted_pickle import load_pickle

BoolArray = NDArray[np.bool_]

_FLAME_MASKS = {
    "eyes": ("left_eyeball", "right_eyeball"),
    "ears": ("left_ear", "right_ear"),
    "shoulders": ("boundary",),
    "neck": ("neck",),
    "face": ("face", "left_eye_region", "right_eye_region", "forehead", "nose", "lips"),
    "scalp": ("scalp",),
}
"""Parts of ``FLAME_masks.pkl`` that make each of our regions; where they overlap the first has it."""


def read_regions(path: Path, computed: dict[str, BoolArray]) -> dict[str, BoolArray]:
    """Regions from FLAME's official ``FLAME_masks.pkl``.

    Args:
        path: the mask file.
        computed: regions from ``compute_regions``, for vertices that the file does not mention.
    """
    content = load_pickle(path)
    needed = {name for names in _FLAME_MASKS.values() for name in names}
    missing = needed - set(content) if isinstance(content, dict) else needed
    if missing:
        raise ValueError(f"{path} is not a FLAME mask file: it lacks {', '.join(sorted(missing))}")
    count = len(computed["face"])
    free = np.ones(count, dtype=bool)
    regions = {}
    for region, names in _FLAME_MASKS.items():
        mask = np.zeros(count, dtype=bool)
        for name in names:
            indices = to_array(content[name])
            if indices.dtype.kind not in "iu" or (
                len(indices) and not 0 <= indices.min() <= indices.max() < count
            ):
                raise ValueError(f"{path} does not fit the head: {name!r} needs vertices below {count}")
            mask[indices] = True
        regions[region] = mask & free
        free &= ~mask
    return {name: regions.get(name, np.zeros_like(free)) | (computed[name] & free) for name in REGIONS}


def released_regions(
    hair: Path, neck: Path, basis: Path | None, others: dict[str, BoolArray]
) -> dict[str, BoolArray]:
    """Regions whose scalp, neck and shoulders are exactly the vertices that the ROME release moves.

    Args:
        hair: the release's ``hair_list.pkl``.
        neck: the release's ``neck_list.pkl``.
        basis: the release's ``u_full.pt``, if the user has it: of the neck list the release moves only the
            vertices on which this basis has support (299 of 378).
        others: regions of the remaining vertices; those of them that may move are given to the face.
    """
    count = len(others["face"])
    hair_mask, neck_mask = _listed(hair, count), _listed(neck, count)
    if basis is not None:
        components = torch.load(basis, map_location="cpu", weights_only=True)
        if components.shape[0] != 3 * count:
            raise ValueError(
                f"{basis} does not fit the head: it has {components.shape[0]} rows, expected {3 * count}"
            )
        neck_mask &= (components.view(count, -1).abs().sum(1) > 0).numpy()
    regions = {name: mask & ~hair_mask & ~neck_mask for name, mask in others.items()}
    shoulders = neck_mask & others["shoulders"]
    fixed = regions["scalp"] | regions["neck"] | regions["shoulders"] | regions["face"]
    return regions | {
        "face": fixed,
        "scalp": hair_mask,
        "neck": neck_mask & ~shoulders,
        "shoulders": shoulders,
    }


def _listed(path: Path, count: int) -> BoolArray:
    """Mask of the vertices in a pickled list of indices."""
    indices = np.asarray(load_pickle(path))
    if indices.ndim != 1 or indices.dtype.kind not in "iu" or not 0 <= indices.min() <= indices.max() < count:
        raise ValueError(f"{path} is not a list of vertices below {count}")
    mask = np.zeros(count, dtype=bool)
    mask[indices] = True
    return mask


def compute_regions(
    vertices: FloatArray, faces: IntArray, weights: FloatArray, joints: FloatArray
) -> dict[str, BoolArray]:
    """Approximate regions from skinning weights, joints and proportions.

    The distance of the eye joints is the unit: hairline, ears and jaw line follow average proportions
    of a head. Their borders are a guide for where offsets may grow, not anatomy.

    Args:
        vertices: (v, 3) mean head, metres.
        faces: (f, 3).
        weights: (v, 5) skinning weights in the order of ``JOINTS``.
        joints: (5, 3) rest positions in the order of ``JOINTS``.
    """
    jaw, unit = joints[2], float(np.linalg.norm(joints[3] - joints[4]))
    eye_height = joints[3:, 1].mean()
    pieces = np.zeros(len(vertices), dtype=np.int64)
    labels = face_components(faces)
    pieces[faces.reshape(-1)] = np.repeat(labels, 3)
    eyes = (weights[:, 3:].sum(1) > 0.5) | (pieces != np.bincount(labels).argmax())
    x, y, z = vertices.T
    moved_by_jaw = weights[:, 2] > 0.5
    jaw_points = vertices[moved_by_jaw] if moved_by_jaw.any() else jaw[None]
    chin = jaw_points[jaw_points[:, 1].argmin()]
    # The jaw line runs from below the chin to the nape, a little under the jaw joint.
    nape = np.array([jaw[1] - 0.3 * unit, z.min()])
    slope = (chin[1] - nape[0]) / (chin[2] - nape[1])
    below_jaw = (y < nape[0] + slope * (z - nape[1])) & ~moved_by_jaw
    shoulders = below_jaw & ((weights[:, 0] > 0.5) | _rim(faces, vertices, len(vertices)))
    skull = np.abs(x[(y > eye_height + 0.6 * unit) & ~eyes]).max(initial=unit)
    ears = (np.abs(x) > 0.94 * skull) & (y < eye_height + 0.5 * unit) & (y > jaw[1] - 0.3 * unit)
    ears &= (z < jaw[2] + 0.3 * unit) & (z > jaw[2] - 0.9 * unit)
    # The hairline rises from the jaw joint to the forehead.
    front = np.array([eye_height + 1.0 * unit, joints[3:, 2].mean() + 0.2 * unit])
    across = (z - jaw[2]) * (front[0] - jaw[1]) - (y - jaw[1]) * (front[1] - jaw[2])
    order = {"eyes": eyes, "shoulders": shoulders, "neck": below_jaw, "ears": ears, "scalp": across < 0}
    free, regions = np.ones(len(vertices), dtype=bool), {}
    for name, mask in order.items():
        regions[name] = mask & free
        free &= ~mask
    return {"face": free, "mouth": np.zeros_like(free), **regions}


def _rim(faces: IntArray, vertices: FloatArray, count: int) -> BoolArray:
    """Vertices of the lowest boundary loop: the lower edge of the neck."""
    mask = np.zeros(count, dtype=bool)
    loops = boundary_loops(faces)
    if loops:
        mask[min(loops, key=lambda loop: vertices[loop, 1].mean())] = True
    return mask
