"""PyTorch3D's choice of faces and weights, reproduced in torch."""

from pathlib import Path

import pytest
import torch
from renderer_meshes import bumpy, sphere
from safetensors.torch import load_file

from rome_lightning.renderer import UVLayout, get_rasterizer, interpolate, released_share
from rome_lightning.renderer.released import AREA_EPSILON, released_faces

SIZE = (48, 40)


def test_visible_faces_are_pytorch3ds() -> None:
    golden = load_file(Path(__file__).with_name("golden_pytorch3d.safetensors"))
    ids = get_rasterizer("release").face_ids(golden["vertices_px"], golden["faces"].long(), SIZE)
    assert torch.equal(ids, golden["ids"].int())


def test_edges_belong_to_nobody_and_ties_go_to_the_first() -> None:
    square = torch.tensor([[[0.0, 0, 5], [8, 0, 5], [8, 8, 5], [0, 8, 5]]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    ids = get_rasterizer("release").face_ids(square, faces, (10, 10))[0]
    # The diagonal runs through pixel centres.
    assert (ids.diagonal()[1:8] == -1).all()
    assert ids[2, 5] == 0
    assert ids[5, 2] == 1
    twice = torch.cat([faces[:1], faces[:1]])
    assert set(get_rasterizer("release").face_ids(square, twice, (10, 10)).unique().tolist()) == {-1, 0}


def test_weights_sum_to_the_share() -> None:
    vertices, faces = sphere(15.0, (19.3, 23.6))
    vertices = bumpy(vertices, 1.5)
    ids = get_rasterizer("release").face_ids(vertices, faces, SIZE)
    share = released_share(vertices, faces, ids)
    row, column = (ids[0] >= 0).nonzero()[100].tolist()
    a, b, c = vertices[0, faces[int(ids[0, row, column])], :2].double() * 2 / 40
    area = (c - a)[0] * (b - a)[1] - (c - a)[1] * (b - a)[0]
    assert float(share[0, 0, row, column]) == pytest.approx(float(area / (area + AREA_EPSILON)), rel=1e-6)
    assert float(share[0, 0, 0, 0]) == 1
    ones = interpolate(vertices, faces, ids, torch.ones(1, vertices.shape[1], 1))
    assert ((ones * share).sum() - share[ids[:, None] >= 0].sum()).abs() < 1e-2


def test_uv_maps_follow_the_same_rules() -> None:
    uvs = torch.tensor([[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    layout = UVLayout(faces, uvs, faces, 16, released=True)
    points = torch.cat([1 - 2 * uvs, torch.ones(4, 1)], dim=1)[None]
    assert torch.equal(layout.face_ids, released_faces(points, faces, (16, 16)))
    constant = layout.gather(torch.ones(1, 4, 1))
    assert 0 < float(1 - constant[layout.mask[None, None]].min()) < 1e-6
