"""The bones of the body: those of the VRM standard, what of MakeHuman's rig each takes over, and a T-pose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rome_lightning.baking.head_mesh import FloatArray


@dataclass(frozen=True)
class Source:
    """Where a bone comes from."""

    parent: str | None
    place: tuple[str, ...]
    """Bones of MakeHuman's rig in the middle of whose heads it begins."""
    takes: tuple[str, ...]
    """Bones whose weights it takes over, with those of their children that no bone takes."""


def _sides(name: str, parent: str, place: tuple[str, ...], takes: tuple[str, ...]) -> dict[str, Source]:
    found = {}
    for side, mark in (("left", ".L"), ("right", ".R")):
        above = parent if parent in ("hips", "upperChest") else side + parent
        found[side + name] = Source(above, tuple(p + mark for p in place), tuple(t + mark for t in takes))
    return found


BONES: dict[str, Source] = {
    "hips": Source(None, ("spine05",), ("root",)),
    "spine": Source("hips", ("spine04",), ("spine04",)),
    "chest": Source("spine", ("spine02",), ("spine02",)),
    "upperChest": Source("chest", ("spine01",), ("spine01", "neck01", "head")),
    "neck": Source("upperChest", ("neck01",), ()),
    **_sides("Shoulder", "upperChest", ("clavicle",), ("clavicle",)),
    **_sides("UpperArm", "Shoulder", ("upperarm01",), ("upperarm01",)),
    **_sides("LowerArm", "UpperArm", ("lowerarm01",), ("lowerarm01",)),
    **_sides("Hand", "LowerArm", ("wrist",), ("wrist",)),
    **_sides("UpperLeg", "hips", ("upperleg01",), ("upperleg01",)),
    **_sides("LowerLeg", "UpperLeg", ("lowerleg01",), ("lowerleg01",)),
    **_sides("Foot", "LowerLeg", ("foot",), ("foot",)),
    **_sides("Toes", "Foot", ("toe1-1", "toe3-1"), tuple(f"toe{n}-1" for n in range(1, 6))),
}
"""By the name in VRM 1.0, parents first; the joints of the head model are not among them."""
FINGERS = ("Thumb", "Index", "Middle", "Ring", "Little")
THUMB = ("Metacarpal", "Proximal", "Distal")
FINGER = ("Proximal", "Intermediate", "Distal")
for _number, _finger in enumerate(FINGERS, start=1):
    _above = "Hand"
    for _part, _piece in enumerate(THUMB if _finger == "Thumb" else FINGER, start=1):
        _bone = (f"finger{_number}-{_part}",)
        BONES |= _sides(_finger + _piece, _above, _bone, _bone)
        _above = _finger + _piece


def placed(names: list[str], heads: FloatArray) -> FloatArray:
    """(b, 3): where bones begin, from the heads of MakeHuman's."""
    index = {name: i for i, name in enumerate(names)}
    return np.stack([heads[[index[name] for name in bone.place]].mean(0) for bone in BONES.values()])


def collapsed_weights(names: list[str], parents: list[int], bones: Tensor, weights: Tensor) -> Tensor:
    """(v, b): weights of ``BONES`` from those of MakeHuman's rig; the nearest ancestor takes a bone over.

    Args:
        names: of MakeHuman's bones.
        parents: index of each one's parent, or -1.
        bones: (v, k) bones that move each vertex.
        weights: (v, k) how far.
    """
    takers = {name: number for number, bone in enumerate(BONES.values()) for name in bone.takes}
    taker = []
    for bone in range(len(names)):
        above = bone
        while names[above] not in takers:
            above = parents[above]
        taker.append(takers[names[above]])
    found = torch.zeros(len(bones), len(BONES), dtype=torch.float64)
    return found.scatter_add_(1, torch.tensor(taker)[bones], weights.double())


def straightened(joints: FloatArray) -> FloatArray:
    """(b, 3, 3): rotation of each bone, in head space, from the baked pose to a T-pose.

    Arms and fingers point to the sides with the palms down and elbows that bend forward, legs point down
    and feet ahead. The trunk and the thumbs, relative to their hands, stay.

    Args:
        joints: where ``BONES`` begin, head space, metres.
    """
    at = dict(zip(BONES, joints, strict=True))
    turns = {name: np.eye(3) for name in BONES}
    for side, sign in (("left", 1.0), ("right", -1.0)):
        out, ahead, down = np.array([sign, 0, 0]), np.array([0, 0, 1.0]), np.array([0, -1.0, 0])
        upper = at[f"{side}LowerArm"] - at[f"{side}UpperArm"]
        lower = at[f"{side}Hand"] - at[f"{side}LowerArm"]
        hinge, upright = np.cross(upper, lower), np.cross(out, ahead)
        turns[f"{side}UpperArm"] = _between(upper, hinge, out, upright)
        turns[f"{side}LowerArm"] = _between(lower, hinge, out, upright)
        hand = at[f"{side}MiddleProximal"] - at[f"{side}Hand"]
        thumbwards = at[f"{side}IndexProximal"] - at[f"{side}LittleProximal"]
        turns[f"{side}Hand"] = _between(hand, thumbwards, out, ahead)
        for finger in FINGERS:
            turn = turns[f"{side}Hand"]
            pieces = THUMB if finger == "Thumb" else FINGER
            for piece, following in zip(pieces, [*pieces[1:], None], strict=True):
                if finger != "Thumb" and following is not None:
                    along = turn @ (at[side + finger + following] - at[side + finger + piece])
                    turn = _shortest(along, along * (1, 0, 1)) @ turn
                turns[side + finger + piece] = turn
        for bone, end in (("UpperLeg", "LowerLeg"), ("LowerLeg", "Foot")):
            turns[side + bone] = _shortest(at[side + end] - at[side + bone], down)
        foot = (at[f"{side}Toes"] - at[f"{side}Foot"]) * (1, 0, 1)
        turns[f"{side}Foot"] = turns[f"{side}Toes"] = _shortest(foot, ahead)
    return np.stack(list(turns.values()))


def _between(along: FloatArray, beside: FloatArray, to: FloatArray, to_beside: FloatArray) -> FloatArray:
    """The rotation that takes one direction to another, and a second one as near as it can."""
    return _frame(to, to_beside) @ _frame(along, beside).T


def _frame(along: FloatArray, beside: FloatArray) -> FloatArray:
    first = along / np.linalg.norm(along)
    second = beside - (beside @ first) * first
    second = second / np.linalg.norm(second)
    return np.stack([first, second, np.cross(first, second)], axis=1)


def _shortest(along: FloatArray, to: FloatArray) -> FloatArray:
    """The shortest rotation between two directions."""
    first, second = along / np.linalg.norm(along), to / np.linalg.norm(to)
    axis = np.cross(first, second)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + cross + cross @ cross / (1 + first @ second)
