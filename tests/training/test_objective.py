"""Terms add up, are independent of each other, and ignore unknown pixels."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers import SIZE, perturbed, random_frames, small_config

from rome_lightning.models import AvatarModel
from rome_lightning.networks import PatchDiscriminator
from rome_lightning.training.config import TERMS, LossConfig, Ramp
from rome_lightning.training.full_module import discriminator_loss
from rome_lightning.training.objective import LossTerms, Objective, composited
from rome_lightning.types import AvatarBatch, Region

# Terms that need no file; those with VGG and SFace use the same code around another network.
WEIGHTS = {name: 1.0 for name in TERMS if name not in ("perceptual", "gaze", "identity")}


@pytest.fixture(scope="module")
def model() -> AvatarModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return perturbed(AvatarModel(small_config()))


@pytest.fixture(scope="module")
def adversary() -> PatchDiscriminator:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PatchDiscriminator(base_width=8, num_blocks=2).requires_grad_(False).eval()


def batch_of(model: AvatarModel, outside: int = 0) -> AvatarBatch:
    source, target = random_frames(model.head, 1), random_frames(model.head, 2, seed=1)
    if outside:
        regions = target.regions.clone()
        regions[:, :, :outside] = int(Region.OUTSIDE)
        target = dataclasses.replace(target, regions=regions)
    return AvatarBatch(source, target)


def terms_of(
    config: LossConfig, model: AvatarModel, batch: AvatarBatch, adversary, step: int = 0
) -> LossTerms:
    torch.manual_seed(0)  # the chamfer term samples points
    background = torch.full((len(batch.target), 3), 0.5)
    rendered = model(batch.source, batch.target.params, background)
    images = composited(rendered, batch.target, background)
    return Objective(config, model.head)(rendered, batch, images, adversary, step)


def gradient(total: torch.Tensor, model: AvatarModel) -> torch.Tensor:
    found = torch.autograd.grad(total, list(model.parameters()), allow_unused=True)
    return torch.cat([g.flatten() for g in found if g is not None])


def test_the_total_is_the_sum_of_weights_times_terms(model, adversary):
    weights = {name: 0.1 * (index + 1) for index, name in enumerate(WEIGHTS)}
    config = LossConfig(**(dict.fromkeys(TERMS, 0.0) | weights))
    terms = terms_of(config, model, batch_of(model), adversary)
    assert terms.raw.keys() == weights.keys()
    assert terms.total.item() == pytest.approx(
        sum(w * terms.raw[n].item() for n, w in weights.items()), rel=1e-5
    )
    logs = terms.as_logs("train")
    assert logs["train/weighted_segmentation"].item() == (
        pytest.approx(weights["segmentation"] * logs["train/loss_segmentation"].item())
    )


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_weight_changes_the_gradient_through_its_term_alone(name, model, adversary):
    """Doubling one weight adds that term's own gradient once."""
    batch = batch_of(model)
    base = dict.fromkeys(TERMS, 0.0) | WEIGHTS
    alone = dict.fromkeys(TERMS, 0.0) | {name: 1.0}
    if name == "feature_matching":
        alone["adversarial"] = 1e-12

    def of(weights):
        return gradient(terms_of(LossConfig(**weights), model, batch, adversary).total, model)

    once, twice = of(base), of(base | {name: 2.0})
    partial = terms_of(LossConfig(**alone), model, batch, adversary).total
    found = torch.autograd.grad(partial, list(model.parameters()), allow_unused=True)
    single = torch.cat(
        [(p * 0 if g is None else g).flatten() for p, g in zip(model.parameters(), found, strict=True)]
    )
    torch.testing.assert_close(twice - once, single, atol=2e-5, rtol=2e-3)


def test_terms_of_weight_0_are_not_computed(model):
    config = LossConfig(**(dict.fromkeys(TERMS, 0.0) | {"photometric": 1.0}))
    assert list(terms_of(config, model, batch_of(model), None).raw) == ["photometric"]
    nothing = LossConfig(**dict.fromkeys(TERMS, 0.0))
    with pytest.raises(ValueError, match="no loss term has a positive weight"):
        terms_of(nothing, model, batch_of(model), None)


def test_pixels_beyond_the_video_change_no_term(model, adversary):
    config = LossConfig(**(dict.fromkeys(TERMS, 0.0) | WEIGHTS))
    batch = batch_of(model, outside=24)
    other = batch.target.image.clone()
    other[..., :24] = 0.9
    mask = batch.target.foreground_mask.clone()
    mask[..., :24] = 1.0
    changed = AvatarBatch(batch.source, dataclasses.replace(batch.target, image=other, foreground_mask=mask))
    before = terms_of(config, model, batch, adversary)
    after = terms_of(config, model, changed, adversary)
    assert {n: v.item() for n, v in before.raw.items()} == {n: v.item() for n, v in after.raw.items()}
    # Inside they count.
    mask[..., 24:] = 1.0
    assert terms_of(config, model, changed, adversary).raw["segmentation"] != before.raw["segmentation"]


def test_predictions_beyond_the_video_get_no_gradient(model, adversary):
    batch = batch_of(model, outside=24)
    background = torch.full((2, 3), 0.5)
    rendered = model(batch.source, batch.target.params, background)
    image = rendered.image.detach().requires_grad_()
    mask = rendered.mask.detach().requires_grad_()
    rendered = dataclasses.replace(rendered.detach(), image=image, mask=mask)
    config = LossConfig(
        **(dict.fromkeys(TERMS, 0.0) | {n: 1.0 for n in ("photometric", "segmentation", "adversarial")})
    )
    images = composited(rendered, batch.target, background)
    Objective(config, model.head)(rendered, batch, images, adversary).total.backward()
    for tensor in (image, mask):
        assert tensor.grad is not None
        assert tensor.grad[..., :24].abs().max() == 0
        assert tensor.grad[..., 24:].abs().max() > 0


@pytest.mark.parametrize("silhouette", ["antialiased", "soft", "official"])
@pytest.mark.parametrize(
    ("term", "moved", "held"),
    [
        ("occupancy_hair", ("scalp",), ("neck", "shoulders")),
        ("occupancy_all", ("neck", "shoulders"), ("scalp",)),
    ],
)
def test_each_occupancy_term_moves_its_own_part(term, moved, held, silhouette, model):
    batch = batch_of(model)
    rendered = model(batch.source, batch.target.params, 0.5)
    vertices_px = rendered.vertices_px.detach().requires_grad_()
    config = LossConfig(**(dict.fromkeys(TERMS, 0.0) | {term: 1.0}), silhouette=silhouette)
    images = composited(rendered, batch.target, torch.full((2, 3), 0.5))
    rendered = dataclasses.replace(rendered.detach(), vertices_px=vertices_px)
    Objective(config, model.head)(rendered, batch, images).total.backward()
    gradient = vertices_px.grad.abs().amax((0, 2))
    assert gradient[model.head.region(*moved)].max() > 0
    assert gradient[model.head.region(*held)].max() == 0


def test_ramps(model):
    ramp = Ramp(start=10, length=4)
    assert [ramp.share(step) for step in (0, 9, 10, 11, 13, 50)] == [0, 0, 0.25, 0.5, 1, 1]
    assert [Ramp(start=3).share(step) for step in (2, 3)] == [0, 1]
    config = LossConfig(
        **(dict.fromkeys(TERMS, 0.0) | {"photometric": 1.0, "segmentation": 2.0}),
        schedules={"segmentation": ramp},
    )
    batch = batch_of(model)
    assert list(terms_of(config, model, batch, None, step=9).raw) == ["photometric"]
    half = terms_of(config, model, batch, None, step=11)
    assert half.weighted["segmentation"].item() == pytest.approx(half.raw["segmentation"].item())


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"schedules": {"dise": Ramp()}}, "names unknown terms: dise; terms: photometric"),
        ({"chamfer": -1.0}, "must not be negative: chamfer"),
        ({"feature_matching": 1.0}, "set losses.adversarial"),
    ],
)
def test_invalid_weights(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        LossConfig(**options)


def test_variants_of_the_release(model):
    batch = batch_of(model)

    def value(name, **options):
        weights = dict.fromkeys(TERMS, 0.0) | {name: 1.0}
        return terms_of(LossConfig(**weights, **options), model, batch, None).raw[name].item()

    assert value("chamfer", chamfer_squared=True) != value("chamfer")
    assert value("laplacian", laplacian_norm="l2") < value("laplacian")
    assert value("occupancy_hair", occupancy_hair_region="everywhere") > value("occupancy_hair")
    for silhouette in ("soft", "official"):
        assert value("occupancy_all", silhouette=silhouette) != value("occupancy_all")


def test_the_discriminator_learns_from_both_images_and_the_avatar_from_neither(model):
    batch = batch_of(model)
    background = torch.full((2, 3), 0.5)
    images = composited(model(batch.source, batch.target.params, background), batch.target, background)
    network = PatchDiscriminator(base_width=8, num_blocks=2).eval()
    loss = discriminator_loss(network, images)
    real, fake = network(images.wanted)[0], network(images.predicted)[0]
    expected = (1 - real).clamp_min(0).mean() + (1 + fake).clamp_min(0).mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(p.grad is not None for p in network.parameters())
    assert all(p.grad is None for p in model.parameters())
    assert images.predicted.shape[-1] == SIZE
