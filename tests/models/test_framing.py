"""FFHQ's framing against its published code: the square by NumPy, the picture by Pillow's QUAD."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import random_params
from PIL import Image
from released_files import Widths, released_weights
from torch.nn import functional as F

from rome_lightning.head import load_head
from rome_lightning.models import AvatarModel
from rome_lightning.models.config import AvatarConfig, BasisConfig, OffsetConfig, TextureConfig
from rome_lightning.models.framing import as_ffhq
from rome_lightning.models.official import release_config
from rome_lightning.types import Frames
from rome_lightning.types.landmarks import IBUG68

SIZE = 96


def face(angle: float, eyes: float = 18.0) -> torch.Tensor:
    """Landmarks of a face about the picture's middle, turned clockwise by degrees."""
    flat = np.zeros((478, 2))
    flat[:] = [0, 2]
    for rows, x in ((range(36, 42), -eyes / 2), (range(42, 48), eyes / 2)):
        for k in rows:
            flat[list(IBUG68[k])] = [x + 0.3 * (k % 6), -6 + 0.2 * (k % 6)]
    flat[[61, 291]] = [[-7, 14], [8, 13]]
    a = np.radians(angle)
    turned = flat @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
    return torch.from_numpy(turned + np.array([SIZE / 2 + 3, SIZE / 2 - 2])).float()


def published(landmarks: torch.Tensor) -> np.ndarray:
    """Corners of FFHQ's square, 1.25 times as large: ``recreate_aligned_images`` of its repository."""
    points = np.stack([landmarks[list(rows)].double().numpy().mean(0) for rows in IBUG68])
    eye_left, eye_right = points[36:42].mean(0), points[42:48].mean(0)
    eye_avg, eye_to_eye = (eye_left + eye_right) * 0.5, eye_right - eye_left
    eye_to_mouth = (points[48] + points[54]) * 0.5 - eye_avg
    x = eye_to_eye - np.flipud(eye_to_mouth) * [-1, 1]
    x /= np.hypot(*x)
    x *= max(np.hypot(*eye_to_eye) * 2.0, np.hypot(*eye_to_mouth) * 1.8) * 1.25
    y = np.flipud(x) * [-1, 1]
    c = eye_avg + eye_to_mouth * 0.1
    return np.stack([c - x - y, c - x + y, c + x + y, c + x - y])


def frames(landmarks: torch.Tensor, seed: int = 0) -> Frames:
    """Smooth random pictures."""
    coarse = torch.rand(len(landmarks), 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    picture = F.interpolate(coarse, size=(SIZE, SIZE), mode="bilinear")
    return Frames(
        image=picture[:, :3],
        foreground_mask=picture[:, 3:],
        regions=torch.zeros(len(landmarks), SIZE, SIZE, dtype=torch.uint8),
        landmarks=landmarks,
        params=random_params(load_head("open"), len(landmarks)),
    )


@pytest.mark.parametrize("angle", [0.0, 12.0, -35.0])
@pytest.mark.parametrize("eyes", [15.0, 24.0])
def test_picture_and_matte_are_those_of_the_published_code(angle: float, eyes: float) -> None:
    source = frames(torch.stack([face(0), face(angle, eyes)]))
    seen = as_ffhq(source)
    pictures = [torch.cat([each.image, each.foreground_mask], dim=1)[1] for each in (source, seen)]
    quad = tuple((published(source.landmarks[1]) + 0.5).flatten())
    for given, found in zip(*pictures, strict=True):
        square = Image.fromarray(given.numpy()).transform(
            (SIZE, SIZE), Image.Transform.QUAD, quad, Image.Resampling.BILINEAR
        )
        wanted = torch.from_numpy(np.array(square))
        # Both are black beyond the border, but treat the pixels at it differently.
        inside = wanted != 0
        difference = (found - wanted)[inside]
        assert float(inside.float().mean()) > 0.5
        assert float(difference.abs().quantile(0.95)) < 1e-5


def test_a_tilted_head_is_seen_upright() -> None:
    upright, tilted = face(0), face(25)
    square = published(tilted)
    assert abs(np.degrees(np.arctan2(*(square[3] - square[0])[::-1])) - 25) < 3
    picture = frames(torch.stack([upright]))
    turned = Image.fromarray((picture.image[0, 0] * 255).byte().numpy()).rotate(
        -25, Image.Resampling.BICUBIC, center=(SIZE / 2 + 3.5, SIZE / 2 - 1.5)
    )
    image = torch.from_numpy(np.array(turned)).float().expand(1, 3, -1, -1) / 255
    seen = as_ffhq(replace(picture, image=image, landmarks=tilted[None])).image[0, 0]
    middle = slice(SIZE // 4, -SIZE // 4)
    apart = (seen - as_ffhq(picture).image[0, 0])[middle, middle].abs()
    assert float(apart.max()) < 0.02


def test_sources_without_a_face_are_refused() -> None:
    with pytest.raises(ValueError, match=r"set avatar\.framing to crop"):
        as_ffhq(frames(torch.zeros(1, 478, 2)))


@pytest.mark.parametrize("kind", ["network", "basis"])
def test_networks_of_the_picture_see_it(kind: str) -> None:
    config = AvatarConfig(
        framing="ffhq",
        texture=TextureConfig(source="direct", width=32, mirror=False, prior=False),
        offsets=OffsetConfig(kind=kind),  # type: ignore[arg-type]
        basis=BasisConfig(2, 1, "resnet18", SIZE, image="raw"),
        decoder=replace(AvatarConfig().decoder, carry=False, extend_outside=False, residual=False),
    )
    torch.manual_seed(0)
    model = AvatarModel(config, load_head("open")).eval()
    source = frames(face(20)[None])
    cropped = AvatarModel(replace(config, framing="crop"), model.head).eval()
    cropped.load_state_dict(model.state_dict())
    with torch.no_grad():
        if kind == "basis":
            model.offset_network.components.normal_()  # type: ignore[union-attr]
            cropped.load_state_dict(model.state_dict())
        found, wanted = model.encode(source), cropped.encode(as_ffhq(source))
        other = cropped.encode(source)
    assert torch.equal(found.texture, wanted.texture)
    assert not torch.allclose(found.texture, other.texture, atol=1e-3)
    assert found.offsets is not None
    assert wanted.offsets is not None
    assert torch.equal(found.offsets, wanted.offsets)


def test_the_released_networks_have_it() -> None:
    assert release_config("x.pkl", released_weights(Widths(8, 8))).framing == "ffhq"
    with pytest.raises(ValueError, match=r"needs avatar\.texture\.source direct"):
        AvatarConfig(framing="ffhq")
