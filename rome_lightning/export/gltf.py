"""The binary part of glTF files and their container.

Source: Khronos Group, glTF 2.0 Specification (ISO/IEC 12113:2022).
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

VERTICES, INDICES = 34962, 34963
"""Purpose of a buffer view."""
_TYPES = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}
_COMPONENTS = {"int8": 5120, "int16": 5122, "uint8": 5121, "uint16": 5123, "uint32": 5125, "float32": 5126}


@dataclass
class Buffer:
    """The binary chunk and the JSON that describes it."""

    dense: bool = False
    """Write displacements in full, for readers that know no sparse accessors."""
    quantized: bool = False
    """Write displacements in 16 bits (positions, steps of 31 micrometres) and 8 bits (normals), for readers
    of ``KHR_mesh_quantization``."""
    content: bytearray = field(default_factory=bytearray)
    views: list[dict[str, Any]] = field(default_factory=list)
    accessors: list[dict[str, Any]] = field(default_factory=list)

    def view(self, data: bytes, target: int | None = None, stride: int | None = None) -> int:
        """Append bytes, aligned to 4; returns the index of their view."""
        self.content.extend(bytes(-len(self.content) % 4))
        view = {"buffer": 0, "byteOffset": len(self.content), "byteLength": len(data)}
        if stride is not None:
            view["byteStride"] = stride
        self.views.append(view if target is None else view | {"target": target})
        self.content.extend(data)
        return len(self.views) - 1

    def accessor(self, array: NDArray[Any], target: int | None = None, bounds: bool = False) -> int:
        """Append an array of shape (n,) or (n, c); returns the index of its accessor."""
        return self.described(self._describe(array, bounds) | {"bufferView": self._view_of(array, target)})

    def normalized(self, array: NDArray[Any]) -> int:
        """Append integers of vertices that stand for [-1, 1] or [0, 1]."""
        entry = self._describe(array, False) | {"normalized": True}
        return self.described(entry | {"bufferView": self._view_of(array, VERTICES)})

    def described(self, entry: dict[str, Any]) -> int:
        """Append an accessor whose data are elsewhere, or written already; returns its index."""
        self.accessors.append(entry)
        return len(self.accessors) - 1

    def empty(self, array: NDArray[Any], bounds: bool = False, normalized: bool = False) -> int:
        """Append an accessor without data, which an extension gives."""
        entry = self._describe(array, bounds)
        return self.described(entry | {"normalized": True} if normalized else entry)

    def _view_of(self, array: NDArray[Any], target: int | None) -> int:
        """The array's bytes; rows of vertices begin at multiples of 4."""
        row = array.nbytes // max(len(array), 1)
        if target != VERTICES or row % 4 == 0:
            return self.view(array.tobytes(), target)
        padded = np.zeros((len(array), row + -row % 4), np.uint8)
        padded[:, :row] = np.ascontiguousarray(array).view(np.uint8).reshape(len(array), row)
        return self.view(padded.tobytes(), target, padded.shape[1])

    def displacement(self, array: NDArray[np.float32], moved: NDArray[np.bool_], bounds: bool) -> int:
        """Append an (n, 3) array that is zero where ``moved`` is false, sparse where that is smaller."""
        array = np.where(moved[:, None], array, np.float32(0))
        if self.quantized:
            array = quantize(array, np.int16 if bounds else np.int8)
        indices = np.flatnonzero(moved)
        index_type = np.uint16 if len(array) <= 0xFFFF else np.uint32
        row, width = 3 * array.itemsize, np.dtype(index_type).itemsize
        entry = self._describe(array, bounds) | ({"normalized": True} if self.quantized else {})
        if self.dense or len(indices) * (row + width) >= (row + -row % 4) * len(array):
            return self.described(entry | {"bufferView": self._view_of(array, VERTICES)})
        # An accessor without data is all zeros, which is what a target that moves nothing needs.
        if len(indices):
            entry["sparse"] = {
                "count": len(indices),
                "indices": {
                    "bufferView": self.view(indices.astype(index_type).tobytes()),
                    "componentType": _COMPONENTS[np.dtype(index_type).name],
                },
                "values": {"bufferView": self.view(array[indices].tobytes())},
            }
        return self.described(entry)

    @staticmethod
    def _describe(array: NDArray[Any], bounds: bool) -> dict[str, Any]:
        columns = array.reshape(len(array), -1)
        entry: dict[str, Any] = {
            "componentType": _COMPONENTS[array.dtype.name],
            "count": len(array),
            "type": _TYPES[columns.shape[1]],
        }
        if bounds:
            entry |= {"min": columns.min(0).tolist(), "max": columns.max(0).tolist()}
        return entry


def quantize(array: NDArray[np.float32], kind: type[np.integer[Any]]) -> NDArray[Any]:
    """Values in [-1, 1], or [0, 1], as integers that glTF calls normalized; larger ones are clamped."""
    most = np.iinfo(kind).max
    return np.rint(array.clip(-1 if np.iinfo(kind).min else 0, 1) * most).astype(kind)


def container(document: dict[str, Any], binary: bytes) -> bytes:
    """The two chunks of a ``.glb`` file."""
    binary += bytes(-len(binary) % 4)
    document = document | {"buffers": [{"byteLength": len(binary)}]}
    text = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    length = 12 + 8 + len(text) + 8 + len(binary)
    header = struct.pack("<4sII", b"glTF", 2, length)
    return b"".join(
        [
            header,
            struct.pack("<I4s", len(text), b"JSON"),
            text,
            struct.pack("<I4s", len(binary), b"BIN\0"),
            binary,
        ]
    )
