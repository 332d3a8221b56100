"""``report.html``: the page to read before training on a dataset."""

from __future__ import annotations

import base64
import html
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from datamodules.codec import encode_image, select_frames
from datamodules.manifest import SPLITS, Manifest
from datamodules.prepare.clips import VideoReport
from datamodules.reading import ClipReader, FrameImages
from datamodules.shards import ShardInfo
from rome_lightning.head import HeadModel
from rome_lightning.media.atomic import write_atomic
from rome_lightning.report.charts import bars, histogram
from rome_lightning.report.overlay import REGION_COLOURS, draw_mesh, draw_regions
from rome_lightning.tracking.identity import alike
from rome_lightning.types import HeadParams, Region

_MAX_CLIPS = 60
"""Clips shown with pictures; the report stays below about 10 MB."""
_FRAMES_PER_CLIP = 3
_SAME_FACE = 0.6
"""SFace similarity that different people do not reach: 0.3 is high for them, 0.9 is typical of one person."""
_NUM_BORDERLINE = 18
"""Worst accepted clips and best rejected frames shown."""
_SIDE = 160

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem;
  padding: 0 1rem; color: #222; }
svg { fill: #4a7ab5; font-size: 11px; } svg text { fill: currentColor; } .median { stroke: #d0433c; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; }
td, th { text-align: left; padding: .2rem 1rem .2rem 0; border-bottom: 1px solid #ddd; vertical-align: top; }
td.number { text-align: right; }
figure { display: inline-block; margin: 0 1rem 1.2rem 0; }
figcaption { font-size: 13px; color: #555; max-width: 30rem; overflow-wrap: anywhere; }
img { display: block; border-radius: 4px; }
.failed { color: #b00020; }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd; }
  td, th { border-color: #444; } figcaption { color: #aaa; } .failed { color: #ff8a80; } }
"""


def write_report(
    manifest: Manifest,
    shards: Sequence[ShardInfo],
    videos: Sequence[VideoReport],
    folder: Path,
    head: HeadModel,
    alikes: LookAlikes | None = None,
) -> Path:
    """Write ``report.html`` to the dataset's folder from the content of its shards.

    Args:
        manifest: of the dataset.
        shards: all shards, including those without a clip.
        videos: the outcome of each video of the shards.
        folder: holds the shards.
        head: the head model that was fitted, for the overlays.
        alikes: what ``look_alikes`` found among the videos; None looks for them here.
    """
    alikes = look_alikes(videos) if alikes is None else alikes
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        f"<title>{html.escape(manifest.dataset)}</title><style>{_STYLE}</style>",
        f"<h1>{html.escape(manifest.dataset)}</h1>",
        _summary(manifest, shards, videos),
        _failures(manifest),
        _two_names(manifest, alikes),
        _rejections(videos),
        _distributions(videos),
        "<h2>Worst accepted clips</h2><p>The clips with the lowest confidence: their worst frame, and the "
        "fitted head over it. If these are good, the thresholds are strict enough.</p>",
        *_worst_accepted(manifest, folder, videos, head),
        "<h2>Best rejected frames</h2><p>The most reliable rejected frame of each video, and the reason. "
        "If these are good, a threshold is too strict.</p>",
        *_best_rejected(videos),
        "<h2>Clips</h2><p>First, middle and last frame; the fitted head over them; regions on the matte "
        f"({_legend()}).</p>",
        *_clips(manifest, folder, head),
    ]
    path = folder / "report.html"
    write_atomic(path, "\n".join(parts).encode())
    return path


def _summary(manifest: Manifest, shards: Sequence[ShardInfo], videos: Sequence[VideoReport]) -> str:
    tracked, used = (sum(getattr(video, name) for video in videos) for name in ("num_frames", "num_used"))
    hours = sum(video.footage_s for video in videos) / 3600
    megabytes = sum(info.bytes for info in shards) / 1e6
    good = sum(1 for video in videos if not video.failed)
    rows = [
        ("dataset hash", manifest.hash[:16]),
        ("schema", manifest.schema),
        ("stored frames", f"{manifest.image_size} x {manifest.image_size} pixels"),
        ("head model", str(manifest.head["name"])),
        ("licence", manifest.licence or "not stated"),
    ]
    for split in SPLITS:
        members = manifest.split(split)
        people = {identity for shard in members for identity in shard.identities}
        text = (
            f"{len(people)} people, {sum(s.clips for s in members)} clips, "
            f"{sum(s.frames for s in members)} frames, {sum(s.bytes for s in members) / 1e6:.1f} MB"
        )
        rows.append((split, text if members else "empty"))
    rows += [
        ("videos", f"{good} used, {len(manifest.failed)} not"),
        ("frames", f"{used} used of {tracked} tracked"),
    ]
    if hours:
        text = f"{megabytes:.1f} MB for {hours * 60:.1f} minutes of video, {megabytes / hours / 1e3:.2f} GB/h"
        rows.append(("storage", text))
    return _table(rows)


def _failures(manifest: Manifest) -> str:
    if not manifest.failed:
        return "<p>Every video could be used.</p>"
    rows = [(item["input"], item["reason"]) for item in manifest.failed]
    return f"<h2 class=failed>{len(rows)} videos could not be used</h2>{_table(rows)}"


@dataclass(frozen=True)
class LookAlikes:
    """Videos whose people have different names but the same face."""

    pairs: list[tuple[VideoReport, VideoReport, float]]
    """The most similar pairs, with their similarity."""
    total: int
    """Number of all pairs."""


def look_alikes(videos: Sequence[VideoReport]) -> LookAlikes:
    """Pairs of videos whose people have different names but the same face, most similar first."""
    known = [video for video in videos if video.face and not video.failed]
    if not known:
        return LookAlikes([], 0)
    faces = torch.tensor([video.face for video in known])
    pairs, total = alike(faces, [video.identity for video in known], _SAME_FACE, _MAX_CLIPS)
    return LookAlikes([(known[i], known[j], similarity) for i, j, similarity in pairs], total)


def _two_names(manifest: Manifest, alikes: LookAlikes) -> str:
    if not alikes.total:
        return ""
    split_of = {name: shard.split for shard in manifest.shards for name in shard.identities}
    rows = []
    for first, second, similarity in alikes.pairs:
        splits = {split_of[first.identity], split_of[second.identity]}
        where = "in one split" if len(splits) == 1 else "in different splits: scores there are invalid"
        rows.append((f"{first.input} and {second.input}", f"similarity {similarity:.2f}, {where}"))
    return (
        f"<h2 class=failed>{alikes.total} pairs of videos may show one person under two names</h2>"
        "<p>Give them one name with <code>--identities</code>, or in the list.</p>" + _table(rows)
    )


def _rejections(videos: Sequence[VideoReport]) -> str:
    counts: Counter[str] = Counter()
    for video in videos:
        counts.update(video.rejected)
    if not counts:
        return "<p>No frame was rejected.</p>"
    total = sum(video.num_frames for video in videos)
    return (
        f"<h2>Rejected frames</h2><p>{sum(counts.values())} of {total} frames, by the first reason found."
        f"</p>{bars(counts)}"
    )


def _distributions(videos: Sequence[VideoReport]) -> str:
    clips = [clip for video in videos for clip in video.clips]
    if not clips:
        return ""

    def values(name: str) -> list[float]:
        return [value for clip in clips for value in clip[name]]

    sharp = values("sharpness")
    charts = [
        histogram(values("yaw"), "Yaw, degrees to the picture's right", -90, 90),
        histogram(values("pitch"), "Pitch, degrees up", -60, 60),
        histogram(values("expression"), "Expression energy", 0),
        histogram(sharp, "Sharpness of the face", 0, float(np.percentile(sharp, 99))),
        histogram(values("confidence"), "Confidence", 0, 1),
        histogram([len(clip["yaw"]) for clip in clips], "Clip length, frames", 0),
    ]
    return f"<h2>What was accepted</h2>{''.join(charts)}"


def _worst_accepted(
    manifest: Manifest, folder: Path, videos: Sequence[VideoReport], head: HeadModel
) -> list[str]:
    clips = [clip for video in videos for clip in video.clips]
    worst = sorted(clips, key=lambda clip: float(np.mean(clip["confidence"])))[:_NUM_BORDERLINE]
    wanted = {clip["key"]: clip for clip in worst}
    pictures: dict[str, str] = {}
    for split in SPLITS:
        reader = ClipReader(manifest, folder, split)
        for index in range(len(reader)):
            key = reader.key(index)
            if key in wanted:
                frame = int(np.argmin(wanted[key]["confidence"]))
                _, image, overlay = _fitted(reader, index, [frame], head)
                pictures[key] = _jpeg(_shrink(np.concatenate([image[0], overlay[0]], axis=1), len(image[0])))
    return [
        _captioned(
            pictures[clip["key"]],
            f"<b>{html.escape(clip['key'])}</b><br>confidence {np.mean(clip['confidence']):.2f}, "
            f"least {np.min(clip['confidence']):.2f}",
        )
        for clip in worst
        if clip["key"] in pictures
    ]


def _best_rejected(videos: Sequence[VideoReport]) -> list[str]:
    found = [(video, video.best_rejected) for video in videos if video.best_rejected]
    found.sort(key=lambda item: -item[1]["confidence"])
    figures = [
        _captioned(
            best["picture"],
            f"{html.escape(_short(video.input))}<br>{html.escape(best['reason'])}, "
            f"confidence {best['confidence']:.2f}",
        )
        for video, best in found[:_NUM_BORDERLINE]
    ]
    return figures or ["<p>None.</p>"]


def _short(name: str) -> str:
    return name if len(name) <= 28 else f"{name[:14]}...{name[-11:]}"


def _captioned(picture: str, text: str) -> str:
    return (
        f'<figure><img src="data:image/jpeg;base64,{picture}" alt=""><figcaption>{text}</figcaption></figure>'
    )


def _jpeg(image: UInt8[np.ndarray, "h w 3"]) -> str:
    return base64.b64encode(encode_image(image)).decode()


def _table(rows: Sequence[tuple[str, str]]) -> str:
    cells = (f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>" for name, text in rows)
    return f"<table>{''.join(cells)}</table>"


def _legend() -> str:
    return ", ".join(
        f'<span style="color: rgb{tuple(REGION_COLOURS[region])}">&#9632;</span> '
        f"{region.name.lower().replace('_', ' ')}"
        for region in Region
        if region is not Region.BACKGROUND
    )


def _clips(manifest: Manifest, folder: Path, head: HeadModel) -> list[str]:
    figures: list[str] = []
    for split in SPLITS:
        reader = ClipReader(manifest, folder, split)
        figures += [
            _figure(reader, clip, head) for clip in range(min(len(reader), _MAX_CLIPS - len(figures)))
        ]
    total = sum(shard.clips for shard in manifest.shards)
    if total > len(figures):
        figures.append(f"<p>{total - len(figures)} further clips are not shown.</p>")
    return figures


def _figure(reader: ClipReader, clip: int, head: HeadModel) -> str:
    arrays, header = reader.meta(clip)
    count = len(arrays["valid"])
    frames = sorted({0, count // 2, count - 1})[:_FRAMES_PER_CLIP]
    read, images, overlays = _fitted(reader, clip, frames, head)
    labels = [_region_picture(item) for item in read]
    rows = [np.concatenate(list(row), axis=1) for row in (images, overlays, labels)]
    text = (
        f"<b>{html.escape(header['clip'])}</b> ({reader.split}) &middot; {html.escape(header['identity'])} "
        f"&middot; {count} frames &middot; confidence {float(arrays['confidence'].mean()):.2f}"
    )
    return _captioned(_jpeg(_shrink(np.concatenate(rows), images.shape[1])), text)


def _fitted(
    reader: ClipReader, clip: int, frames: Sequence[int], head: HeadModel
) -> tuple[list[FrameImages], UInt8[np.ndarray, "n s s 3"], UInt8[np.ndarray, "n s s 3"]]:
    """Frames of a clip, their images, and the images with the fitted head."""
    chosen = select_frames(reader.meta(clip)[0], frames)
    values = (torch.from_numpy(np.array(chosen[n])) for n in ("shape", "expression", "pose", "camera"))
    params = HeadParams.from_packed(*values)
    read = [reader.frame(clip, frame) for frame in frames]
    images = np.stack([item.image for item in read])
    overlays = [draw_mesh(image, head, params[i : i + 1]) for i, image in enumerate(images)]
    return read, images, np.stack(overlays)


def _region_picture(frame: FrameImages) -> UInt8[np.ndarray, "h w 3"]:
    """Colours of the regions, faded to black where the matte says background; grey beyond the video."""
    blank = np.zeros_like(frame.image)
    colours = draw_regions(blank, torch.from_numpy(frame.regions.copy()), opacity=1.0)
    opacity = np.where(frame.regions == int(Region.OUTSIDE), 255, frame.matte)
    return (colours * (opacity[..., None] / 255)).astype(np.uint8)


def _shrink(strip: np.ndarray, side: int) -> UInt8[np.ndarray, "h w 3"]:
    """Scale the images of a strip to thumbnail size."""
    height, width = (max(round(length * _SIDE / side), 1) for length in strip.shape[:2])
    return np.asarray(Image.fromarray(strip).resize((width, height), Image.Resampling.BOX))
