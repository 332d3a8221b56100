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
"""What a view of the buffer is for."""
_TYPES = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}
_COMPONENTS = {"uint8": 5121, "uint16": 5123, "uint32": 5125, "float32": 5126}


@dataclass
class Buffer:
    """The binary chunk and the JSON that describes it."""

    dense: bool = False
    """Write displacements in full, for readers that know no sparse accessors."""
    content: bytearray = field(default_factory=bytearray)
    views: list[dict[str, Any]] = field(default_factory=list)
    accessors: list[dict[str, Any]] = field(default_factory=list)

    def view(self, data: bytes, target: int | None = None) -> int:
        """Append bytes, aligned to 4; returns the index of their view."""
        self.content.extend(bytes(-len(self.content) % 4))
        view = {"buffer": 0, "byteOffset": len(self.content), "byteLength": len(data)}
        self.views.append(view if target is None else view | {"target": target})
        self.content.extend(data)
        return len(self.views) - 1

    def accessor(self, array: NDArray[Any], target: int | None = None, bounds: bool = False) -> int:
        """Append an array of shape (n,) or (n, c); returns the index of its accessor."""
        entry = self._describe(array, bounds) | {"bufferView": self.view(array.tobytes(), target)}
        self.accessors.append(entry)
        return len(self.accessors) - 1

    def displacement(self, array: NDArray[np.float32], moved: NDArray[np.bool_], bounds: bool) -> int:
        """Append an (n, 3) array that is zero where ``moved`` is false, sparse where that is smaller."""
        array = np.where(moved[:, None], array, np.float32(0))
        indices = np.flatnonzero(moved)
        index_type = np.uint16 if len(array) <= 0xFFFF else np.uint32
        width = np.dtype(index_type).itemsize
        if self.dense or len(indices) * (12 + width) >= 12 * len(array):
            return self.accessor(array, VERTICES, bounds)
        entry = self._describe(array, bounds)
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
        self.accessors.append(entry)
        return len(self.accessors) - 1

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
