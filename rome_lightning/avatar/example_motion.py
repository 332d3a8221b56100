"""A short performance for trying an avatar: look around, nod, blink, speak, smile."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from rome_lightning.avatar.recorded import RecordedMotion
from rome_lightning.head import HeadModel
from rome_lightning.types import HeadParams

_FPS = 25
_SECONDS = 8.0
_Keys = Sequence[tuple[float, float]]
_BLINK: _Keys = [(0.9, 0), (1.0, 1), (1.15, 0), (3.4, 0), (3.5, 1), (3.65, 0), (6.8, 0), (6.9, 1), (7.05, 0)]
_SMILE: _Keys = [(5.6, 0), (6.1, 0.8), (7.2, 0.8), (7.8, 0)]
_TURN: _Keys = [(0.2, 0), (1.0, 28), (1.4, 28), (2.6, -28), (3.0, -28), (3.8, 0)]
_NOD: _Keys = [(5.3, 0), (5.6, 8), (5.9, -3), (6.2, 0)]
_EXPRESSIONS: dict[str, _Keys] = {
    "eyeBlinkLeft": _BLINK,
    "eyeBlinkRight": _BLINK,
    "jawOpen": [(3.9, 0), (4.05, 0.35), (4.2, 0.1), (4.4, 0.4), (4.6, 0.12), (4.8, 0.3), (5.1, 0)],
    "mouthFunnel": [(4.2, 0), (4.4, 0.1), (4.65, 0.6), (4.9, 0.3), (5.2, 0)],
    "mouthStretchLeft": [(3.9, 0), (4.1, 0.3), (4.4, 0)],
    "mouthStretchRight": [(3.9, 0), (4.1, 0.3), (4.4, 0)],
    "browInnerUp": [(3.8, 0), (4.2, 0.5), (5.2, 0)],
    "mouthSmileLeft": _SMILE,
    "mouthSmileRight": _SMILE,
    "cheekSquintLeft": _SMILE,
    "cheekSquintRight": _SMILE,
}
"""Weights at seconds."""


def example_motion(head: HeadModel) -> RecordedMotion:
    """Eight seconds at 25 frames per second.

    Args:
        head: with ARKit's expressions.
    """
    times = np.arange(round(_SECONDS * _FPS) + 1) / _FPS
    params = HeadParams.neutral(len(times), head.num_shape, head.num_expression)
    for name, keys in _EXPRESSIONS.items():
        params.expression[:, head.expression_names.index(name)] = _between(keys, times)
    params.neck_pose[:, 1] = torch.deg2rad(_between(_TURN, times))
    params.neck_pose[:, 0] = torch.deg2rad(_between(_NOD, times))
    lost = torch.zeros(len(times), dtype=torch.bool)
    return RecordedMotion(params, torch.from_numpy(times).float(), framed=False, lost=lost)


def _between(keys: _Keys, times: np.ndarray) -> torch.Tensor:
    """Keys joined by smooth steps."""
    at, values = (np.array(column, dtype=np.float64) for column in zip(*keys, strict=True))
    after = np.clip(np.searchsorted(at, times, side="right"), 1, len(at) - 1)
    share = np.clip((times - at[after - 1]) / (at[after] - at[after - 1]), 0, 1)
    share = share * share * (3 - 2 * share)
    return torch.from_numpy(values[after - 1] + share * (values[after] - values[after - 1])).float()
