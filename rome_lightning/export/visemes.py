"""Shapes mixed from ARKit's: the 15 mouth shapes of Oculus LipSync, and Ready Player Me's.

Source of the names: Oculus (Meta) LipSync, Viseme reference. The mixes are ours, by how the mouth forms the
sounds.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from rome_lightning.head import HeadModel

VISEMES: dict[str, dict[str, float]] = {
    "viseme_sil": {},
    "viseme_PP": {
        "mouthPressLeft": 0.5,
        "mouthPressRight": 0.5,
        "mouthRollLower": 0.3,
        "mouthRollUpper": 0.3,
    },
    "viseme_FF": {
        "jawOpen": 0.06,
        "mouthRollLower": 0.5,
        "mouthUpperUpLeft": 0.25,
        "mouthUpperUpRight": 0.25,
    },
    "viseme_TH": {"jawOpen": 0.15, "tongueOut": 0.3, "mouthFunnel": 0.1},
    "viseme_DD": {"jawOpen": 0.15, "mouthStretchLeft": 0.15, "mouthStretchRight": 0.15},
    "viseme_kk": {"jawOpen": 0.22, "mouthStretchLeft": 0.1, "mouthStretchRight": 0.1},
    "viseme_CH": {"jawOpen": 0.1, "mouthFunnel": 0.55, "mouthPucker": 0.2},
    "viseme_SS": {"jawOpen": 0.05, "mouthStretchLeft": 0.35, "mouthStretchRight": 0.35},
    "viseme_nn": {"jawOpen": 0.12, "mouthStretchLeft": 0.15, "mouthStretchRight": 0.15},
    "viseme_RR": {"jawOpen": 0.12, "mouthFunnel": 0.3, "mouthPucker": 0.25},
    "viseme_aa": {"jawOpen": 0.6},
    "viseme_E": {"jawOpen": 0.3, "mouthStretchLeft": 0.35, "mouthStretchRight": 0.35},
    "viseme_I": {"jawOpen": 0.2, "mouthSmileLeft": 0.35, "mouthSmileRight": 0.35},
    "viseme_O": {"jawOpen": 0.4, "mouthFunnel": 0.55},
    "viseme_U": {"jawOpen": 0.18, "mouthPucker": 0.75, "mouthFunnel": 0.25},
}
"""Weights of ARKit's expressions."""


READY_PLAYER_ME = {
    "mouthOpen": {"jawOpen": 0.5},
    "mouthSmile": {"mouthSmileLeft": 0.8, "mouthSmileRight": 0.8},
    "eyesClosed": {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0},
    "eyesLookUp": {"eyeLookUpLeft": 1.0, "eyeLookUpRight": 1.0},
    "eyesLookDown": {"eyeLookDownLeft": 1.0, "eyeLookDownRight": 1.0},
}
"""The further shapes of Ready Player Me's avatars, likewise."""


def mixed_components(head: HeadModel, mixes: Mapping[str, Mapping[str, float]]) -> Float[Tensor, "m x"]:
    """Displacements at full strength, in the layout of ``HeadModel.template``, metres.

    Args:
        head: the head model.
        mixes: weights of ARKit's expressions for each of m shapes.

    Raises:
        ValueError: the head has no ARKit expressions.
    """
    names = list(head.expression_names)
    missing = {name for mix in mixes.values() for name in mix} - set(names)
    if missing:
        raise ValueError(
            f"visemes are mixed from ARKit's expressions, {head.name} has no {min(missing)}; use the "
            "open head"
        )
    weights = torch.zeros(len(mixes), len(names))
    for row, mix in zip(weights, mixes.values(), strict=True):
        for name, weight in mix.items():
            row[names.index(name)] = weight
    basis = head.basis[head.num_shape :].float().cpu()
    return weights @ basis
