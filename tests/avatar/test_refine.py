import dataclasses

import torch
from helpers import SIZE, random_frames, small_config

from rome_lightning.avatar.refine import encode_refined, refine_offsets
from rome_lightning.head.depth import foreshortening
from rome_lightning.head.moving import MOVING_REGIONS
from rome_lightning.models import FullAvatar
from rome_lightning.renderer import coverage
from rome_lightning.types import Region
from rome_lightning.types.params import at_rest


def test_outline_grows_to_a_larger_head_and_the_face_stays() -> None:
    torch.manual_seed(0)
    model = FullAvatar(small_config()).eval().requires_grad_(False)
    head = model.head
    source = random_frames(head, 1)
    bare = model.project(head(source.params), source.params, (SIZE, SIZE))
    # The target outline is the bare head's, with hair and shoulders enlarged by two pixels.
    outline = coverage(bare, head.faces, model.rasterizer.face_ids(bare, head.faces, (SIZE, SIZE)))
    wanted = torch.nn.functional.max_pool2d(outline, 5, stride=1, padding=2)
    source = dataclasses.replace(source, foreground_mask=wanted)
    code = model.encode(source)

    refined = dataclasses.replace(code, offsets=refine_offsets(model, code.offsets, source, num_steps=60))

    mesh = model.deform(refined, source.params)
    # The skin beside an ear moves with it.
    moving = head.region(*MOVING_REGIONS, "ears", "face")
    assert mesh.offsets[:, ~moving].abs().max() == 0
    after = model.project(mesh.vertices, source.params, (SIZE, SIZE))
    grown = coverage(after, head.faces, model.rasterizer.face_ids(after, head.faces, (SIZE, SIZE)))
    # The chin is part of the outline too, but cannot move.
    assert (grown - wanted).square().mean() < 0.6 * (outline - wanted).square().mean()
    assert refine_offsets(model, code.offsets, source, num_steps=0) is code.offsets


def test_avatars_of_fitted_offsets_get_theirs_at_creation() -> None:
    torch.manual_seed(0)
    model = FullAvatar(small_config(kind="fitted")).eval().requires_grad_(False)
    source = dataclasses.replace(random_frames(model.head, 1), foreground_mask=torch.ones(1, 1, SIZE, SIZE))
    code = model.encode(source)
    refined = encode_refined(model, source, num_steps=5)
    depth = foreshortening(model.head, model.head(at_rest(source.params)))
    torch.testing.assert_close(code.offsets, depth)
    assert (refined.offsets - depth).abs().max() > 1e-3
    assert not torch.equal(refined.texture, code.texture)


def test_visible_ears_are_fitted_before_the_outline() -> None:
    torch.manual_seed(0)
    model = FullAvatar(small_config()).eval().requires_grad_(False)
    source = random_frames(model.head, 1)
    code = model.encode(source)
    moved = []
    for label in (Region.FACE_SKIN, Region.HAIR):
        labelled = dataclasses.replace(source, regions=torch.full_like(source.regions, int(label)))
        refined = refine_offsets(model, code.offsets, labelled, num_steps=1)
        moved.append((refined - code.offsets)[:, model.head.region("ears")].abs().max())
    assert moved[0] > 1e-3
    assert moved[1] == 0
