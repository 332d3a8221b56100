"""Reads the graph of an ONNX file as plain data: names, numbers and tensors, nothing that runs.

Only what feature networks use is understood: one graph, attributes of numbers, tensors of float32 and
int64 inside the file. The format is that of protocol buffers; field numbers are those of ``onnx.proto``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FLOAT, INT64 = 1, 7
"""Data types of tensors, as ``onnx.proto`` numbers them."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class OnnxNode:
    """One operation."""

    kind: str
    """Such as ``Conv``."""
    inputs: tuple[str, ...]
    """Names of values; an empty name is an optional input that is left out."""
    outputs: tuple[str, ...]
    attributes: dict[str, float | int | tuple[int, ...]]


@dataclass(frozen=True)
class OnnxGraph:
    """Operations in the order in which they can run."""

    nodes: list[OnnxNode] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    """Weights by name."""
    inputs: list[str] = field(default_factory=list)
    """Names of the values to supply; weights are not among them."""
    outputs: list[str] = field(default_factory=list)


def read_onnx(path: Path) -> OnnxGraph:
    """The graph of a file.

    Args:
        path: an ``.onnx`` file with its weights inside.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, or holds what this reader does not know.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no network at {path}; fetch it with `rome assets fetch`")
    try:
        graphs = [value for number, value in _fields(Path(path).read_bytes()) if number == 7]
        if len(graphs) != 1:
            raise ValueError(f"{len(graphs)} graphs")
        return _graph(_bytes(graphs[0]))
    except (IndexError, struct.error, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"{path} is not a readable ONNX file ({error}); fetch it again") from error


def _graph(message: bytes) -> OnnxGraph:
    graph = OnnxGraph()
    for number, value in _fields(message):
        if number == 1:
            graph.nodes.append(_node(_bytes(value)))
        elif number == 5:
            name, tensor = _tensor(_bytes(value))
            graph.tensors[name] = tensor
        elif number == 11:
            graph.inputs.append(_name(_bytes(value)))
        elif number == 12:
            graph.outputs.append(_name(_bytes(value)))
    # Older files list their weights among the inputs.
    graph.inputs[:] = [name for name in graph.inputs if name not in graph.tensors]
    return graph


def _node(message: bytes) -> OnnxNode:
    kind = ""
    inputs: list[str] = []
    outputs: list[str] = []
    attributes: dict[str, float | int | tuple[int, ...]] = {}
    for number, value in _fields(message):
        if number == 1:
            inputs.append(_bytes(value).decode())
        elif number == 2:
            outputs.append(_bytes(value).decode())
        elif number == 4:
            kind = _bytes(value).decode()
        elif number == 5:
            name, content = _attribute(_bytes(value))
            if content is not None:
                attributes[name] = content
    return OnnxNode(kind, tuple(inputs), tuple(outputs), attributes)


def _attribute(message: bytes) -> tuple[str, float | int | tuple[int, ...] | None]:
    """Name and number or numbers; ``None`` for texts and tensors, which no operation here needs."""
    name = ""
    content: float | int | tuple[int, ...] | None = None
    ints: list[int] = []
    for number, value in _fields(message):
        if number == 1:
            name = _bytes(value).decode()
        elif number == 2:
            content = struct.unpack("<f", _bytes(value))[0]
        elif number == 3:
            content = _signed(value)
        elif number == 8:
            ints += _integers(value)
    return name, tuple(ints) if ints else content


def _tensor(message: bytes) -> tuple[str, Tensor]:
    name, kind = "", 0
    shape: list[int] = []
    raw = b""
    integers: list[int] = []
    for number, value in _fields(message):
        if number == 1:
            shape += _integers(value)
        elif number == 2 and isinstance(value, int):
            kind = value
        elif number in (4, 9):  # packed floats and raw bytes are the same bytes
            raw += _bytes(value)
        elif number == 7:
            integers += _integers(value)
        elif number == 8:
            name = _bytes(value).decode()
        elif number in (13, 14):
            raise ValueError(f"the tensor {name} is in another file")
    if kind not in (FLOAT, INT64):
        raise ValueError(f"the tensor {name} is neither float32 nor int64")
    dtype = "<f4" if kind == FLOAT else "<i8"
    array = np.array(integers, dtype) if integers else np.frombuffer(raw, dtype)
    return name, torch.from_numpy(array.reshape(shape).copy())


def _name(message: bytes) -> str:
    return next(_bytes(value).decode() for number, value in _fields(message) if number == 1)


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and values of a protocol buffer's fields, in order."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, position = _varint(message, position)
            yield number, value
            continue
        if wire == _BYTES:
            length, position = _varint(message, position)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"unknown wire type {wire}")
        if position + length > len(message):
            raise ValueError("the file ends early")
        yield number, message[position : position + length]
        position += length


def _varint(message: bytes, position: int) -> tuple[int, int]:
    """Unsigned integer of seven bits per byte, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise ValueError("an integer does not end")


def _integers(value: int | bytes) -> list[int]:
    """A repeated integer field: one value, or many packed into bytes."""
    if isinstance(value, int):
        return [_signed(value)]
    integers, position = [], 0
    while position < len(value):
        number, position = _varint(value, position)
        integers.append(_signed(number))
    return integers


def _signed(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise ValueError("a number was expected")
    return value - (1 << 64) if value >> 63 else value


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("bytes were expected")
    return value
