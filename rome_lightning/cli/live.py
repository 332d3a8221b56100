"""``rome live``: an avatar driven in real time by a camera or a video."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from rome_lightning.cli.avatar_common import add_avatar, count
from rome_lightning.cli.parsing import StrictParser
from rome_lightning.media.atomic import write_atomic
from rome_lightning.media.child import Child
from rome_lightning.media.escaping import printable

if TYPE_CHECKING:
    import numpy as np

    from rome_lightning.avatar import Avatar
    from rome_lightning.avatar.live import LiveFrame, Timing
    from rome_lightning.export.sending import Sender
    from rome_lightning.tracking.live_frames import TrackingJob

WINDOW = "rome live (q ends)"
TRACKING = "rome_lightning.tracking.live_process:serve"
"""What the process that tracks runs; not imported here, so that it starts before torch is loaded here."""


def build_parser() -> StrictParser:
    """Options of the command."""
    parser = StrictParser(
        prog="rome live",
        description="Drive an avatar frame by frame in real time, and report the time of each stage. The "
        "first frames determine the driver's position and shape: look into the camera at the start.",
    )
    add_avatar(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--camera", type=int, metavar="N", help="Index of the camera, 0 for the first.")
    source.add_argument("--video", type=Path, help="Video file instead of a camera.")
    parser.add_argument(
        "-o", "--output", type=Path, help="Video to write (.mp4); latencies go to a .json beside it."
    )
    parser.add_argument("--show", action="store_true", help="Show driver and avatar in a window.")
    parser.add_argument(
        "--send",
        action="append",
        default=[],
        metavar="vmc|livelink[://HOST:PORT]",
        help="Send expressions, head and eyes to another program: vmc (OSC; VSeeFace, Warudo and others, "
        "port 39539) or livelink (Unreal Engine's Live Link, port 11111), on this machine unless a host is "
        "given. "
        "May be given several times. Without --show and --output nothing is rendered.",
    )
    parser.add_argument(
        "--virtual-camera",
        action="store_true",
        help="Show the avatar as a camera of this machine, for video calls and OBS; needs `pip install "
        "rome-lightning[camera]` and a virtual camera (OBS Studio's on Windows and macOS, v4l2loopback on "
        "Linux).",
    )
    parser.add_argument(
        "--draw",
        choices=("fast", "neural"),
        default="fast",
        help="fast (default): the carried photograph and the texture as they are; neural: with the network's "
        "corrections, as `rome avatar animate` draws, in more than twice the time.",
    )
    parser.add_argument(
        "--size",
        type=count,
        help="Side of the frames, pixels, at least what the networks know (default: that, or with --draw "
        "neural that of the avatar's photo).",
    )
    parser.add_argument("--max-frames", type=int, help="Stop after this many frames.")
    parser.add_argument(
        "--driver-network",
        action="store_true",
        help="Estimate expression and pose with the model's own network instead of detector and fit; for "
        "models trained with avatar.driver.encoder. Frames without a face go unnoticed.",
    )
    return parser


def main(argv: list[str]) -> int:
    """Run the command; ``argv`` is what follows ``rome live``."""
    args = build_parser().parse_args(argv)
    draws = args.output is not None or args.show or args.virtual_camera
    if not draws and not args.send:
        raise ValueError("no output; pass --output FILE.mp4, --show, --virtual-camera or --send")
    if args.output is not None and args.output.suffix.lower() != ".mp4":
        raise ValueError(f"--output must be an .mp4 file, got {args.output}")
    with Child(TRACKING, "the process that tracks") as child:
        _drive(args, child, draws)
    return 0


def _drive(args: argparse.Namespace, child: Child, draws: bool) -> None:
    from rome_lightning.avatar import Avatar
    from rome_lightning.avatar.live import Timing, drive, warm_up
    from rome_lightning.export.sending import Sender, parse_target
    from rome_lightning.tracking.live_process import frames_of, start_tracking

    targets = [parse_target(text) for text in args.send]
    avatar = Avatar.load(args.avatar)
    side = args.size or (avatar.image_size[0] if args.draw == "neural" else avatar.network_size)
    if side < avatar.network_size:
        raise ValueError(f"--size must be at least {avatar.network_size}, got {side}")
    start_tracking(child, _job(args, avatar, side))
    timing = Timing()
    with ExitStack() as stack:
        stack.enter_context(_without_one_core())
        corrections = args.draw == "neural"
        if draws:
            warm_up(avatar, corrections, side)
        fps, tracked = frames_of(child)
        film = _film(stack, (side, side), fps) if args.virtual_camera else None
        limited = islice(tracked, args.max_frames)
        drawn: Iterator[LiveFrame] = drive(avatar, limited, timing, draws, corrections, side)
        if targets:
            sender = stack.enter_context(Sender(targets, avatar.model.head, fps, _warn))
            drawn = _sent(drawn, sender)
        if film is not None:
            drawn = _filmed(drawn, film)
        if args.show:
            drawn = _shown(drawn)
        clock = _Clock()
        _consume(clock.read(drawn), args.output, fps, clock.times)
    if args.output is not None and args.video is not None:
        _add_sound(args.output, args.video, [offset - clock.times[0] for offset in clock.offsets])
    _report(timing, args.output, faces_looked_for=not args.driver_network, is_camera=args.video is None)


def _job(args: argparse.Namespace, avatar: Avatar, side: int) -> TrackingJob:
    """What the other process does."""
    from rome_lightning.avatar.live import NetworkTracker
    from rome_lightning.tracking.live import LiveTracker
    from rome_lightning.tracking.live_frames import CALIBRATION_FRAMES, TrackingJob, open_driver

    is_camera = args.video is None
    by_network = partial(NetworkTracker, args.avatar, side)
    return TrackingJob(
        source=partial(open_driver, args.camera if is_camera else args.video),
        tracker=by_network if args.driver_network else partial(LiveTracker, avatar.model.head, side),
        calibration=min(CALIBRATION_FRAMES, args.max_frames or CALIBRATION_FRAMES),
        newest_only=is_camera,
        paced=bool(args.send or args.virtual_camera) and not is_camera,
        with_crops=args.show,
    )


class _Clock:
    """The driver's times of the frames that came."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.offsets: tuple[float, ...] = ()

    def read(self, frames: Iterator[LiveFrame]) -> Iterator[LiveFrame]:
        """Note the times of frames on their way."""
        for frame in frames:
            self.times.append(frame.driver.time_s)
            self.offsets = frame.driver.clock_offsets
            yield frame


@contextmanager
def _without_one_core() -> Iterator[None]:
    """Leave a core to the process that tracks: threads that wait for each other on shared cores lose time."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before - 1))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _shown(frames: Iterator[LiveFrame]) -> Iterator[LiveFrame]:
    """Show each frame beside its driver; ends when q is pressed or the window closed."""
    import cv2
    import numpy as np

    was_visible = False
    for frame in frames:
        assert frame.image is not None
        assert frame.driver.crop is not None
        both = np.concatenate([frame.driver.crop, frame.image], axis=1)
        try:
            cv2.imshow(WINDOW, both[..., ::-1])
        except cv2.error as error:
            raise ValueError("no window can be opened on this machine; use --output instead") from error
        yield frame
        is_q = cv2.waitKey(1) & 0xFF == ord("q")
        # Not every system can tell: those that cannot never say so.
        is_visible = cv2.getWindowProperty(WINDOW, cv2.WND_PROP_VISIBLE) >= 1
        if is_q or (was_visible and not is_visible):
            break
        was_visible = is_visible
    cv2.destroyAllWindows()


def _consume(frames: Iterator[LiveFrame], output: Path | None, fps: float, times: list[float]) -> None:
    """Render all frames; a video shows each at the time of its driver's frame."""
    from rome_lightning.media.camera import growing
    from rome_lightning.media.video import write_video

    if output is not None:
        images = (frame.image for frame in frames if frame.image is not None)
        write_video(output, images, fps, timestamps=growing(times))
        return
    for _ in frames:
        continue


def _sent(frames: Iterator[LiveFrame], sender: Sender) -> Iterator[LiveFrame]:
    """Send each frame before it is shown."""
    for frame in frames:
        sender.send(frame.params)
        yield frame


def _film(stack: ExitStack, image_size: tuple[int, int], fps: float) -> Callable[[np.ndarray], None]:
    """Open the virtual camera and say which it is."""
    from rome_lightning.media.virtual_camera import virtual_camera

    name, film = stack.enter_context(virtual_camera(image_size, fps))
    print(f"virtual camera: {name}", file=sys.stderr)
    return film


def _filmed(frames: Iterator[LiveFrame], film: Callable[[np.ndarray], None]) -> Iterator[LiveFrame]:
    """The frames, each shown in the virtual camera."""
    for frame in frames:
        assert frame.image is not None
        film(frame.image)
        yield frame


def _add_sound(output: Path, source: Path, clock_offsets: list[float]) -> None:
    """Add the driver's sound to the video, or say why it has none."""
    from rome_lightning.media.audio import NO_SOUND, copy_audio

    lost = copy_audio(output, source, clock_offsets)
    if lost and lost != NO_SOUND:
        _warn(f"{output} is silent: {lost}")


def _warn(text: str) -> None:
    print(printable(f"warning: {text}"), file=sys.stderr)


def _report(timing: Timing, output: Path | None, faces_looked_for: bool, is_camera: bool) -> None:
    """Latencies as a table, and beside the video as JSON."""
    from rome_lightning.report.page import Table

    summary = timing.summary()
    rows = [
        [stage, f"{values['median_ms']:.1f}", f"{values['p95_ms']:.1f}", f"{values['fps']:.1f}"]
        for stage, values in summary.items()
    ]
    print(Table(["stage", "median [ms]", "95 % [ms]", "frames/s"], rows).as_text())
    lost = f"{timing.lost} without a face (the last pose is held)"
    if not faces_looked_for:
        lost = "not searched for faces: the network returns a pose for any image"
    skipped = f"; {timing.skipped} of the camera left out, because newer ones were there" if is_camera else ""
    print(f"{timing.num_frames} frames, {lost}{skipped}", file=sys.stderr)
    if output is not None:
        record = {
            "frames": timing.num_frames,
            "lost": timing.lost if faces_looked_for else None,
            "skipped": timing.skipped,
            "stages": summary,
        }
        write_atomic(output.with_suffix(".json"), json.dumps(record, indent=2) + "\n")
        print(f"{output}: {timing.num_frames} frames")
