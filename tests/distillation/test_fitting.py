"""Collecting a model's offsets and computing a basis from them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import perturbed, random_frames, small_config

from rome_lightning.distillation import OffsetStore, collect, fit_basis
from rome_lightning.distillation.collect import Block, source_frames
from rome_lightning.distillation.fitting import Targets, targets_of
from rome_lightning.head import HeadModel, load_head
from rome_lightning.head.moving import MOVING_REGIONS
from rome_lightning.models import AvatarModel
from rome_lightning.types import Frames

NUM_CLIPS, IMAGE_SIZE = 7, 64


@dataclasses.dataclass(frozen=True)
class FakeClip:
    key: str
    frames: tuple[int, ...] = (0, 2, 5, 9)
    typical: int = 5


class FakeClips:
    """Noise with plausible heads, a function of clip and frame."""

    def __init__(self, head: HeadModel, reverse: bool = False) -> None:
        self.head, self.read = head, 0
        self.clips = [FakeClip(f"clip-{i}") for i in range(NUM_CLIPS)][:: -1 if reverse else 1]

    def frames(self, clip: str, numbers: Sequence[int]) -> Frames:
        self.read += 1
        seed = 100 * int(clip.split("-")[1])
        return Frames.cat([random_frames(self.head, 1, seed + number) for number in numbers])


@pytest.fixture(scope="module")
def model() -> AvatarModel:
    torch.manual_seed(0)
    return perturbed(AvatarModel(small_config())).eval().requires_grad_(False)


def fill(
    model: AvatarModel, folder: Path, parts: int = 1, reverse: bool = False
) -> tuple[OffsetStore, FakeClips]:
    clips = FakeClips(model.head, reverse)
    store = OffsetStore(folder, {"checkpoint": "a"})
    for part in reversed(range(parts)):
        list(
            collect(
                model,
                clips,
                store,
                "train",
                image_size=IMAGE_SIZE,
                sources_per_clip=2,
                refine_steps=0,
                block_size=2,
                part=(part, parts),
            )
        )
    return store, clips


def test_processes_and_order_of_clips_do_not_matter(model: AvatarModel, tmp_path: Path) -> None:
    one, _ = fill(model, tmp_path / "one")
    three, _ = fill(model, tmp_path / "three", parts=3, reverse=True)
    names = sorted(path.name for path in one.folder.iterdir())
    assert names == sorted(path.name for path in three.folder.iterdir())
    for a, b in zip(one.blocks("train"), three.blocks("train"), strict=True):
        assert a.clips == b.clips
        assert torch.equal(a.offsets, b.offsets)
    first, second = (fit_basis(store, model.head, 4, 3, {}).basis for store in (one, three))
    assert torch.equal(first.components, second.components)


def test_collecting_resumes_where_it_was_killed(model: AvatarModel, tmp_path: Path) -> None:
    store, clips = fill(model, tmp_path)
    assert clips.read == NUM_CLIPS
    store.path("train", 1).unlink()
    (tmp_path / ".train-000001.safetensors.99.tmp").write_bytes(b"half of a file")
    _, again = fill(model, tmp_path)
    assert again.read == 2
    assert sum(len(block.clips) for block in store.blocks("train")) == 2 * NUM_CLIPS


def test_offsets_of_two_models_are_never_mixed(model: AvatarModel, tmp_path: Path) -> None:
    fill(model, tmp_path)
    with pytest.raises(ValueError, match="made with another checkpoint; delete the folder"):
        OffsetStore(tmp_path, {"checkpoint": "b"})


def test_basis_rebuilds_the_offsets_it_was_made_of(model: AvatarModel, tmp_path: Path) -> None:
    store, _ = fill(model, tmp_path)
    moving = model.head.region(*MOVING_REGIONS)
    offsets = torch.cat([block.offsets for block in store.blocks("train")])
    fit = fit_basis(store, model.head, 6, 6, {"data": "noise"})
    basis = fit.basis
    full = torch.zeros(len(offsets), model.head.num_vertices, 3)
    full[:, moving] = offsets
    rebuilt = basis.offsets(basis.coefficients(full))
    scalp = model.head.region("scalp")
    error = (rebuilt - full)[:, scalp].square().sum(-1).mean().sqrt()
    assert 1e3 * error == pytest.approx(float(fit.curves["hair"].error_mm[-1]), rel=1e-3)
    # Standard deviations are those of the coefficients; explained variance is the part that is kept.
    torch.testing.assert_close(basis.coefficients(full).std(0), basis.std, rtol=1e-4, atol=1e-7)
    lost = (fit.curves["hair"].error_mm[-1] / fit.curves["hair"].error_mm[0]) ** 2
    assert 1 - lost == pytest.approx(float(fit.curves["hair"].explained[-1]), abs=1e-4)
    # Hair components move hair only.
    assert basis.components[:6][:, ~scalp].abs().max() == 0
    assert basis.components[6:][:, scalp].abs().max() == 0
    assert basis.provenance["sources"] == 2 * NUM_CLIPS


def test_targets_are_means_over_the_sources_of_a_clip(model: AvatarModel, tmp_path: Path) -> None:
    store, _ = fill(model, tmp_path)
    basis = fit_basis(store, model.head, 3, 2, {}).basis
    targets = targets_of(store, basis, model.head, ("train",))
    block = next(store.blocks("train"))
    full = torch.zeros(2, model.head.num_vertices, 3)
    full[:, model.head.region(*MOVING_REGIONS)] = block.offsets[:2]
    torch.testing.assert_close(targets.rows(("clip-0",))[0], basis.coefficients(full).mean(0))
    targets.save(tmp_path / "t" / "t.safetensors", basis)
    loaded = Targets.load(tmp_path / "t" / "t.safetensors", basis)
    assert torch.equal(loaded.rows(("clip-3", "clip-1")), targets.rows(("clip-3", "clip-1")))
    with pytest.raises(ValueError, match="clip nobody has no coefficients"):
        loaded.rows(("nobody",))
    other = fit_basis(store, model.head, 2, 2, {}).basis
    with pytest.raises(ValueError, match="belong to another basis"):
        Targets.load(tmp_path / "t" / "t.safetensors", other)


def test_held_out_people_measure_the_basis(model: AvatarModel, tmp_path: Path) -> None:
    store, _ = fill(model, tmp_path)
    block = next(store.blocks("train"))
    store.write("val", 0, Block(block.clips, block.offsets))
    curve = fit_basis(store, model.head, 5, 2, {}, held_out="val").curves["hair"]
    assert curve.held_out_mm is not None
    assert np.all(np.diff(curve.held_out_mm.numpy()) <= 0)
    # The same sources again: none can be worse than the worst in training.
    assert curve.held_out_mm[-1] <= curve.error_mm[-1] * (2 * NUM_CLIPS / len(block.clips)) ** 0.5 + 1e-9


def test_too_few_sources_say_what_to_set(model: AvatarModel, tmp_path: Path) -> None:
    store, _ = fill(model, tmp_path)
    with pytest.raises(
        ValueError, match=r"50 hair components need at least 51 sources, the data provide 14; set --hair"
    ):
        fit_basis(store, model.head, 50, 10, {})


def test_flat_offsets_say_what_to_do(model: AvatarModel, tmp_path: Path) -> None:
    store = OffsetStore(tmp_path, {})
    num_moving = int(model.head.region(*MOVING_REGIONS).sum())
    direction = torch.randn(1, num_moving, 3, generator=torch.Generator().manual_seed(0))
    lengths = torch.linspace(-0.01, 0.01, 8)[:, None, None]
    store.write("train", 0, Block(("clip",) * 8, lengths * direction))
    with pytest.raises(ValueError, match=r"vary in only 1 directions, but 3 components.*--hair to at most 1"):
        fit_basis(store, model.head, 3, 1, {})
    store.write("train", 0, Block(("clip",) * 8, torch.full((8, num_moving, 3), 0.01)))
    with pytest.raises(ValueError, match="gives everybody the same offsets"):
        fit_basis(store, model.head, 1, 1, {})


def test_a_model_without_offsets_cannot_be_distilled(tmp_path: Path) -> None:
    model = AvatarModel(small_config(kind="none"), load_head("open"))
    with pytest.raises(ValueError, match="nothing to distil"):
        fill(model, tmp_path)


@pytest.mark.parametrize(("count", "wanted"), [(1, [5]), (2, [5, 0]), (3, [5, 0, 9]), (9, [5, 0, 2, 9])])
def test_sources_of_a_clip(count: int, wanted: list[int]) -> None:
    assert source_frames(FakeClip("a"), count) == wanted
