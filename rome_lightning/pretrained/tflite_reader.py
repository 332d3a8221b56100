"""Reads the graph of a TensorFlow Lite file as plain data: numbers and tensors, nothing that runs.

Only what the region segmenter uses is understood: one graph of float32 tensors and int32 shapes. The format
is that of FlatBuffers; positions of fields and numbers of operations are those of ``schema.fbs``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

KINDS = {
    0: "add",
    3: "conv",
    4: "depthwise_conv",
    18: "mul",
    22: "reshape",
    23: "resize_bilinear",
    25: "softmax",
    39: "transpose",
    67: "transpose_conv",
    74: "sum",
    97: "resize_nearest",
}
"""Names of the operations that are known, by their numbers."""
# Where an operation's table of options holds its activation, and its strides along y and x.
_ACTIVATION = {"add": 0, "mul": 0, "conv": 3, "depthwise_conv": 4, "transpose_conv": 3}
_STRIDES = {"conv": (2, 1), "depthwise_conv": (2, 1), "transpose_conv": (2, 1)}
_FLOAT32, _INT32 = 0, 2


@dataclass(frozen=True)
class TfliteNode:
    """One operation."""

    kind: str
    """A value of ``KINDS``."""
    inputs: tuple[int, ...]
    """Numbers of tensors."""
    output: int
    activation: int = 0
    """0 is none, 1 ReLU; others are refused."""
    strides: tuple[int, int] = (1, 1)
    """Along y and x."""
    padded: bool = True
    """Whether a convolution's result is as large as what it sees, strides apart."""


@dataclass(frozen=True)
class TfliteGraph:
    """Operations in the order in which they run."""

    nodes: list[TfliteNode]
    tensors: dict[int, Tensor]
    """Weights by number."""
    shapes: list[tuple[int, ...]]
    """Of all tensors, by number."""
    input: int
    output: int


def read_tflite(path: Path) -> TfliteGraph:
    """The graph of a file.

    Args:
        path: a ``.tflite`` file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, or holds what this reader does not know.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no network at {path}; fetch it with `rome assets fetch`")
    try:
        content = Path(path).read_bytes()
        return _graph(_Table(content, struct.unpack_from("<I", content)[0]))
    except (IndexError, struct.error, ValueError) as error:
        raise ValueError(
            f"{path} is not a readable TensorFlow Lite file ({error}); fetch it again"
        ) from error


@dataclass(frozen=True)
class _Table:
    """A table of a FlatBuffer; absent fields have their default values."""

    content: bytes
    position: int

    def field(self, number: int) -> int:
        """Where a field is; 0 if it is absent."""
        directory = self.position - self._unpack("<i", self.position)
        if 4 + 2 * number >= self._unpack("<H", directory):
            return 0
        offset = self._unpack("<H", directory + 4 + 2 * number)
        return self.position + offset if offset else 0

    def integer(self, number: int, form: str = "<i", default: int = 0) -> int:
        position = self.field(number)
        return self._unpack(form, position) if position else default

    def table(self, number: int) -> _Table | None:
        position = self.field(number)
        return self._at(position) if position else None

    def vector(self, number: int, size: int) -> tuple[int, int]:
        """Where the entries of a vector are and how many there are."""
        position = self.field(number)
        if not position:
            return 0, 0
        start = position + self._unpack("<I", position)
        length = self._unpack("<I", start)
        if start + 4 + size * length > len(self.content):
            raise ValueError("the file ends early")
        return start + 4, length

    def tables(self, number: int) -> list[_Table]:
        start, length = self.vector(number, 4)
        return [self._at(start + 4 * index) for index in range(length)]

    def integers(self, number: int) -> tuple[int, ...]:
        start, length = self.vector(number, 4)
        return struct.unpack_from(f"<{length}i", self.content, start)

    def data(self, number: int) -> bytes:
        start, length = self.vector(number, 1)
        return self.content[start : start + length]

    def _at(self, position: int) -> _Table:
        return _Table(self.content, position + self._unpack("<I", position))

    def _unpack(self, form: str, position: int) -> int:
        if position < 0:
            raise ValueError("an offset leaves the file")
        value: int = struct.unpack_from(form, self.content, position)[0]
        return value


def _graph(model: _Table) -> TfliteGraph:
    # Numbers above 126 are in a field of their own.
    codes = [max(code.integer(0, "<b"), code.integer(3)) for code in model.tables(1)]
    graphs, buffers = model.tables(2), model.tables(4)
    if len(graphs) != 1:
        raise ValueError(f"{len(graphs)} graphs")
    (graph,) = graphs
    tables, inputs, outputs = graph.tables(0), graph.integers(1), graph.integers(2)
    if len(inputs) != 1 or len(outputs) != 1:
        raise ValueError(f"{len(inputs)} inputs and {len(outputs)} outputs")
    shapes = [table.integers(0) for table in tables]
    tensors = {}
    for number, table in enumerate(tables):
        content = buffers[table.integer(2)].data(0)
        if content:
            tensors[number] = _tensor(content, table.integer(1, "<b"), shapes[number])
    nodes = [_node(table, codes) for table in graph.tables(3)]
    return TfliteGraph(nodes, tensors, shapes, inputs[0], outputs[0])


def _node(table: _Table, codes: list[int]) -> TfliteNode:
    code = codes[table.integer(0)]
    if code not in KINDS:
        raise ValueError(f"operation {code} is unknown")
    kind, options, outputs = KINDS[code], table.table(4), table.integers(2)
    if len(outputs) != 1:
        raise ValueError(f"{kind} has {len(outputs)} outputs")
    activation, strides, padded = 0, (1, 1), True
    if options is not None:
        if kind in _ACTIVATION:
            activation = options.integer(_ACTIVATION[kind], "<b")
        if kind in _STRIDES:
            rows, columns = _STRIDES[kind]
            strides = options.integer(rows), options.integer(columns)
            padded = options.integer(0, "<b") == 0
    if activation > 1:
        raise ValueError(f"activation {activation} is unknown")
    return TfliteNode(kind, table.integers(1), outputs[0], activation, strides, padded)


def _tensor(content: bytes, kind: int, shape: tuple[int, ...]) -> Tensor:
    if kind not in (_FLOAT32, _INT32):
        raise ValueError(f"a tensor of type {kind} is neither float32 nor int32")
    array = np.frombuffer(content, "<f4" if kind == _FLOAT32 else "<i4")
    return torch.from_numpy(array.reshape(shape).copy())
