"""UV layout, texture lookup, unprojection and extension."""

import numpy as np
import pytest
import torch
from renderer_meshes import sphere
from torch.nn import functional as F

from rome_lightning.renderer import (
    UVLayout,
    extend_outside,
    get_rasterizer,
    interpolate,
    push_pull,
    sample_texture,
    unproject,
)
from rome_lightning.renderer import nearest_fill as extension

IMAGE_SIZE = 64


def front_of_sphere(size: int = 48):
    """A hemisphere that faces the camera, with UVs projected from the front."""
    vertices, faces = sphere(24.0, (31.4, 30.8), subdivisions=4)
    kept = vertices[0, faces].mean(1)[:, 2] < -4
    uvs = (vertices[0, :, :2] - torch.tensor([31.4, 30.8])) / 52 + 0.5
    return vertices, faces[kept], uvs, UVLayout(faces[kept], uvs, faces[kept], size)


def smooth_image() -> torch.Tensor:
    rows, columns = torch.meshgrid(*[torch.arange(float(IMAGE_SIZE))] * 2, indexing="ij")
    return torch.stack([rows / 64, columns / 64, torch.sin(rows / 9) * torch.cos(columns / 7)])[None]


def unprojected(image, vertices, faces, layout, rasterizer):
    """``unproject`` an image through the mesh's visible faces."""
    face_ids = rasterizer.face_ids(vertices, faces, image.shape[-2:])
    return unproject(image, vertices, faces, face_ids, layout)


def test_texels_see_their_own_uv():
    _, _, uvs, layout = front_of_sphere()
    uv = layout.gather(uvs[None])
    centres = (torch.arange(layout.size) + 0.5) / layout.size
    expected = torch.stack(torch.meshgrid(centres, centres, indexing="xy"))
    assert 0.3 < layout.mask.float().mean() < 0.9
    torch.testing.assert_close(uv[0][:, layout.mask], expected[:, layout.mask], atol=1e-4, rtol=0)
    assert (uv[0][:, ~layout.mask] == 0).all()


def test_gather_sends_gradients_to_vertices():
    vertices, _, _, layout = front_of_sphere()
    leaf = vertices.clone().requires_grad_()
    layout.gather(leaf).sum().backward()
    # Weights of a texel sum to 1.
    torch.testing.assert_close(leaf.grad.sum(1), layout.mask.sum().expand(1, 3).float(), rtol=1e-4, atol=0)


def test_layout_with_wrong_faces_raises():
    _, faces, uvs, _ = front_of_sphere()
    with pytest.raises(ValueError, match="one row per face"):
        UVLayout(faces, uvs, faces[:-1], 16)


def test_sample_texture_reads_texel_centres():
    texture = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    centres = (torch.arange(8) + 0.5) / 8
    uv = torch.stack(torch.meshgrid(centres, centres, indexing="xy"))[None].repeat(2, 1, 1, 1)
    mask = torch.ones(2, 1, 8, 8)
    mask[:, :, 0] = 0
    sampled = sample_texture(texture, uv, mask)
    torch.testing.assert_close(sampled, texture * mask)
    torch.testing.assert_close(sample_texture(texture, uv), texture.expand(2, -1, -1, -1))


def test_unprojected_image_renders_back(rasterizer):
    """From image to texture and back gives the image, up to two bilinear lookups."""
    vertices, faces, uvs, layout = front_of_sphere(96)
    image = smooth_image()
    texture, visibility, _ = unprojected(image, vertices, faces, layout, rasterizer)
    ids = rasterizer.face_ids(vertices, faces, (IMAGE_SIZE, IMAGE_SIZE))
    uv = interpolate(vertices, faces, ids, uvs[None])
    rendered = sample_texture(texture, uv)
    reliable = (ids[:, None] >= 0) & (sample_texture(visibility, uv) > 0.95)
    assert reliable.float().mean() > 0.2
    error = ((rendered - image).abs() * reliable).amax()
    assert error < 0.01


def test_values_are_the_image_at_the_surface(rasterizer):
    vertices, faces, _, layout = front_of_sphere()
    columns = torch.arange(float(IMAGE_SIZE)).expand(1, 1, IMAGE_SIZE, IMAGE_SIZE).contiguous()
    values, visibility, _ = unprojected(columns, vertices, faces, layout, rasterizer)
    x = layout.gather(vertices)[:, :1]
    seen = visibility > 0.5
    torch.testing.assert_close(values[seen], x[seen], atol=1e-3, rtol=0)


def test_hidden_averted_and_outside_texels_are_not_visible(rasterizer):
    """A small quad in front of a large one, and one seen from behind."""
    square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    far = torch.cat([square * 60 + 20, torch.full((4, 1), 5.0)], dim=1)
    near = torch.cat([square * 20 + 30, torch.full((4, 1), -5.0)], dim=1)
    averted = torch.cat([square * 15 + 1, torch.full((4, 1), 0.0)], dim=1)
    vertices = torch.cat([far, near, averted])[None]
    quad = torch.tensor([[0, 2, 1], [0, 3, 2]])
    faces = torch.cat([quad, quad + 4, quad.flip(1) + 8])
    third = torch.tensor([1 / 3, 1.0])
    uvs = torch.cat([(square * 0.96 + 0.02 + torch.tensor([float(i), 0.0])) * third for i in range(3)])
    layout = UVLayout(faces, uvs, faces, 60)
    _, visibility, _ = unprojected(torch.ones(1, 1, 64, 64), vertices, faces, layout, rasterizer)
    back, front, averted = (visibility[0, 0, :, 20 * i : 20 * (i + 1)] for i in range(3))
    assert front[30, 10] > 0.999
    assert (averted == 0).all()
    position = layout.gather(vertices)[0, :2, :, :20]
    behind = ((position > 31) & (position < 49)).all(0)
    outside = (position > 64).any(0)
    free = ((position > 21) & (position < 62)).all(0) & ((position < 28) | (position > 52)).any(0)
    assert behind.any()
    assert outside.any()
    assert (back[behind] == 0).all()
    assert (back[outside] == 0).all()
    assert (back[free] > 0.999).all()


def test_visibility_falls_towards_grazing_angles(rasterizer):
    vertices, faces, _, layout = front_of_sphere()
    _, visibility, _ = unprojected(smooth_image(), vertices, faces, layout, rasterizer)
    row = visibility[0, 0, layout.size // 2]
    assert row[layout.size // 2] == 1
    left = row[: layout.size // 2]
    assert (left.diff() >= -0.05).all()
    assert ((left > 0.05) & (left < 0.95)).any()


def brute_force_nearest(mask: np.ndarray) -> np.ndarray:
    """Compare each pixel with each covered one; ties are broken by column, then row."""
    covered = np.argwhere(mask)
    source = np.full(mask.shape, -1)
    for row, column in np.ndindex(*mask.shape):
        key = [((row - r) ** 2 + (column - c) ** 2, c, r) for r, c in covered]
        if key:
            _, c, r = min(key)
            source[row, column] = r * mask.shape[1] + c
    return source


@pytest.mark.parametrize("share", [0.0, 0.003, 0.02, 0.5, 1.0])
def test_nearest_pixel_equals_brute_force(share):
    mask = torch.rand(3, 19, 26, generator=torch.Generator().manual_seed(1)) < share
    expected = np.stack([brute_force_nearest(item) for item in mask.numpy()])
    for found, distance in (extension._search(mask), extension.nearest_covered(mask)):
        assert np.array_equal(found.numpy(), expected)
        rows, columns = np.divmod(expected, 26)
        away = np.hypot(rows - np.arange(19)[:, None], columns - np.arange(26)) / 26
        np.testing.assert_allclose(distance.numpy(), np.where(expected >= 0, away, 1), rtol=1e-6)


def test_extension_keeps_inside_and_reports_distance():
    mask = torch.zeros(2, 1, 12, 16, dtype=torch.bool)
    mask[0, 0, 3:6, 4:8] = True
    values = torch.randn(2, 3, 12, 16, generator=torch.Generator().manual_seed(0), requires_grad=True)
    extended, distance = extend_outside(values, mask)
    assert torch.equal(extended[0, :, 3:6, 4:8], values[0, :, 3:6, 4:8])
    assert (distance[0, 0, 3:6, 4:8] == 0).all()
    assert torch.equal(extended[0, :, 0, 0], values[0, :, 3, 4])
    assert distance[0, 0, 0, 0].item() == pytest.approx(5 / 16)
    assert (extended[1] == 0).all()
    assert (distance[1] == 1).all()
    extended.sum().backward()
    assert values.grad[0].sum() == 3 * 12 * 16
    assert values.grad[1].abs().sum() == 0
    assert (values.grad[~mask.expand_as(values)] == 0).all()


def test_extension_agrees_with_max_pooling_of_one_pixel():
    mask = torch.zeros(1, 1, 9, 9, dtype=torch.bool)
    mask[0, 0, 4, 4] = True
    _, distance = extend_outside(torch.ones(1, 1, 9, 9), mask)
    ring = F.max_pool2d(mask.float(), 3, 1, 1).bool() & ~mask
    assert ((distance[ring] * 9).round(decimals=3).unique() == torch.tensor([1.0, 1.414])).all()


def test_layout_moves_with_its_module():
    _, _, _, layout = front_of_sphere()
    assert not layout.state_dict()
    assert layout.to("cpu").face_ids.device.type == "cpu"
    assert get_rasterizer("auto").name in ("warp", "torch")


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (7, 64), (256, 512), (64, 7)])
def test_pictures_of_any_shape_are_filled_from_what_is_known(size: tuple[int, int]) -> None:
    """For an image twice as wide as high, the smallest scale is not a single pixel."""
    known = torch.zeros(1, 1, *size)
    known[..., 0, 0] = 1
    assert torch.allclose(push_pull(torch.full((1, 3, *size), 0.4) * known, known), torch.tensor(0.4))
    nothing = torch.zeros_like(known)
    assert push_pull(torch.ones(1, 3, *size), nothing).abs().max() == 0
