"""Frames per second and core of `rome prepare`, against the same steps called one frame at a time.

    python benchmarks/prepare.py VIDEO... [--frames 64] [--single 4] [--carry] [--output FILE.json]

``prepare`` makes one part of a dataset, from the file to the synchronised shard of it. ``one at a time``
calls the same steps for each frame on its own, as a script around an image tracker does: it tracks,
compares and packs one frame after the other, with segmenter and matting network in the libraries that they
come from, MediaPipe and ONNX Runtime. ``ours, one at a time`` does so with the networks that ``prepare``
uses. ``stages`` are the parts of ``prepare``; ``networks`` among them are the face landmarker, the
segmenter and the matting network. ``masks`` are the differences between both kinds of networks on the
frames of the latter two: the share of pixels with another label, the mean difference of the bounded matte,
and the share of pixels where it is above 0.1. All times are CPU times of the process on one thread.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from datamodules.codec import encode_image, encode_masks
from datamodules.prepare import PrepareConfig
from datamodules.prepare.clips import VideoTools
from datamodules.prepare.inputs import VideoInput
from datamodules.prepare.parts import Part, default_tracker, make_part
from datamodules.prepare.processes import limit_threads
from rome_lightning import assets
from rome_lightning.head import HeadModel, load_head
from rome_lightning.media.video import read_video
from rome_lightning.tracking import tracker as tracking
from rome_lightning.tracking.identity import default_embedder
from rome_lightning.tracking.matting import Matter
from rome_lightning.tracking.segmenter import Segmenter
from rome_lightning.tracking.tracker import Tracker

NETWORKS = ("faces", "regions", "matte")


class Clock:
    """CPU seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def wrap(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A timed version of the function."""

        def timed(*arguments: Any, **options: Any) -> Any:
            start = time.process_time()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds[stage] += time.process_time() - start

        return timed

    def watch(self, tools: VideoTools) -> VideoTools:
        """Tools with timed stages."""
        tracker = tools.tracker
        assert isinstance(tracker, Tracker)
        assert tools.embed is not None
        for stage, tool, method in (
            ("faces", tracker.detector, "detect"),
            ("regions", tracker.segmenter, "segment"),
            ("matte", tracker.matter, "matte"),
        ):
            setattr(tool, method, self.wrap(stage, getattr(tool, method)))
        tracking.fit_clip = self.wrap("fit", tracking.fit_clip)
        return VideoTools(tracker, self.wrap("identity", tools.embed))


def input_of(path: Path) -> VideoInput:
    return VideoInput(path, "video", "person", "0" * 64, path.name)


def cpu_seconds(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def prepare_one(path: Path, tools: VideoTools, config: PrepareConfig, head: str) -> int:
    """A part, from the file to the disk; returns its frames."""
    part = Part("video-0", input_of(path), {"benchmark": path.name})
    with tempfile.TemporaryDirectory() as folder:
        report = make_part(part, Path(folder), tools, config, head)
    if report.failed:
        raise ValueError(f"{path} cannot be prepared: {report.failed}")
    return report.num_frames


def one_at_a_time(frames: UInt8[np.ndarray, "n h w 3"], tools: VideoTools) -> None:
    """The same steps for each frame alone."""
    assert tools.embed is not None
    for index in range(len(frames)):
        clip = tools.tracker.track(frames[index : index + 1])
        tools.embed(clip.images.permute(0, 3, 1, 2).float() / 255)
        encode_image(clip.images[0].numpy())
        encode_masks(clip.regions[0].numpy(), (clip.matte[0].float() * 255).byte().numpy())


def library_tools(head: HeadModel, config: PrepareConfig) -> VideoTools:
    """The same tools with segmenter and matting network in MediaPipe and ONNX Runtime."""
    tracker = default_tracker(head, config)
    # A model that is named runs in its library.
    tracker.segmenter = Segmenter(assets.resolve("selfie_multiclass"))
    tracker.matter = Matter(assets.resolve("modnet"))
    return VideoTools(tracker, default_embedder())


def mask_differences(frames: UInt8[np.ndarray, "n h w 3"], *tools: VideoTools) -> dict[str, float]:
    """How far the masks of two kinds of networks differ on the same frames."""
    clips = [tool.tracker.track(frames) for tool in tools]
    other = (clips[0].regions != clips[1].regions).float()
    matte = (clips[0].matte.float() - clips[1].matte.float()).abs()
    return {
        "other labels": float(other.mean()),
        "matte, mean": float(matte.mean()),
        "matte, above 0.1": float((matte > 0.1).float().mean()),
    }


def measure(path: Path, frames: int, single: int, carry: bool) -> dict[str, Any]:
    config = PrepareConfig(max_frames=frames, min_frames=2, carry_masks=carry)
    head = load_head(config.head)
    tools = VideoTools(default_tracker(head, config), default_embedder())
    prepare_one(path, tools, dataclasses.replace(config, max_frames=4), head.name)
    clock = Clock()
    fit_clip = tracking.fit_clip
    try:
        counted: list[int] = []
        watched = clock.watch(tools)
        whole = cpu_seconds(lambda: counted.append(prepare_one(path, watched, config, head.name)))
    finally:
        tracking.fit_clip = fit_clip
    # Of single frames nothing is carried, and the differences are those of the networks.
    alone_config = dataclasses.replace(config, carry_masks=False)
    plain = VideoTools(default_tracker(head, alone_config), default_embedder())
    libraries = library_tools(head, alone_config)
    video = read_video(path, single, config.fps, max_side=config.max_side).frames
    alone, ours_alone = (
        cpu_seconds(lambda tools=tools: one_at_a_time(video, tools)) / len(video)  # type: ignore[misc]
        for tools in (libraries, plain)
    )
    stages = {stage: 1e3 * seconds / counted[0] for stage, seconds in clock.seconds.items()}
    stages["all else"] = 1e3 * whole / counted[0] - sum(stages.values())
    return {
        "video": path.name,
        "frames": counted[0],
        "frames per second and core": counted[0] / whole,
        "faster than one at a time": alone / (whole / counted[0]),
        "faster than ours, one at a time": ours_alone / (whole / counted[0]),
        "stages, ms per frame": stages,
        "share of the networks": sum(stages[name] for name in NETWORKS) / sum(stages.values()),
        "masks": mask_differences(video, libraries, plain),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", nargs="+", type=Path, help="videos of one person each")
    parser.add_argument("--frames", type=int, default=64, help="frames prepared per video")
    parser.add_argument("--single", type=int, default=4, help="frames per video processed one at a time")
    parser.add_argument("--carry", action="store_true", help="carry masks, see carry_masks of prepare")
    parser.add_argument("--output", type=Path, help="also write the figures here, as JSON")
    options = parser.parse_args()
    rows = []
    with limit_threads(1):
        for path in options.videos:
            rows.append(measure(path, options.frames, options.single, options.carry))
            print(json.dumps(rows[-1], indent=1), flush=True)
    for name in (
        "frames per second and core",
        "faster than one at a time",
        "faster than ours, one at a time",
        "share of the networks",
    ):
        print(f"median {name}: {statistics.median(row[name] for row in rows):.2f}")
    if options.output is not None:
        options.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
