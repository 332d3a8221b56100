"""Generic mouths and eyes."""

import dataclasses

import torch

from rome_lightning.geometry import project
from rome_lightning.head import HeadModel, load_head
from rome_lightning.head.mouth import mouth_parts
from rome_lightning.models.interior import CAVITY, FLOOR, GUMS, TEETH, TONGUE, interior_colours
from rome_lightning.renderer import UVLayout, get_rasterizer
from rome_lightning.types import HeadParams

SIZE = 256


def open_mouth(head: HeadModel, jaw: float, tongue_out: float = 0.0) -> tuple[torch.Tensor, ...]:
    """Pixels of a frontal head that show tongue, upper teeth, lower teeth, and the whole mouth."""
    params = HeadParams.neutral(1, head.num_shape, head.num_expression)
    expression = params.expression.clone()
    expression[:, head.expression_names.index("jawOpen")] = jaw
    expression[:, head.expression_names.index("tongueOut")] = tongue_out
    params = dataclasses.replace(params, expression=expression)
    vertices_px = project(head.to_world(head(params), params), params.camera, (SIZE, SIZE))
    ids = get_rasterizer("torch").face_ids(vertices_px, head.faces, (SIZE, SIZE))
    corner = head.faces[ids.clamp_min(0).long(), 0]
    parts = (*mouth_parts(head), head.region("mouth"))
    return tuple(part[corner] & (ids >= 0) for part in parts)


def test_an_open_mouth_shows_teeth_above_a_tongue_and_a_closed_one_nothing() -> None:
    head = load_head("open")
    tongue, upper, lower, mouth = open_mouth(head, 0.6)
    assert int(upper.sum()) > 0.1 * int(mouth.sum())
    assert int(upper.sum()) > int(lower.sum())

    def height(pixels: torch.Tensor) -> float:
        return float(pixels.nonzero()[:, 1].float().mean())

    assert height(upper) < height(tongue)
    # The tongue lies on the lower teeth.
    assert int(tongue.sum()) > 0.3 * int(mouth.sum())
    assert int(tongue.sum()) < 0.8 * int(mouth.sum())
    # Wide open it shows the lower teeth too.
    tongue, _, lower, mouth = open_mouth(head, 1.0)
    assert 0.02 * int(mouth.sum()) < int(lower.sum()) < 0.2 * int(mouth.sum())
    assert height(tongue) < height(lower)
    closed = open_mouth(head, 0.0)[3]
    assert int(closed.sum()) <= 0.05 * int(mouth.sum())


def test_a_tongue_leaves_the_mouth_between_the_lips() -> None:
    head = load_head("open")
    tongue, upper, _, _ = open_mouth(head, 0.4, tongue_out=1.0)
    rows = tongue[0].any(1).nonzero().flatten()
    assert len(rows) > 5
    # One piece that begins below the upper teeth: a tongue that lies too low comes out through the chin.
    assert torch.equal(rows, torch.arange(int(rows[0]), int(rows[-1]) + 1))
    assert int(rows[0]) <= int(upper[0].any(1).nonzero().max()) + 2
    inside = open_mouth(head, 0.4)[3]
    assert int((tongue & inside).sum()) > 0.2 * int(inside.sum())


def test_shadows_between_teeth_are_as_dark_in_coarse_textures() -> None:
    """Their share of the light, not their contrast: lines thinner than a texel would come and go."""
    head = load_head("open")
    taken = []
    for size in (256, 1024):
        layout = UVLayout(head.faces, head.uvs, head.uv_faces, size)
        positions = layout.gather(head.to_vertices(head.template.unflatten(0, (-1, 3)))[None])[0]
        upper = layout.gather(mouth_parts(head)[1].float()[None, :, None])[0, 0] > 0.5
        # In front, below the gums.
        low = positions[1] < float(positions[1, upper].min()) + 0.006
        front = upper & low & (positions[2] > float(positions[2, upper].max()) - 0.005)
        colours = interior_colours(head, layout, positions)[:, front]
        taken.append(1 - float(colours.mean()) / (sum(TEETH) / 3))
    assert 0.02 < taken[1] < 0.3
    assert abs(taken[0] - taken[1]) < 0.25 * taken[1]


def test_colours_are_those_of_the_parts_and_darker_behind() -> None:
    head = load_head("open")
    layout = UVLayout(head.faces, head.uvs, head.uv_faces, SIZE)
    mean = head.to_vertices(head.template.unflatten(0, (-1, 3)))[None]
    positions = layout.gather(mean)[0]
    colours = interior_colours(head, layout, positions)
    tongue, upper, lower = (
        layout.gather(part.float()[None, :, None])[0, 0] > 0.5 for part in mouth_parts(head)
    )
    front = positions[2] > float(positions[2, upper].max()) - 0.004
    # At the edge of the front teeth is enamel, at their roots are gums.
    edge = upper & front & (positions[1] < float(positions[1, upper].min()) + 0.004)
    root = upper & front & (positions[1] > float(positions[1, upper].min()) + 0.012)
    assert (colours[:, edge].amax(1) - torch.tensor(TEETH)).abs().max() < 0.02
    assert (colours[:, root].amax(1) - torch.tensor(GUMS)).abs().max() < 0.02
    # Shadows between the teeth.
    assert float((colours[:, edge].sum(0) < 0.9 * sum(TEETH)).float().mean()) > 0.05
    for part, colour in ((tongue, TONGUE), (upper, TEETH), (lower, TEETH)):
        brightness, depth = colours[:, part].sum(0), positions[2, part]
        order = depth.argsort()
        tenth = max(1, len(order) // 10)
        assert brightness[order[:tenth]].mean() < 0.75 * brightness[order[-tenth:]].mean()
        assert brightness.max() <= sum(colour) + 1e-5
    cavity = layout.gather(head.region("mouth").float()[None, :, None])[0, 0] > 0.5
    cavity &= ~(tongue | upper | lower)
    # Its floor is as light as gums, the rest of it dark.
    floor = positions[1] < float(positions[1, lower].max()) - FLOOR
    assert (colours[:, cavity & floor].amax(1) - torch.tensor(GUMS)).abs().max() < 0.02
    above = positions[1] > float(positions[1, lower].max())
    assert colours[:, cavity & above].amax(1).sum() <= sum(CAVITY) + 1e-5
