"""A feed-forward network from an ONNX graph, with gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rome_lightning.pretrained.onnx_reader import OnnxGraph


class OnnxNetwork(nn.Module):
    """Runs the operations of a graph one after the other with torch's own.

    Only the operations of recognition networks are supported: convolution, batch normalization (with its
    stored
    statistics), PReLU, linear layers and elementwise arithmetic.

    Args:
        graph: of one input and one output.

    Raises:
        ValueError: the graph needs an operation that is not known, or has several inputs or outputs.
    """

    def __init__(self, graph: OnnxGraph) -> None:
        super().__init__()
        unknown = sorted({node.kind for node in graph.nodes} - _OPERATIONS.keys())
        if unknown:
            raise ValueError(
                f"the network has unknown operations: {', '.join(unknown)}; known are "
                f"{', '.join(sorted(_OPERATIONS))}"
            )
        if len(graph.inputs) != 1 or len(graph.outputs) != 1:
            raise ValueError(
                f"expected a network with one input and one output, got {graph.inputs} and {graph.outputs}"
            )
        self.nodes = graph.nodes
        self.input, self.output = graph.inputs[0], graph.outputs[0]
        # Names of ONNX values may hold dots, which names of parameters must not.
        self._keys = {name: f"tensor_{index}" for index, name in enumerate(graph.tensors)}
        self.tensors = nn.ParameterDict(
            {
                self._keys[name]: nn.Parameter(tensor, requires_grad=False)
                for name, tensor in graph.tensors.items()
            }
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """The output for one input."""
        values: dict[str, Tensor] = {self.input: inputs}
        for node in self.nodes:
            arguments = [
                values[name] if name in values else self.tensors[self._keys[name]] for name in node.inputs
            ]
            values[node.outputs[0]] = _OPERATIONS[node.kind](node.attributes, *arguments)
        return values[self.output]


def _conv(attributes: dict[str, Any], x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    pads = attributes.get("pads", (0, 0, 0, 0))
    if pads[:2] != pads[2:]:
        x, pads = F.pad(x, (pads[1], pads[3], pads[0], pads[2])), (0, 0, 0, 0)
    return F.conv2d(
        x,
        weight,
        bias,
        stride=attributes.get("strides", (1, 1)),
        padding=pads[:2],
        dilation=attributes.get("dilations", (1, 1)),
        groups=attributes.get("group", 1),
    )


def _batch_norm(
    attributes: dict[str, Any], x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    return F.batch_norm(x, mean, variance, weight, bias, eps=attributes.get("epsilon", 1e-5))


def _gemm(attributes: dict[str, Any], a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a = a.T if attributes.get("transA", 0) else a
    b = b.T if attributes.get("transB", 0) else b
    product = attributes.get("alpha", 1.0) * (a @ b)
    return product if c is None else product + attributes.get("beta", 1.0) * c


def _reshape(attributes: dict[str, Any], x: Tensor, shape: Tensor) -> Tensor:
    # The first dimension is the batch, whatever size the file was exported with.
    return x.reshape(len(x), *shape.tolist()[1:])


_OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "Add": lambda _, a, b: a + b,
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "Dropout": lambda _, x: x,
    "Flatten": lambda attributes, x: torch.flatten(x, attributes.get("axis", 1)),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda _, x: x.mean((2, 3), keepdim=True),
    "Identity": lambda _, x: x,
    "Mul": lambda _, a, b: a * b,
    # Slopes have the shape (channels, 1, 1).
    "PRelu": lambda _, x, slope: torch.where(x >= 0, x, slope * x),
    "Relu": lambda _, x: F.relu(x),
    "Reshape": _reshape,
    "Sub": lambda _, a, b: a - b,
}
