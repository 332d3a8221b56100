"""``rome demo``: from real clips and one photograph to trained, driven avatars and a report, on a CPU."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rome_lightning.assets.experiments import find_experiment
from rome_lightning.cli.parsing import StrictParser

if TYPE_CHECKING:
    from datamodules.evaluation import StoredClips
    from rome_lightning.avatar import Avatar
    from rome_lightning.evaluation.evaluator import Evaluation
    from rome_lightning.evaluation.results import Rows
    from rome_lightning.evaluation.systems import AvatarSystem
    from rome_lightning.report.page import Media, Section
    from rome_lightning.types import Frames

TRAINING_CLIPS = ("clip_franck", "clip_cap12", "clip_vitallens_1", "clip_vitallens_2")
HELD_BACK_CLIP = "clip_single_face"
DRIVER_CLIP = "clip_cap13"
NUM_EPOCHS = 4
"""Each epoch ends with images and a checkpoint from which an interrupted demo resumes."""
HOLDOUT_RATIO = 0.2
"""As in ``experiments/full/cpu.yaml``: the end of each training clip is scored, not trained on."""
DRIVER_START_S = 15.5
DRIVER_FRAMES = 125
SHIPPED_FRAMES = 50
"""Frames of the driver for the shipped model: 512 px images are slow on a CPU."""
NEEDED = (
    *TRAINING_CLIPS, HELD_BACK_CLIP, DRIVER_CLIP, "face_landmarker", "selfie_multiclass", "modnet",
    "lpips_alexnet", "lpips_vgg16", "sface", "yunet",
)  # fmt: skip
"""Every file that the demo reads; all are fetched before anything is computed."""


def build_parser() -> StrictParser:
    """Options of the demo."""
    parser = StrictParser(prog="rome demo", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/demo"), help="Folder to fill.")
    parser.add_argument("--steps", type=int, default=900, help="Training steps.")
    parser.add_argument("--restart", action="store_true", help="Delete the files of an earlier demo there.")
    return parser


@dataclass
class Clock:
    """Announces the stages and records how long each takes."""

    durations_s: dict[str, float]

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Time a stage and print its title."""
        print(f"\n== {title}", file=sys.stderr, flush=True)
        start = time.monotonic()
        yield
        self.durations_s[title] = round(time.monotonic() - start, 1)
        print(f"   {self.durations_s[title]:.0f} s", file=sys.stderr, flush=True)


def main(argv: list[str]) -> int:
    """Run the demo; ``argv`` is what follows ``rome demo``."""
    args = build_parser().parse_args(argv)
    if args.restart and args.output.exists():
        shutil.rmtree(args.output)
    output: Path = args.output
    output.mkdir(parents=True, exist_ok=True)
    clock = Clock({})

    with clock.stage("Assets: detectors, metric networks and clips"):
        clips = _fetch()
    with clock.stage("An avatar of the astronaut, from the shipped model"):
        first = _use_shipped_model(clips, output)
    with clock.stage("Data: track the people and write shards"):
        _prepare(clips, output / "shards")
    with clock.stage("Training: one model for all people"):
        checkpoint = _fit(output, args.steps)
    with clock.stage("Avatars: from a photograph and from a frame of an unseen person"):
        avatars = _create_avatars(checkpoint, clips, output)
    with clock.stage("Driving and exporting"):
        driven, others = _show(avatars, clips, output)
    with clock.stage("Scoring"):
        sections = [first, driven, *_score(checkpoint, find_experiment("demo", "protocols"), output), *others]
    _report(output, sections, clock)
    print(f"\n{output / 'report.html'}: open it in a browser")
    return 0


def _fetch() -> dict[str, Path]:
    """Paths of everything the demo reads."""
    from rome_lightning.assets import resolve

    return {name: resolve(name) for name in NEEDED}


def _use_shipped_model(clips: dict[str, Path], output: Path) -> Section:
    """Drive and export one photograph without any training: what newcomers want to see first."""
    import skimage.data

    from rome_lightning import Avatar
    from rome_lightning.media.image import write_png
    from rome_lightning.models.shipped import SHIPPED
    from rome_lightning.report.page import Media, Section

    folder = output / "avatars" / "shipped"
    folder.mkdir(parents=True, exist_ok=True)
    photo = folder / "astronaut.png"
    write_png(photo, skimage.data.astronaut())
    avatar = Avatar.from_photo(photo)
    avatar.save(folder / "avatar.safetensors")
    driver, fps = _track_driver(clips[DRIVER_CLIP], avatar, SHIPPED_FRAMES)
    video = output / "shipped.mp4"
    _write_comparison(avatar, driver, fps, video)
    glb = avatar.export(folder / "astronaut.glb")
    print(f"   {video}, {glb}", file=sys.stderr)
    name = next(iter(SHIPPED))
    return Section(
        f"An avatar from the shipped model ({name}), without any training",
        f"One photograph, rendered at {avatar.image_size[0]} px. Below: a small model that the demo trains.",
        videos=[Media(video.name, "astronaut: driver, avatar, mesh")],
        files=[Media(str(glb.relative_to(output)), f"{glb.stat().st_size / 1e6:.1f} MB")],
    )


def _prepare(clips: dict[str, Path], shards: Path) -> None:
    """Shards of the training people and, as validation split, of the held-back person."""
    from datamodules.prepare import BuildOptions, PrepareConfig, prepare

    config = PrepareConfig(
        dataset="demo",
        image_size=256,
        fps=8,
        max_frames=110,
        frames_per_clip=128,
        val_identities=[clips[HELD_BACK_CLIP].stem],
        licence="see `rome assets list`: each clip has the licence of the package that contains it",
    )
    videos = [clips[name] for name in (*TRAINING_CLIPS, HELD_BACK_CLIP)]
    prepare(videos, shards, config, options=BuildOptions())


def _fit(output: Path, steps: int) -> Path:
    """Train like a user would; resume where an interrupted demo stopped."""
    from rome_lightning.cli.fit import train

    options = {
        "data.init_args.manifest": output / "shards",
        "trainer.max_epochs": NUM_EPOCHS,
        "data.init_args.pairs_per_epoch": max(1, steps // NUM_EPOCHS),
    }
    return train(["full/base", "full/cpu"], output, options)


def _create_avatars(checkpoint: Path, clips: dict[str, Path], output: Path) -> dict[str, Avatar]:
    """One avatar of a photograph, one of the first frame of the held-back clip."""
    import skimage.data

    from rome_lightning.avatar import Avatar
    from rome_lightning.cli import avatar as command
    from rome_lightning.media.image import write_png
    from rome_lightning.media.video import read_video

    photos = output / "photos"
    photos.mkdir(exist_ok=True)
    write_png(photos / "astronaut.png", skimage.data.astronaut())
    frame = read_video(clips[HELD_BACK_CLIP], max_frames=1).frames[0]
    write_png(photos / "unseen.png", frame)
    avatars = {}
    for name in ("astronaut", "unseen"):
        folder = output / "avatars" / name
        command.main(
            ["create", str(photos / f"{name}.png"), "-o", str(folder), "--checkpoint", str(checkpoint)]
        )
        avatars[name] = Avatar.load(folder)
    return avatars


def _show(avatars: dict[str, Avatar], clips: dict[str, Path], output: Path) -> tuple[Section, list[Section]]:
    """Videos, meshes and images of the avatars, each also as a separate file."""
    from rome_lightning.export.person import export_avatar
    from rome_lightning.report.page import Media, Section

    driver, fps = _track_driver(clips[DRIVER_CLIP], avatars["astronaut"])
    videos, files = [], []
    for name, avatar in avatars.items():
        video = output / f"{name}.mp4"
        _write_comparison(avatar, driver, fps, video)
        videos.append(Media(video.name, f"{name}: driver, avatar, mesh"))
        for file_format in ("glb", "obj"):
            path = output / "avatars" / name / f"{name}.{file_format}"
            export_avatar(avatar, path, file_format)
            files.append(Media(str(path.relative_to(output)), f"{name}, {path.stat().st_size / 1e6:.1f} MB"))
    cross_sheet = _cross_sheet(avatars, driver, output)
    driven = Section(
        "Driven avatars",
        "Each avatar was made from one picture of a person that the model was not trained on.",
        videos=videos,
        pictures=[cross_sheet],
    )
    return driven, [
        Section("Meshes for other tools", files=files),
        Section(
            "How the data was made",
            files=[Media("shards/report.html", "clips, rejected frames, meshes over the frames")],
        ),
    ]


def _track_driver(path: Path, avatar: Avatar, max_frames: int = DRIVER_FRAMES) -> tuple[Frames, float]:
    """The driver's frames and frame rate; a frame without a face repeats its neighbour's pose."""
    from rome_lightning.media.video import read_video
    from rome_lightning.tracking import Tracker

    video = read_video(path, start_s=DRIVER_START_S, max_frames=max_frames)
    tracker = Tracker(avatar.model.head, image_size=avatar.image_size[0])
    tracked = tracker.track(video.frames, fps=video.fps, masks=False)
    return tracked.to_frames(), video.fps


def _write_comparison(avatar: Avatar, driver: Frames, fps: float, path: Path) -> None:
    from rome_lightning.media.video import write_video
    from rome_lightning.report.pictures import driven_frames

    write_video(path, driven_frames(avatar, driver.params, driver.image), fps)


def _score(checkpoint: Path, path: Path, output: Path) -> list[Section]:
    """Scores of frames that training did not see, and a picture per clip."""
    from datamodules.evaluation import StoredClips
    from rome_lightning.evaluation.page import clip_table
    from rome_lightning.evaluation.protocol import load_protocol
    from rome_lightning.evaluation.systems import AvatarSystem
    from rome_lightning.report.page import Media, Section

    size = load_protocol(path).resolution
    parts = {
        "seen": StoredClips(output / "shards", "train", size, HOLDOUT_RATIO),
        "val": StoredClips(output / "shards", "val", size),
    }
    system = AvatarSystem(checkpoint, size, background=1.0)
    evaluation, rows = _evaluate(path, system, list(parts.values()), output)
    titles = {
        "seen": "People from training, held-out frames",
        "val": "A person who was not in training",
    }
    sections = []
    for name, part in parts.items():
        keys = [clip.key for clip in part.clips]
        table = clip_table(rows["self"], ["psnr/full", "ssim/full", "lpips_alex/full", "csim_sface"], keys)
        sheet = _sheet(evaluation, system, keys, output / f"contact_sheet_{name}.png")
        sections.append(Section(titles[name], tables=[table], pictures=[sheet]))
    cross = clip_table(rows["cross"], ["csim_sface", "aed_expression_mediapipe", "apd_rotation_deg"])
    text = "The previous person in the list drives; the floor of csim is the driver's own face."
    page = (evaluation.folder / "report.html").relative_to(output)
    files = [Media(str(page), "all metrics, with means, failures and cases: protocol demo")]
    sections.append(Section("Identity under another person's expressions", text, tables=[cross], files=files))
    for section in sections:
        print(f"\n{section.title}\n{section.tables[0].as_text()}\n{section.tables[0].caption}")
    return sections


def _evaluate(
    protocol_path: Path, system: AvatarSystem, parts: list[StoredClips], output: Path
) -> tuple[Evaluation, dict[str, Rows]]:
    """Score clips of two splits as ``rome evaluate`` does."""
    from datamodules.evaluation import JoinedClips
    from rome_lightning.cli.terminal import TerminalReporter
    from rome_lightning.evaluation.evaluator import Evaluation
    from rome_lightning.evaluation.finishing import finish
    from rome_lightning.evaluation.pairs import pairs_of
    from rome_lightning.evaluation.protocol import load_protocol
    from rome_lightning.evaluation.scoring import Scorer

    protocol, clips = load_protocol(protocol_path), JoinedClips(parts)
    pairs = pairs_of(protocol, protocol_path, clips.clips)
    evaluation = Evaluation(protocol, pairs, clips, system, output / "evaluation" / protocol.name)
    evaluation.open()
    scorer = Scorer(protocol)
    evaluation.run(TerminalReporter().track(evaluation.share(0, 1), "scoring"), scorer)
    rows, _ = finish(evaluation, scorer, output, checkpoint=system.checkpoint)
    return evaluation, rows


def _sheet(evaluation: Evaluation, system: AvatarSystem, clips: list[str], path: Path) -> Media:
    """One row per clip: the last frame that the source is driven to."""
    import torch

    from rome_lightning.media.image import to_uint8, write_png
    from rome_lightning.report.page import Media
    from rome_lightning.report.pictures import COLUMNS, comparison_rows

    rows = []
    for clip in clips:
        pair = [pair for pair in evaluation.pairs if pair.task == "self" and pair.clip == clip][-1]
        source = evaluation.clips.frames(clip, [pair.source])
        driver = evaluation.clips.frames(clip, [pair.frame]).resized(system.image_size)
        rendered = system.render(system.code((clip, pair.source), source), driver)
        rows += list(comparison_rows(source.resized(system.image_size), driver, rendered))
    write_png(path, to_uint8(torch.cat(rows, dim=1)))
    return Media(path.name, f"Columns: {', '.join(COLUMNS)}; one row per clip")


def _cross_sheet(avatars: dict[str, Avatar], driver: Frames, output: Path) -> Media:
    """Rows of both avatars in frames spread over the driver."""
    import torch

    from rome_lightning.media.image import to_uint8, write_png
    from rome_lightning.report.page import Media
    from rome_lightning.report.pictures import COLUMNS, comparison_rows

    picked = driver[torch.linspace(0, len(driver) - 1, 4).long()]
    rows = []
    for avatar in avatars.values():
        rendered = next(avatar.draw(picked.params))
        rows += list(comparison_rows(avatar.source.repeat_interleave(len(picked)), picked, rendered))
    write_png(output / "contact_sheet.png", to_uint8(torch.cat(rows, dim=1)))
    return Media("contact_sheet.png", f"Columns: {', '.join(COLUMNS)}")


def _report(output: Path, sections: list[Section], clock: Clock) -> None:
    from rome_lightning.media.provenance import code_and_versions
    from rome_lightning.report.page import write_report

    provenance = {
        "code": code_and_versions(),
        "stages_s": clock.durations_s,
        "run": json.loads((output / "summary.json").read_text()),
    }
    write_report(
        output / "report.html",
        "rome_lightning demo",
        "A small model, trained for minutes on two CPU cores with a few public clips.",
        sections,
        provenance,
    )
