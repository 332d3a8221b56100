"""Errors and speed of the landmark fit over a folder of talking-head clips.

``python benchmarks/tracking.py FOLDER [--head PATH] [--json OUT]``

All errors are mean distances to the detector's own landmarks divided by the 3D iris distance, in percent:
consistency with the detector, not truth. ``start`` is the peer measured in the same run: the mean head,
aligned rigidly, with the detector's blendshape scores as they come. ``jitter`` is the mean second difference
of six fitted landmarks over that of the detected ones. ``outside`` is the share of skull and ears that
shows where the segmenter sees nobody.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rome_lightning.geometry import project
from rome_lightning.head import HeadModel, load_head
from rome_lightning.head.open_head import load_open_head
from rome_lightning.media.video import read_video
from rome_lightning.renderer import get_rasterizer
from rome_lightning.tracking.detector import BLENDSHAPE_NAMES, FaceDetector
from rome_lightning.tracking.embedding import with_landmarks
from rome_lightning.tracking.fit import ClipFit, FitSettings, fit_clip, match_blendshapes
from rome_lightning.tracking.segmenter import Segmenter

COLUMNS = ("residual", "p95", "lips", "lids", "oval", "irises", "start", "jitter", "outside", "frames_per_s")
SPREAD_LANDMARKS = (1, 33, 263, 61, 291, 152)


def second_difference(points: Tensor) -> Tensor:
    path = points[:, list(SPREAD_LANDMARKS), :2]
    return (path[2:] - 2 * path[1:-1] + path[:-2]).norm(dim=-1).mean()


def outside_share(head: HeadModel, fit: ClipFit, person: Tensor, known: Tensor, count: int = 6) -> float:
    side = person.shape[-1]
    rows = torch.linspace(0, len(person) - 1, min(count, len(person))).round().long()
    params = fit.params[rows]
    vertices = project(head.to_world(head(params), params), params.camera, (side, side))
    ids = get_rasterizer().face_ids(vertices, head.faces, (side, side))
    bald = head.region("scalp", "ears")[head.faces].all(1)
    shown = bald[ids.clamp_min(0).long()] & (ids >= 0) & known
    return float((shown & (person[rows] < 0.5)).sum() / shown.sum().clamp_min(1))


def measure(head: HeadModel, file: Path, max_frames: int, silhouette: bool) -> dict[str, float]:
    frames = read_video(file, max_frames=max_frames).frames
    detections = FaceDetector(num_faces=1).detect(frames)
    height, width = frames.shape[1:3]
    side = max(height, width)
    padding = (0, side - width, 0, side - height)
    person = F.pad(Segmenter().segment(frames).person.float(), padding, value=1.0)
    known = F.pad(torch.ones(height, width, dtype=torch.bool), padding)
    found = detections.found
    landmarks = torch.cat([detections.landmarks, detections.depth[..., None]], dim=-1)
    scores = match_blendshapes(detections.blendshapes, BLENDSHAPE_NAMES, head.expression_names)
    nothing = dataclasses.replace(FitSettings(), shape_steps=0, frame_steps=0, smooth_pose=False)
    start = fit_clip(head, landmarks, (side, side), scores, found, nothing)
    begin = time.process_time()
    fit = fit_clip(head, landmarks, (side, side), scores, found, foreground=person if silhouette else None)
    seconds = time.process_time() - begin
    residual = fit.residual[found]
    jitter = second_difference(fit.landmarks_px[found]) / second_difference(landmarks[found])
    return {
        "residual": float(residual.mean()) * 100,
        "p95": float(residual.quantile(0.95)) * 100,
        **{name: float(values[found].mean()) * 100 for name, values in fit.region_residual.items()},
        "start": float(start.residual[found].mean()) * 100,
        "jitter": float(jitter),
        "outside": outside_share(head, fit, person, known) * 100,
        "frames_per_s": len(frames) / seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="videos of one person each")
    parser.add_argument(
        "--head", type=Path, help="baked head file or FLAME's .pkl (default: the shipped open head)"
    )
    parser.add_argument("--max-frames", type=int, default=300, help="per clip, from its start")
    parser.add_argument("--no-silhouette", action="store_true", help="fit to landmarks alone")
    parser.add_argument("--json", type=Path, help="also write the table here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    flame = options.head is not None and options.head.suffix == ".pkl"
    head = with_landmarks(load_head(options.head)) if flame else load_open_head(options.head)
    print(f"{'clip':32s}" + "".join(f"{name:>13s}" for name in COLUMNS))
    rows: dict[str, dict[str, float]] = {}
    for file in sorted(path for path in options.folder.iterdir() if path.is_file()):
        rows[file.name] = measure(head, file, options.max_frames, not options.no_silhouette)
        print(
            f"{file.name[:31]:32s}" + "".join(f"{rows[file.name][name]:13.2f}" for name in COLUMNS),
            flush=True,
        )
    if not rows:
        raise FileNotFoundError(f"no videos in {options.folder}")
    median = {name: float(np.median([row[name] for row in rows.values()])) for name in COLUMNS}
    print(f"{'median':32s}" + "".join(f"{median[name]:13.2f}" for name in COLUMNS))
    print(f"fit / start: {median['residual'] / median['start']:.2f} of the error")
    if options.json is not None:
        options.json.write_text(
            json.dumps({"clips": rows, "median": median}, indent=1) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
