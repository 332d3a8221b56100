"""A reader of GLB files that poses them by the specification, independent of our writer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pygltflib
from scipy.spatial.transform import Rotation

COMPONENTS = {
    5120: np.int8,
    5122: np.int16,
    5121: np.uint8,
    5123: np.uint16,
    5125: np.uint32,
    5126: np.float32,
}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}


class Reader:
    """The accessors of a GLB as arrays."""

    def __init__(self, path: Path) -> None:
        self.gltf = pygltflib.GLTF2().load_binary(str(path))
        self.blob = self.gltf.binary_blob()
        self.mesh = 0

    def _values(self, view: int, kind: int, shape: tuple[int, int], offset: int = 0) -> np.ndarray:
        entry = self.gltf.bufferViews[view]
        start = (entry.byteOffset or 0) + offset
        if entry.byteStride:
            row = shape[1] * np.dtype(COMPONENTS[kind]).itemsize
            padded = np.frombuffer(self.blob, np.uint8, entry.byteStride * shape[0], start)
            rows = np.ascontiguousarray(padded.reshape(shape[0], entry.byteStride)[:, :row])
            return rows.view(COMPONENTS[kind]).reshape(shape)
        count = shape[0] * shape[1]
        assert start + count * np.dtype(COMPONENTS[kind]).itemsize <= entry.byteOffset + entry.byteLength
        return np.frombuffer(self.blob, COMPONENTS[kind], count, start).reshape(shape)

    def __getitem__(self, index: int) -> np.ndarray:
        entry = self.gltf.accessors[index]
        shape = (entry.count, WIDTHS[entry.type])
        if entry.bufferView is None:
            array = np.zeros(shape, COMPONENTS[entry.componentType])
        else:
            array = self._values(entry.bufferView, entry.componentType, shape, entry.byteOffset or 0).copy()
        if entry.sparse is not None:
            sparse = entry.sparse
            rows = self._values(sparse.indices.bufferView, sparse.indices.componentType, (sparse.count, 1))[
                :, 0
            ]
            assert (np.diff(rows.astype(np.int64)) > 0).all()
            array[rows] = self._values(
                sparse.values.bufferView, entry.componentType, (sparse.count, shape[1])
            )
        if entry.normalized:
            # The specification's table of normalized integers.
            return np.maximum(array / np.iinfo(array.dtype).max, -1).astype(np.float32)
        return array

    @property
    def primitive(self) -> Any:
        """Of the chosen mesh."""
        return self.gltf.meshes[self.mesh].primitives[0]

    def target(self, name: str) -> np.ndarray:
        names = self.gltf.meshes[0].extras["targetNames"]
        return self[self.primitive.targets[names.index(name)]["POSITION"]]

    def node_matrices(
        self, rotations: dict[str, np.ndarray], translations: dict[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        """Global transform of each node after local rotations (3, 3) and translations (3)."""
        nodes, places = self.gltf.nodes, translations or {}
        result: dict[str, np.ndarray] = {}

        def visit(index: int, parent: np.ndarray) -> None:
            local = np.eye(4)
            local[:3, 3] = places.get(nodes[index].name, nodes[index].translation or (0, 0, 0))
            at_rest = Rotation.from_quat(nodes[index].rotation or (0, 0, 0, 1)).as_matrix()
            local[:3, :3] = rotations.get(nodes[index].name, at_rest)
            result[nodes[index].name] = parent @ local
            for child in nodes[index].children or []:
                visit(child, parent @ local)

        for root in self.gltf.scenes[0].nodes:
            visit(root, np.eye(4))
        return result

    def pose(
        self,
        weights: dict[str, float] | None = None,
        rotations: dict[str, np.ndarray] | None = None,
        translations: dict[str, np.ndarray] | None = None,
    ) -> np.ndarray:
        """Positions of all vertices for morph weights and local transforms of joints."""
        positions = self[self.primitive.attributes.POSITION].astype(np.float64)
        for name, weight in (weights or {}).items():
            positions = positions + weight * self.target(name)
        skin = self.gltf.skins[0]
        matrices = self.node_matrices(rotations or {}, translations)
        inverse = self[skin.inverseBindMatrices].reshape(-1, 4, 4).transpose(0, 2, 1)
        names = [self.gltf.nodes[joint].name for joint in skin.joints]
        transforms = np.stack([matrices[name] @ inverse[k] for k, name in enumerate(names)])
        joints = self[self.primitive.attributes.JOINTS_0]
        amounts = self[self.primitive.attributes.WEIGHTS_0]
        homogeneous = np.concatenate([positions, np.ones((len(positions), 1))], 1)
        return np.einsum("vk,vkij,vj->vi", amounts, transforms[joints][:, :, :3], homogeneous)
