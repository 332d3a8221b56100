"""The texture layout of the open head: no overlaps, no mirrored charts, most texels for the face."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import pieces
from scipy import ndimage

from rome_lightning.head import REGIONS, HeadModel
from rome_lightning.head.open_head import load_open_head

ATLAS = 1024
"""Texels per side for finding overlaps and gaps in the atlas."""


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_open_head()


@pytest.fixture(scope="module")
def coverage(head: HeadModel) -> tuple[np.ndarray, np.ndarray]:
    """Number of faces that cover each texel centre, and their chart (from 1)."""
    corners = head.uvs.numpy()[head.uv_faces.numpy()].astype(np.float64) * ATLAS - 0.5
    charts = pieces(head.uv_faces.numpy()) + 1
    count = np.zeros((ATLAS, ATLAS), np.int32)
    owner = np.zeros((ATLAS, ATLAS), np.int32)
    for (a, b, c), chart in zip(corners, charts, strict=True):
        low = np.ceil(np.minimum(np.minimum(a, b), c)).astype(int)
        high = np.floor(np.maximum(np.maximum(a, b), c)).astype(int)
        x, y = np.meshgrid(np.arange(low[0], high[0] + 1), np.arange(low[1], high[1] + 1))

        def side(p: np.ndarray, q: np.ndarray, x: np.ndarray = x, y: np.ndarray = y) -> np.ndarray:
            # v points down, so faces that are counter-clockwise on the surface are clockwise here.
            return (y - p[1]) * (q[0] - p[0]) - (x - p[0]) * (q[1] - p[1])

        inside = (side(a, b) < -1e-6) & (side(b, c) < -1e-6) & (side(c, a) < -1e-6)
        count[y[inside], x[inside]] += 1
        owner[y[inside], x[inside]] = chart
    return count, owner


def test_uvs_are_inside_the_square_and_unmirrored(head: HeadModel) -> None:
    uvs, faces = head.uvs.numpy(), head.uv_faces.numpy()
    assert uvs.min() > 0
    assert uvs.max() < 1
    a, b, c = (uvs[faces[:, i]].astype(np.float64) for i in range(3))
    area = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
    assert area.max() < 0


def test_no_two_faces_share_a_texel(coverage: tuple[np.ndarray, np.ndarray]) -> None:
    count, _ = coverage
    assert count.max() == 1
    assert count.mean() > 0.7


def test_charts_keep_their_distance(coverage: tuple[np.ndarray, np.ndarray]) -> None:
    _, owner = coverage
    gap = 4 * ATLAS // 256
    for chart in range(1, owner.max() + 1):
        near = ndimage.distance_transform_edt(owner != chart) < gap
        assert set(np.unique(owner[near])) <= {0, chart}
    border = np.concatenate(
        [owner[:8].ravel(), owner[-8:].ravel(), owner[:, :8].ravel(), owner[:, -8:].ravel()]
    )
    assert not border.any()


def test_most_texels_go_to_the_face(head: HeadModel) -> None:
    uvs, faces = head.uvs.numpy(), head.uv_faces.numpy()
    a, b, c = (uvs[faces[:, i]] for i in range(3))
    area = np.abs((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]) / 2
    share = {name: area[head.region(name).numpy()[head.faces.numpy()].all(1)].sum() for name in REGIONS}
    assert max(share, key=share.__getitem__) == "face"
    assert share["face"] * 256**2 > 15_000


def test_uv_corners_agree_with_the_mesh(head: HeadModel) -> None:
    """A texture coordinate belongs to one vertex."""
    pairs = {(int(u), int(v)) for u, v in zip(head.uv_faces.ravel(), head.faces.ravel(), strict=True)}
    assert len(pairs) == len(head.uvs)
