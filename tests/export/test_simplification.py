"""Levels of detail show the same person with fewer triangles: nothing tears, and everything still moves."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from glb_reader import Reader
from gltf_validator import khronos_issues
from scipy.spatial import cKDTree

from rome_lightning.export import Person, export_glb
from rome_lightning.export.bust import photograph_cut
from rome_lightning.export.glb import rest_and_joints
from rome_lightning.export.simplification import simplified
from rome_lightning.export.surface import Surface, bust_surface
from rome_lightning.head import HeadModel

SHARES = (0.5, 0.25)


@pytest.fixture(scope="module")
def person(head: HeadModel, shape: torch.Tensor, offsets: torch.Tensor) -> Person:
    pytest.importorskip("fast_simplification")
    rest, _ = rest_and_joints(head, shape, offsets)
    shown = torch.ones(head.num_vertices, dtype=torch.bool)
    surface = bust_surface(head, rest, photograph_cut(head, rest, shown))
    return Person(head, shape, offsets, torch.full((3, 64, 64), 0.5), surface)


@pytest.fixture(scope="module")
def levels(person: Person) -> dict[float, Surface]:
    rest, _ = rest_and_joints(person.head, person.shape, person.offsets)
    assert person.surface is not None
    return {1.0: person.surface} | {share: simplified(person.surface, rest, share) for share in SHARES}


@pytest.fixture(scope="module")
def files(
    person: Person, levels: dict[float, Surface], tmp_path_factory: pytest.TempPathFactory
) -> dict[float, Path]:
    folder = tmp_path_factory.mktemp("levels")
    return {
        share: export_glb(folder / f"{share}.glb", dataclasses.replace(person, surface=surface))
        for share, surface in levels.items()
    }


def welded(surface: Surface, rest: torch.Tensor) -> np.ndarray:
    """Triangles of positions: vertices split at a texture seam are merged."""
    points = surface.carry(rest.double()).numpy()
    _, place = np.unique(points.round(7), axis=0, return_inverse=True)
    return place.reshape(-1)[surface.faces.numpy()]


def open_edges(triangles: np.ndarray) -> tuple[int, int]:
    """Edges of one triangle, and of more than two."""
    edges = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), 1)
    _, times = np.unique(edges, axis=0, return_counts=True)
    return int((times == 1).sum()), int((times > 2).sum())


@pytest.mark.parametrize("share", SHARES)
def test_fewer_triangles_and_no_new_hole(share: float, person: Person, levels: dict[float, Surface]) -> None:
    rest, _ = rest_and_joints(person.head, person.shape, person.offsets)
    whole, level = welded(levels[1.0], rest), welded(levels[share], rest)
    assert len(level) == pytest.approx(share * len(whole), rel=0.02)
    assert open_edges(level) == open_edges(whole)
    # No triangle is degenerate.
    assert (np.diff(np.sort(level, 1)) > 0).all()


@pytest.mark.parametrize("share", SHARES)
def test_every_vertex_is_one_of_the_whole(share: float, files: dict[float, Path]) -> None:
    whole, level = Reader(files[1.0]), Reader(files[share])
    names = ("POSITION", "TEXCOORD_0", "NORMAL", "WEIGHTS_0")

    def rows(read: Reader) -> np.ndarray:
        own = [read[getattr(read.primitive.attributes, name)] for name in names]
        moves = [read.target(name) for name in ("jawOpen", "mouthSmileLeft", "eyeBlinkRight")]
        return np.concatenate([*own, *moves], axis=1)

    distance, _ = cKDTree(rows(whole)).query(rows(level))
    assert distance.max() < 1e-6


@pytest.mark.parametrize(("share", "bound"), [(0.5, 1.5e-3), (0.25, 4e-3)])
def test_the_shape_stays(share: float, bound: float, files: dict[float, Path]) -> None:
    """Under an expression too: from each vertex of the whole to the surface of the level, metres."""
    weights = {"jawOpen": 0.7, "mouthSmileLeft": 0.8}
    whole, level = Reader(files[1.0]), Reader(files[share])
    triangles = level.pose(weights)[level[level.primitive.indices].reshape(-1, 3)]
    # Each triangle by a grid of barycentric coordinates.
    steps = np.array([(i, j, 8 - i - j) for i in range(9) for j in range(9 - i)]) / 8
    points = np.einsum("sc,tcx->tsx", steps, triangles).reshape(-1, 3)
    distance, _ = cKDTree(points).query(whole.pose(weights))
    assert np.quantile(distance, 0.99) < bound


@pytest.mark.parametrize("share", SHARES)
def test_khronos_validator_finds_nothing(share: float, files: dict[float, Path]) -> None:
    assert khronos_issues(files[share]) == []


def test_a_share_is_between_0_and_1(person: Person, levels: dict[float, Surface]) -> None:
    rest, _ = rest_and_joints(person.head, person.shape, person.offsets)
    with pytest.raises(ValueError, match="between 0 and 1, got 1"):
        simplified(levels[1.0], rest, 1.0)
