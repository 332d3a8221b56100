"""Measures of which frames can be trusted; the detector itself always claims a face."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from rome_lightning.media.frame_reader import FrameSequence
from rome_lightning.types import Region
from rome_lightning.types.landmarks import (
    CHIN,
    FACE_OVAL,
    FOREHEAD,
    LEFT_IRIS,
    RIGHT_IRIS,
)

# Share of the image that changes colour at a cut; motion changes less.
_CUT = 0.5


@dataclass(frozen=True)
class QualityRule:
    """Thresholds beyond which a frame is marked and not used."""

    min_face_px: float = 48.0
    """Least height of the face in the video, hairline to chin, pixels."""
    max_yaw: float = 60.0
    """Degrees from the front beyond which the far half of the landmarks is guessed."""
    max_covered: float = 0.05
    """Share of the face behind hands or objects, [0, 1]; eyewear does not count. 1 allows any."""
    max_crowd_ratio: float = 0.5
    """Share of frames with several people beyond which the clip is refused, [0, 1]."""
    max_residual: float = 0.06
    """Landmark error of the fit, as a fraction of the distance of the irises, that is always accepted."""
    max_residual_ratio: float = 2.5
    """Landmark error relative to the clip's median beyond which a frame is rejected."""
    lost_residual: float = 0.12
    """Landmark error, like ``max_residual``, beyond which a frame is rejected however poor the others are: no
    turn or grimace of a detected face reaches it."""


def yaw_degrees(pose: Float[Tensor, "n 4 4"]) -> Float[Tensor, " n"]:
    """Angle between the face and the camera's axis in the horizontal plane, degrees, [0, 180]."""
    forward = pose[:, :3, 2]
    return torch.rad2deg(torch.atan2(forward[:, 0].abs(), forward[:, 2]))


def covered_ratio(
    landmarks: Float[Tensor, "n 478 2"], regions: UInt8[Tensor, "n s s"], inside: Bool[Tensor, "s s"]
) -> Float[Tensor, " n"]:
    """Share of the inner face behind hands or objects, excluding eyewear.

    The detector invents the landmarks of a hidden face, but the segmenter sees its skin: hands count as body
    skin, other things as objects, clothes or background.

    The segmenter has one label for all objects, so position distinguishes eyewear: any object at eye level
    counts as eyewear. A hand at the chin that the segmenter
    calls face skin goes unnoticed.

    Args:
        landmarks: pixels of the region maps.
        regions: labels, see ``Region``.
        inside: pixels that show the video; others are not counted.
    """
    own = torch.tensor([Region.FACE_SKIN, Region.HAIR], dtype=regions.dtype)
    ratios = torch.zeros(len(landmarks))
    for index, points in enumerate(landmarks):
        zones = _Zones.of(points, inside)
        labels = regions[index]
        foreign = ~torch.isin(labels, own) & ~(zones.eyes & (labels == Region.OTHER))
        ratios[index] = _share(foreign, zones.face)
    return ratios


def worn(
    landmarks: Float[Tensor, "478 2"], regions: UInt8[Tensor, "s s"], inside: Bool[Tensor, "s s"]
) -> dict[str, float]:
    """Shares of zones of one face that show something worn, [0, 1].

    ``eyewear``: objects at the height of the eyes. ``headwear``: objects or cloth where hair or scalp
    would be, from a hat to a veil. ``lower_hair``: hair over mouth and chin, a full beard or strands; most
    beards the segmenter calls face skin.

    Args:
        landmarks: pixels of the region map.
        regions: labels, see ``Region``.
        inside: pixels that show the photo.
    """
    zones = _Zones.of(landmarks, inside)
    objects = regions == Region.OTHER
    return {
        "eyewear": _share(objects, zones.face & zones.eyes),
        "headwear": _share(objects | (regions == Region.CLOTHES), zones.above),
        "lower_hair": _share(regions == Region.HAIR, zones.face & zones.lower),
    }


@dataclass(frozen=True)
class _Zones:
    """Parts of a face by height along its own axis; the unit is the distance from forehead to chin."""

    face: Bool[Tensor, "s s"]
    eyes: Bool[Tensor, "s s"]
    """Brow to cheekbone: the extent of large sunglasses."""
    lower: Bool[Tensor, "s s"]
    above: Bool[Tensor, "s s"]
    """Over the forehead, as wide as the face."""

    @classmethod
    def of(cls, points: Float[Tensor, "478 2"], inside: Bool[Tensor, "s s"]) -> _Zones:
        size = inside.shape[-1]
        oval = points[list(FACE_OVAL)]
        # The rim of the oval slides on the silhouette and over the neck.
        oval = oval.mean(0) + 0.85 * (oval - oval.mean(0))
        eyes = (points[RIGHT_IRIS[0]] + points[LEFT_IRIS[0]]) / 2
        down = points[CHIN] - points[FOREHEAD]
        unit = down.norm().clamp_min(1e-6)
        down = down / unit
        rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
        offset = torch.stack([columns, rows], dim=-1) - eyes
        height = (offset @ down) / unit
        aside = (offset @ torch.stack([-down[1], down[0]])).abs() / unit
        top = float((points[FOREHEAD] - eyes) @ down / unit)
        return cls(
            face=_polygon(oval, size) & inside,
            eyes=(height > -0.2) & (height < 0.25),
            lower=height > 0.35,
            above=(height < top) & (height > top - 0.3) & (aside < 0.3) & inside,
        )


def _share(mask: Bool[Tensor, "s s"], zone: Bool[Tensor, "s s"]) -> float:
    return float((mask & zone).sum()) / max(int(zone.sum()), 1)


def continuous_shot(
    frames: FrameSequence,
    boxes: Float[Tensor, "n 4"],
    found: Bool[Tensor, " n"],
    fps: float,
) -> Bool[Tensor, " n"]:
    """Frames of the longest part of a clip in which one face moves without a jump or a cut.

    A face continues a part if the picture has the colours of that part's last frame and the face is as
    near to its face as a moving head can be. Single frames in which the detector jumped to something
    else, or flashes, therefore do not end a part.

    Args:
        frames: RGB, consecutive.
        boxes: of the face, (left, top, right, bottom), pixels.
        found: frames with one face.
        fps: frames per second.
    """
    parts: list[list[int]] = []
    last_layouts: list[Float64[np.ndarray, "9 64"]] = []
    for index, frame in enumerate(frames):
        if not found[index]:
            continue
        layout = _colour_layout(frame)
        for number in reversed(range(len(parts))):
            last = parts[number][-1]
            change = np.abs(last_layouts[number] - layout).sum() / 2 / len(layout)
            if change < _CUT and _moves(boxes[last], boxes[index], (index - last) / fps):
                break
        else:
            number = len(parts)
            parts.append([])
            last_layouts.append(layout)
        parts[number].append(index)
        last_layouts[number] = layout
    longest = torch.zeros(len(frames), dtype=torch.bool)
    if parts:
        longest[max(parts, key=len)] = True
    return longest


def split_shots(frames: UInt8[np.ndarray, "n h w 3"]) -> list[np.ndarray]:
    """Frame numbers of each shot of a video, shots in the order of their first frame.

    A shot continues after an interruption if the image's colours return; flashes are separate shots. A cut
    between two images with similar colours is found not here but by ``continuous_shot`` or by the face's
    identity.
    """
    shots: list[list[int]] = []
    last: list[Float64[np.ndarray, "9 64"]] = []
    for index, frame in enumerate(frames):
        layout = _colour_layout(frame)
        for number in reversed(range(len(shots))):
            if np.abs(last[number] - layout).sum() / 2 / len(layout) < _CUT:
                break
        else:
            number = len(shots)
            shots.append([])
            last.append(layout)
        shots[number].append(index)
        last[number] = layout
    return [np.array(shot) for shot in shots]


def _moves(before: Float[Tensor, " 4"], after: Float[Tensor, " 4"], seconds: float) -> bool:
    """Whether a head can get from one box to the other in that time."""
    sizes = [float((box[2:] - box[:2]).norm()) for box in (before, after)]
    distance = float(((before[:2] + before[2:]) - (after[:2] + after[2:])).norm()) / 2
    growth = max(sizes) / max(min(sizes), 1e-6)
    return distance < (0.25 + 2.0 * seconds) * max(sizes) and growth < 1.3 + seconds


def _colour_layout(frame: UInt8[np.ndarray, "h w 3"]) -> Float64[np.ndarray, "9 64"]:
    """Share of each of 64 colours in each cell of a 3 x 3 grid, a fingerprint of a shot."""
    step = max(1, min(frame.shape[:2]) // 96)
    small = frame[::step, ::step] >> 6
    codes = (small[..., 0].astype(np.int64) << 4) | (small[..., 1] << 2) | small[..., 2]
    cells = [cell for row in np.array_split(codes, 3, axis=0) for cell in np.array_split(row, 3, axis=1)]
    return np.stack([np.bincount(cell.ravel(), minlength=64) / max(cell.size, 1) for cell in cells])


def _polygon(corners: Float[Tensor, "k 2"], size: int) -> Bool[Tensor, "s s"]:
    image = Image.new("1", (size, size))
    ImageDraw.Draw(image).polygon([(float(x), float(y)) for x, y in corners], fill=1)
    return torch.from_numpy(np.array(image))
