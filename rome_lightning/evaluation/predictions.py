"""Other systems' predictions: folders of frames or videos, and pairs of videos to compare."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from rome_lightning.evaluation.pairs import PairItem
from rome_lightning.evaluation.protocol import Protocol, file_hash
from rome_lightning.evaluation.systems import Predictions
from rome_lightning.media.pictures import read_image
from rome_lightning.media.video import Video, probe, read_video
from rome_lightning.tracking import Segmenter
from rome_lightning.tracking.crop import Crop
from rome_lightning.types import Frames, HeadParams, Region
from rome_lightning.types.clip import ClipInfo

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi")


class FolderPredictions:
    """Frames of another system for the pairs of a protocol.

    A pair's frame is ``TASK/CLIP/SOURCE__FRAME.png`` (or jpg, webp, or ``.npy`` with RGB in [0, 1]), as in
    ``pairs.txt``; or ``TASK/CLIP.mp4`` holds the frames of all pairs of that clip in the list's order.

    Args:
        folder: of the predictions.
        pairs: that are asked for.
        resolution: side that frames must have, pixels.
    """

    def __init__(self, folder: Path, pairs: Sequence[PairItem], resolution: int) -> None:
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder of predictions at {folder}")
        self.folder, self.resolution, self.name = folder, resolution, folder.name
        self._places: dict[PairItem, int] = {}
        counts: dict[str, int] = {}
        for pair in pairs:
            clip = f"{pair.task}/{pair.clip}"
            self._places[pair] = counts.get(clip, 0)
            counts[clip] = self._places[pair] + 1
        self._videos = self._find_videos(counts)
        self._decoded: tuple[Path, Video] | None = None
        if not any(self._image(pair) or self._video(pair) for pair in pairs):
            first = pairs[0].path
            raise FileNotFoundError(
                f"{folder} has no prediction for any of {len(pairs)} pairs; wanted for example {first}.png "
                f"or {first.rsplit('/', 1)[0]}.mp4 (docs/evaluation.md)"
            )

    def _find_videos(self, counts: dict[str, int]) -> dict[str, Path]:
        """Video of each clip, checked to have a frame per pair."""
        videos = {}
        for clip, count in counts.items():
            found = [p for s in VIDEO_SUFFIXES if (p := self.folder / f"{clip}{s}").is_file()]
            if not found:
                continue
            length = _count_frames(found[0])
            if length != count:
                raise ValueError(
                    f"{found[0]} has {length} frames for {count} pairs, so they cannot be assigned: write "
                    "one frame per pair, in the order of pairs.txt"
                )
            videos[clip] = found[0]
        return videos

    def describe(self) -> dict[str, Any]:
        """A hash over names and contents of all files that may be predictions."""
        digest = hashlib.sha256()
        tasks = {pair.task for pair in self._places}
        for path in sorted(p for task in tasks for p in (self.folder / task).rglob("*") if p.is_file()):
            digest.update(f"{path.relative_to(self.folder)} {file_hash(path)}\n".encode())
        return {"predictions": str(self.folder), "sha256": digest.hexdigest(), "kind": "folder"}

    def _image(self, pair: PairItem) -> Path | None:
        base = self.folder / pair.path
        paths = (base.with_name(base.name + suffix) for suffix in (*IMAGE_SUFFIXES, ".npy"))
        return next((path for path in paths if path.is_file()), None)

    def _video(self, pair: PairItem) -> Path | None:
        return self._videos.get(f"{pair.task}/{pair.clip}")

    def predict(self, pairs: Sequence[PairItem], source: Frames, driver: Frames) -> Predictions:
        """Read the frames of a batch."""
        images = torch.zeros(len(pairs), 3, self.resolution, self.resolution, dtype=torch.uint8)
        reasons = []
        for index, pair in enumerate(pairs):
            try:
                images[index] = self._read(pair)
                reasons.append("")
            except ValueError as error:
                reasons.append(" ".join(str(error).split()))
        return Predictions(images, tuple(reasons))

    def _read(self, pair: PairItem) -> UInt8[Tensor, "3 s s"]:
        path, video = self._image(pair), self._video(pair)
        if path is not None:
            pixels = _read_array(path) if path.suffix == ".npy" else read_image(path)
        elif video is not None:
            if self._decoded is None or self._decoded[0] != video:
                self._decoded = (video, read_video(video))
            frames = self._decoded[1].frames
            if self._places[pair] >= len(frames):
                raise ValueError(f"video too short: {video} has {len(frames)} frames")
            pixels = frames[self._places[pair]]
        else:
            raise ValueError("no frame")
        if pixels.shape[:2] != (self.resolution, self.resolution):
            raise ValueError(
                f"wrong size: {pixels.shape[1]}x{pixels.shape[0]}, expected a side of {self.resolution}"
            )
        return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)


def _count_frames(path: Path) -> int:
    """The number of decodable frames: a header may promise frames that were never written."""
    info = probe(path)
    return info.num_frames if info.is_exact else len(read_video(path))


def _read_array(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """An RGB image in [0, 1] from numpy's format."""
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, EOFError) as error:
        raise ValueError(f"not an array: {path}: {error}") from error
    if array.ndim != 3 or array.shape[-1] != 3 or array.dtype.kind != "f":
        raise ValueError(f"not an image: {path} has {array.dtype} {array.shape}, wanted float (h, w, 3)")
    if not np.isfinite(array).all():
        raise ValueError(f"not finite: {path}")
    return (array.clip(0, 1) * 255).round().astype(np.uint8)


class VideoTargets:
    """Frames of one video as ground truth; its first frame counts as the source.

    Frames are downscaled to fit the resolution and padded to a square; the padding is ``Region.OUTSIDE``,
    which every metric excludes. The background is the video's own.

    Args:
        path: of the video.
        resolution: side of the frames, pixels.
    """

    def __init__(self, path: Path, resolution: int) -> None:
        video = read_video(path)
        if len(video) < 2:
            raise ValueError(
                f"{path} has {len(video)} frame; a comparison needs 2, because the first is the source"
            )
        self.name = path.name
        self.hash = file_hash(path)
        self.images = square_frames(video.frames, resolution)
        self.inside = _inside(video.frames.shape[1:3], resolution)
        self.clips = [ClipInfo(path.stem, path.stem, tuple(range(len(video))), 0)]
        self._segmenter = Segmenter()

    def frames(self, clip: str, numbers: Sequence[int]) -> Frames:
        """Frames by number."""
        images = self.images[list(numbers)]
        found = self._segmenter.segment(images)
        regions = found.labels.masked_fill(~self.inside, int(Region.OUTSIDE))
        return Frames(
            image=torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255,
            foreground_mask=found.person[:, None].float(),
            regions=regions,
            landmarks=torch.zeros(len(images), 478, 2),
            params=HeadParams.neutral(len(images), 1, 1),
        )


class VideoPredictions:
    """Frames of one video to compare with those of another.

    Args:
        path: of the video.
        targets: the ground truth; must have as many frames of the same shape.
        resolution: side of the frames, pixels.
    """

    def __init__(self, path: Path, targets: Path, resolution: int) -> None:
        video, wanted = read_video(path), probe(targets)
        length = _count_frames(targets)
        if len(video) != length:
            raise ValueError(
                f"{path} has {len(video)} frames, {targets} has {length}; they cannot "
                "be matched: cut both to the same frames"
            )
        height, width = video.frames.shape[1:3]
        if (width, height) != (wanted.width, wanted.height):
            raise ValueError(
                f"{path} is {width}x{height}, {targets} is {wanted.width}x{wanted.height}; scale one"
            )
        self.name, self.path, self.images = path.stem, path, square_frames(video.frames, resolution)

    def describe(self) -> dict[str, Any]:
        """File and hash."""
        return {"predictions": str(self.path), "sha256": file_hash(self.path), "kind": "video"}

    def predict(self, pairs: Sequence[PairItem], source: Frames, driver: Frames) -> Predictions:
        """The frames of the same numbers."""
        images = torch.from_numpy(self.images[[pair.frame for pair in pairs]]).permute(0, 3, 1, 2)
        return Predictions(images, ("",) * len(pairs))


def square_frames(frames: UInt8[np.ndarray, "n h w 3"], size: int) -> UInt8[np.ndarray, "n s s 3"]:
    """Frames centred in squares of a side, anti-aliased; the padding repeats the border."""
    crop = _square(frames.shape[1:3])
    return np.stack([crop.extract(frame, size) for frame in frames])


def _square(shape: Sequence[int]) -> Crop:
    height, width = shape
    side = max(height, width)
    return Crop((width - side) // 2, (height - side) // 2, side, (height, width))


def _inside(shape: Sequence[int], size: int) -> Tensor:
    return _square(shape).inside(size)


def for_videos(protocol: Protocol) -> Protocol:
    """The tasks of a protocol that apply to two videos: those with a target, on the videos' background."""
    tasks = {
        name: replace(
            task, pairs=replace(task.pairs, kind="within_clip", source="first", frames="all", file=None)
        )
        for name, task in protocol.tasks.items()
        if task.pairs.kind == "within_clip" and not task.pairs.selects and task.pairs.frames != "own"
    }
    if not tasks:
        raise ValueError(f"protocol {protocol.name} has no task that compares a video with a target")
    return replace(protocol, tasks=tasks, background="dataset")
