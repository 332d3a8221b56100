"""Convolutions that recompute their input: values and gradients equal the plain modules'."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rome_lightning.networks import TextureEncoder, UNet, WeightStandardizedConv2d
from rome_lightning.networks.recomputed_input import conv_of_activated, conv_of_prepared


def _plain_bottleneck(module: nn.Module, inputs: Tensor) -> Tensor:
    return module.main(inputs) + module.skip(inputs)


def _plain_encoder(network: TextureEncoder, inputs: Tensor) -> Tensor:
    features = inputs
    for layer in network.net:
        features = _plain_bottleneck(layer, features) if hasattr(layer, "main") else layer(features)
    return features


def _plain_unet(network: UNet, inputs: Tensor) -> Tensor:
    skips, features = [], inputs
    for level, block in enumerate(network.encoder):
        features = block[0].main(features if level == 0 else network.pool(features, 2))
        skips.append(features)
    skips.pop()
    for block in network.decoder:
        upsampled = F.interpolate(features, scale_factor=2, mode=network.upsampling)
        features = block[0].main(torch.cat([upsampled, skips.pop()], dim=1))
    return network.to_outputs(features)


def _value_and_gradients(function, network: nn.Module, inputs: Tensor) -> list[Tensor]:
    network.zero_grad()
    leaf = inputs.clone().requires_grad_()
    output = function(leaf)
    (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    return [output.detach(), leaf.grad, *(p.grad.clone() for p in network.parameters())]


@pytest.mark.parametrize("kind", ["encoder", "nearest", "bilinear"])
def test_networks_equal_their_plain_modules(kind: str) -> None:
    torch.manual_seed(0)
    if kind == "encoder":
        network, plain = TextureEncoder(base_width=32, num_levels=2), _plain_encoder
    else:
        network, plain = UNet(4, 3, base_width=32, num_levels=3, upsampling=kind), _plain_unet
    inputs = torch.randn(2, 4, 16, 16)
    ours = _value_and_gradients(network, network, inputs)
    theirs = _value_and_gradients(lambda x: plain(network, x), network, inputs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(network(inputs), theirs[0])
    network.requires_grad_(False)
    leaf = inputs.clone().requires_grad_()
    output = network(leaf)
    (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    torch.testing.assert_close(leaf.grad, theirs[1], rtol=1e-5, atol=1e-5)


def test_gradients_are_derivatives() -> None:
    torch.manual_seed(0)
    norm, conv = nn.GroupNorm(2, 4).double(), nn.Conv2d(4, 3, 3, padding=1).double()
    standardized = WeightStandardizedConv2d(5, 3, 3, padding=1, bias=False).double()
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64, requires_grad=True)
    y = torch.randn(2, 1, 5, 5, dtype=torch.float64, requires_grad=True)

    def both(x: Tensor, y: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        joined = conv_of_prepared(lambda a, b: torch.cat([a, b], dim=1), (x, y), standardized)
        return conv_of_activated(x, norm, conv), joined

    assert torch.autograd.gradcheck(both, (x, y, *norm.parameters(), *conv.parameters(), standardized.weight))


def test_what_is_kept_is_the_input_alone() -> None:
    norm, conv = nn.GroupNorm(2, 4), nn.Conv2d(4, 3, 3, padding=1)
    x = torch.randn(1, 4, 8, 8, requires_grad=True)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        conv_of_activated(x, norm, conv)
    images = [tensor for tensor in kept if tensor.shape[-2:] == x.shape[-2:]]
    assert [tensor.data_ptr() for tensor in images] == [x.data_ptr()]


def test_autocast_and_compiled_networks() -> None:
    torch.manual_seed(0)
    network = UNet(4, 3, base_width=32, num_levels=2)
    inputs = torch.randn(1, 4, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        output = network(inputs)
        torch.testing.assert_close(output, _plain_unet(network, inputs))
    output.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    ours = _value_and_gradients(network, network, inputs)
    compiled = _value_and_gradients(torch.compile(network, backend="aot_eager"), network, inputs)
    for a, b in zip(compiled, ours, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
