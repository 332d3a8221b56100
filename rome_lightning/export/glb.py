"""Rigged avatars as binary glTF 2.0, which Blender, Unity, Unreal and browsers open.

The file holds the person's mesh at rest (hair and shoulders included), a skin with the head model's five
joints, one morph target per expression and the colour texture. Head space is glTF's space, and our UV
convention is glTF's, so nothing is converted.

On the open head the posed file is the model's posed mesh. glTF cannot express FLAME's pose correctives, which
are omitted, nor rest positions of joints that follow the expression (only FLAME's do). Eyeballs turn only by
their joints; the ``eyeLook...`` targets move the lids. If a model computes offsets per expression, the file
has those at rest.

Source: Khronos Group, glTF 2.0 Specification (ISO/IEC 12113:2022).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

import rome_lightning
from rome_lightning.export.animation import Motion, animation
from rome_lightning.export.body import Figure, body_surface, with_body
from rome_lightning.export.gltf import VERTICES, Buffer, container
from rome_lightning.export.packing import Geometry, pack_geometry
from rome_lightning.export.profiles import PLAIN, Profile
from rome_lightning.export.skeleton import (
    EYE_LEVEL,
    Bone,
    bone_nodes,
    head_bones,
    mixamo_bones,
    mixamo_figure,
    name_mesh_apart,
    skin,
)
from rome_lightning.export.surface import Surface, whole_surface
from rome_lightning.export.visemes import mixed_components
from rome_lightning.geometry import vertex_normals
from rome_lightning.head import HeadModel
from rome_lightning.media.atomic import write_atomic
from rome_lightning.media.image import encode_jpeg, encode_png, encode_webp
from rome_lightning.types import HeadParams

_LINEAR, _LINEAR_MIPMAPS, _CLAMP = 9729, 9987, 33071

_ENCODERS = {"png": encode_png, "jpeg": encode_jpeg, "webp": encode_webp}

SMALLEST_MOVE = 1e-5
"""Displacements below this many metres are omitted from morph targets."""


@dataclass(frozen=True)
class Person:
    """Content of a rigged file."""

    head: HeadModel
    shape: Float[Tensor, " s"]
    """Identity coefficients."""
    offsets: Float[Tensor, "v 3"] | None
    """Hair and shoulder displacement at rest, metres; ``None`` for the bald head."""
    colour_texture: Float[Tensor, "3 t t"]
    """Complete RGB texture in [0, 1], sRGB, without holes."""
    surface: Surface | None = None
    """The part of the head's mesh to write; by default all of it."""
    copyright: str = ""
    """Of the photograph; the head model's licence follows it in the file."""
    body_texture: Float[Tensor, "3 u u"] | None = None
    """Colours of a body below all of the head's mesh, RGB in [0, 1]; no body without them."""
    body_surface: Surface | None = None
    """The part of the body's mesh to write; by default all of it."""

    def check(self) -> None:
        """Raise ValueError where sizes do not fit."""
        _check(self.head, self.shape, self.offsets, self.colour_texture)


@torch.no_grad()
def export_glb(
    path: str | Path,
    person: Person,
    *,
    name: str = "avatar",
    profile: Profile = PLAIN,
    motion: Motion | None = None,
) -> Path:
    """Write one person as a rigged ``.glb``.

    Args:
        path: file to write; its folder is made.
        person: mesh and texture.
        name: name of the mesh.
        profile: conventions of the target program.
        motion: an animation clip for the file.

    Returns:
        The path written.

    Raises:
        ValueError: the profile mixes ARKit's expressions, and the head has others.
    """
    path = Path(path)
    person.check()
    buffer = Buffer(dense=profile.dense, quantized=profile.compress is not None)
    rest, joints = rest_and_joints(person.head, person.shape, person.offsets)
    is_standing, figure = profile.rig == "mixamo", None
    if person.body_texture is not None:
        is_standing, profile = True, dataclasses.replace(profile, rig="mixamo")
        figure = with_body(person.head, person.shape, rest, joints).moved()
        bones = mixamo_figure(figure.bones)
    else:
        bones = mixamo_bones(joints) if is_standing else head_bones(joints)
    if is_standing:
        rest = rest + torch.tensor([0.0, EYE_LEVEL, 0.0])
    nodes, roots, bound = _scene(buffer, bones, profile, name, has_body=figure is not None)
    document: dict[str, Any] = {
        "asset": asset(person),
        "scene": 0,
        "scenes": [{"nodes": roots}],
        "nodes": nodes,
        "skins": [bound],
        **mesh_parts(buffer, person, rest, profile.mesh_name or name, profile, figure=figure),
    }
    if is_standing and figure is None:
        _add_floor(buffer, document)
    if motion is not None:
        document["animations"] = [animation(buffer, motion, len(profile.mixes), bones[:2], is_standing)]
    document |= {"accessors": buffer.accessors, "bufferViews": buffer.views}
    write_atomic(path, container(document, bytes(buffer.content)))
    return path


def asset(person: Person) -> dict[str, Any]:
    """Generator and copyright of the file."""
    rights = f"head model: {person.head.licence}"
    return {
        "version": "2.0",
        "generator": f"rome_lightning {rome_lightning.__version__}",
        "copyright": f"{person.copyright}; {rights}" if person.copyright else rights,
        "extras": {"head": person.head.name},
    }


def mesh_parts(
    buffer: Buffer,
    person: Person,
    rest: Float[Tensor, "v 3"],
    name: str,
    profile: Profile = PLAIN,
    turn: float = 1.0,
    figure: Figure | None = None,
) -> dict[str, Any]:
    """Meshes, materials and textures as parts of a document.

    Args:
        buffer: takes the data.
        person: mesh and texture.
        rest: vertices of the head where the file has them, metres.
        name: of the mesh.
        profile: further shapes, texture and material.
        turn: -1 where ``rest`` is turned by half a circle about y, so that expressions are turned too.
        figure: the person with a body, as the file has it; its vertices take the place of ``rest``.
    """
    head, surface = person.head, person.surface or whole_surface(person.head)
    weights = None
    if figure is not None:
        rest, weights = figure.head_vertices, figure.head_weights
    normals = unit_normals(rest, head)
    shown = normals if figure is None else figure.head_normals
    geometry = head_geometry(head, rest, surface, shown, weights)
    primitive, extensions = pack_geometry(buffer, geometry, profile.compress)
    axes = torch.tensor([turn, 1.0, turn])
    names = [*head.expression_names, *profile.mixes]
    components = head.basis[head.num_shape :].cpu()
    if profile.mixes:
        components = torch.cat([components, mixed_components(head, profile.mixes)])
    targets = [
        _morph_target(buffer, head, rest, normals, component.view(-1, 3) * axes, surface)
        for component in components
    ]
    image, texture = _image(buffer, person.colour_texture, profile, 0, "colour")
    if profile.texture == "webp":
        extensions.append("EXT_texture_webp")
    parts: dict[str, Any] = {
        "meshes": [
            {
                "name": name,
                "primitives": [primitive | {"material": 0, "targets": targets}],
                "weights": [0.0] * len(targets),
                "extras": {"targetNames": names},
            }
        ],
        "images": [image],
        "textures": [texture],
        "samplers": [{"magFilter": _LINEAR, "minFilter": _LINEAR_MIPMAPS, "wrapS": _CLAMP, "wrapT": _CLAMP}],
        **_material(profile.unlit),
    }
    if figure is not None and person.body_texture is not None:
        primitive, _ = pack_geometry(
            buffer, body_geometry(figure, person.body_surface or body_surface()), profile.compress
        )
        image, texture = _image(buffer, person.body_texture, profile, 1, "garment")
        parts["meshes"].append({"name": "body", "primitives": [primitive | {"material": 1}]})
        parts["images"].append(image)
        parts["textures"].append(texture)
        parts["materials"] += _material(profile.unlit, "garment", 1)["materials"]
    if extensions:
        parts["extensionsRequired"] = extensions
        parts["extensionsUsed"] = [*parts.get("extensionsUsed", []), *extensions]
    return parts


def _image(
    buffer: Buffer, colours: Float[Tensor, "3 s s"], profile: Profile, source: int, name: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """An image and the texture that shows it."""
    view = buffer.view(_ENCODERS[profile.texture](colours))
    image = {"bufferView": view, "mimeType": f"image/{profile.texture}", "name": name}
    if profile.texture == "webp":
        return image, {"sampler": 0, "extensions": {"EXT_texture_webp": {"source": source}}}
    return image, {"sampler": 0, "source": source}


def _check(head: HeadModel, shape: Tensor, offsets: Tensor | None, texture: Tensor) -> None:
    if tuple(shape.shape) != (head.num_shape,):
        raise ValueError(
            f"shape must have {head.num_shape} coefficients for {head.name}, got {tuple(shape.shape)}"
        )
    if offsets is not None and tuple(offsets.shape) != (head.num_vertices, 3):
        raise ValueError(f"offsets must have shape ({head.num_vertices}, 3), got {tuple(offsets.shape)}")
    if texture.ndim != 3 or texture.shape[0] != 3:
        raise ValueError(f"colour_texture must have shape (3, s, s), got {tuple(texture.shape)}")


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
    """Normals, each with a valid direction."""
    normals = vertex_normals(vertices[None].double(), head.faces.cpu())[0]
    return _with_direction(normals).float()


def _with_direction(normals: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """A vertex with degenerate faces only has no direction, and glTF demands one."""
    lost = normals.norm(dim=-1, keepdim=True) < 0.5
    return torch.where(lost, torch.tensor([0.0, 0.0, 1.0], dtype=normals.dtype), normals)


def skin_weights(head: HeadModel) -> tuple[Int[Tensor, "v 4"], Float[Tensor, "v 4"]]:
    """The four joints that move each vertex, and their weights; padded with zeros."""
    return strongest_joints(head.to_vertices(head.skinning_weights.float()).cpu())


def strongest_joints(weights: Float[Tensor, "n j"]) -> tuple[Int[Tensor, "n 4"], Float[Tensor, "n 4"]]:
    """Joints and weights; files have room for four, and a fifth never weighs anything that could be seen."""
    strongest, joints = weights.topk(4, dim=-1)
    strongest = strongest / strongest.sum(dim=-1, keepdim=True)
    strongest[strongest < 1e-4] = 0
    strongest = strongest.double() / strongest.double().sum(dim=-1, keepdim=True)
    return torch.where(strongest > 0, joints, 0), strongest.float()


def head_geometry(
    head: HeadModel, rest: Tensor, surface: Surface, normals: Tensor, weights: Tensor | None
) -> Geometry:
    """Attributes and triangles of the head's mesh.

    Args:
        head: the head model.
        rest: (v, 3) its vertices, metres.
        surface: the part to write.
        normals: (v, 3) of the vertices.
        weights: (v, j) of the joints; by default the head model's own.
    """
    weights = head.to_vertices(head.skinning_weights.float()) if weights is None else weights
    joints, strongest = strongest_joints(surface.carry(weights))
    positions = surface.carry(rest)
    attributes = {
        "POSITION": positions.numpy(),
        "NORMAL": _surface_normals(normals, positions, surface).numpy(),
        "TEXCOORD_0": surface.uvs.numpy(),
        "JOINTS_0": joints.to(torch.uint8).numpy(),
        "WEIGHTS_0": strongest.numpy(),
    }
    return Geometry(attributes, surface.faces.numpy())


def body_geometry(figure: Figure, surface: Surface) -> Geometry:
    """Attributes and triangles of the body."""
    joints, strongest = strongest_joints(surface.carry(figure.weights))
    attributes = {
        "POSITION": surface.carry(figure.vertices).numpy(),
        "NORMAL": _with_direction(surface.carry(figure.normals)).numpy(),
        "TEXCOORD_0": surface.uvs.numpy(),
        "JOINTS_0": joints.to(torch.uint8).numpy(),
        "WEIGHTS_0": strongest.numpy(),
    }
    return Geometry(attributes, surface.faces.numpy())


def _surface_normals(normals: Tensor, positions: Tensor, surface: Surface) -> Tensor:
    """The head's normals, and those of the cap, whose edge is sharp."""
    normals = surface.carry(normals.double())
    of_cap = surface.faces[surface.cap[surface.faces].all(1)]
    if len(of_cap):
        normals[surface.cap] = vertex_normals(positions[None].double(), of_cap, fused=False)[0, surface.cap]
    return _with_direction(torch.nn.functional.normalize(normals, dim=-1)).float()


def _morph_target(
    buffer: Buffer, head: HeadModel, rest: Tensor, normals: Tensor, component: Tensor, surface: Surface
) -> dict[str, int]:
    """Displacement of positions and normals at full strength of one expression."""
    moves = head.to_vertices(component.float().to(head.faces.device)).cpu()
    moves[moves.norm(dim=-1) < SMALLEST_MOVE] = 0
    turns = unit_normals(rest + moves, head) - normals
    moves, turns = surface.carry(moves), surface.carry(turns)
    turns[surface.cap] = 0
    moved, turned = (moves != 0).any(-1), (turns.abs() > 1e-3).any(-1)
    return {
        "POSITION": buffer.displacement(moves.numpy(), moved.numpy(), bounds=True),
        "NORMAL": buffer.displacement(turns.numpy(), turned.numpy(), bounds=False),
    }


def _scene(
    buffer: Buffer, bones: list[Bone], profile: Profile, name: str, has_body: bool
) -> tuple[list[dict[str, Any]], list[int], dict[str, Any]]:
    """Nodes (the mesh, the bones, a second mesh, what holds all), those at the top, and the skin.

    The second mesh is the body's, or a speck on the floor.
    """
    nodes: list[dict[str, Any]] = [{"name": profile.mesh_name or name, "mesh": 0, "skin": 0}]
    nodes += bone_nodes(bones, first=1)
    root = next(index for index, bone in enumerate(bones, start=1) if bone.parent is None)
    bound = skin(buffer, bones, range(1, 1 + len(bones)), root)
    for node in nodes[1:]:
        node["name"] = profile.bone_names.get(node["name"], node["name"])
    if profile.rig == "head":
        name_mesh_apart(nodes)
        return nodes, [0, root], bound
    # Programs look for mesh and bones below a node of this name.
    second = {"name": "Body", "mesh": 1, "skin": 0} if has_body else {"name": "Floor", "mesh": 1}
    nodes += [second, {"name": "Armature", "children": [root, 0, len(nodes)]}]
    name_mesh_apart(nodes)
    return nodes, [len(nodes) - 1], bound


def _add_floor(buffer: Buffer, document: dict[str, Any]) -> None:
    """An invisible speck on the ground: programs place the lowest point of a body on the floor."""
    corners = np.array([[0, 0, 0], [1e-3, 0, 0], [0, 0, -1e-3]], np.float32)
    primitive = {"attributes": {"POSITION": buffer.accessor(corners, VERTICES, bounds=True)}, "material": 1}
    document["meshes"].append({"name": "Floor", "primitives": [primitive]})
    clear = {"baseColorFactor": [0.0, 0.0, 0.0, 0.0]}
    document["materials"].append({"name": "floor", "alphaMode": "BLEND", "pbrMetallicRoughness": clear})


def _material(unlit: bool, name: str = "skin", texture: int = 0) -> dict[str, Any]:
    """Skin-like, seen from both sides: the neck is open below, and hair is a shell."""
    material: dict[str, Any] = {
        "name": name,
        "doubleSided": True,
        "pbrMetallicRoughness": {
            "baseColorTexture": {"index": texture},
            "metallicFactor": 0.0,
            "roughnessFactor": 0.8,
        },
    }
    if not unlit:
        return {"materials": [material]}
    material["extensions"] = {"KHR_materials_unlit": {}}
    return {"materials": [material], "extensionsUsed": ["KHR_materials_unlit"]}
