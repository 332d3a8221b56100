"""Options of the deferred renderer."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from helpers import SIZE, perturbed, random_frames, small_config

from rome_lightning.geometry import axis_angle_to_matrix
from rome_lightning.models import AvatarConfig, AvatarModel
from rome_lightning.models.config import check_sizes
from rome_lightning.models.deferred_renderer import DeferredRenderer
from rome_lightning.networks import CompactUNet, UNet
from rome_lightning.renderer import extend_outside as extend_outside_of
from rome_lightning.renderer import interpolate


def _model(**decoder: Any) -> AvatarModel:
    config = small_config()
    torch.manual_seed(0)
    return AvatarModel(dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, **decoder)))


def test_a_mask_network_of_its_own_has_half_the_channels_and_alone_makes_the_mask():
    model = perturbed(_model(carry=False, mask_network=True, pooling="average", upsampling="bilinear"))
    colour, mask = model.renderer.network, model.renderer.mask_network
    assert (colour.head.out_channels, mask.head.out_channels) == (3, 1)
    assert colour.stem[0].out_channels == 2 * mask.stem[0].out_channels
    frames = random_frames(model.head, 1)
    before = model(frames, frames.params)
    with torch.no_grad():
        for parameter in mask.parameters():
            parameter += 0.1
    after = model(frames, frames.params)
    assert not torch.equal(before.mask, after.mask)
    assert torch.equal(before.rgb, after.rgb)


@pytest.mark.parametrize("network", ["compact", "release"])
def test_pooling_and_upsampling_reach_the_network(network):
    width = 8 if network == "compact" else 16
    renderer = _model(
        carry=False, network=network, width=width, pooling="average", upsampling="bilinear"
    ).renderer
    inputs = torch.rand(1, renderer.network_inputs, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    kind = CompactUNet if network == "compact" else UNet
    other = kind(renderer.network_inputs, 4, width, 3 if network == "compact" else 4)
    # Pooling and upsampling have no weights: the state fits, the outputs differ.
    renderer = perturbed(renderer)
    other.load_state_dict(renderer.network.state_dict())
    assert not torch.allclose(renderer.network(inputs), other(inputs))


def test_normals_seen_by_the_camera_are_those_of_the_head_turned_by_the_global_pose(monkeypatch):
    model = _model(normals="camera")
    frames = random_frames(model.head, 1)
    seen: list[torch.Tensor] = []
    paint = DeferredRenderer.paint

    def spy(self, sampled, normals, *more):
        seen.append(normals)
        return paint(self, sampled, normals, *more)

    monkeypatch.setattr(DeferredRenderer, "paint", spy)
    rendered = model(frames, frames.params)
    turn = axis_angle_to_matrix(frames.params.global_pose)
    expected = torch.einsum("bij,bjhw->bihw", turn, rendered.normals)
    assert frames.params.global_pose.norm() > 0.05
    torch.testing.assert_close(seen[0], expected, atol=1e-4, rtol=0)
    # Visible faces face the camera.
    assert (seen[0][:, 2][rendered.mesh_mask[:, 0]] > -0.1).all()


@pytest.mark.parametrize(
    ("changes", "image_size", "complaint"),
    [
        ({}, 66, "image_size must be divisible by 4 (the decoder halves it 2 times), got 66"),
        (
            {"decoder": {"carry": False, "network": "release", "num_levels": 2}},
            68,
            "image_size must be divisible by 8",
        ),
        ({"decoder": {"unshuffle": 2}}, 68, "image_size must be divisible by 8"),
        ({"decoder": {"network_size": 62}}, 64, "network_size must be divisible by 4"),
        ({"texture": {"size": 62}}, 64, "texture.size must be divisible by 4"),
        (
            {"texture": {"source": "direct"}, "decoder": {"carry": False}},
            68,
            "the texture encoder halves it 3 times",
        ),
        ({"offsets": {"uv_size": 30}}, 64, "offsets.uv_size must be divisible by 4"),
        ({"offsets": {"network": "release", "uv_size": 36}}, 64, "offsets.uv_size must be divisible by 8"),
    ],
)
def test_sizes_that_cannot_be_halved_are_refused(changes, image_size, complaint):
    config: AvatarConfig = small_config()
    parts = {name: dataclasses.replace(getattr(config, name), **values) for name, values in changes.items()}
    with pytest.raises(ValueError, match=r"set (data\.init_args|avatar)\.") as error:
        check_sizes(dataclasses.replace(config, **parts), image_size)
    assert complaint in str(error.value)
    check_sizes(config, 64)


@pytest.mark.parametrize("extend_outside", [True, False])
def test_pictures_are_those_of_texture_coordinates_looked_up_afterwards(extend_outside):
    """The order in other programs: coordinates, their extension, then one lookup per pixel."""
    model = perturbed(_model(carry=False, extend_outside=extend_outside))
    frames = random_frames(model.head, 1)
    code = model.encode(frames)
    rendered = model.render(code, frames.params, (SIZE, SIZE))
    renderer = model.renderer
    mesh = (rendered.vertices_px, model.head.faces, rendered.face_ids)
    uv = interpolate(*mesh, renderer.uvs[None], renderer.uv_faces)
    distance = 1 - rendered.mesh_mask.float()
    if extend_outside:
        uv, distance = extend_outside_of(uv, rendered.mesh_mask)
    rgb, mask = renderer.decode(code.texture, uv, rendered.normals, rendered.mesh_mask, distance)
    assert 0.2 < rendered.mesh_mask.float().mean() < 0.9
    torch.testing.assert_close(rgb, rendered.rgb, atol=1e-4, rtol=0)
    torch.testing.assert_close(mask, rendered.mask, atol=1e-4, rtol=0)


def test_geometry_stays_in_full_precision_under_autocast():
    model = perturbed(_model())
    frames = random_frames(model.head, 1)
    exact = model(frames, frames.params)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model(frames, frames.params)
    bare = model.head(frames.params)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(model.head(frames.params), bare, rtol=0, atol=0)
    # Only the offset network's rounding remains, a fraction of a pixel.
    assert (rounded.vertices_px - exact.vertices_px).abs().max() < 0.2
    assert rounded.image.dtype == torch.float32


def test_channels_of_a_block_that_differ_draw_no_grid() -> None:
    """Each pixel of a folded block has outputs of its own, whose biases differ."""
    renderer = _model(unshuffle=2).renderer
    # The four pixels of a block get 1, -1, -1, 1 in every output: a chequerboard.
    signs = torch.tensor([1.0, -1.0, -1.0, 1.0]).repeat(5)[None, :, None, None]
    renderer.network = torch.nn.Module()
    renderer.network.forward = lambda features: signs.expand(len(features), -1, *features.shape[-2:])
    corrections = renderer._corrections(torch.zeros(1, 4, 32, 32))
    assert corrections.shape == (1, 5, 32, 32)
    assert corrections[..., 1:-1, 1:-1].abs().max() == 0
