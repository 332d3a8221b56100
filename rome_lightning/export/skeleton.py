"""Bones as nodes and a skin of glTF, for heads alone and for the standing rigs that programs expect."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from torch import Tensor

from rome_lightning.export.gltf import Buffer
from rome_lightning.head import JOINTS

_PARENTS = {"root": None, "neck": "root", "jaw": "neck", "left_eye": "neck", "right_eye": "neck"}
"""Of each joint of the head model."""
EYE_LEVEL = 1.6
"""Height of head space's origin above the ground in standing rigs, metres."""


@dataclass(frozen=True)
class Bone:
    """A bone at rest."""

    name: str
    parent: str | None
    place: tuple[float, float, float]
    """In the file's space, metres."""
    axes: Rotation | None = None
    """Of the bone in the file's space; the space's own if not given."""


def head_bones(joints: Float[Tensor, "5 3"]) -> list[Bone]:
    """The head model's own joints, in their order."""
    places = joints.tolist()
    return [
        Bone(name, _PARENTS[name], (place[0], place[1], place[2]))
        for name, place in zip(JOINTS, places, strict=True)
    ]


def bone_nodes(bones: Sequence[Bone], first: int) -> list[dict[str, Any]]:
    """A node for each bone, with places and rotations relative to the parent's.

    Args:
        bones: parents may come after their children.
        first: index of the first of these nodes in the file.
    """
    by_name = {bone.name: bone for bone in bones}
    order = {bone.name: first + index for index, bone in enumerate(bones)}
    nodes = []
    for bone in bones:
        holder = by_name[bone.parent] if bone.parent is not None else None
        origin = np.zeros(3) if holder is None else np.asarray(holder.place)
        outer = Rotation.identity() if holder is None or holder.axes is None else holder.axes
        node: dict[str, Any] = {
            "name": bone.name,
            "translation": outer.inv().apply(np.asarray(bone.place) - origin).tolist(),
        }
        turned = outer.inv() * (bone.axes or Rotation.identity())
        if turned.magnitude() > 1e-9:
            node["rotation"] = turned.as_quat().tolist()
        if children := [order[child.name] for child in bones if child.parent == bone.name]:
            node["children"] = children
        nodes.append(node)
    return nodes


def name_mesh_apart(nodes: Sequence[dict[str, Any]]) -> None:
    """Rename the first node if another has its name: importers look bones up by name."""
    taken = {node["name"].lower() for node in nodes[1:]}
    while nodes[0]["name"].lower() in taken:
        nodes[0]["name"] += "_mesh"


def skin(buffer: Buffer, bones: Sequence[Bone], joints: Sequence[int], root: int) -> dict[str, Any]:
    """The skin that binds a mesh to bones.

    Args:
        buffer: takes the matrices.
        bones: in the order in which the mesh's joint indices count.
        joints: node of each.
        root: node of the bone above all others.
    """
    matrices = np.stack([_inverse_bind(bone) for bone in bones])
    # glTF stores matrices column by column.
    columns = np.ascontiguousarray(matrices.transpose(0, 2, 1)).reshape(len(bones), 16)
    return {
        "name": "head",
        "joints": list(joints),
        "skeleton": root,
        "inverseBindMatrices": buffer.accessor(columns),
    }


def _inverse_bind(bone: Bone) -> Float[np.ndarray, "4 4"]:
    matrix = np.eye(4, dtype=np.float32)
    inverse = (bone.axes or Rotation.identity()).inv()
    matrix[:3, :3] = inverse.as_matrix()
    matrix[:3, 3] = -inverse.apply(bone.place)
    return matrix


NECK = (0.0, -0.13, -0.04)
"""Position of the neck bone in standing rigs, which is not one of our joints, head space, metres."""
MIXAMO_JOINTS = ("Spine2", "Head", "Jaw", "LeftEye", "RightEye")
"""Bone of Mixamo's rig for each of the head model's joints; the rig has no jaw, which is added."""
TRUNK: dict[str, tuple[str | None, tuple[float, float, float]]] = {
    "Hips": (None, (0.0, -0.65, -0.02)),
    "Spine": ("Hips", (0.0, -0.55, -0.025)),
    "Spine1": ("Spine", (0.0, -0.45, -0.03)),
    "Neck": ("Spine2", NECK),
}
"""Parent and place of each bone of the trunk that is no joint of ours, head space, metres."""
CHEST = (0.0, -0.35, -0.035)
"""Place of Spine2, likewise."""
LIMBS: dict[str, tuple[str, tuple[float, float, float]]] = {
    "Shoulder": ("Spine2", (0.04, -0.17, -0.04)),
    "Arm": ("Shoulder", (0.17, -0.18, -0.04)),
    "ForeArm": ("Arm", (0.44, -0.18, -0.04)),
    "Hand": ("ForeArm", (0.69, -0.18, -0.04)),
    "UpLeg": ("Hips", (0.09, -0.7, -0.02)),
    "Leg": ("UpLeg", (0.09, -1.1, -0.02)),
    "Foot": ("Leg", (0.09, -1.5, -0.04)),
    "ToeBase": ("Foot", (0.09, -1.57, 0.08)),
}
"""The same for the limbs of the person's left side; x is turned over for the right."""
_FINGERS = {"Thumb": 0.04, "Index": 0.03, "Middle": 0.01, "Ring": -0.01, "Pinky": -0.03}
"""Distance of each finger in front of the middle of the hand, metres."""
_PHALANX = 0.03
"""Length of a finger's bone, metres."""


def mixamo_bones(joints: Float[Tensor, "5 3"]) -> list[Bone]:
    """A standing rig in T-pose with Mixamo's names, the joints of the head model first.

    Poses for such rigs set absolute bone rotations, so the y axis of each limb bone runs along the bone, and
    the trunk's bones have the axes of the space.

    Args:
        joints: of the head model, head space, metres.
    """
    _, neck, jaw, left, right = [(place[0], place[1], place[2]) for place in joints.tolist()]
    parents = ("Spine1", "Neck", "Head", "Head", "Head")
    places = (CHEST, neck, jaw, left, right)
    found = [
        Bone(name, parent, _raised(place))
        for name, parent, place in zip(MIXAMO_JOINTS, parents, places, strict=True)
    ]
    found += [Bone(name, parent, _raised(place)) for name, (parent, place) in TRUNK.items()]
    return [*found, *_limbs("Left", 1.0), *_limbs("Right", -1.0)]


def _limbs(side: str, sign: float) -> list[Bone]:
    """Arm, hand and leg of one side."""
    axes = _limb_axes(sign)
    bones = []
    for limb, (parent, (x, y, z)) in LIMBS.items():
        above = side + parent if parent in LIMBS else parent
        bones.append(Bone(side + limb, above, _raised((sign * x, y, z)), axes[limb]))
    x, y, z = LIMBS["Hand"][1]
    for finger, ahead in _FINGERS.items():
        above = f"{side}Hand"
        for number in (1, 2, 3):
            place = (sign * (x + 0.06 + _PHALANX * number), y, z + ahead)
            bones.append(Bone(f"{side}Hand{finger}{number}", above, _raised(place), axes["Hand"]))
            above = bones[-1].name
    return bones


def _limb_axes(sign: float) -> dict[str, Rotation]:
    """Axes of each bone of ``LIMBS``; fingers have those of the hand."""
    arm = Rotation.from_euler("XYZ", (math.pi / 2, 0, -sign * math.pi / 2))
    leg = Rotation.from_euler("z", math.pi)
    axes = dict.fromkeys(("Shoulder", "Arm", "ForeArm", "Hand"), arm) | {"UpLeg": leg, "Leg": leg}
    axes |= {"Foot": leg * Rotation.from_euler("x", 60, degrees=True)}
    return axes | {"ToeBase": leg * Rotation.from_euler("x", 90, degrees=True)}


_MIXAMO_TRUNK = {
    "hips": "Hips",
    "spine": "Spine",
    "chest": "Spine1",
    "upperChest": "Spine2",
    "neck": "Neck",
    "head": "Head",
    "jaw": "Jaw",
    "leftEye": "LeftEye",
    "rightEye": "RightEye",
}
_MIXAMO_LIMBS = {
    "Shoulder": "Shoulder",
    "UpperArm": "Arm",
    "LowerArm": "ForeArm",
    "Hand": "Hand",
    "UpperLeg": "UpLeg",
    "LowerLeg": "Leg",
    "Foot": "Foot",
    "Toes": "ToeBase",
}
_MIXAMO_PIECES = (
    {"Metacarpal": 1, "Proximal": 2, "Distal": 3},
    {"Proximal": 1, "Intermediate": 2, "Distal": 3},
)


def mixamo_figure(bones: Sequence[Bone]) -> list[Bone]:
    """The bones of a whole body with Mixamo's names and axes instead of VRM's, in the same order."""
    names = {bone.name: _mixamo_name(bone.name) for bone in bones}
    found = []
    for bone in bones:
        name = names[bone.name]
        axes = None
        for side, sign in (("Left", 1.0), ("Right", -1.0)):
            limb = name.removeprefix(side)
            if limb != name and limb != "Eye":
                axes = _limb_axes(sign)[limb if limb in LIMBS else "Hand"]
        found.append(Bone(name, None if bone.parent is None else names[bone.parent], bone.place, axes))
    return found


def _mixamo_name(name: str) -> str:
    """Mixamo's name of a bone of VRM 1.0."""
    if name in _MIXAMO_TRUNK:
        return _MIXAMO_TRUNK[name]
    side, limb = ("Left", name.removeprefix("left")) if name.startswith("left") else ("Right", name[5:])
    if limb in _MIXAMO_LIMBS:
        return side + _MIXAMO_LIMBS[limb]
    finger = next(finger for finger in ("Thumb", "Index", "Middle", "Ring", "Little") if finger in limb)
    pieces = _MIXAMO_PIECES[0 if finger == "Thumb" else 1]
    return f"{side}Hand{'Pinky' if finger == 'Little' else finger}{pieces[limb.removeprefix(finger)]}"


def _raised(place: tuple[float, float, float]) -> tuple[float, float, float]:
    """From head space to the space of a standing rig."""
    return place[0], place[1] + EYE_LEVEL, place[2]
