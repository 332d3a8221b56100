"""The mirror image of the open head, against its own geometry."""

import torch

from rome_lightning.head import load_head
from rome_lightning.models.symmetry import mirrored_uvs, mirrored_vertices
from rome_lightning.renderer import UVLayout, sample_texture


def test_mirrored_vertices_lie_on_the_other_side_and_back() -> None:
    head = load_head("open")
    vertices = head.to_vertices(head.template.view(-1, 3))
    mirror = mirrored_vertices(head)
    flipped = vertices[mirror] * torch.tensor([-1.0, 1.0, 1.0])
    assert (flipped - vertices).norm(dim=1).max() < 1e-3
    assert torch.equal(mirror[mirror], torch.arange(len(mirror)))


def test_the_mirrored_texel_shows_the_mirrored_point_in_every_chart() -> None:
    head = load_head("open")
    layout = UVLayout(head.faces, head.uvs, head.uv_faces, 256)
    vertices = head.to_vertices(head.template.view(-1, 3))[None]
    positions = layout.gather(vertices)
    found = sample_texture(positions, mirrored_uvs(head, layout))
    expected = positions * torch.tensor([-1.0, 1.0, 1.0]).view(1, 3, 1, 1)
    # Inner texels only: at the border of a chart, bilinear lookups mix in its surroundings.
    inner = -torch.nn.functional.max_pool2d(-layout.mask[None, None].float(), 7, 1, 3) > 0
    distance = (found - expected).norm(dim=1, keepdim=True)[inner]
    assert distance.max() < 6e-3
    for region in ("face", "ears", "scalp", "neck", "shoulders", "eyes", "mouth"):
        mask = layout.gather(head.region(region).float()[None, :, None]) > 0.99
        assert (mask & inner).any(), region
