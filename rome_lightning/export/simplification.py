"""Levels of detail: a surface with fewer triangles, whose vertices are some of those that it had.

As no vertex is new, each keeps its skin weights, its displacements under every expression and its place in
the texture exactly. Vertices on seams of the texture and on borders all stay, so that nothing tears.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rome_lightning.export.surface import Surface

_CALM = 3.0
"""The library's pace: slow enough for the wanted number, and near to the shape."""


def load_simplifier() -> Any:
    """The library that collapses edges.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import fast_simplification
    except ImportError as error:
        raise ImportError("--lod needs fast-simplification: pip install rome-lightning[lod]") from error
    return fast_simplification


def simplified(surface: Surface, points: Float[Tensor, "v 3"], share: float) -> Surface:
    """The surface with a share of its triangles, or as near to it as seams and borders allow.

    Args:
        surface: to simplify.
        points: vertices of the mesh that the surface is a part of, metres.
        share: of the triangles, in (0, 1).

    Raises:
        ValueError: ``share`` is not between 0 and 1.
        ImportError: the library that collapses edges is not installed.

    Source: Garland and Heckbert, Surface simplification using quadric error metrics, 1997.
    """
    if not 0 < share < 1:
        raise ValueError(f"a level of detail is a share of the triangles between 0 and 1, got {share}")
    library = load_simplifier()
    corners = surface.carry(points.double()).numpy()
    faces = surface.faces.numpy().astype(np.int32)
    *_, collapses = library.simplify(
        corners, faces, 1 - share, agg=_CALM, return_collapses=True, preserve_border=True
    )
    moved, fewer, new = library.replay_simplification(corners, faces, collapses)
    kept = _nearest_members(corners, np.asarray(moved), np.asarray(new))
    index = torch.from_numpy(kept)
    return Surface(
        surface.weights[kept],
        surface.uvs[index],
        torch.from_numpy(np.asarray(fewer)).long(),
        surface.cap[index],
    )


def _nearest_members(points: np.ndarray, moved: np.ndarray, new: np.ndarray) -> np.ndarray:
    """For each vertex that is left, the nearest of those that were merged into it."""
    distance = np.linalg.norm(points - moved[new], axis=-1)
    order = np.lexsort((distance, new))
    _, first = np.unique(new[order], return_index=True)
    return order[first]
