"""Files as Open Asset Import Library reads them (Unreal's VRM4U and many editors open files with it)."""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
import os
from ctypes import POINTER, Structure, c_char, c_double, c_float, c_int, c_uint, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest


class _String(Structure):
    _fields_ = (("length", c_uint), ("data", c_char * 1024))

    def __str__(self) -> str:
        return bytes(self.data).decode()


class _Weight(Structure):
    _fields_ = (("vertex", c_uint), ("weight", c_float))


class _Bone(Structure):
    _fields_ = (
        ("name", _String),
        ("num_weights", c_uint),
        ("armature", c_void_p),
        ("node", c_void_p),
        ("weights", POINTER(_Weight)),
        ("offset", c_float * 16),
    )


class _Shape(Structure):
    _fields_ = (
        ("name", _String),
        ("vertices", POINTER(c_float)),
        ("others", c_void_p * 19),
        ("num_vertices", c_uint),
        ("weight", c_float),
    )


class _Mesh(Structure):
    _fields_ = (
        ("primitives", c_uint),
        ("num_vertices", c_uint),
        ("num_faces", c_uint),
        ("vertices", POINTER(c_float)),
        ("normals_tangents_colours_uvs", c_void_p * 19),
        ("uv_components", c_uint * 8),
        ("faces", c_void_p),
        ("num_bones", c_uint),
        ("bones", POINTER(POINTER(_Bone))),
        ("material", c_uint),
        ("name", _String),
        ("num_shapes", c_uint),
        ("shapes", POINTER(POINTER(_Shape))),
    )


class _Node(Structure):
    pass


_Node._fields_ = (
    ("name", _String),
    ("local", c_float * 16),
    ("parent", c_void_p),
    ("num_children", c_uint),
    ("children", POINTER(POINTER(_Node))),
)


class _QuaternionKey(Structure):
    _fields_ = (("time", c_double), ("wxyz", c_float * 4), ("interpolation", c_int))


class _Channel(Structure):
    _fields_ = (
        ("name", _String),
        ("num_positions", c_uint),
        ("positions", c_void_p),
        ("num_rotations", c_uint),
        ("rotations", POINTER(_QuaternionKey)),
    )


class _ShapeKey(Structure):
    _fields_ = (
        ("time", c_double),
        ("values", POINTER(c_uint)),
        ("weights", POINTER(c_double)),
        ("num", c_uint),
    )


class _ShapeChannel(Structure):
    _fields_ = (("name", _String), ("num_keys", c_uint), ("keys", POINTER(_ShapeKey)))


class _Animation(Structure):
    _fields_ = (
        ("name", _String),
        ("duration", c_double),
        ("ticks", c_double),
        ("num_channels", c_uint),
        ("channels", POINTER(POINTER(_Channel))),
        ("num_meshes", c_uint),
        ("meshes", c_void_p),
        ("num_shapes", c_uint),
        ("shapes", POINTER(POINTER(_ShapeChannel))),
    )


class _Scene(Structure):
    _fields_ = (
        ("flags", c_uint),
        ("root", POINTER(_Node)),
        ("num_meshes", c_uint),
        ("meshes", POINTER(POINTER(_Mesh))),
        ("num_materials", c_uint),
        ("materials", c_void_p),
        ("num_animations", c_uint),
        ("animations", POINTER(POINTER(_Animation))),
        ("num_textures", c_uint),
    )


@dataclass(frozen=True)
class AssimpMesh:
    """One mesh of a file."""

    name: str
    vertices: np.ndarray
    num_faces: int
    bones: dict[str, tuple[np.ndarray, np.ndarray]]
    """By name: the weight of each vertex, and the matrix from the mesh to the bone at rest."""
    shapes: dict[str, np.ndarray]
    """Vertices of each shape at full strength."""


@dataclass(frozen=True)
class AssimpScene:
    """A file."""

    meshes: list[AssimpMesh]
    nodes: dict[str, tuple[str | None, np.ndarray]]
    """By name: the parent and the local matrix."""
    rotations: dict[str, np.ndarray]
    """Of the first clip: quaternions (w, x, y, z) of each node by frame."""
    weights: np.ndarray
    """Of the first clip: the shapes' weights by frame."""
    num_textures: int

    def pose(
        self, mesh: AssimpMesh, weights: dict[str, float], rotations: dict[str, np.ndarray]
    ) -> np.ndarray:
        """Vertices under weights of shapes and local rotations (3, 3) of nodes."""

        def world(name: str | None) -> np.ndarray:
            if name is None:
                return np.eye(4)
            parent, local = self.nodes[name]
            local = local.copy()
            if name in rotations:
                local[:3, :3] = rotations[name]
            return world(parent) @ local

        moved = mesh.vertices + sum(w * (mesh.shapes[name] - mesh.vertices) for name, w in weights.items())
        homogeneous = np.concatenate([moved, np.ones((len(moved), 1))], 1)
        return sum(
            share[:, None] * (homogeneous @ (world(name) @ to_bone).T)[:, :3]
            for name, (share, to_bone) in mesh.bones.items()
        )


def _library() -> ctypes.CDLL:
    """$ASSIMP_LIBRARY, PyPI's cmeel-assimp or the system's; skips the test without one."""
    found = os.environ.get("ASSIMP_LIBRARY")
    if found is None and (package := importlib.util.find_spec("cmeel")) and package.origin:
        inside = Path(package.origin).parents[1] / "cmeel.prefix/lib/libassimp.so"
        found = str(inside) if inside.exists() else None
    if found is None and (found := ctypes.util.find_library("assimp")) is None:
        pytest.skip("needs assimp: `pip install cmeel-assimp`")
    library = ctypes.CDLL(found)
    if library.aiGetVersionMajor() < 6:
        pytest.skip(f"needs assimp 6, whose structures are described here, not {found}")
    library.aiImportFile.restype = POINTER(_Scene)
    library.aiGetErrorString.restype = ctypes.c_char_p
    return library


def _rows(pointer: Any, count: int) -> np.ndarray:
    return np.ctypeslib.as_array(pointer, (count, 3)).astype(np.float64)


def _matrix(values: Any) -> np.ndarray:
    return np.array(values, dtype=np.float64).reshape(4, 4)


def _mesh(entry: _Mesh) -> AssimpMesh:
    bones = {}
    for bone in (entry.bones[k].contents for k in range(entry.num_bones)):
        share = np.zeros(entry.num_vertices)
        for k in range(bone.num_weights):
            share[bone.weights[k].vertex] += bone.weights[k].weight
        bones[str(bone.name)] = (share, _matrix(bone.offset))
    shapes = {}
    for shape in (entry.shapes[k].contents for k in range(entry.num_shapes)):
        assert shape.num_vertices == entry.num_vertices
        shapes[str(shape.name)] = _rows(shape.vertices, shape.num_vertices)
    return AssimpMesh(
        str(entry.name), _rows(entry.vertices, entry.num_vertices), entry.num_faces, bones, shapes
    )


def read_with_assimp(path: Path) -> AssimpScene:
    """A GLB file; VRM files must be named so, as VRM4U does."""
    library = _library()
    pointer = library.aiImportFile(str(path).encode(), 0)
    assert pointer, library.aiGetErrorString()
    scene = pointer.contents
    nodes: dict[str, tuple[str | None, np.ndarray]] = {}

    def visit(node: _Node, parent: str | None) -> None:
        name = str(node.name)
        assert name not in nodes, name
        nodes[name] = (parent, _matrix(node.local))
        for k in range(node.num_children):
            visit(node.children[k].contents, name)

    visit(scene.root.contents, None)
    meshes = [_mesh(scene.meshes[k].contents) for k in range(scene.num_meshes)]
    rotations: dict[str, np.ndarray] = {}
    weights = np.zeros((0, 0))
    if scene.num_animations:
        clip = scene.animations[0].contents
        for channel in (clip.channels[k].contents for k in range(clip.num_channels)):
            keys = [list(channel.rotations[k].wxyz) for k in range(channel.num_rotations)]
            rotations[str(channel.name)] = np.array(keys)
        (shapes,) = (clip.shapes[k].contents for k in range(clip.num_shapes))
        rows = [shapes.keys[k] for k in range(shapes.num_keys)]
        weights = np.array([[key.weights[k] for k in range(key.num)] for key in rows])
    read = AssimpScene(meshes, nodes, rotations, weights, scene.num_textures)
    library.aiReleaseImport(pointer)
    return read
