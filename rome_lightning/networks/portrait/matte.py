"""MODNet, the matting network, with products of bytes.

Source: Ke et al., MODNet: Real-Time Trimap-Free Portrait Matting via Objective Decomposition, AAAI 2022.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rome_lightning.acceleration import kernels
from rome_lightning.networks.fast.eight_bit import ByteConv2d, ByteSum, PackedConv2d
from rome_lightning.pretrained.onnx_reader import OnnxGraph, OnnxNode

_STAGES = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))
"""Of MobileNetV2: expansion, channels and blocks."""
_HALF_FEATURES, _QUARTER_FEATURES = 0, 2
"""Blocks whose results are features of half and of a quarter of the picture's side."""
_EPSILON = 1e-5


class MatteNetwork(nn.Module):
    """MODNet's layers, channels-last; the backbone stays in float32, all that follows multiplies bytes.

    Args:
        graph: of the asset ``modnet``.

    Raises:
        ValueError: the graph is another one.
    """

    def __init__(self, graph: OnnxGraph) -> None:
        super().__init__()
        layers = _Layers(graph)
        self.stem = layers.plain(6.0)
        blocks: list[nn.Module] = []
        channels = 32
        for expansion, outputs, count in _STAGES:
            for _ in range(count):
                wide = [layers.plain(6.0)] if expansion > 1 else []
                body = nn.Sequential(*wide, layers.plain(6.0), layers.plain(None))
                blocks.append(_Residual(body) if channels == outputs else body)
                channels = outputs
        self.blocks, self.last = nn.ModuleList(blocks), layers.plain(6.0)
        self.gates = [graph.tensors[node.inputs[1]] for node in graph.nodes if node.kind == "MatMul"]
        # Which picture parts and features each convolution sees side by side, by their channels.
        self.low, self.lower = layers.normalized(1280), layers.normalized(96)
        self.of_half = layers.normalized(16)
        self.detail = layers.normalized(3, 32)
        self.of_quarter = layers.normalized(24)
        self.details = layers.normalized(32, 32)
        self.coarse = nn.ModuleList([layers.normalized(64, 32, 3)])
        self.coarse += [layers.normalized(64), layers.normalized(64)]
        self.fine = nn.ModuleList([layers.normalized(32, 32)])
        self.fine += [layers.normalized(channels) for channels in (64, 32, 32)]
        self.of_low = layers.normalized(32)
        self.fused = layers.normalized(32, 32)
        self.full = layers.normalized(32, 3)
        self.to_alpha = layers.plain(None)
        layers.check_end()

    @torch.no_grad()
    def forward(self, picture: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "1 1 h w"]:
        """Opacity, [0, 1].

        Args:
            picture: RGB, [-1, 1]; sides divide by 32.
        """
        picture = picture.contiguous(memory_format=torch.channels_last)
        features = self.stem(picture)
        levels = []
        for block in self.blocks:
            features = block(features)
            levels.append(features)
        features = self.last(features)
        first, second = self.gates
        gate = (F.relu(features.mean((2, 3)) @ first) @ second).sigmoid()
        low = self.lower(_resized(self.low(_resized(features * gate[..., None, None], 2)), 2))
        half = self.of_half(levels[_HALF_FEATURES])
        detail = self.detail(_resized(picture, 0.5), half)
        detail = self.details(detail, self.of_quarter(levels[_QUARTER_FEATURES]))
        detail = self.coarse[0](detail, _resized(low, 2), _resized(picture, 0.25))
        for layer in self.coarse[1:]:
            detail = layer(detail)
        detail = self.fine[0](_resized(detail, 2), half)
        for layer in self.fine[1:]:
            detail = layer(detail)
        fused = self.fused(_resized(self.of_low(_resized(low, 2)), 2), detail)
        alpha: Tensor = self.to_alpha(self.full(_resized(fused, 2), picture))
        return alpha.sigmoid()


class _Residual(nn.Module):
    """Adds a block's input to its output."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = self.body(features)
        return result.add_(features)


class _Normalized(nn.Module):
    """A convolution, batch normalization of its first half of channels, instance's of the others, and ReLU.

    The batch's is part of the filters already.
    """

    def __init__(self, conv: nn.Module, num_folded: int) -> None:
        super().__init__()
        self.conv, self.num_folded = conv, num_folded

    def forward(self, *images: Tensor) -> Tensor:
        features: Tensor = self.conv(*images)
        rows = features.permute(0, 2, 3, 1)
        code = kernels("networks.fast")
        count = rows.shape[1] * rows.shape[2]
        mean, square = (moment.double().sum(1) / count for moment in code.moments(rows))
        scale = (square - mean.square()).clamp_min_(0).add_(_EPSILON).rsqrt_()
        shift = -mean * scale
        scale[:, : self.num_folded], shift[:, : self.num_folded] = 1, 0
        code.scaled_relu(rows[0], scale[0].float(), shift[0].float(), rows[0])
        return features


class _Layers:
    """Layers made from a graph's convolutions, in their order there."""

    def __init__(self, graph: OnnxGraph) -> None:
        self.tensors = graph.tensors
        self._convs = self._nodes(graph, "Conv")
        self._norms = self._nodes(graph, "BatchNormalization")

    def plain(self, most: float | None) -> nn.Module:
        weight, bias, stride, padding = self._next()
        return PackedConv2d(weight, bias, stride, padding, most)

    def normalized(self, *channels: int) -> nn.Module:
        weight, bias, stride, padding = self._next()
        norm = next(self._norms, None)
        if norm is None or weight.shape[1] != sum(channels):
            raise ValueError(f"this is not the graph of MODNet: a convolution has {weight.shape[1]} channels")
        gain, offset, mean, variance = (self.tensors[name] for name in norm.inputs[1:5])
        half = len(gain)
        gain = gain / (variance + _EPSILON).sqrt()
        weight, bias = weight.clone(), bias.clone()
        weight[:half] *= gain.view(-1, 1, 1, 1)
        bias[:half] = (bias[:half] - mean) * gain + offset
        conv: nn.Module
        if len(channels) > 1:
            conv = ByteSum(weight, bias, channels, stride, padding)
        elif weight.shape[-1] > 1:
            conv = ByteConv2d(weight, bias, stride, padding)
        else:
            conv = PackedConv2d(weight, bias, stride, padding)
        return _Normalized(conv, half)

    def check_end(self) -> None:
        if next(self._convs, None) is not None:
            raise ValueError("this is not the graph of MODNet: it has further convolutions")

    def _next(self) -> tuple[Tensor, Tensor, int, int]:
        node = next(self._convs, None)
        if node is None:
            raise ValueError("this is not the graph of MODNet: it has too few convolutions")
        strides, pads = (node.attributes[name] for name in ("strides", "pads"))
        assert isinstance(strides, tuple)
        assert isinstance(pads, tuple)
        return self.tensors[node.inputs[1]], self.tensors[node.inputs[2]], strides[0], pads[0]

    @staticmethod
    def _nodes(graph: OnnxGraph, kind: str) -> Iterator[OnnxNode]:
        return (node for node in graph.nodes if node.kind == kind)


def _resized(image: Tensor, factor: float) -> Tensor:
    result = F.interpolate(image, scale_factor=factor, mode="bilinear", align_corners=False)
    return result.contiguous(memory_format=torch.channels_last)
