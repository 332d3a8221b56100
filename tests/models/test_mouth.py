"""The mouth in a photograph."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from helpers import random_frames, small_config
from skimage.draw import polygon2mask

from rome_lightning.models import AvatarModel
from rome_lightning.models.mouth import between_lids, between_lips, lip_vertices, same_mouth, widened
from rome_lightning.types.landmarks import EYE_OUTLINES, INNER_LIPS_OUTLINE, NUM_LANDMARKS

SIZE = (48, 64)


def test_the_opening_is_the_polygon_of_the_inner_lips() -> None:
    """Stars, which are not convex, against scikit-image; corners lie on no pixel centre."""
    generator = np.random.default_rng(0)
    landmarks = torch.zeros(2, NUM_LANDMARKS, 2)
    wanted = np.zeros((2, *SIZE), bool)
    for row in range(2):
        angle = np.linspace(0, 2 * np.pi, len(INNER_LIPS_OUTLINE) + 1)[:-1]
        radius = generator.uniform(2, 10, len(angle))
        corners = np.stack([30.3 + radius * np.cos(angle), 26.2 + radius * np.sin(angle)], -1)
        landmarks[row, list(INNER_LIPS_OUTLINE)] = torch.from_numpy(corners).float()
        wanted[row] = polygon2mask(SIZE, corners[:, ::-1])
    assert np.array_equal(between_lips(landmarks, SIZE)[:, 0].bool().numpy(), wanted)


def test_closed_lips_vanish_and_open_ones_grow_by_what_landmarks_miss() -> None:
    opening = torch.zeros(2, 1, 512, 512)
    opening[0, :, 100, 80:120] = 1
    opening[1, :, 100:110, 80:120] = 1
    wide = widened(opening)
    assert not wide[0].any()
    assert torch.equal(wide[1].nonzero().amin(0)[1:], torch.tensor([99, 79]))
    assert torch.equal(wide[1].nonzero().amax(0)[1:], torch.tensor([110, 120]))


@pytest.fixture(scope="module")
def model() -> AvatarModel:
    torch.manual_seed(0)
    return AvatarModel(small_config(kind="fitted")).eval().requires_grad_(False)


def test_a_mouth_is_the_same_however_the_head_is_turned_and_another_when_it_opens(model: AvatarModel) -> None:
    lips = lip_vertices(model.head)
    params = random_frames(model.head, 1).params
    params = dataclasses.replace(
        params, expression=torch.zeros_like(params.expression), jaw_pose=torch.zeros_like(params.jaw_pose)
    )

    def drawn(**changes: torch.Tensor) -> torch.Tensor:
        changed = dataclasses.replace(params, **changes)
        return model.project(model.head(changed), changed, (256, 256))[..., :2]

    closed = drawn()
    turned = drawn(global_pose=params.global_pose + torch.tensor([[0.0, 0.5, 0.0]]))
    opened = drawn(jaw_pose=torch.tensor([[0.3, 0.0, 0.0]]))
    assert same_mouth(closed[:, None], torch.cat([closed]), lips).tolist() == [[1.0]]
    assert same_mouth(closed[:, None], turned, lips).tolist() == [[1.0]]
    assert same_mouth(closed[:, None], opened, lips).tolist() == [[0.0]]
    # Closing is the same change; each photograph is compared.
    both = torch.stack([opened, closed], dim=1)
    assert same_mouth(both, closed, lips).tolist() == [[0.0, 1.0]]
    # A mouth that opens a little keeps the photograph's teeth; one that closes would have them on its lips.
    little = closed.clone()
    little[:, lips[1], 1] += 0.1 * (closed[:, lips[2]] - closed[:, lips[3]]).norm()
    assert same_mouth(closed[:, None], little, lips).item() > 0.7
    assert same_mouth(little[:, None], closed, lips).item() == 0


def test_an_open_mouth_that_no_photograph_shows_has_the_colours_of_the_texture(
    model: AvatarModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The photograph's own mouth has no weight there, and full weight at its own pose."""
    photo = random_frames(model.head, 1)
    photo = dataclasses.replace(
        photo,
        params=dataclasses.replace(photo.params, jaw_pose=torch.zeros_like(photo.params.jaw_pose)),
        foreground_mask=torch.ones_like(photo.foreground_mask),
        regions=torch.zeros_like(photo.regions),
    )
    # An open mouth where the mesh has a closed one.
    vertices_px = model.project(model.head(photo.params), photo.params, photo.image_size)
    landmarks = model.head.landmarks(vertices_px, "mediapipe")[..., :2]
    lips = list(INNER_LIPS_OUTLINE)
    circle = torch.linspace(0, 2 * math.pi, len(lips) + 1)[:-1]
    landmarks[:, lips] = landmarks[:, lips].mean(1) + 5 * torch.stack([circle.cos(), circle.sin()], dim=-1)
    code = model.encode(dataclasses.replace(photo, landmarks=landmarks))
    assert code.carried is not None
    assert code.carried.own_only.max() > 0.5
    without = dataclasses.replace(
        code,
        carried=dataclasses.replace(
            code.carried,
            visibility=code.carried.visibility - code.carried.own_only,
            own_only=torch.zeros_like(code.carried.own_only),
        ),
    )
    opened = dataclasses.replace(photo.params, jaw_pose=torch.tensor([[0.4, 0.0, 0.0]]))
    # What depends on the view depends on the mouth here.
    parts = model.renderer.parts.clone()
    parts[..., 3] = 0
    monkeypatch.setattr(model.renderer, "parts", parts)
    pictures = [[model.render(c, p, (64, 64)).image for c in (code, without)] for p in (photo.params, opened)]
    assert not torch.equal(*pictures[0])
    torch.testing.assert_close(*pictures[1])


def test_a_lid_of_the_mesh_gets_no_colour_from_the_eye(model: AvatarModel) -> None:
    """A mesh whose lids are lower than the person's covers part of the iris."""
    photo = random_frames(model.head, 1)
    vertices_px = model.project(model.head(photo.params), photo.params, photo.image_size)
    landmarks = model.head.landmarks(vertices_px, "mediapipe")[..., :2]
    # Eyes opened wide, in a picture that is red there.
    for outline in EYE_OUTLINES:
        middle = landmarks[:, list(outline)].mean(1, keepdim=True)
        landmarks[:, list(outline)] = middle + 2 * (landmarks[:, list(outline)] - middle)
    photo = dataclasses.replace(
        photo,
        landmarks=landmarks,
        foreground_mask=torch.ones_like(photo.foreground_mask),
        regions=torch.zeros_like(photo.regions),
    )
    eyes = between_lids(landmarks, photo.image_size)
    assert eyes.sum() > 20
    red = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    photo = dataclasses.replace(photo, image=torch.where(eyes > 0, red, 0.5).expand(1, 3, -1, -1))
    carried = model.encode(photo).carried
    completion = model.texture_model.completion
    face_ids = model.rasterizer.face_ids(vertices_px, model.head.faces, photo.image_size)
    seen = model.texture_model.observe(photo, vertices_px, face_ids)
    lids = completion.lids > 0.99
    reddish = (seen.colour[:, :1] - seen.colour[:, 1:2] > 0.5) & lids & (seen.unhidden > 0.5)
    assert reddish.sum() > 5
    assert seen.visibility[reddish].max() < 0.5
    # In the photograph's own view it is the eye.
    assert seen.own_only[reddish].min() > 0.5
    assert carried.own_only.max() > 0.5
