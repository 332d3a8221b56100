"""Avatars as VRM, the format of avatars for streams, games and virtual worlds.

A VRM file is a binary glTF whose skeleton is a standing human, with named expressions, the eyes' range and
the terms of use. The joint of a bust is the chest's bone, the neck's joint is the head's; the rest of the
skeleton has no mesh unless the person has a body.

Source: VRM Consortium, VRMC_vrm-1.0 and VRM 0.0 specifications.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from rome_lightning.export.body import Figure, with_body
from rome_lightning.export.glb import Person, asset, mesh_parts, rest_and_joints
from rome_lightning.export.gltf import Buffer, container
from rome_lightning.export.profiles import Profile
from rome_lightning.export.skeleton import (
    CHEST,
    EYE_LEVEL,
    LIMBS,
    NECK,
    TRUNK,
    Bone,
    bone_nodes,
    name_mesh_apart,
    skin,
)
from rome_lightning.media.atomic import write_atomic
from rome_lightning.media.image import encode_png

VrmVersion = Literal["1.0", "0.0"]

_BODY: dict[str, tuple[str | None, tuple[float, float, float]]] = {
    "hips": (None, TRUNK["Hips"][1]),
    "spine": ("hips", TRUNK["Spine"][1]),
    "chest": ("spine", CHEST),
    "neck": ("chest", NECK),
}
"""Parent and place of each bone that has no joint of ours, as in Mixamo's rig: head space, metres."""
_LIMBS: dict[str, tuple[str, tuple[float, float, float]]] = {
    "UpperArm": ("chest", LIMBS["Arm"][1]),
    "LowerArm": ("UpperArm", LIMBS["ForeArm"][1]),
    "Hand": ("LowerArm", LIMBS["Hand"][1]),
    "UpperLeg": ("hips", LIMBS["UpLeg"][1]),
    "LowerLeg": ("UpperLeg", LIMBS["Leg"][1]),
    "Foot": ("LowerLeg", LIMBS["Foot"][1]),
}
"""The same for both sides; x is the left one's, which is the person's left."""
_JOINTS = ("chest", "head", "jaw", "leftEye", "rightEye")
"""Bone of each of the head model's joints."""
_UNMAPPED = ("jaw",)
"""Joints that expressions already move, so that programs need not detect them."""

EXPRESSIONS: dict[str, dict[str, float]] = {
    "happy": {"mouthSmile*": 0.8, "cheekSquint*": 0.5, "eyeSquint*": 0.3},
    "angry": {"browDown*": 1.0, "noseSneer*": 0.4, "mouthFrown*": 0.4, "mouthPress*": 0.3},
    "sad": {"browInnerUp": 1.0, "mouthFrown*": 0.8, "mouthShrugLower": 0.3},
    "relaxed": {"mouthSmile*": 0.35, "eyeSquint*": 0.3},
    "surprised": {"browInnerUp": 0.8, "browOuterUp*": 0.8, "eyeWide*": 0.8, "jawOpen": 0.35},
    "aa": {"jawOpen": 0.7},
    "ih": {"jawOpen": 0.2, "mouthSmile*": 0.3, "mouthStretch*": 0.3},
    "ou": {"jawOpen": 0.15, "mouthPucker": 0.7, "mouthFunnel": 0.4},
    "ee": {"jawOpen": 0.15, "mouthSmile*": 0.5, "mouthStretch*": 0.3},
    "oh": {"jawOpen": 0.45, "mouthFunnel": 0.6},
    "blink": {"eyeBlink*": 1.0},
    "blinkLeft": {"eyeBlinkLeft": 1.0},
    "blinkRight": {"eyeBlinkRight": 1.0},
    "lookUp": {"eyeLookUp*": 1.0},
    "lookDown": {"eyeLookDown*": 1.0},
    "lookLeft": {"eyeLookOutLeft": 1.0, "eyeLookInRight": 1.0},
    "lookRight": {"eyeLookInLeft": 1.0, "eyeLookOutRight": 1.0},
    "neutral": {},
}
"""The standard's expressions as ARKit's; a star is for both sides."""
_OLD_PRESETS = {
    "happy": "joy",
    "angry": "angry",
    "sad": "sorrow",
    "relaxed": "fun",
    "surprised": "unknown",
    "aa": "a",
    "ih": "i",
    "ou": "u",
    "ee": "e",
    "oh": "o",
    "blink": "blink",
    "blinkLeft": "blink_l",
    "blinkRight": "blink_r",
    "lookUp": "lookup",
    "lookDown": "lookdown",
    "lookLeft": "lookleft",
    "lookRight": "lookright",
    "neutral": "neutral",
}
"""Names of VRM 0."""
_EYE_RANGE = 90.0
"""Degrees of the target's direction at which eyes are turned farthest."""
_EYES = {"HorizontalInner": 10.0, "HorizontalOuter": 14.0, "VerticalDown": 10.0, "VerticalUp": 10.0}
"""How far eyes turn, degrees."""
_OLD_THUMBS = {
    f"{side}Thumb{new}": f"{side}Thumb{old}"
    for side in ("left", "right")
    for new, old in (("Metacarpal", "Proximal"), ("Proximal", "Intermediate"))
}
"""Names of VRM 0 for bones of VRM 1."""
LICENCE_URL = "https://vrm.dev/licenses/1.0/"


@dataclass(frozen=True)
class VrmMeta:
    """The person shown and the person responsible; the terms of use are the standard's most restrictive."""

    title: str
    author: str
    """Who answers for the avatar."""
    thumbnail: Float[Tensor, "3 s s"] | None = None
    """RGB in [0, 1]."""


@torch.no_grad()
def export_vrm(path: Path, person: Person, meta: VrmMeta, version: VrmVersion = "1.0") -> Path:
    """Write one person as ``.vrm``.

    Args:
        path: file to write; its folder is made.
        person: mesh and texture; the head must have ARKit's expressions.
        meta: name, author and picture.
        version: of the standard. VRM 0 looks along -z, so everything is turned.

    Raises:
        ValueError: the head has no ARKit expressions, or no author is given.
    """
    person.check()
    if not person.head.has_arkit:
        raise ValueError(f"VRM needs ARKit's expressions, which {person.head.name} lacks; use the open head")
    if not meta.author.strip():
        raise ValueError("a VRM file names its author; set --author")
    turn = 1.0 if version == "1.0" else -1.0
    axes, ground = torch.tensor([turn, 1.0, turn]), torch.tensor([0.0, EYE_LEVEL, 0.0])
    rest, joints = rest_and_joints(person.head, person.shape, person.offsets)
    buffer = Buffer()
    figure = None
    if person.body_texture is None:
        nodes, bound, bones = _humanoid(buffer, joints, axes, ground, meta.title)
    else:
        figure = with_body(person.head, person.shape, rest, joints).moved(turn)
        nodes, bound, bones = _whole(buffer, figure, meta.title, version)
    name_mesh_apart(nodes)
    rest = rest * axes + ground
    parts = mesh_parts(buffer, person, rest, meta.title, Profile(unlit=True), turn, figure)
    if meta.thumbnail is not None:
        image = {"bufferView": buffer.view(encode_png(meta.thumbnail)), "mimeType": "image/png"}
        parts["images"].append(image | {"name": "thumbnail"})
        if version == "0.0":
            parts["textures"].append({"sampler": 0, "source": len(parts["images"]) - 1})
    if version == "1.0":
        extension = {"VRMC_vrm": _vrm_1(person, meta, bones)}
    else:
        extension = {"VRM": _vrm_0(person, meta, bones)}
    used = [*parts.pop("extensionsUsed"), *extension]
    document = {
        "asset": asset(person),
        "scene": 0,
        "scenes": [{"nodes": [0, 1] if figure is None else [0, bones["hips"], len(nodes) - 1]}],
        "nodes": nodes,
        "skins": [bound],
        **parts,
        "extensionsUsed": used,
        "extensions": extension,
        "accessors": buffer.accessors,
        "bufferViews": buffer.views,
    }
    write_atomic(path, container(document, bytes(buffer.content)))
    return path


def _humanoid(
    buffer: Buffer, joints: Float[Tensor, "5 3"], axes: Tensor, ground: Tensor, name: str
) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, int]]:
    """Nodes (the mesh first), the skin, and the node of each bone that programs look for."""
    places = {bone: (parent, torch.tensor(place)) for bone, (parent, place) in _BODY.items()}
    for side, sign in (("left", 1.0), ("right", -1.0)):
        for limb, (owner, spot) in _LIMBS.items():
            above = side + owner if owner in _LIMBS else owner
            places[side + limb] = (above, torch.tensor(spot) * torch.tensor([sign, 1.0, 1.0]))
    for index, bone in enumerate(_JOINTS[1:], start=1):
        places[bone] = ("neck" if bone == "head" else "head", joints[index])
    bones = []
    for bone, (holder, place) in places.items():
        x, y, z = (place * axes + ground).tolist()
        bones.append(Bone(bone, holder, (x, y, z)))
    order = {bone: index + 1 for index, bone in enumerate(places)}
    nodes = [{"name": name, "mesh": 0, "skin": 0}, *bone_nodes(bones, first=1)]
    joints_of_mesh = [order[bone] for bone in _JOINTS]
    bound = skin(buffer, [bones[index - 1] for index in joints_of_mesh], joints_of_mesh, order["hips"])
    return nodes, bound, {bone: node for bone, node in order.items() if bone not in _UNMAPPED}


def _whole(
    buffer: Buffer, figure: Figure, name: str, version: VrmVersion
) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, int]]:
    """The same for a person with a body, whose mesh is the last node."""
    nodes = [{"name": name, "mesh": 0, "skin": 0}, *bone_nodes(figure.bones, first=1)]
    order = {bone.name: index for index, bone in enumerate(figure.bones, start=1)}
    bound = skin(buffer, figure.bones, list(order.values()), order["hips"])
    nodes.append({"name": "body", "mesh": 1, "skin": 0})
    renamed = _OLD_THUMBS if version == "0.0" else {}
    return nodes, bound, {renamed.get(b, b): node for b, node in order.items() if b not in _UNMAPPED}


def expression_weights(preset: str) -> dict[str, float]:
    """ARKit weights of one of the standard's expressions."""
    found: dict[str, float] = {}
    for name, weight in EXPRESSIONS[preset].items():
        sides = (name[:-1] + "Left", name[:-1] + "Right") if name.endswith("*") else (name,)
        found |= dict.fromkeys(sides, weight)
    return found


def _vrm_1(person: Person, meta: VrmMeta, bones: dict[str, int]) -> dict[str, Any]:
    names = person.head.expression_names

    def expression(weights: dict[str, float]) -> dict[str, Any]:
        binds = [{"node": 0, "index": names.index(name), "weight": w} for name, w in weights.items()]
        blocks = dict.fromkeys(("overrideBlink", "overrideLookAt", "overrideMouth"), "none")
        # The standard allows no empty list.
        bound = {"morphTargetBinds": binds} if binds else {}
        return {**bound, "isBinary": False, **blocks}

    terms: dict[str, Any] = {
        "name": meta.title,
        "version": "1",
        "authors": [meta.author],
        "copyrightInformation": asset(person)["copyright"],
        "thirdPartyLicenses": person.head.licence,
        "licenseUrl": LICENCE_URL,
        "avatarPermission": "onlyAuthor",
        "allowExcessivelyViolentUsage": False,
        "allowExcessivelySexualUsage": False,
        "commercialUsage": "personalNonProfit",
        "allowPoliticalOrReligiousUsage": False,
        "allowAntisocialOrHateUsage": False,
        "creditNotation": "required",
        "allowRedistribution": False,
        "modification": "prohibited",
    }
    if meta.thumbnail is not None:
        terms["thumbnailImage"] = _num_textures(person)
    return {
        "specVersion": "1.0",
        "meta": terms,
        "humanoid": {"humanBones": {bone: {"node": node} for bone, node in bones.items()}},
        "firstPerson": {
            "meshAnnotations": [
                {"node": 0, "type": "auto"},
                *(
                    []
                    if person.body_texture is None
                    else [{"node": 1 + len(bones) + len(_UNMAPPED), "type": "both"}]
                ),
            ]
        },
        "lookAt": {
            "offsetFromHeadBone": _between_eyes(person),
            "type": "bone",
            **{
                f"rangeMap{name}": {"inputMaxValue": _EYE_RANGE, "outputScale": degrees}
                for name, degrees in _EYES.items()
            },
        },
        "expressions": {
            "preset": {preset: expression(expression_weights(preset)) for preset in EXPRESSIONS},
            "custom": {name: expression({name: 1.0}) for name in names},
        },
    }


def _vrm_0(person: Person, meta: VrmMeta, bones: dict[str, int]) -> dict[str, Any]:
    names = person.head.expression_names

    def group(name: str, preset: str, weights: dict[str, float]) -> dict[str, Any]:
        binds = [{"mesh": 0, "index": names.index(key), "weight": 100 * w} for key, w in weights.items()]
        return {
            "name": name,
            "presetName": preset,
            "binds": binds,
            "materialValues": [],
            "isBinary": False,
        }

    # Programs for VRM 0 look for further expressions by names with a capital: "Surprised", "JawOpen".
    groups = [
        group(name.capitalize() if old == "unknown" else name, old, expression_weights(name))
        for name, old in _OLD_PRESETS.items()
    ]
    groups += [group(name[0].upper() + name[1:], "unknown", {name: 1.0}) for name in names]
    x, y, z = _between_eyes(person)
    terms: dict[str, Any] = {
        "title": meta.title,
        "version": "1",
        "author": meta.author,
        "reference": asset(person)["copyright"],
        "allowedUserName": "OnlyAuthor",
        # Spelled so in the standard.
        "violentUssageName": "Disallow",
        "sexualUssageName": "Disallow",
        "commercialUssageName": "Disallow",
        "licenseName": "Redistribution_Prohibited",
    }
    if meta.thumbnail is not None:
        terms["texture"] = _num_textures(person)
    return {
        "exporterVersion": asset(person)["generator"],
        "specVersion": "0.0",
        "meta": terms,
        "humanoid": {
            "humanBones": [
                {"bone": bone, "node": node, "useDefaultValues": True} for bone, node in bones.items()
            ]
        },
        "firstPerson": {
            "firstPersonBone": bones["head"],
            # Unity's axes: z is turned over against the file's, which looks along -z.
            "firstPersonBoneOffset": {"x": x, "y": y, "z": z},
            "meshAnnotations": [
                {"mesh": 0, "firstPersonFlag": "Auto"},
                *([] if person.body_texture is None else [{"mesh": 1, "firstPersonFlag": "Both"}]),
            ],
            "lookAtTypeName": "Bone",
            **{
                f"lookAt{name}": {
                    "curve": [0, 0, 0, 1, 1, 1, 1, 0],
                    "xRange": _EYE_RANGE,
                    "yRange": degrees,
                }
                for name, degrees in _EYES.items()
            },
        },
        "blendShapeMaster": {"blendShapeGroups": groups},
        "secondaryAnimation": {"boneGroups": [], "colliderGroups": []},
        "materialProperties": [
            {
                "name": name,
                "shader": "VRM_USE_GLTFSHADER",
                "renderQueue": 2000,
                "floatProperties": {},
                "vectorProperties": {},
                "textureProperties": {},
                "keywordMap": {},
                "tagMap": {},
            }
            for name in ("skin", "garment")[: _num_textures(person)]
        ],
    }


def _num_textures(person: Person) -> int:
    """The head's and the body's; the thumbnail follows them."""
    return 1 if person.body_texture is None else 2


def _between_eyes(person: Person) -> list[float]:
    """From the head's bone to the middle between the eyes, the person's own axes, metres."""
    _, joints = rest_and_joints(person.head, person.shape, None)
    middle: list[float] = ((joints[3] + joints[4]) / 2 - joints[1]).tolist()
    return middle
