"""A FLAME file with a human head and human bases, all derived from the open head, without FLAME's data.

``python tests/human_flame.py OUTPUT.pkl [MESH.obj]`` writes one. With a mesh, such as DECA's
``head_template.obj``, the open head's bases are transferred to it; without one, its mesh is used too.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from released_files import write_obj
from scipy.spatial import cKDTree

from rome_lightning.geometry.mesh import vertex_normals
from rome_lightning.head.flame.registration import fit_open_head
from rome_lightning.head.model import HeadModel
from rome_lightning.head.open_head import load_open_head
from rome_lightning.head.topology import face_components
from rome_lightning.media.meshes import read_mesh

NUM_SHAPE, NUM_EXPRESSION = 300, 100
_TURN_OF_JAW = np.radians(22.9)
"""Rotation of the open head's jaw by ``jawOpen``."""
_USUAL_WEIGHT = 0.3
"""Scale of an ARKit expression: coefficients of 1 are usual in FLAME."""
_NORMAL_M, _EYE_M = 0.02, 0.1
"""Distances added for an opposite normal and for an eyeball instead of skin, to keep the lips apart."""

Floats = NDArray[np.float64]


def open_mesh(shape: float = 0.7) -> tuple[Floats, NDArray[np.int64], Floats]:
    """Vertices, faces and joints of a different person with the open head's mesh.

    Args:
        shape: of each component, standard deviations, with random signs: FLAME's mean is not the open head's.
    """
    head = load_open_head()
    signs = np.sign(np.random.default_rng(0).standard_normal(head.num_shape))
    coefficients = torch.from_numpy(shape * signs / np.sqrt(np.arange(1, head.num_shape + 1))).float()
    moved = head.template + coefficients @ head.basis[: head.num_shape]
    vertices = head.to_vertices(moved.view(-1, 3)).double().numpy()
    joints = head.joint_template + coefficients @ head.joint_basis[: head.num_shape]
    return vertices, head.faces.numpy(), joints.view(5, 3).double().numpy()


def eyes_of(vertices: Floats, faces: NDArray[np.int64]) -> Floats:
    """Joints of a mesh whose loose pieces are its eyeballs; only the eye joints are meaningful."""
    labels = face_components(faces)
    largest = np.bincount(labels).argmax()
    balls = [vertices[np.unique(faces[labels == k])].mean(0) for k in np.unique(labels) if k != largest]
    right, left = sorted(balls, key=lambda centre: centre[0])
    return np.stack([np.zeros(3)] * 3 + [left, right])


def human_flame(
    vertices: Floats, faces: NDArray[np.int64], joints: Floats, eyes: NDArray[np.bool_]
) -> dict[str, object]:
    """The content of FLAME's pickle for a human head in metres.

    Args:
        vertices: (v, 3).
        faces: (f, 3).
        joints: (5, 3); only the eyes' are used.
        eyes: vertices of the eyeballs.
    """
    head = load_open_head()
    fitted = fit_open_head(head, vertices, faces, torch.from_numpy(joints))
    indices, shares = _neighbours(head, fitted.vertices.numpy(), vertices, faces, eyes)

    def carry(rows: torch.Tensor) -> Floats:
        """Rows of a basis (k, carriers * 3) as (v, 3, k)."""
        fields = np.stack([head.to_vertices(row.view(-1, 3)).double().numpy() for row in rows])
        return np.einsum("vn,kvnx->vxk", shares, fields[:, indices] * fitted.scale)

    names = head.expression_names
    basis = head.basis
    expressions = carry(basis[head.num_shape :])
    opened = np.linalg.norm(expressions[..., names.index("jawOpen")], axis=1)
    others = [k for k, name in enumerate(names) if name not in ("jawOpen", "mouthClose")]
    left, sizes, _ = np.linalg.svd(
        _USUAL_WEIGHT * expressions[..., others].reshape(-1, len(others)), full_matrices=False
    )
    directions = np.zeros((len(vertices), 3, NUM_SHAPE + NUM_EXPRESSION))
    shape = carry(basis[: head.num_shape])
    directions[..., : shape.shape[2]] = shape
    directions[..., NUM_SHAPE : NUM_SHAPE + len(others)] = (left * sizes).reshape(len(vertices), 3, -1)
    own_joints = head.joint_basis[: head.num_shape].double().view(head.num_shape, 5, 3)
    placed = fitted.placed(head.joint_template.view(5, 3).double(), own_joints).numpy()
    placed[3:] = joints[3:]
    # A point moves by its distance from the joint's axis times the angle.
    lever = np.linalg.norm((vertices - placed[2])[:, 1:], axis=1)
    jaw = np.clip(opened / (_TURN_OF_JAW * np.maximum(lever, 0.01)), 0, 1)
    carried = head.skinning_weights
    whole = carried if head.midpoints is None else torch.cat([carried, carried[head.midpoints].mean(1)])
    weights = np.einsum("vn,vnj->vj", shares, whole.double().numpy()[indices])
    on_neck = weights[:, 1] + weights[:, 2]
    weights[:, 1], weights[:, 2] = (1 - jaw) * on_neck, jaw * on_neck
    weights[eyes] = 0
    for joint in (3, 4):
        weights[eyes & ((vertices[:, 0] > 0) == (joint == 3)), joint] = 1
    regressor = np.stack([_weights_of(placed[k], vertices) for k in range(5)])
    return {
        "f": faces.astype(np.uint32),
        "v_template": vertices,
        "shapedirs": directions,
        "posedirs": np.zeros((len(vertices), 3, 36)),
        "J_regressor": regressor,
        "weights": weights / weights.sum(1, keepdims=True),
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], [0, 1, 2, 3, 4]], dtype=np.int64),
    }


def _neighbours(
    head: HeadModel,
    source: Floats,
    target: Floats,
    faces: NDArray[np.int64],
    eyes: NDArray[np.bool_],
    count: int = 8,
) -> tuple[NDArray[np.int64], Floats]:
    """For each vertex of the target, the surrounding vertices of the source and their weights."""

    def places(points: Floats, triangles: torch.Tensor, eyeballs: NDArray[np.bool_]) -> Floats:
        normals = vertex_normals(torch.from_numpy(points)[None], triangles)[0].numpy()
        return np.concatenate([points, _NORMAL_M * normals, _EYE_M * eyeballs[:, None]], axis=1)

    own = places(source, head.faces, head.region("eyes").numpy())
    distance, found = cKDTree(own).query(places(target, torch.from_numpy(faces), eyes), k=count)
    shares = 1 / (distance**2 + 1e-6)
    return found, shares / shares.sum(1, keepdims=True)


def _weights_of(joint: Floats, vertices: Floats, count: int = 200) -> Floats:
    """Least-norm affine weights of the nearest vertices that give a joint."""
    near = np.argsort(np.linalg.norm(vertices - joint, axis=1))[:count]
    system = np.concatenate([vertices[near].T, np.ones((1, count))])
    weights = np.zeros(len(vertices))
    weights[near] = np.linalg.lstsq(system, np.append(joint, 1.0), rcond=None)[0]
    return weights


def write_human_flame(path: Path, mesh: Path | None = None) -> Path:
    """Write a ``generic_model.pkl``; see the module's text. The open head's layout is written beside it."""
    if mesh is None:
        head = load_open_head()
        vertices, faces, joints = open_mesh()
        eyes = head.region("eyes").numpy()
        layout = head.uvs.double().numpy() * [1, -1] + [0, 1]
        write_obj(path.with_name("head_template.obj"), vertices, layout, faces, head.uv_faces.numpy())
    else:
        read = read_mesh(mesh)
        vertices, faces = read.vertices.double().numpy(), read.faces.numpy()
        joints = eyes_of(vertices, faces)
        labels = face_components(faces)
        eyes = np.zeros(len(vertices), dtype=bool)
        eyes[faces[labels != np.bincount(labels).argmax()]] = True
    path.write_bytes(pickle.dumps(human_flame(vertices, faces, joints, eyes), protocol=2))
    return path


if __name__ == "__main__":
    print(write_human_flame(*map(Path, sys.argv[1:])))
