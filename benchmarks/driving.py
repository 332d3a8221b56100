"""A frame of an avatar of the shipped model, drawn with and without its network's corrections.

    python benchmarks/driving.py [--threads 1] [--sizes 256 512] [--video FILE]

The avatar is that of the astronaut's photograph, kept at each of the sizes; the poses turn it to either side,
with an open mouth and closed lids. The note is how much the pictures differ, means over the poses. With
``--video``, of a talking person, the frames of ``rome live`` are tracked too.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import skimage.data
import torch
from figures import Figure, arguments, figure, finish
from first_picture import CLOSED, OPEN, posed
from PIL import Image
from torch import Tensor

from rome_lightning import Avatar, assets
from rome_lightning.media.video import stream_video
from rome_lightning.metrics import load_lpips, lpips
from rome_lightning.tracking.live import LiveTracker
from rome_lightning.types import HeadParams

YAWS = (-30.0, -20.0, -10.0, 0.0, 10.0, 20.0, 30.0)
"""Degrees."""
FRAMES, CALIBRATION = 80, 15
"""Of the video: all that are read, and the first ones, as `rome live` takes them."""


def astronaut(photo_size: int) -> Avatar:
    with tempfile.TemporaryDirectory() as scratch:
        photo = Path(scratch) / "astronaut.png"
        Image.fromarray(skimage.data.astronaut()).save(photo)
        return Avatar.from_photo(photo, photo_size=photo_size)


def poses(avatar: Avatar) -> HeadParams:
    return HeadParams.cat([posed(avatar, yaw, face) for yaw in YAWS for face in ({}, OPEN, CLOSED)])


def drawn(avatar: Avatar, params: HeadParams, corrections: bool) -> Tensor:
    (frame,) = avatar.draw(params, corrections=corrections)
    return frame.image.clamp(0, 1)


def drawing(size: int, options: object) -> list[Figure]:
    """The pictures of both ways, and those of the networks as they were trained."""
    avatar = astronaut(size)
    params = poses(avatar)
    endless = cycle(params[slice(index, index + 1)] for index in range(len(params)))
    plain = partial(avatar.model.render, avatar.code, image_size=avatar.image_size)
    setting = f"open-1, {size} px, {options.threads} thread(s)"  # type: ignore[attr-defined]
    with torch.no_grad():
        frame = figure(
            "driven frame",
            setting,
            {
                "ours": lambda: drawn(avatar, next(endless), corrections=True),
                "networks as trained": lambda: plain(driver=next(endless)),
            },
            {},
            budget_s=6,
        )
        fast = figure(
            "driven frame, fast",
            setting,
            {
                "ours": lambda: drawn(avatar, next(endless), corrections=False),
                "with the network": lambda: drawn(avatar, next(endless), corrections=True),
            },
            {},
            budget_s=6,
            note=_difference(avatar, params),
        )
    return [frame, fast]


def _difference(avatar: Avatar, params: HeadParams) -> str:
    network = load_lpips("alex", assets.resolve("lpips_alexnet"))
    decibels, distances = [], []
    for index in range(len(params)):
        pair = [drawn(avatar, params[slice(index, index + 1)], way) for way in (True, False)]
        decibels.append(-10 * float((pair[0] - pair[1]).square().mean().log10()))
        distances.append(float(lpips(network, *pair)))
    return f"from those with the network: PSNR {np.mean(decibels):.1f} dB, LPIPS {np.mean(distances):.4f}"


def tracking(video: Path, options: object) -> Figure:
    """A frame of `rome live` before it is drawn."""
    avatar = astronaut(256)
    frames = [frame for _, frame in islice(stream_video(video), FRAMES)]
    with LiveTracker(avatar.model.head, 256) as tracker:
        tracker.calibrate(np.stack(frames[:CALIBRATION]))
        endless: Iterator[np.ndarray] = cycle(frames)

        def step() -> None:
            frame = next(endless)
            tracker.crop_of(frame)
            tracker.step(frame)

        ways: dict[str, Callable[[], object]] = {"ours": step}
        return figure("tracked frame", f"live, {options.threads} thread(s)", ways, {})  # type: ignore[attr-defined]


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512], help="pixels")
    parser.add_argument("--video", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    figures = [item for size in options.sizes for item in drawing(size, options)]
    if options.video:
        figures.append(tracking(options.video, options))
    return finish(figures, options)


if __name__ == "__main__":
    sys.exit(main())
