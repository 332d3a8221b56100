"""The fast copy of a model renders the same images and leaves the model unchanged."""

import dataclasses

import pytest
import torch
from helpers import SIZE, perturbed, random_frames, small_config

from rome_lightning.models import AvatarModel, DeferredRendererConfig, TextureConfig, for_inference

RELEASED = dataclasses.replace(
    small_config(network="release", direction="elementwise", expression_dependent=True),
    texture=TextureConfig(source="direct", width=128, mirror=False),
    decoder=DeferredRendererConfig(carry=False),
)
RELEASED = dataclasses.replace(
    RELEASED,
    offsets=dataclasses.replace(RELEASED.offsets, width=64, uv_size=64),
    decoder=dataclasses.replace(
        RELEASED.decoder,
        network="release",
        width=64,
        extend_outside=False,
        residual=False,
        mask_network=True,
    ),
)


@pytest.mark.parametrize("config", [small_config(), RELEASED], ids=["compact", "released"])
def test_pictures_are_the_same(config):
    torch.manual_seed(0)
    model = perturbed(AvatarModel(config)).eval()
    fast = for_inference(model)
    frames = random_frames(model.head, 1)
    with torch.no_grad():
        code = model.encode(frames)
        expected, found = (m.render(code, frames.params, (SIZE, SIZE)) for m in (model, fast))
        texture = fast.encode(frames).texture
    assert expected.image.std() > 0.05
    # Rounding in some twenty layers; images must agree within 1e-2.
    torch.testing.assert_close(found.image, expected.image, atol=5e-4, rtol=0)
    torch.testing.assert_close(found.vertices, expected.vertices, atol=1e-6, rtol=0)
    # Round-off grows a thousandfold in the released encoder.
    torch.testing.assert_close(texture, code.texture, atol=2e-2 * float(code.texture.std()), rtol=0)


def test_without_corrections_it_draws_what_a_network_without_output_does():
    torch.manual_seed(0)
    model = perturbed(AvatarModel(small_config())).eval()
    frames = random_frames(model.head, 1)
    with torch.no_grad():
        code = model.encode(frames)
        corrected = model.render(code, frames.params, (SIZE, SIZE))
        found = for_inference(model, corrections=False).render(code, frames.params, (SIZE, SIZE))
        for parameter in model.renderer.network.head.parameters():
            parameter.zero_()
        expected = model.render(code, frames.params, (SIZE, SIZE))
    assert (corrected.image - expected.image).abs().max() > 0.02
    for name in ("image", "rgb", "mask"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=2e-5, rtol=0)
    assert found.normals is None


def test_models_that_draw_with_their_network_only_keep_it():
    model = AvatarModel(RELEASED).eval()
    assert for_inference(model, corrections=False).renderer.network is not None


def test_the_model_can_still_be_trained_and_shares_its_head():
    model = perturbed(AvatarModel(small_config())).train()
    keys = list(model.state_dict())
    fast = for_inference(model)
    assert not any(module.training for module in fast.modules())
    assert all(module.training for module in model.modules())
    assert list(model.state_dict()) == keys
    assert fast.head.faces.data_ptr() == model.head.faces.data_ptr()
    frames = random_frames(model.head, 1)
    model(frames, frames.params).image.sum().backward()
    assert model.renderer.network.head.weight.grad is not None
    # Moving the copy does not move the original.
    fast.double()
    assert model.head.vertex_uvs.dtype == torch.float32
