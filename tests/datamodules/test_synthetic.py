"""Synthetic heads: reproducible, and consistent with their ground truth."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from datamodules.synthetic import SyntheticBatch, SyntheticDataModule, SyntheticHeads
from rome_lightning.geometry import project, vertex_normals
from rome_lightning.head import HeadModel, load_head
from rome_lightning.types import Region

SIZE = 64


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("open")


@pytest.fixture(scope="module")
def heads(head: HeadModel) -> SyntheticHeads:
    return SyntheticHeads(head, SIZE, seed=5, texture_size=128, rasterizer="torch")


def test_pure_in_seed_person_and_frame(head: HeadModel, heads: SyntheticHeads) -> None:
    frames, geometry = heads.draw([1, 0, 1], [3, 2, 4])
    other = SyntheticHeads(head, SIZE, seed=5, texture_size=128, rasterizer="torch")
    again, again_geometry = other.draw([1], [4])
    torch.testing.assert_close(again.image[0], frames.image[2], atol=1e-5, rtol=0)
    torch.testing.assert_close(again_geometry.vertices[0], geometry.vertices[2], atol=1e-6, rtol=0)
    assert torch.equal(again.params.pose[0], frames.params.pose[2])
    reseeded, _ = SyntheticHeads(head, SIZE, seed=6, texture_size=128, rasterizer="torch").draw([1], [4])
    assert float((reseeded.image - again.image).abs().mean()) > 0.02


def test_people_differ_and_frames_of_one_share_identity(heads: SyntheticHeads) -> None:
    params = heads.params([0, 0, 1], [0, 1, 0])
    assert torch.equal(params.shape[0], params.shape[1])
    assert not torch.equal(params.shape[0], params.shape[2])
    assert not torch.equal(params.pose[0], params.pose[1])
    assert not torch.equal(params.expression[0], params.expression[1])


def test_geometry_is_what_was_drawn(head: HeadModel, heads: SyntheticHeads) -> None:
    """The silhouette matches the true vertices, checked point by point without the renderer."""
    frames, geometry = heads.draw([2], [1])
    bare = head(frames.params)
    torch.testing.assert_close(bare + geometry.offsets, geometry.vertices)
    points = project(head.to_world(geometry.vertices, frames.params), frames.params.camera, (SIZE, SIZE))[0]
    mask = frames.foreground_mask[0, 0]
    inside = ((points[:, :2] > 1) & (points[:, :2] < SIZE - 2)).all(1)
    x, y = points[inside, 0].round().long(), points[inside, 1].round().long()
    # Vertices lie in the mask or on its rim, so the 3 x 3 pixels around each are tested.
    near = torch.nn.functional.max_pool2d(mask[None, None], 3, stride=1, padding=1)[0, 0]
    assert float(near[y, x].min()) > 0
    rows = torch.nonzero(mask > 0.99)
    distance = torch.cdist(rows[:, [1, 0]].float(), points[:, :2])
    assert float(distance.amin(1).max()) < 3


def test_offsets_are_hair_and_clothes_along_the_normals(head: HeadModel, heads: SyntheticHeads) -> None:
    frames, geometry = heads.draw([0, 1], [0, 0])
    length = geometry.offsets.norm(dim=-1)
    assert float(length[:, head.region("face", "eyes", "mouth")].max()) == 0
    for region in ("scalp", "shoulders"):
        assert float(length[:, head.region(region)].mean()) > 0.003
    assert float(length.max()) < 0.1
    normals = vertex_normals(head(frames.params), head.faces)
    sideways = torch.linalg.cross(geometry.offsets, normals).norm(dim=-1)
    assert float(sideways.max()) < 1e-6


def test_expressions_stay_in_their_range(head: HeadModel, heads: SyntheticHeads) -> None:
    params = heads.params([0] * 40, list(range(40)))
    assert float(params.expression.min()) >= 0
    assert float(params.expression.max()) <= 1
    names = head.expression_names
    close, opened = (params.expression[:, names.index(name)] for name in ("mouthClose", "jawOpen"))
    assert bool((close <= opened).all())
    assert float(opened.max()) > 0.2


def test_regions_agree_with_the_mask_and_cover_the_head(heads: SyntheticHeads) -> None:
    frames, _ = heads.draw([0, 1, 2], [0, 0, 0])
    background = frames.regions == int(Region.BACKGROUND)
    assert torch.equal(background, frames.foreground_mask[:, 0] <= 0.5)
    for region in (Region.HAIR, Region.FACE_SKIN, Region.BODY_SKIN, Region.CLOTHES):
        share = frames.region_mask(region).mean((1, 2, 3))
        assert float(share.min()) > 0.005, region
    assert 0.2 < float(frames.foreground_mask.mean()) < 0.8


def test_lit_from_the_side_the_light_is_on(head: HeadModel, heads: SyntheticHeads) -> None:
    """Lambert's law by hand at one face pixel: the ratio of lit to unlit colour is the shading."""
    frames, _ = heads.draw([3] * 24, list(range(24)))
    skin = frames.region_mask(Region.FACE_SKIN)
    luminance = frames.image.mean(1, keepdim=True)
    columns = torch.linspace(-1, 1, SIZE)
    left = (luminance * skin * (columns < 0)).sum((1, 2, 3)) / (skin * (columns < 0)).sum((1, 2, 3))
    right = (luminance * skin * (columns > 0)).sum((1, 2, 3)) / (skin * (columns > 0)).sum((1, 2, 3))
    from datamodules.synthetic import _random_light

    light = _random_light([heads._generator(3, 2**20 + frame) for frame in range(24)])
    correlation = torch.corrcoef(torch.stack([right - left, light.direction[:, 0]]))[0, 1]
    assert float(correlation) > 0.5


class TestDataModule:
    def module(self, **changes: Any) -> SyntheticDataModule:
        options = {"image_size": SIZE, "batch_size": 2, "num_people": 3, "pairs_per_epoch": 4, **changes}
        return SyntheticDataModule(**options)

    def test_batches(self) -> None:
        data = self.module(num_driving=2)
        loader = data.train_dataloader()
        assert len(loader) == 2
        batch = data.on_after_batch_transfer(next(iter(loader)), 0)
        assert isinstance(batch, SyntheticBatch)
        assert (len(batch), batch.num_driving) == (2, 2)
        assert batch.target_geometry is not None
        assert batch.target_geometry.offsets.shape == (4, data.heads.head.num_vertices, 3)
        shapes = batch.target.params.shape
        torch.testing.assert_close(shapes, batch.source.params.shape.repeat_interleave(2, 0))

    def test_validation_has_other_people_or_other_frames(self) -> None:
        data = self.module(num_val_people=2, eval_pairs_per_person=2)
        requests = list(data.val_dataloader())
        assert {int(person) for request in requests for person in request.people} == {3, 4}
        data = self.module(num_val_people=0, frames_per_person=5, eval_pairs_per_person=2)
        requests = list(data.val_dataloader())
        assert {int(person) for request in requests for person in request.people} == {0, 1, 2}
        assert min(int(frame) for request in requests for frame in request.target.flatten()) == 5

    def test_bad_options(self) -> None:
        with pytest.raises(ValueError, match="frames_per_person"):
            self.module(frames_per_person=1)
        with pytest.raises(ValueError, match="pairs_per_epoch"):
            self.module(pairs_per_epoch=1)
