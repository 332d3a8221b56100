"""The avatar that ``from rome_lightning import Avatar`` gives: photographs in, pictures and files out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from rome_lightning import avatar
from rome_lightning.avatar.driver import read_driver
from rome_lightning.avatar.motion import fill_lost
from rome_lightning.export.person import SUFFIXES, export_avatar
from rome_lightning.media.audio import NO_SOUND, copy_audio
from rome_lightning.media.pictures import read_image
from rome_lightning.media.video import write_video
from rome_lightning.models.shipped import open_model
from rome_lightning.report.pictures import driven_frames
from rome_lightning.tracking import Tracker, track_photos

PHOTO_SIZE = 512
"""Side of the crop that an avatar keeps of its photographs and is drawn at, pixels."""


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


class Avatar(avatar.Avatar):
    """One person's avatar, made from files and written to files.

    See ``rome_lightning.avatar.Avatar`` for the rest: ``draw``, ``edited``, ``save``, ``load``.
    """

    @classmethod
    def from_photo(
        cls,
        photos: str | Path | Sequence[str | Path],
        checkpoint: str | Path | None = None,
        face: int | None = None,
        photo_size: int = PHOTO_SIZE,
        warn: Callable[[str], None] = _warn,
    ) -> Self:
        """Make an avatar of one or several photographs of a person.

        Args:
            photos: image files; the best one first.
            checkpoint: name of a shipped model, or a file made by ``rome fit``; by default the shipped model.
            face: the person to take where a photograph shows several, from left to right, from 1; the
                largest face if not given.
            photo_size: side of the crop that is kept of each photograph and of what is drawn, pixels.
            warn: receives a sentence for everything that will look wrong.

        Raises:
            FileNotFoundError: a photograph or the model does not exist.
            ValueError: no face can be tracked in a photograph.
        """
        paths = [Path(photos)] if isinstance(photos, str | Path) else [Path(photo) for photo in photos]
        model = open_model(checkpoint)
        tracker = Tracker(model.head, image_size=max(photo_size, model.image_size))
        images = [read_image(path) for path in paths]
        frames = track_photos(tracker, images, [str(path) for path in paths], face, warn)
        return cls.create(model, frames, photo_names=[path.name for path in paths])

    def animate(self, driver: str | Path, output: str | Path) -> Path:
        """Drive the person with a video: its expressions, head pose, framing and sound.

        Frames in which no face is found hold the last pose. ``rome avatar animate`` has more options.

        Args:
            driver: video of a talking person, photographs or recorded motion; see ``read_driver``.
            output: ``.mp4``, ``.webm`` or ``.mov`` file to write.

        Raises:
            ValueError: no frame of the driver shows a face.
        """
        path, output = Path(driver), Path(output)
        found = read_driver(path, self)
        params, shown = fill_lost(found.params, found.lost, "hold")
        times = found.times[shown.numpy()]
        write_video(output, driven_frames(self, params), found.fps, timestamps=times)
        if found.video is None:
            return output
        lost = copy_audio(output, path, [offset - float(times[0]) for offset in found.video.clock_offsets])
        if lost and lost != NO_SOUND:
            _warn(f"{output} is silent: {lost}")
        return output

    def export(self, path: str | Path) -> Path:
        """Write the person for other programs, in the format that the name ends with.

        Args:
            path: ``.glb``, ``.vrm``, ``.usdz`` (rigged), ``.obj``, ``.ply`` or ``.npz`` (parameters).

        Raises:
            ValueError: there is no format of that suffix.
        """
        path = Path(path)
        # Of several formats with one suffix the first, which is the newest.
        formats = {suffix: name for name, suffix in reversed(SUFFIXES.items())}
        if path.suffix.lower() not in formats:
            raise ValueError(f"cannot write {path}: the suffix must be one of {', '.join(formats)}")
        return export_avatar(self, path, formats[path.suffix.lower()])
