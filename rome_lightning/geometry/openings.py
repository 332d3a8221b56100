"""How far eyes and mouth are open, from landmarks."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

# MediaPipe's points p1 to p6 of each eye: corners (p1, p4), upper lid (p2, p3), lower lid (p6, p5).
_EYES = ((33, 160, 158, 133, 153, 144), (362, 385, 387, 263, 373, 380))
_UPPER_LIP, _LOWER_LIP = 13, 14
_MOUTH_CORNERS = (78, 308)


def eye_opening(landmarks: Float[Tensor, "b 478 2"]) -> Float[Tensor, " b"]:
    """Mean aspect ratio of both eyes: about 0.3 for open eyes, below 0.15 for closed lids.

    Args:
        landmarks: MediaPipe's, in any unit.

    Source: Soukupova and Cech, Real-time eye blink detection using facial landmarks, 2016, eq. 1.
    """
    ratios = []
    for p1, p2, p3, p4, p5, p6 in _EYES:
        lids = _distance(landmarks, p2, p6) + _distance(landmarks, p3, p5)
        ratios.append(lids / (2 * _distance(landmarks, p1, p4)).clamp_min(1e-6))
    return (ratios[0] + ratios[1]) / 2


def mouth_opening(landmarks: Float[Tensor, "b 478 2"]) -> Float[Tensor, " b"]:
    """Gap between the inner lips, divided by the distance between the mouth's inner corners; 0 when closed.

    Args:
        landmarks: MediaPipe's, in any unit.
    """
    gap = _distance(landmarks, _UPPER_LIP, _LOWER_LIP)
    return gap / _distance(landmarks, *_MOUTH_CORNERS).clamp_min(1e-6)


def _distance(landmarks: Float[Tensor, "b 478 2"], a: int, b: int) -> Float[Tensor, " b"]:
    return (landmarks[:, a] - landmarks[:, b]).norm(dim=-1)
