"""The app's work behind the page: photographs in, images, videos and files out."""

from __future__ import annotations

import dataclasses
import re
import shutil
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import UInt8

from rome_lightning.avatar import Avatar
from rome_lightning.avatar.avatar import REFINE_STEPS
from rome_lightning.avatar.driver import NO_VIDEO, read_driver
from rome_lightning.avatar.example_motion import example_motion
from rome_lightning.avatar.making import PHOTO_SIZE, photo_tracker, read_person
from rome_lightning.avatar.recorded import MOTION_SUFFIXES, write_motion
from rome_lightning.export.mesh_picture import draw_mesh
from rome_lightning.export.person import SUFFIXES, BodyPart, FileFormat, export_avatar
from rome_lightning.export.profiles import PLAIN, PROFILES
from rome_lightning.export.web_page import export_web
from rome_lightning.media.audio import NO_SOUND
from rome_lightning.models import AvatarModel, LinearBasis
from rome_lightning.models.shipped import open_model
from rome_lightning.report.backgrounds import TRANSPARENT, composed, draw_layers, read_background
from rome_lightning.types.params import at_rest

AppProgress = Callable[[float, str], None]
"""Called with the share that is done, [0, 1], and what goes on."""
AppFormat = FileFormat | Literal["web"]
FILE_KINDS: dict[AppFormat, str] = {
    "glb": "GLB · games, Blender",
    "vrm": "VRM 1.0",
    "vrm0": "VRM 0 · VSeeFace",
    "web": "Web page (ZIP)",
    "usd": "USD",
    "obj": "OBJ · still mesh",
    "ply": "PLY · coloured mesh",
    "params": "Parameters (NPZ)",
}
"""Formats that the page offers, and what its buttons say."""
EXPORTS: tuple[AppFormat, ...] = tuple(FILE_KINDS)
WITH_BODY: tuple[AppFormat, ...] = ("glb", "vrm", "vrm0", "web", "usd")
"""Those that show as much of the person as is asked for; the others have the bust."""
DrawnBy = Literal["neural", "fast", "mesh"]
"""As ``rome avatar animate --draw``."""


@dataclass(frozen=True)
class Limits:
    """Limits per visitor."""

    max_photos: int = 12
    """At once."""
    max_megabytes: int = 64
    """Of a file that is sent."""
    max_seconds: float = 20.0
    """Of a driving video that are used."""
    max_fps: float = 30.0
    """Frames per second of a driving video that are used; of faster ones some are left out."""
    photo_size: int = PHOTO_SIZE
    """Side of the crop that an avatar keeps of its photograph, pixels."""


@dataclass(frozen=True)
class Pose:
    """Where the page's sliders stand."""

    expression: dict[str, float]
    """Coefficients by the head's names; others are 0."""
    yaw: float = 0.0
    """Turn of the bust to the person's left, degrees."""
    pitch: float = 0.0
    """Turn downwards, degrees."""
    neck: float = 0.0
    """Turn of the head to the person's left, degrees."""


class Studio:
    """The model, and everything that visitors can have done with it.

    Args:
        checkpoint: name of a shipped model, or a file made by ``rome fit``; by default the shipped model.
        limits: for each visitor.
        basis: file of a linear basis, to change hair and shoulders with.

    Raises:
        ValueError: the basis belongs to another head model.
    """

    def __init__(
        self, checkpoint: str | None = None, limits: Limits | None = None, basis: Path | None = None
    ) -> None:
        self.limits = limits or Limits()
        self.model: AvatarModel = open_model(checkpoint)
        self.basis = None if basis is None else LinearBasis.load(basis)
        if self.basis is not None:
            self.basis.check(self.model.head)
        self._tracker = photo_tracker(self.model, self.limits.photo_size)

    @property
    def expressions(self) -> tuple[str, ...]:
        """Names of the sliders."""
        return tuple(self.model.head.expression_names)

    def create(
        self, photos: Sequence[str | Path], face: int | None = None, progress: AppProgress | None = None
    ) -> tuple[Avatar, list[str]]:
        """An avatar of one person, and what will look wrong in it.

        Raises:
            ValueError: no photograph, too many, or one in which no face can be tracked.
        """
        paths = self._checked(photos)
        warnings: list[str] = []
        report = progress or _quiet
        report(0.05, "looking for the face")
        names = [path.name for path in paths]
        frames = read_person(self._tracker, paths, warnings.append, names, face)
        report(0.4, "fitting the outline")
        avatar = Avatar.create(
            self.model,
            frames,
            on_step=lambda done: report(0.4 + 0.5 * done / REFINE_STEPS, "fitting the outline"),
            photo_names=names,
        )
        return avatar, warnings

    def create_each(
        self, photos: Sequence[str | Path], folder: Path, progress: AppProgress | None = None
    ) -> tuple[list[tuple[UInt8[np.ndarray, "h w 3"], str]], Path, list[str]]:
        """An avatar of each photograph: pictures with names, a ZIP of GLB files, and what went wrong.

        Raises:
            ValueError: two photographs would give files of one name, or no avatar can be made.
        """
        paths = self._checked(photos)
        stems = [path.stem for path in paths]
        if repeated := sorted({stem for stem in stems if stems.count(stem) > 1}):
            raise ValueError(
                f"the files are named after the photographs, but {repeated[0]} is given more than once"
            )
        pictures, problems, report = [], [], progress or _quiet
        archive = folder / "avatars.zip"
        with zipfile.ZipFile(archive, "w") as packed:
            for number, path in enumerate(paths):
                report(number / len(paths), path.name)
                try:
                    avatar, warnings = self.create([path])
                except (ValueError, OSError) as error:
                    problems.append(str(error))
                    continue
                problems += warnings
                pictures.append((self.picture(avatar, Pose({})), path.name))
                packed.write(export_avatar(avatar, folder / f"{number}.glb", "glb"), f"{path.stem}.glb")
        if not pictures:
            raise ValueError("no avatar could be made: " + "; ".join(problems))
        return pictures, archive, problems

    def edited(self, avatar: Avatar, amounts: Sequence[float]) -> Avatar:
        """The avatar with hair and shoulders changed, by standard deviations of the basis' components."""
        wanted = {index: amount for index, amount in enumerate(amounts) if amount}
        return avatar if self.basis is None or not wanted else avatar.edited(self.basis, wanted)

    def picture(
        self, avatar: Avatar, pose: Pose, background: str = "white", drawn_by: DrawnBy = "neural"
    ) -> UInt8[np.ndarray, "h w c"]:
        """The avatar in the sliders' pose; RGBA on a transparent background."""
        head, rest = self.model.head, at_rest(avatar.source.params)
        expression = torch.tensor([[pose.expression.get(name, 0.0) for name in head.expression_names]])
        angles = torch.deg2rad(torch.tensor([[pose.pitch, pose.yaw, 0.0], [0.0, pose.neck, 0.0]]))
        params = dataclasses.replace(
            rest,
            expression=expression.clamp(*head.expression_range),
            global_pose=angles[:1],
            neck_pose=angles[1:],
        )
        rgb, mask = next(_drawer(drawn_by)(avatar, params, avatar.image_size))
        return composed(rgb, mask, read_background(background, avatar, avatar.image_size))[0]

    def animate(
        self,
        avatar: Avatar,
        driver: str | Path,
        folder: Path,
        background: str = "white",
        relative: bool = False,
        drawn_by: DrawnBy = "neural",
        progress: AppProgress | None = None,
    ) -> tuple[Path, str]:
        """A video of the driven avatar, transparent as WebM, and what is to be said about it.

        Raises:
            ValueError: the driver shows no face or is too large.
        """
        path, report = Path(driver), progress or _quiet
        self._check_size(path)
        found = read_driver(
            path,
            avatar,
            progress=_tracking(report),
            max_seconds=self.limits.max_seconds,
            max_fps=self.limits.max_fps,
        )
        params, numbers = found.shown(own=avatar.source.params if relative else None)
        behind = read_background(background, avatar, avatar.image_size)
        draw = _drawer(drawn_by)
        tracked = 0.0 if path.suffix.lower() in MOTION_SUFFIXES else 0.5

        def frames() -> Iterator[np.ndarray]:
            done = 0
            for rgb, mask in draw(avatar, params, avatar.image_size):
                yield from composed(rgb, mask, behind)
                done += len(rgb)
                report(tracked + (1 - tracked) * done / len(params), "drawing")

        output = folder / ("avatar.webm" if background == TRANSPARENT else "avatar.mp4")
        silent = found.write(output, frames(), numbers)
        note = f"{len(params)} frames"
        if lost := int(found.lost.sum()):
            note += f", {lost} of them without a face: the last pose is repeated"
        if silent not in ("", NO_SOUND, NO_VIDEO):
            note += f"; the video is silent: {silent}"
        return output, note

    def write_example(self, folder: Path) -> Path:
        """A recorded motion to try an avatar with; only for heads with ARKit's expressions."""
        return write_motion(example_motion(self.model.head), folder / "example.csv", self.model.head)

    def export(
        self,
        avatar: Avatar,
        file_format: AppFormat,
        folder: Path,
        name: str = "avatar",
        author: str = "",
        body: BodyPart = "bust",
        program: str = "",
    ) -> list[Path]:
        """Write a file for other programs; OBJ has three, and the web page is a ZIP of its folder.

        Args:
            avatar: the person.
            file_format: one of ``EXPORTS``.
            folder: for the files.
            name: of the files.
            author: of a VRM file.
            body: how much of the person those ``WITH_BODY`` show.
            program: one of ``PROFILES`` that will read a GLB; by default any.

        Raises:
            ValueError: no such format, or a whole body on a head model that it does not fit.
        """
        if file_format not in EXPORTS:
            raise ValueError(f"a format is one of {', '.join(EXPORTS)}, got {file_format}")
        stem = _plain(name)
        if file_format == "web":
            export_web(avatar, folder / stem, body=body)
            return [Path(shutil.make_archive(str(folder / stem), "zip", folder, stem))]
        path = folder / (stem + SUFFIXES[file_format])
        shown = body if file_format in WITH_BODY else "bust"
        profile = PROFILES[program] if file_format == "glb" and program in PROFILES else PLAIN
        export_avatar(avatar, path, file_format, author=author.strip() or None, profile=profile, body=shown)
        return sorted(path.parent.glob(f"{path.stem}*")) if file_format == "obj" else [path]

    def _checked(self, photos: Sequence[str | Path]) -> list[Path]:
        paths = [Path(photo) for photo in photos]
        if not paths:
            raise ValueError("no photograph yet: drop one on the page or take one with the camera")
        if len(paths) > self.limits.max_photos:
            raise ValueError(f"at most {self.limits.max_photos} photographs at once, got {len(paths)}")
        for path in paths:
            self._check_size(path)
        return paths

    def _check_size(self, path: Path) -> None:
        megabytes = path.stat().st_size / 1e6
        if megabytes > self.limits.max_megabytes:
            raise ValueError(
                f"{path.name} has {megabytes:.0f} MB, the limit is {self.limits.max_megabytes} MB"
            )


def _drawer(drawn_by: DrawnBy) -> Any:
    return draw_mesh if drawn_by == "mesh" else partial(draw_layers, corrections=drawn_by != "fast")


def _quiet(share: float, text: str) -> None:
    """Nobody listens."""


def _tracking(report: AppProgress) -> Callable[[str, int, int], None]:
    """The tracker's progress as the first half of an animation's."""
    return lambda stage, done, total: report(0.5 * done / max(total, 1), stage)


def _plain(name: str) -> str:
    """A file name that cannot point to another folder."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:40].strip("_") or "avatar"


class VisitorFiles:
    """Folders for the files of answers, removed after a time and with the process.

    Args:
        kept_s: seconds after which a folder is removed.
        pause_s: seconds between searches for such folders.
    """

    def __init__(self, kept_s: float, pause_s: float) -> None:
        self._kept_s, self._pause_s = kept_s, pause_s
        self._root = tempfile.TemporaryDirectory(prefix="rome_app_")
        threading.Thread(target=self._clean, daemon=True).start()

    def fresh(self) -> Path:
        """An empty folder under a name of its own."""
        return Path(tempfile.mkdtemp(dir=self._root.name))

    def _clean(self) -> None:
        while True:
            time.sleep(self._pause_s)
            try:
                for folder in Path(self._root.name).iterdir():
                    if time.time() - folder.stat().st_mtime > self._kept_s:
                        shutil.rmtree(folder, ignore_errors=True)
            except FileNotFoundError:
                # The process ends, and its folders with it.
                return
