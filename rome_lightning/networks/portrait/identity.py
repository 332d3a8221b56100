"""SFace, the identity network, in float32."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from rome_lightning.networks.fast.eight_bit import PackedConv2d
from rome_lightning.pretrained.onnx_reader import OnnxGraph, OnnxNode

_START, _LAYER = ("Sub", "Mul"), ("Conv", "BatchNormalization", "PRelu")
_END = ("BatchNormalization", "Dropout", "Flatten", "Gemm", "BatchNormalization")
_NUM_LAYERS = 27
_ROWS = 8
"""Of the last layer's products, always as many: of another number their sums are rounded otherwise, and an
embedding would depend on how many faces are asked for at once."""


def has_packed_convolutions() -> bool:
    """Whether torch has oneDNN, with operators that take arranged filters."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


class IdentityNetwork(nn.Module):
    """SFace's convolutions, one picture at a time, channels-last; its last layer for several at once.

    Results are those of OpenCV up to rounding.

    Args:
        graph: of the asset ``sface``.

    Raises:
        ValueError: the graph is another one.

    Source: Zhong et al., SFace: Sigmoid-Constrained Hypersphere Loss for Robust Face Recognition, 2021.
    """

    def __init__(self, graph: OnnxGraph) -> None:
        super().__init__()
        nodes, tensors = graph.nodes, graph.tensors
        if tuple(node.kind for node in nodes) != _START + _NUM_LAYERS * _LAYER + _END:
            raise ValueError("this is not the graph of SFace")
        self.grey, self.scale = (float(tensors[node.inputs[1]]) for node in nodes[:2])
        self.convolutions = nn.ModuleList()
        self.slopes: list[Tensor] = []
        for first in range(2, 2 + 3 * _NUM_LAYERS, 3):
            conv, norm, activation = nodes[first : first + 3]
            gain, offset = _affine(norm, graph)
            weight = (tensors[conv.inputs[1]].double() * gain.view(-1, 1, 1, 1)).float()
            strides, pads = (conv.attributes[name] for name in ("strides", "pads"))
            assert isinstance(strides, tuple)
            assert isinstance(pads, tuple)
            self.convolutions.append(PackedConv2d(weight, offset.float(), strides[0], pads[0]))
            self.slopes.append(tensors[activation.inputs[1]].flatten())
        # Both normalizations around the last layer are part of its weights.
        weight, bias = (tensors[name] for name in nodes[-2].inputs[1:])
        (gain, offset), (scale, shift) = _affine(nodes[-5], graph), _affine(nodes[-1], graph)
        columns = weight.view(len(weight), len(gain), -1)
        moved = columns.sum(2).double() @ offset
        # Features lie channels-last.
        columns = columns.transpose(1, 2) * gain.float()
        self.last = columns.mul_(scale.float().view(-1, 1, 1)).flatten(1)
        self.last_bias = ((bias + moved) * scale + shift).float()

    @torch.no_grad()
    def forward(self, faces: Sequence[UInt8[Tensor, "112 112 3"]]) -> Float[Tensor, "b 128"]:
        """Embeddings, not of unit length.

        Args:
            faces: aligned, RGB.
        """
        features = torch.cat([self._features(face) for face in faces])
        parts = []
        for rows in features.split(_ROWS):
            filled = F.pad(rows, (0, 0, 0, _ROWS - len(rows)))
            parts.append(F.linear(filled, self.last, self.last_bias)[: len(rows)])
        return torch.cat(parts)

    def _features(self, face: UInt8[Tensor, "112 112 3"]) -> Float[Tensor, "1 f"]:
        features = ((face.float() - self.grey) * self.scale).permute(2, 0, 1)[None]
        for conv, slope in zip(self.convolutions, self.slopes, strict=True):
            features = F.prelu(conv(features), slope)
        return features.permute(0, 2, 3, 1).flatten(1)


def _affine(norm: OnnxNode, graph: OnnxGraph) -> tuple[Tensor, Tensor]:
    """A batch normalization as a factor and a summand of each channel."""
    gain, offset, mean, variance = (graph.tensors[name].double() for name in norm.inputs[1:5])
    epsilon = norm.attributes["epsilon"]
    assert isinstance(epsilon, float)
    gain = gain / (variance + epsilon).sqrt()
    return gain, offset - mean * gain
