"""Additional views of training photographs."""

import dataclasses

import pytest
import torch
from helpers import SIZE, random_frames, small_config

from rome_lightning.head import HeadModel, load_head
from rome_lightning.head.depth import foreshortening
from rome_lightning.models import AvatarModel
from rome_lightning.training.views import SourceViews, ViewsConfig
from rome_lightning.types import Frames, Region
from rome_lightning.types.params import at_rest


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("open")


def people(head: HeadModel, num: int) -> Frames:
    frames = random_frames(head, num)
    regions = torch.full_like(frames.regions, int(Region.FACE_SKIN))
    middle = torch.full_like(frames.landmarks, SIZE / 2)
    return dataclasses.replace(
        frames, regions=regions, landmarks=middle, foreground_mask=torch.ones_like(frames.foreground_mask)
    )


def test_erased_photographs_are_unknown_on_one_side_of_a_line(head: HeadModel) -> None:
    torch.manual_seed(0)
    frames = people(head, 16)
    erased = SourceViews(ViewsConfig(erased=1.0), head).erased(frames)
    gone = erased.regions == int(Region.OUTSIDE)
    assert torch.equal(gone, erased.foreground_mask[:, 0] == 0)
    assert torch.equal(erased.image, frames.image)
    kept = ~gone
    assert torch.equal(erased.regions[kept], frames.regions[kept])
    share = gone.float().mean((1, 2))
    # More than half of each image remains, and each loses something.
    assert float(share.min()) > 0.1
    assert float(share.max()) <= 0.55
    # A line: in each row, erased and kept pixels are on different sides of it.
    changes = (gone[:, :, 1:] != gone[:, :, :-1]).sum(-1)
    assert int(changes.max()) == 1
    # Left and right.
    assert 0 < int(gone[:, SIZE // 2, 0].sum()) < 16


def test_a_mirrored_head_is_drawn_as_the_mirror_image(head: HeadModel) -> None:
    views = SourceViews(ViewsConfig(), head)
    frames = people(head, 3)
    shift = 0.02 * torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    frames = dataclasses.replace(frames, params=dataclasses.replace(frames.params, torso_shift=shift))
    mirrored = views.mirrored(frames)
    assert torch.equal(mirrored.image, frames.image.flip(-1))
    # The mesh of the mirrored parameters is the mirrored mesh; identities mirror by least squares only.
    mean = dataclasses.replace(
        frames, params=dataclasses.replace(frames.params, shape=0 * frames.params.shape)
    )
    here, there = (head.to_world(head(p), p) for p in (mean.params, views.mirrored(mean).params))
    expected = here[:, views.mirror] * torch.tensor([-1.0, 1.0, 1.0])
    assert (there - expected).norm(dim=-1).median() < 5e-4
    assert (there - expected)[:, head.region("shoulders")].norm(dim=-1).median() < 5e-4
    again = views.mirrored(mirrored)
    torch.testing.assert_close(again.params.stored_pose, frames.params.stored_pose)
    torch.testing.assert_close(again.params.expression, frames.params.expression)


@pytest.mark.parametrize("distance", [None, 0.6])
def test_redrawn_sources_show_the_person_turned(head: HeadModel, distance: float | None) -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(small_config(kind="fitted"), camera_distance=distance)
    model = AvatarModel(config, head).eval()
    frames = people(head, 4)
    frames = dataclasses.replace(frames, offsets=foreshortening(head, head(at_rest(frames.params))))
    views = SourceViews(ViewsConfig(redrawn=1.0, expression=0.0), head)
    redrawn = views(model, frames)
    assert not redrawn.image.requires_grad
    turned = (redrawn.params.global_pose - frames.params.global_pose).abs()
    assert float(turned.max()) > 0.1
    assert torch.equal(redrawn.params.expression, frames.params.expression)
    with torch.no_grad():
        drawn = model.render(model.encode(frames), redrawn.params, (SIZE, SIZE))
    torch.testing.assert_close(redrawn.image, drawn.rgb.clamp(0, 1))
    # Detected landmarks rotate with the head and keep the tracker's error.
    missed = frames.landmarks - model_landmarks(model, frames)
    torch.testing.assert_close(redrawn.landmarks - model_landmarks(model, redrawn), missed, atol=0.05, rtol=0)


def model_landmarks(model: AvatarModel, frames: Frames) -> torch.Tensor:
    """Landmarks of the mesh fitted to frames, pixels."""
    vertices_px = model.project(model.reconstruct(frames).vertices, frames.params, frames.image_size)
    return model.head.landmarks(vertices_px)[..., :2]


def test_shares_must_be_shares() -> None:
    with pytest.raises(ValueError, match=r"views\.erased is a share"):
        ViewsConfig(erased=1.5)
