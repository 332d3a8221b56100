"""MediaPipe's multiclass selfie segmenter with products of bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rome_lightning.networks.fast.eight_bit import ByteConv2d, PackedConv2d, with_leading_zeros
from rome_lightning.pretrained.tflite_reader import TfliteGraph, TfliteNode

PEAKS = {204: 0.8, 205: 0.45, 207: 1.2, 208: 0.5, 213: 1.5, 214: 0.85, 261: 2.5, 262: 1.4}
"""Range of the wide features, by the number of the tensor in the asset's file: a quarter above the largest
values in 128 pictures (66 frames of 22 clips and 62 photographs)."""
_LEAST_PRODUCTS = 6 * 10**7
"""Products from which on a convolution is one of bytes, with at least ``_LEAST_CHANNELS``."""
_LEAST_CHANNELS = 64

Values = dict[int, Any]
Step = Callable[[Values], None]


class RegionNetwork(nn.Module):
    """The segmenter's graph, step by step, channels-last.

    In its blocks of wide features between a 1x1 convolution, a depthwise one and another 1x1 one, features
    stay bytes; their range is known (``PEAKS``). Other large convolutions round what they see.

    Args:
        graph: of the asset ``selfie_multiclass``.

    Raises:
        ValueError: the graph is another one.
    """

    def __init__(self, graph: TfliteGraph) -> None:
        super().__init__()
        made = {node.output: node for node in graph.nodes}
        known = [made[number].kind if number in made else "" for number in PEAKS]
        wanted = ["conv", "depthwise_conv"] * (len(PEAKS) // 2)
        active = {node.kind for node in graph.nodes if node.activation}
        size = graph.shapes[graph.input][1:3]
        if known != wanted or not active <= {"conv", "depthwise_conv"} or size != (256, 256):
            raise ValueError("this is not the graph of the multiclass selfie segmenter of 256 x 256 pixels")
        self.graph = graph
        # Features are forgotten after their last use.
        last = {number: index for index, node in enumerate(graph.nodes) for number in node.inputs}
        self._forgotten = [
            [number for number in node.inputs if last[number] == index and number not in graph.tensors]
            for index, node in enumerate(graph.nodes)
        ]
        self._uses = Counter(number for node in graph.nodes for number in node.inputs)
        self._steps = [self._step(node) for node in graph.nodes]

    @torch.no_grad()
    def forward(self, picture: Float[Tensor, "1 3 256 256"]) -> Float[Tensor, "1 6 256 256"]:
        """Probabilities of the classes.

        Args:
            picture: RGB, [-1, 1].
        """
        values: Values = {self.graph.input: picture.contiguous(memory_format=torch.channels_last)}
        for step, forgotten in zip(self._steps, self._forgotten, strict=True):
            step(values)
            for number in forgotten:
                values.pop(number, None)
        logits: Tensor = values[self.graph.output]
        return logits.softmax(1)

    def _step(self, node: TfliteNode) -> Step:
        if node.kind in ("conv", "depthwise_conv"):
            return self._convolution(node)
        if node.kind in ("add", "mul"):
            return self._arithmetic(node)
        operation = _OPERATIONS[node.kind]
        first, output, size = node.inputs[0], node.output, self.graph.shapes[node.output]
        weights = [self.graph.tensors.get(number) for number in node.inputs]
        if node.kind == "transpose_conv":
            first = node.inputs[2]

        def step(values: Values) -> None:
            values[output] = operation(values[first], size, weights)

        return step

    def _convolution(self, node: TfliteNode) -> Step:
        source, output = node.inputs[0], node.output
        weight, bias = (self.graph.tensors[number] for number in node.inputs[1:])
        depthwise = node.kind == "depthwise_conv"
        weight = weight.permute((3, 0, 1, 2) if depthwise else (0, 3, 1, 2))
        (stride, _), side = node.strides, weight.shape[-1]
        padding = side // 2
        if padding and not node.padded:
            raise ValueError("a convolution without padding is unknown")
        if stride == 2 and side == 3:
            weight = with_leading_zeros(weight)
        height, width = self.graph.shapes[output][1:3]
        many = weight.numel() * height * width >= _LEAST_PRODUCTS and weight.shape[1] >= _LEAST_CHANNELS
        relu = node.activation == 1
        if output in PEAKS or many:
            layer: nn.Module = ByteConv2d(weight, bias, stride, padding, relu, PEAKS.get(output))
        else:
            layer = PackedConv2d(weight, bias, stride, padding, float("inf") if relu else None)

        def step(values: Values) -> None:
            values[output] = layer(values[source])

        return step

    def _arithmetic(self, node: TfliteNode) -> Step:
        first, second = node.inputs
        constant = self.graph.tensors.get(second)
        factor = None if constant is None else constant.view(-1, 1, 1)
        adds, output = node.kind == "add", node.output
        # Sums of large features go where the first one was, if nothing needs it any more.
        in_place = adds and self._uses[first] == 1 and self.graph.shapes[first] == self.graph.shapes[output]

        def step(values: Values) -> None:
            one, other = values[first], values[second] if factor is None else factor
            if in_place:
                values[output] = one.add_(other)
            else:
                values[output] = one + other if adds else one * other

        return step


def _reshaped(image: Tensor, size: tuple[int, ...], _: list[Tensor | None]) -> Tensor:
    return image.permute(0, 2, 3, 1).reshape(size).permute(0, 3, 1, 2)


def _transposed(image: Tensor, _: tuple[int, ...], weights: list[Tensor | None]) -> Tensor:
    order = weights[1]
    assert order is not None
    return image.permute(0, 2, 3, 1).permute(order.tolist()).contiguous().permute(0, 3, 1, 2)


def _enlarged(image: Tensor, size: tuple[int, ...], _: list[Tensor | None]) -> Tensor:
    return F.interpolate(image, size[1:3], mode="bilinear", align_corners=False)


def _repeated(image: Tensor, size: tuple[int, ...], _: list[Tensor | None]) -> Tensor:
    return F.interpolate(image, size[1:3], mode="nearest")


def _doubled(image: Tensor, _: tuple[int, ...], weights: list[Tensor | None]) -> Tensor:
    weight, bias = weights[1], weights[3]
    assert weight is not None
    return F.conv_transpose2d(image, weight.permute(3, 0, 1, 2), bias, stride=2)


_OPERATIONS: dict[str, Callable[[Tensor, tuple[int, ...], list[Tensor | None]], Tensor]] = {
    "reshape": _reshaped,
    "transpose": _transposed,
    "resize_bilinear": _enlarged,
    "resize_nearest": _repeated,
    "softmax": lambda image, _, __: image.softmax(1),
    "sum": lambda image, _, __: image.sum(3, keepdim=True),
    "transpose_conv": _doubled,
}
