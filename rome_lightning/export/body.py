"""A body for an avatar's bust: the MakeHuman base mesh below the open head's cut, in a plain garment.

The body follows the person twice: the head's identity coefficients choose proportions, and what is left
between the two edges of the cut is spread over the body, so that both parts share their edge exactly.
Both are then brought from the bust's pose, with hanging arms, to the T-pose that rigs start from. The T-pose
is the one from which linear blend skinning leads back to the bust as it is in the photograph.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_matrix, csr_matrix, diags
from scipy.sparse.linalg import splu
from torch import Tensor

from rome_lightning.export.skeleton import Bone
from rome_lightning.export.surface import Surface, mesh_surface
from rome_lightning.geometry import vertex_normals
from rome_lightning.head import HeadModel
from rome_lightning.media.tensors import read_shipped

BODY_FILE = Path(__file__).with_name("body.safetensors")
BODY_SHA256 = "44bf2c8bc8e94a7218e7ee156bb985cac302d88a1fb9b3bd0217e9dc46226b84"
"""Hash of the shipped file; ``python -m rome_lightning.baking.body`` makes the same bytes."""
JOINTS = ("upperChest", "head", "jaw", "leftEye", "rightEye")
"""Bone of each of the head model's joints."""
_LARGEST_SCORE = 1.5
"""Bound on the proportions, standard deviations: faces tell little of bodies."""
_NEAR = 0.06
"""Distance over which a joint follows the skin around it, metres."""


@dataclass(frozen=True)
class BodyData:
    """The shipped body: the mean and how it follows the head's identity, head space, metres."""

    head: str
    """Name of the head model that it fits."""
    licence: str
    vertices: Float[Tensor, "n 3"]
    modes: Float[Tensor, "m n 3"]
    scores: Float[Tensor, "s m"]
    """How each identity coefficient counts in each mode."""
    faces: Int[Tensor, "f 3"]
    uvs: Float[Tensor, "u 2"]
    """Texture coordinates, v down."""
    uv_faces: Int[Tensor, "f 3"]
    rim: Int[Tensor, "r 2"]
    """Vertex of the body and of the head on the common edge."""
    hands: Bool[Tensor, " n"]
    feet: Bool[Tensor, " n"]
    bones: tuple[str, ...]
    """Names in VRM 1.0."""
    parents: tuple[str | None, ...]
    joints: Float[Tensor, "b 3"]
    joint_modes: Float[Tensor, "m b 3"]
    straighten: Float[Tensor, "b 3 3"]
    """Rotation of each bone from the bust's pose to the T-pose."""
    weights: Float[Tensor, "n b"]
    bust_weights: Float[Tensor, "c b"]
    """Of the head model's carrying vertices, in place of its root's."""


@dataclass(frozen=True)
class Figure:
    """A person with a body, in a T-pose in head space, metres."""

    bones: list[Bone]
    """Those of ``JOINTS`` first; their order is that of the columns of the weights."""
    head_vertices: Float[Tensor, "v 3"]
    head_weights: Float[Tensor, "v j"]
    head_normals: Float[Tensor, "v 3"]
    vertices: Float[Tensor, "n 3"]
    weights: Float[Tensor, "n j"]
    normals: Float[Tensor, "n 3"]
    hanging: Float[Tensor, "n 3"]
    """The body's vertices in the pose of the bust."""
    hanging_normals: Float[Tensor, "n 3"]
    head_hanging_normals: Float[Tensor, "v 3"]

    def moved(self, turn: float = 1.0) -> Figure:
        """The figure on the ground, seen from ahead, or from behind with ``turn`` -1 (as VRM 0 has it)."""
        axes = torch.tensor([turn, 1.0, turn])
        ground = torch.tensor([0.0, -float(self.vertices[:, 1].min()), 0.0])
        bones = []
        for bone in self.bones:
            x, y, z = (torch.tensor(bone.place) * axes + ground).tolist()
            bones.append(dataclasses.replace(bone, place=(x, y, z)))
        return dataclasses.replace(
            self,
            bones=bones,
            head_vertices=self.head_vertices * axes + ground,
            head_normals=self.head_normals * axes,
            vertices=self.vertices * axes + ground,
            normals=self.normals * axes,
        )


@lru_cache(maxsize=1)
def load_body() -> BodyData:
    """Read the shipped body.

    Raises:
        ValueError: the file is damaged.
    """
    tensors, metadata = read_shipped(BODY_FILE, BODY_SHA256)
    count, scale = len(tensors["joints"]), tensors["mode_scale"]

    def weights(prefix: str) -> Tensor:
        values = tensors[f"{prefix}weights"].float()
        found = torch.zeros(len(values), count)
        found.scatter_add_(1, tensors[f"{prefix}weight_bones"].long(), values)
        return found / found.sum(1, keepdim=True)

    return BodyData(
        head=metadata["head"],
        licence=metadata["licence"],
        modes=tensors["modes"].float() * scale,
        joint_modes=tensors["joint_modes"].float() * scale,
        bones=tuple(metadata["bones"].split(",")),
        parents=tuple(name or None for name in metadata["parents"].split(",")),
        weights=weights(""),
        bust_weights=weights("bust_"),
        **{name: tensors[name] for name in ("vertices", "scores", "uvs", "joints", "straighten")},
        **{name: tensors[name].long() for name in ("faces", "uv_faces", "rim")},
        **{name: tensors[name].bool() for name in ("hands", "feet")},
    )


def body_surface() -> Surface:
    """The body's mesh, which carries values of its vertices."""
    body = load_body()
    return mesh_surface(body.faces, body.uv_faces, body.uvs, len(body.vertices))


def with_body(
    head: HeadModel, shape: Float[Tensor, " s"], rest: Float[Tensor, "v 3"], joints: Float[Tensor, "5 3"]
) -> Figure:
    """Give a person's bust a body.

    Args:
        head: the open head.
        shape: identity coefficients.
        rest: the person's vertices at rest, hair and shoulders included, metres.
        joints: of the head model, metres.

    Raises:
        ValueError: the head is another one.
    """
    body = load_body()
    if head.name != body.head:
        raise ValueError(f"a body fits the head model {body.head} only, got {head.name}; use --body bust")
    rest, joints = rest.double().cpu(), joints.double().cpu()
    hanging, places = _fitted(body, shape.double().cpu(), rest)
    bones, turns = _t_pose(body, places, joints)
    head_weights, weights = _all_weights(body, head)
    shifts = _shifts(body, places, bones, turns)
    posed_head = _straightened(rest, head_weights, turns, shifts)
    posed = _straightened(hanging, weights, turns, shifts)
    # Their edges were one already; now to the last bit.
    posed[body.rim[:, 0]] = posed_head[body.rim[:, 1]]
    hanging[body.rim[:, 0]] = rest[body.rim[:, 1]]
    head_normals, normals = _joined_normals(body, head, posed_head, posed)
    head_hanging_normals, hanging_normals = _joined_normals(body, head, rest, hanging)
    return Figure(
        bones,
        posed_head.float(),
        head_weights.float(),
        head_normals.float(),
        posed.float(),
        weights.float(),
        normals.float(),
        hanging.float(),
        hanging_normals.float(),
        head_hanging_normals.float(),
    )


def _fitted(body: BodyData, shape: Tensor, rest: Tensor) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "b 3"]]:
    """Vertices and bones of a body whose edge is the bust's."""
    scores = (shape @ body.scores.double()).clamp(-_LARGEST_SCORE, _LARGEST_SCORE)
    vertices = body.vertices.double() + torch.einsum("m,mni->ni", scores, body.modes.double())
    places = body.joints.double() + torch.einsum("m,mbi->bi", scores, body.joint_modes.double())
    left = rest[body.rim[:, 1]] - vertices[body.rim[:, 0]]
    moves = _spread(body, left)
    near = torch.exp(-((places[:, None] - vertices[None]).square().sum(-1)) / _NEAR**2) + 1e-12
    places = places + (near @ moves) / near.sum(1, keepdim=True)
    return vertices + moves, places


def _spread(body: BodyData, left: Float[Tensor, "r 3"]) -> Float[Tensor, "n 3"]:
    """Displacements of the common edge, spread over the body: each vertex moves like its neighbours' mean."""
    count = len(body.vertices)
    faces = body.faces.numpy()
    pairs = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    pairs = np.unique(np.concatenate([pairs, pairs[:, ::-1]]), axis=0)
    graph = coo_matrix((np.ones(len(pairs)), pairs.T), shape=(count, count)).tocsr()
    laplacian = csr_matrix(diags(np.asarray(graph.sum(1)).ravel()) - graph)
    fixed = body.rim[:, 0].numpy()
    free = np.setdiff1d(np.arange(count), fixed)
    moves = np.zeros((count, 3))
    moves[fixed] = left.numpy()
    system = splu(laplacian[free][:, free].tocsc())
    moves[free] = system.solve(-(laplacian[free][:, fixed] @ moves[fixed]))
    return torch.from_numpy(moves)


def _t_pose(body: BodyData, places: Tensor, joints: Tensor) -> tuple[list[Bone], Float[Tensor, "j 3 3"]]:
    """Bones in the T-pose and how each turns on the way there; ``JOINTS`` first."""
    index = {name: number for number, name in enumerate(body.bones)}
    straight: dict[str, Tensor] = {}
    for name, parent in zip(body.bones, body.parents, strict=True):
        place = places[index[name]]
        if parent is not None:
            turn = body.straighten[index[parent]].double()
            place = straight[parent] + turn @ (place - places[index[parent]])
        straight[name] = place
    parents = dict(zip(body.bones, body.parents, strict=True))
    for name, joint in zip(JOINTS[1:], joints[1:], strict=True):
        straight[name], parents[name] = joint, "neck" if name == "head" else "head"
    order = [*JOINTS, *(name for name in body.bones if name not in JOINTS)]
    bones = []
    for name in order:
        x, y, z = straight[name].tolist()
        bones.append(Bone(name, parents[name], (x, y, z)))
    still = torch.eye(3, dtype=torch.float64)
    turns = [body.straighten[index[name]].double() if name in index else still for name in order]
    return bones, torch.stack(turns)


def _shifts(
    body: BodyData, places: Tensor, bones: list[Bone], turns: Float[Tensor, "j 3 3"]
) -> Float[Tensor, "j 3"]:
    """The T-pose of a point x that a bone alone moves is ``turn x + shift``."""
    index = {name: number for number, name in enumerate(body.bones)}
    shifts = torch.zeros(len(bones), 3, dtype=torch.float64)
    for number, bone in enumerate(bones):
        if bone.name in index:
            place = torch.tensor(bone.place, dtype=torch.float64)
            shifts[number] = place - turns[number] @ places[index[bone.name]]
    return shifts


def _straightened(points: Tensor, weights: Tensor, turns: Tensor, shifts: Tensor) -> Float[Tensor, "n 3"]:
    """The points that linear blend skinning moves from the T-pose to these: its inverse, point by point."""
    back = turns.transpose(1, 2)
    origins = -torch.einsum("jab,jb->ja", back, shifts)
    blended = torch.einsum("nj,jab->nab", weights, back)
    return torch.linalg.solve(blended, points - weights @ origins)


def _all_weights(body: BodyData, head: HeadModel) -> tuple[Float[Tensor, "v j"], Float[Tensor, "n j"]]:
    """Of the head's vertices and of the body's; the head's root gives its share to the body's bones."""
    order = [*JOINTS, *(name for name in body.bones if name not in JOINTS)]
    columns = torch.tensor([order.index(name) for name in body.bones])

    def ordered(weights: Tensor) -> Tensor:
        found = torch.zeros(len(weights), len(order), dtype=torch.float64)
        found[:, columns] = weights.double()
        return found

    own = head.skinning_weights.double().cpu()
    carriers = own[:, :1] * ordered(body.bust_weights)
    carriers[:, 1 : len(JOINTS)] += own[:, 1:]
    weights = ordered(body.weights)
    weights[body.rim[:, 0]] = carriers[body.rim[:, 1]]
    vertices = head.to_vertices(carriers.float().to(head.faces.device)).double().cpu()
    return _four(vertices), _four(weights)


def _four(weights: Float[Tensor, "n j"]) -> Float[Tensor, "n j"]:
    """The four strongest, for which files have room: the T-pose must be the one of these."""
    strongest, joints = weights.topk(4, dim=1)
    kept = torch.zeros_like(weights).scatter_(1, joints, strongest)
    return kept / kept.sum(1, keepdim=True)


def _joined_normals(
    body: BodyData, head: HeadModel, posed_head: Tensor, posed: Tensor
) -> tuple[Float[Tensor, "v 3"], Float[Tensor, "n 3"]]:
    """Normals of both parts as of one surface."""
    count = len(posed_head)
    number = count + torch.arange(len(posed))
    number[body.rim[:, 0]] = body.rim[:, 1]
    faces = torch.cat([head.faces.cpu(), number[body.faces]])
    normals = vertex_normals(torch.cat([posed_head, posed])[None], faces)[0]
    return normals[:count], normals[number]
