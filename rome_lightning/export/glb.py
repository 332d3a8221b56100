"""Rigged avatars as binary glTF 2.0, which Blender, Unity, Unreal and browsers open.

The file holds the person's mesh at rest (hair and shoulders included), a skin with the head model's five
joints, one morph target per expression and the colour texture. Head space is glTF's space, and our UV
convention is glTF's, so nothing is converted.

On the open head the posed file is the model's posed mesh. What glTF cannot express: FLAME's pose
correctives are left out, and the rest positions of joints do not follow the expression (they do on FLAME
only). Eyeballs turn by their joints alone, the ``eyeLook...`` targets move the lids. Offsets that a model
computes anew for every expression are those at rest.

Source: Khronos Group, glTF 2.0 Specification (ISO/IEC 12113:2022).
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

import rome_lightning
from rome_lightning.geometry import vertex_normals
from rome_lightning.head import JOINTS, HeadModel
from rome_lightning.media.atomic import write_atomic
from rome_lightning.media.image import encode_png
from rome_lightning.types import HeadParams

_PARENTS = {"root": None, "neck": "root", "jaw": "neck", "left_eye": "neck", "right_eye": "neck"}
_TYPES = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}
_COMPONENTS = {"uint8": 5121, "uint16": 5123, "uint32": 5125, "float32": 5126}
_VERTICES, _INDICES = 34962, 34963
_LINEAR, _LINEAR_MIPMAPS, _CLAMP = 9729, 9987, 33071

SMALLEST_MOVE = 1e-5
"""Displacements below this many metres are left out of morph targets."""


@dataclass
class _Buffer:
    """The binary chunk and the JSON that describes it."""

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
        if len(indices) * (12 + width) >= 12 * len(array):
            return self.accessor(array, _VERTICES, bounds)
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


@torch.no_grad()
def export_glb(
    path: str | Path,
    head: HeadModel,
    shape: Float[Tensor, " s"],
    offsets: Float[Tensor, "v 3"] | None,
    colour_texture: Float[Tensor, "3 t t"],
    *,
    name: str = "avatar",
    unlit: bool = False,
) -> Path:
    """Write one person as a rigged ``.glb``.

    Args:
        path: file to write; its folder is made.
        head: the head model of the avatar.
        shape: identity coefficients.
        offsets: hair and shoulder displacement at rest, metres; ``None`` for the bald head.
        colour_texture: complete RGB texture in [0, 1], sRGB, without holes (``bake_colour_texture``).
        name: name of the scene's nodes.
        unlit: show the texture's colours as they are; otherwise the viewer adds its own light to the
            light that the photograph has.

    Returns:
        The path written.
    """
    path = Path(path)
    _check(head, shape, offsets, colour_texture)
    corners = _corners(head)
    rest, joints = rest_and_joints(head, shape, offsets)
    buffer = _Buffer()
    attributes, indices = _geometry(buffer, head, rest, corners)
    normals = unit_normals(rest, head)
    targets = [
        _morph_target(buffer, head, rest, normals, component, corners)
        for component in head.basis[head.num_shape :]
    ]
    nodes, skin = _skeleton(buffer, joints.numpy(), name)
    image = buffer.view(encode_png(colour_texture))
    document = {
        "asset": {
            "version": "2.0",
            "generator": f"rome_lightning {rome_lightning.__version__}",
            "copyright": head.licence,
            "extras": {"head": head.name},
        },
        "scene": 0,
        "scenes": [{"nodes": [0, 1]}],
        "nodes": nodes,
        "meshes": [
            {
                "name": name,
                "primitives": [
                    {"attributes": attributes, "indices": indices, "material": 0, "targets": targets}
                ],
                "weights": [0.0] * len(targets),
                "extras": {"targetNames": list(head.expression_names)},
            }
        ],
        "skins": [skin],
        "accessors": buffer.accessors,
        "bufferViews": buffer.views,
        "images": [{"bufferView": image, "mimeType": "image/png", "name": "colour"}],
        "textures": [{"sampler": 0, "source": 0}],
        "samplers": [{"magFilter": _LINEAR, "minFilter": _LINEAR_MIPMAPS, "wrapS": _CLAMP, "wrapT": _CLAMP}],
        **_material(unlit),
    }
    write_atomic(path, _container(document, bytes(buffer.content)))
    return path


def _check(head: HeadModel, shape: Tensor, offsets: Tensor | None, texture: Tensor) -> None:
    if tuple(shape.shape) != (head.num_shape,):
        raise ValueError(
            f"shape must have {head.num_shape} coefficients for {head.name}, got {tuple(shape.shape)}"
        )
    if offsets is not None and tuple(offsets.shape) != (head.num_vertices, 3):
        raise ValueError(f"offsets must have shape ({head.num_vertices}, 3), got {tuple(offsets.shape)}")
    if texture.ndim != 3 or texture.shape[0] != 3:
        raise ValueError(f"colour_texture must have shape (3, s, s), got {tuple(texture.shape)}")


@dataclass(frozen=True)
class _Corners:
    """Mesh vertices as glTF wants them: one per pair of vertex and texture coordinate."""

    vertices: Tensor
    uvs: Tensor
    faces: Tensor


def _corners(head: HeadModel) -> _Corners:
    pairs = torch.stack([head.faces.flatten(), head.uv_faces.flatten()], dim=1).cpu()
    unique, index = pairs.unique(dim=0, return_inverse=True)
    return _Corners(unique[:, 0], unique[:, 1], index.view(-1, 3))


def rest_and_joints(
    head: HeadModel, shape: Float[Tensor, " s"], offsets: Float[Tensor, "v 3"] | None
) -> tuple[Float[Tensor, "v 3"], Float[Tensor, "5 3"]]:
    """Vertices and joints of the person at rest, on the CPU, metres."""
    device = head.faces.device
    params = HeadParams.neutral(1, head.num_shape, head.num_expression).to(device)
    params.shape.copy_(shape)
    vertices = head(params)[0]
    if offsets is not None:
        vertices = vertices + offsets.to(device)
    coefficients = torch.cat([params.shape, params.expression], dim=-1)
    joints = (head.joint_template + coefficients[0] @ head.joint_basis).view(5, 3)
    return vertices.float().cpu(), joints.float().cpu()


def unit_normals(vertices: Float[Tensor, "v 3"], head: HeadModel) -> Float[Tensor, "v 3"]:
    """Normals of which every one has a direction."""
    normals = vertex_normals(vertices[None].double(), head.faces.cpu())[0]
    # A vertex with degenerate faces only has no direction, and glTF demands one.
    lost = normals.norm(dim=-1, keepdim=True) < 0.5
    return torch.where(lost, torch.tensor([0.0, 0.0, 1.0], dtype=normals.dtype), normals).float()


def skin_weights(head: HeadModel) -> tuple[Int[Tensor, "v 4"], Float[Tensor, "v 4"]]:
    """The four joints that move each vertex, and how much; 0 and 0 where there are fewer.

    Files have room for four joints per vertex; a fifth never weighs anything that could be seen.
    """
    strongest, joints = head.to_vertices(head.skinning_weights.float()).cpu().topk(4, dim=-1)
    strongest = strongest / strongest.sum(dim=-1, keepdim=True)
    strongest[strongest < 1e-4] = 0
    strongest = strongest.double() / strongest.double().sum(dim=-1, keepdim=True)
    return torch.where(strongest > 0, joints, 0), strongest.float()


def _geometry(
    buffer: _Buffer, head: HeadModel, rest: Tensor, corners: _Corners
) -> tuple[dict[str, int], int]:
    """Attributes and indices of the mesh."""
    joints, strongest = skin_weights(head)
    pick = corners.vertices
    attributes = {
        "POSITION": buffer.accessor(rest[pick].numpy(), _VERTICES, bounds=True),
        "NORMAL": buffer.accessor(unit_normals(rest, head)[pick].numpy(), _VERTICES),
        "TEXCOORD_0": buffer.accessor(head.uvs.cpu().float()[corners.uvs].numpy(), _VERTICES),
        "JOINTS_0": buffer.accessor(joints[pick].to(torch.uint8).numpy(), _VERTICES),
        "WEIGHTS_0": buffer.accessor(strongest[pick].numpy(), _VERTICES),
    }
    small = len(pick) <= 0xFFFF
    indices = corners.faces.flatten().numpy().astype(np.uint16 if small else np.uint32)
    return attributes, buffer.accessor(indices, _INDICES)


def _morph_target(
    buffer: _Buffer, head: HeadModel, rest: Tensor, normals: Tensor, component: Tensor, corners: _Corners
) -> dict[str, int]:
    """Displacement of positions and normals at full strength of one expression."""
    moves = head.to_vertices(component.view(-1, 3).float()).cpu()
    moves[moves.norm(dim=-1) < SMALLEST_MOVE] = 0
    turns = unit_normals(rest + moves, head) - normals
    pick = corners.vertices
    moved, turned = (moves != 0).any(-1)[pick], (turns.abs() > 1e-3).any(-1)[pick]
    return {
        "POSITION": buffer.displacement(moves[pick].numpy(), moved.numpy(), bounds=True),
        "NORMAL": buffer.displacement(turns[pick].numpy(), turned.numpy(), bounds=False),
    }


def _skeleton(
    buffer: _Buffer, joints: NDArray[np.float32], name: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Nodes (the mesh first, then ``JOINTS``) and the skin."""
    nodes: list[dict[str, Any]] = [{"name": name, "mesh": 0, "skin": 0}]
    for index, joint in enumerate(JOINTS):
        parent = _PARENTS[joint]
        origin = joints[JOINTS.index(parent)] if parent else np.zeros(3, np.float32)
        node = {"name": joint, "translation": [float(value) for value in joints[index] - origin]}
        children = [JOINTS.index(child) + 1 for child, owner in _PARENTS.items() if owner == joint]
        nodes.append(node | ({"children": children} if children else {}))
    inverse = np.tile(np.eye(4, dtype=np.float32), (5, 1, 1))
    inverse[:, :3, 3] = -joints
    # glTF stores matrices column by column.
    matrices = np.ascontiguousarray(inverse.transpose(0, 2, 1)).reshape(5, 16)
    skin = {"name": "head", "joints": [1, 2, 3, 4, 5], "skeleton": 1}
    return nodes, skin | {"inverseBindMatrices": buffer.accessor(matrices)}


def _material(unlit: bool) -> dict[str, Any]:
    """Skin-like, seen from both sides: the neck is open below, and hair is a shell."""
    material: dict[str, Any] = {
        "name": "skin",
        "doubleSided": True,
        "pbrMetallicRoughness": {
            "baseColorTexture": {"index": 0},
            "metallicFactor": 0.0,
            "roughnessFactor": 0.8,
        },
    }
    if not unlit:
        return {"materials": [material]}
    material["extensions"] = {"KHR_materials_unlit": {}}
    return {"materials": [material], "extensionsUsed": ["KHR_materials_unlit"]}


def _container(document: dict[str, Any], binary: bytes) -> bytes:
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
