"""Vertices and triangles of a ``.glb``: in full, as small integers, or packed by Draco.

Sources: Khronos Group, KHR_mesh_quantization and KHR_draco_mesh_compression (glTF 2.0 extensions).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rome_lightning.export.gltf import INDICES, VERTICES, Buffer, quantize

_POSITION_BITS = 16
"""A step of 10 micrometres in a bust of 60 cm."""
_UV_BITS, _NORMAL_BITS = 14, 10
_LEVEL = 10
"""Smallest and slowest."""
_JOINTS, _WEIGHTS = 16, 17
"""Numbers of the skin's attributes in Draco's data; it numbers the others itself."""


@dataclass(frozen=True)
class Geometry:
    """A mesh in numbers of full precision."""

    attributes: Mapping[str, NDArray[Any]]
    """``POSITION``, ``NORMAL``, ``TEXCOORD_0``, ``JOINTS_0`` and ``WEIGHTS_0``, a row per vertex."""
    triangles: NDArray[np.int64]
    """(f, 3): vertices."""


def pack_geometry(
    buffer: Buffer, geometry: Geometry, compress: Literal["quantize", "draco"] | None
) -> tuple[dict[str, Any], list[str]]:
    """Write a mesh.

    Args:
        buffer: takes the data.
        geometry: to write.
        compress: see ``Profile.compress``.

    Returns:
        Attributes and indices of a primitive, and the extensions that reading it requires.

    Raises:
        ImportError: ``draco`` without its library.
    """
    small = len(geometry.attributes["POSITION"]) <= 0xFFFF
    indices = geometry.triangles.flatten().astype(np.uint16 if small else np.uint32)
    if compress == "draco":
        return _draco(buffer, geometry, indices), ["KHR_mesh_quantization", "KHR_draco_mesh_compression"]
    arrays = dict(geometry.attributes)
    written = {"POSITION": buffer.accessor(arrays.pop("POSITION"), VERTICES, bounds=True)}
    if compress == "quantize":
        written["NORMAL"] = buffer.normalized(quantize(arrays.pop("NORMAL"), np.int8))
        written["TEXCOORD_0"] = buffer.normalized(quantize(arrays.pop("TEXCOORD_0"), np.uint16))
        written["WEIGHTS_0"] = buffer.normalized(whole_weights(arrays.pop("WEIGHTS_0")))
    written |= {name: buffer.accessor(array, VERTICES) for name, array in arrays.items()}
    extensions = [] if compress is None else ["KHR_mesh_quantization"]
    return {"attributes": written, "indices": buffer.accessor(indices, INDICES)}, extensions


def whole_weights(weights: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Weights of 16 bits that sum to one exactly: the largest takes what rounding leaves."""
    integers = np.rint(weights.astype(np.float64) * 0xFFFF).astype(np.int64)
    rows = np.arange(len(integers))
    integers[rows, integers.argmax(1)] += 0xFFFF - integers.sum(1)
    return integers.astype(np.uint16)


def load_draco() -> Any:
    """The library that packs.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import DracoPy
    except ImportError as error:
        raise ImportError("--compress draco needs DracoPy: pip install rome-lightning[draco]") from error
    return DracoPy


def _draco(buffer: Buffer, geometry: Geometry, indices: NDArray[Any]) -> dict[str, Any]:
    """Morph targets stay outside, for which the extension has no room, and count vertices in order."""
    draco, arrays = load_draco(), geometry.attributes
    weights = whole_weights(arrays["WEIGHTS_0"])
    packed = draco.encode(
        arrays["POSITION"],
        geometry.triangles.astype(np.uint32),
        quantization_bits=_POSITION_BITS,
        compression_level=_LEVEL,
        preserve_order=True,
        normals=arrays["NORMAL"].astype(np.float64),
        tex_coord=arrays["TEXCOORD_0"].astype(np.float64),
        normal_quantization_bits=_NORMAL_BITS,
        tex_coord_quantization_bits=_UV_BITS,
        generic_attributes={_JOINTS: arrays["JOINTS_0"], _WEIGHTS: weights},
    )
    kinds = {each["attribute_type"]: each["unique_id"] for each in draco.decode(packed).attributes}
    numbers = {
        "POSITION": kinds[0],
        "NORMAL": kinds[1],
        "TEXCOORD_0": kinds[3],
        "JOINTS_0": _JOINTS,
        "WEIGHTS_0": _WEIGHTS,
    }
    written = {
        name: buffer.empty(array, bounds=name == "POSITION")
        for name, array in arrays.items()
        if name != "WEIGHTS_0"
    }
    written["WEIGHTS_0"] = buffer.empty(weights, normalized=True)
    extension = {"bufferView": buffer.view(packed), "attributes": numbers}
    return {
        "attributes": written,
        "indices": buffer.empty(indices),
        "extensions": {"KHR_draco_mesh_compression": extension},
    }
