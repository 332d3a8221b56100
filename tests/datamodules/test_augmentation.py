"""Framing and image degradations: their effect, their targets, and their reproducibility."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from scipy.ndimage import gaussian_filter
from small_dataset import SIZE

from datamodules.augmentation import Augmentation, augmented, reframed
from datamodules.talking_heads import TalkingHeadDataModule
from rome_lightning.geometry import project
from rome_lightning.types import AvatarBatch, Frames, HeadParams, Region

FAULTS = Augmentation(blur=0.02, noise=0.1, jpeg=0.8, fault_ratio=1.0)


def frames(count: int, side: int = 40) -> Frames:
    generator = torch.Generator().manual_seed(5)
    coarse = torch.rand(count, 4, 5, 5, generator=generator)
    layers = torch.nn.functional.interpolate(coarse, side, mode="bicubic", align_corners=False).clamp(0, 1)
    regions = torch.full((count, side, side), int(Region.CLOTHES), dtype=torch.uint8)
    regions[:, : side // 2] = int(Region.HAIR)
    params = dataclasses.replace(
        HeadParams.neutral(count, 3, 4), camera=torch.tensor([[4.0, 0.02, -0.03]]).expand(count, -1)
    )
    landmarks = torch.rand(count, 6, 2, generator=generator) * side
    return Frames(layers[:, :3], layers[:, 3:], regions, landmarks, params)


def batches(dataset: Path, epoch: int = 0, **changes: Any) -> list[AvatarBatch]:
    options = {"image_size": SIZE, "batch_size": 2, "pairs_per_epoch": 10, "num_driving": 2, **changes}
    data = TalkingHeadDataModule(dataset, **options)
    loader = data.train_dataloader()
    loader.batch_sampler.sampler.set_epoch(epoch)
    result = [data.on_after_batch_transfer(batch, 0) for batch in loader]
    loader.close()
    return result


class TestReframed:
    def test_everything_moves_alike(self) -> None:
        before = frames(2, side=40)
        zoom, shift = torch.tensor([[1.2], [0.8]]), torch.tensor([[0.1, -0.05], [0.0, 0.1]])
        after = reframed(before, zoom, shift)
        points = torch.randn(2, 30, 3) * 0.1
        seen = project(points, before.params.camera, (40, 40))[..., :2]
        expected = (seen - 19.5) * zoom[..., None] + 19.5 + shift[:, None] * 40
        seen_after = project(points, after.params.camera, (40, 40))[..., :2]
        torch.testing.assert_close(seen_after, expected, atol=1e-4, rtol=0)
        moved = (before.landmarks - 19.5) * zoom[..., None] + 19.5 + shift[:, None] * 40
        torch.testing.assert_close(after.landmarks, moved, atol=1e-4, rtol=0)

    def test_whole_pixels_are_moved_exactly(self) -> None:
        before = frames(1, side=40)
        after = reframed(before, torch.ones(1, 1), torch.tensor([[0.1, -0.2]]))
        torch.testing.assert_close(after.image[:, :, :32, 4:], before.image[:, :, 8:, :36], atol=1e-5, rtol=0)
        torch.testing.assert_close(
            after.foreground_mask[:, :, :32, 4:], before.foreground_mask[:, :, 8:, :36], atol=1e-5, rtol=0
        )
        assert torch.equal(after.regions[:, :32, 4:], before.regions[:, 8:, :36])
        assert (after.regions[:, 32:] == int(Region.OUTSIDE)).all()
        assert (after.regions[:, :, :4] == int(Region.OUTSIDE)).all()
        # The border is repeated, so that no edge appears that a network could learn.
        torch.testing.assert_close(
            after.image[:, :, 33:, 4:], before.image[:, :, 39:, :36].expand(-1, -1, 7, -1), atol=1e-5, rtol=0
        )


class TestFaults:
    def test_targets_stay_as_they_are(self) -> None:
        source, target = frames(3), frames(6)
        changed, same = augmented(source, target, (1, 2, 3), FAULTS)
        assert torch.equal(same.image, target.image)
        assert ((changed.image - source.image).abs().mean((1, 2, 3)) > 1e-3).all()
        assert changed.image.min() >= 0
        assert changed.image.max() <= 1
        for name in ("foreground_mask", "regions", "landmarks"):
            assert torch.equal(getattr(changed, name), getattr(source, name))

    def test_share_of_the_sources(self) -> None:
        source = frames(1)[torch.zeros(400, dtype=torch.long)]
        settings = Augmentation(noise=0.1, fault_ratio=0.25)
        changed, _ = augmented(source, source, range(400), settings)
        hit = (changed.image != source.image).flatten(1).any(1)
        assert 0.17 < float(hit.float().mean()) < 0.33
        # Uniform up to 0.1, so the mean is half of it.
        deviation = (changed.image - source.image)[hit].flatten(1).std(1)
        assert 0.03 < float(deviation.mean()) < 0.06
        assert float(deviation.max()) < 0.105

    def test_blur_is_gaussian(self) -> None:
        """Compare with SciPy: some standard deviation up to the largest reproduces the image."""
        source = frames(1, side=48)
        changed, _ = augmented(source, source, (7,), Augmentation(blur=0.05, fault_ratio=1.0))
        inner = (slice(None), slice(12, -12), slice(12, -12))
        errors = [
            np.abs(gaussian_filter(source.image[0].numpy(), (0, s, s)) - changed.image[0].numpy())[
                inner
            ].max()
            for s in np.linspace(0.05, 0.05 * 48, 200)
        ]
        assert min(errors) < 5e-3

    def test_jpeg_looks_like_jpeg(self) -> None:
        source = frames(1, side=64)
        changed, _ = augmented(source, source, (3,), Augmentation(jpeg=0.9, fault_ratio=1.0))
        stored = np.ascontiguousarray((source.image[0] * 255).round().byte().permute(1, 2, 0).numpy())
        distances = []
        for quality in range(10, 101, 2):
            data = simplejpeg.encode_jpeg(stored, quality=quality, colorsubsampling="420")
            decoded = torch.from_numpy(simplejpeg.decode_jpeg(data)).permute(2, 0, 1) / 255
            distances.append(float((changed.image[0] - decoded).abs().mean()))
        loss = float((changed.image - source.image).abs().mean())
        # One of the qualities matches, up to rounding of the DCT and of colours to eight bits.
        assert min(distances) < loss / 2

    def test_refuses_what_is_no_share(self) -> None:
        with pytest.raises(
            ValueError, match=r"augmentation\.jpeg must be at least 0 and at most 0\.95, got 40"
        ):
            Augmentation(jpeg=40)


class TestStream:
    SETTINGS = dataclasses.replace(FAULTS, zoom=0.2, shift=0.1, brightness=0.2, fault_ratio=0.5)

    def test_repeats_and_differs(self, dataset: Path) -> None:
        first, again = (batches(dataset, augmentation=self.SETTINGS) for _ in range(2))
        for a, b in zip(first, again, strict=True):
            assert torch.equal(a.source.image, b.source.image)
            assert torch.equal(a.target.params.camera, b.target.params.camera)
        # Each frame is framed separately, including the targets of one source.
        plain = batches(dataset)
        changes = torch.cat(
            [
                a.target.params.camera[:, 0] / p.target.params.camera[:, 0]
                for a, p in zip(first, plain, strict=True)
            ]
        )
        assert len(set(changes.tolist())) == 20
        assert 0.79 < float(changes.min()) < 0.9 < 1.1 < float(changes.max()) < 1.21
        other = batches(dataset, epoch=1, augmentation=self.SETTINGS)
        assert not torch.equal(first[0].source.image, other[0].source.image)

    def test_pairs_are_the_same_in_batches_of_any_size(self, dataset: Path) -> None:
        """A run resumed with other batch sizes or devices sees the same frames."""
        small, large = (batches(dataset, augmentation=self.SETTINGS, batch_size=size) for size in (1, 5))
        for name in ("image", "regions", "landmarks"):
            for part in ("source", "target"):
                a, b = (torch.cat([getattr(getattr(x, part), name) for x in xs]) for xs in (small, large))
                torch.testing.assert_close(a, b, atol=1e-6, rtol=0)

    def test_workers_hand_the_seeds_on(self, dataset: Path) -> None:
        here = batches(dataset, augmentation=self.SETTINGS)
        there = batches(dataset, augmentation=self.SETTINGS, num_workers=1)
        assert all(torch.equal(a.source.image, b.source.image) for a, b in zip(here, there, strict=True))

    def test_validation_is_left_alone(self, dataset: Path) -> None:
        data, plain = (
            TalkingHeadDataModule(dataset, image_size=SIZE, augmentation=settings)
            for settings in (self.SETTINGS, None)
        )
        a, b = (next(iter(x.val_dataloader())) for x in (data, plain))
        a, b = data.on_after_batch_transfer(a, 0), plain.on_after_batch_transfer(b, 0)
        assert torch.equal(a.source.image, b.source.image)
