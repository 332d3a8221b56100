"""``report.html``: what a person looks at before training on a dataset."""

from __future__ import annotations

import base64
import html
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from datamodules.codec import encode_image, select_frames
from datamodules.manifest import SPLITS, Manifest
from datamodules.reading import ClipReader, FrameImages
from datamodules.shards import ShardInfo, write_atomic
from rome_lightning.data import HeadParams, Region
from rome_lightning.head import HeadModel
from rome_lightning.tracking.overlay import REGION_COLOURS, draw_mesh, draw_regions

_MAX_CLIPS = 60
"""Clips shown with pictures; the report stays below about 10 MB."""
_FRAMES_PER_CLIP = 3
_SIDE = 160

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem;
  padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; }
td, th { text-align: left; padding: .2rem 1rem .2rem 0; border-bottom: 1px solid #ddd; vertical-align: top; }
td.number { text-align: right; }
figure { display: inline-block; margin: 0 1rem 1.2rem 0; }
figcaption { font-size: 13px; color: #555; }
img { display: block; border-radius: 4px; }
.failed { color: #b00020; }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd; }
  td, th { border-color: #444; } figcaption { color: #aaa; } .failed { color: #ff8a80; } }
"""


def write_report(manifest: Manifest, shards: Sequence[ShardInfo], folder: Path, head: HeadModel) -> Path:
    """Write ``report.html`` into the dataset's folder, from what its shards hold.

    Args:
        manifest: of the dataset.
        shards: all shards, those without a clip included.
        folder: holds the shards.
        head: the head model that was fitted, for the overlays.
    """
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        f"<title>{html.escape(manifest.dataset)}</title><style>{_STYLE}</style>",
        f"<h1>{html.escape(manifest.dataset)}</h1>",
        _summary(manifest, shards),
        _failures(manifest),
        "<h2>Clips</h2><p>First, middle and last frame; the fitted head over them; regions on the matte "
        f"({_legend()}).</p>",
        *_clips(manifest, folder, head),
    ]
    path = folder / "report.html"
    write_atomic(path, "\n".join(parts).encode())
    return path


def _summary(manifest: Manifest, shards: Sequence[ShardInfo]) -> str:
    counts: Counter[str] = Counter()
    for info in shards:
        counts.update(info.counts)
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
    rows += [(name, str(count)) for name, count in sorted(counts.items())]
    return _table(rows)


def _failures(manifest: Manifest) -> str:
    if not manifest.failed:
        return "<p>Every video could be used.</p>"
    rows = [(item["input"], item["reason"]) for item in manifest.failed]
    return f"<h2 class=failed>{len(rows)} videos could not be used</h2>{_table(rows)}"


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
    chosen = select_frames(arrays, frames)
    values = (torch.from_numpy(np.array(chosen[n])) for n in ("shape", "expression", "pose", "camera"))
    params = HeadParams.from_packed(*values)
    read = [reader.frame(clip, frame) for frame in frames]
    images = np.stack([item.image for item in read])
    overlays = [draw_mesh(image, head, params[i : i + 1]) for i, image in enumerate(images)]
    labels = [_region_picture(item) for item in read]
    rows = [np.concatenate(list(row), axis=1) for row in (images, overlays, labels)]
    strip = _shrink(np.concatenate(rows), images.shape[1])
    picture = base64.b64encode(encode_image(strip)).decode()
    text = (
        f"<b>{html.escape(header['clip'])}</b> ({reader.split}) &middot; {html.escape(header['identity'])} "
        f"&middot; {count} frames &middot; confidence {float(arrays['confidence'].mean()):.2f}"
    )
    return (
        f'<figure><img src="data:image/jpeg;base64,{picture}" alt=""><figcaption>{text}</figcaption></figure>'
    )


def _region_picture(frame: FrameImages) -> UInt8[np.ndarray, "h w 3"]:
    """Colours of the regions, faded to black where the matte says background."""
    blank = np.zeros_like(frame.image)
    colours = draw_regions(blank, torch.from_numpy(frame.regions.copy()), opacity=1.0)
    return (colours * (frame.matte[..., None] / 255)).astype(np.uint8)


def _shrink(strip: np.ndarray, side: int) -> np.ndarray:
    """Average down by the whole factor that brings pictures near the size of a thumbnail."""
    factor = max(side // _SIDE, 1)
    height, width = (length // factor * factor for length in strip.shape[:2])
    cells = strip[:height, :width].reshape(height // factor, factor, width // factor, factor, 3)
    return cells.mean((1, 3)).astype(np.uint8)
