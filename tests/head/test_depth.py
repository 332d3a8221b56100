"""The depth of heads in photographs."""

import dataclasses

import pytest
import torch

from rome_lightning.geometry import project
from rome_lightning.head import load_head
from rome_lightning.head.depth import (
    DEPTH,
    DEPTH_BEHIND,
    HAIR,
    ROOTS,
    SOFTNESS,
    behind_ears,
    foreshortening,
)
from rome_lightning.head.mouth import lower_roots, mouth_parts
from rome_lightning.head.moving import smooth_mask
from rome_lightning.renderer import get_rasterizer
from rome_lightning.types import HeadParams

SIZE = 512


def test_distances_behind_eyes_and_ears_shrink_and_the_order_of_depths_is_kept() -> None:
    head = load_head("open")
    rest = head.to_vertices(head.template.unflatten(0, (-1, 3)))[None]
    shrunk = rest + foreshortening(head, rest)
    assert torch.equal(shrunk[..., :2], rest[..., :2])
    before, after = rest[0, :, 2], shrunk[0, :, 2].clone()
    # Hair is a layer on the scalp, thinner at the hairline and nowhere else.
    thickness = smooth_mask(head.region("scalp"), head.edges) * HAIR
    assert not thickness[~head.region("scalp")].any()
    after -= thickness
    eyes, ears = (float(before[head.region(name)].mean()) for name in ("eyes", "ears"))
    roots = lower_roots(head) > 0
    front = (before >= eyes) & ~roots
    torch.testing.assert_close(after[front], before[front], atol=1e-7, rtol=0)
    side = (before < eyes) & (behind_ears(head, rest)[0, :, 0] == 0) & ~roots
    torch.testing.assert_close(eyes - after[side], DEPTH * (eyes - before[side]), atol=1e-6, rtol=0)
    back = int(torch.where(head.region("scalp"), before, torch.inf).argmin())
    assert behind_ears(head, rest)[0, back] == 1
    ears_after = eyes - DEPTH * (eyes - ears)
    found = float(ears_after - after[back]) / float(ears - before[back])
    assert found == pytest.approx(DEPTH * DEPTH_BEHIND, abs=1e-5)
    scalp = head.region("scalp") & (before < ears - SOFTNESS - 0.001)
    assert (after[scalp][before[scalp].argsort()].diff() >= -1e-6).all()


def test_the_teeth_of_a_wide_open_mouth_stay_behind_the_chin() -> None:
    head = load_head("open")
    rest = head.to_vertices(head.template.unflatten(0, (-1, 3)))[None]
    offsets = foreshortening(head, rest)
    roots = lower_roots(head)
    *_, lower = mouth_parts(head)
    assert 0 < (roots > 0).sum() < lower.sum()
    params = HeadParams.neutral(1, head.num_shape, head.num_expression)
    shape, expression = params.shape.clone(), params.expression.clone()
    # A person with a very short chin.
    shape[0, 9] = 3
    wide = {
        "jawOpen": 1.0,
        "mouthLowerDownLeft": 0.9,
        "mouthLowerDownRight": 0.9,
        "mouthSmileLeft": 0.7,
        "mouthSmileRight": 0.7,
        "jawLeft": 0.2,
    }
    for name, weight in wide.items():
        expression[:, head.expression_names.index(name)] = weight
    params = dataclasses.replace(params, shape=shape, expression=expression)
    skin = head.faces[~head.region("mouth")[head.faces].all(1)]

    def through_the_chin(offsets: torch.Tensor) -> int:
        """Pixels where lower teeth are at most 12 mm in front of the skin they hide."""
        vertices = head.to_world(head(params) + head.turn(offsets, params), params)
        pixels = project(vertices, params.camera, (SIZE, SIZE))
        rasterizer = get_rasterizer("torch")
        all_ids, skin_ids = (rasterizer.face_ids(pixels, faces, (SIZE, SIZE)) for faces in (head.faces, skin))
        teeth, behind = head.faces[all_ids.clamp_min(0).long()], skin[skin_ids.clamp_min(0).long()]
        metres = float(params.camera[0, 0]) * SIZE / 2
        before = (pixels[0, behind, 2] - pixels[0, teeth, 2]).mean(-1) / metres
        is_tooth = lower[teeth].all(-1) & (all_ids >= 0) & (skin_ids >= 0)
        return int((is_tooth & (before > 0) & (before < 0.012)).sum())

    without = offsets.clone()
    without[0, :, 2] += ROOTS * roots
    assert through_the_chin(without) > 0
    assert through_the_chin(offsets) == 0
