"""The avatar class behind ``from rome_lightning import Avatar``: photographs in, images and files out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from rome_lightning import avatar
from rome_lightning.avatar.driver import NO_VIDEO, read_driver
from rome_lightning.avatar.making import PHOTO_SIZE, photo_tracker, read_person
from rome_lightning.export.person import SUFFIXES, BodyPart, export_avatar
from rome_lightning.media.audio import NO_SOUND
from rome_lightning.models.shipped import open_model
from rome_lightning.report.pictures import driven_frames


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


class Avatar(avatar.Avatar):
    """One person's avatar, made from files and written to files.

    See ``rome_lightning.avatar.Avatar`` for the rest: ``draw``, ``edited``, ``save``, ``load``.

    Example:
        >>> avatar = Avatar.from_photo("astronaut.png")
        >>> rendered = next(avatar.draw(avatar.source.params))
        >>> rendered.image.shape
        torch.Size([1, 3, 512, 512])
        >>> avatar.export("astronaut.glb").name
        'astronaut.glb'
        >>> avatar.save("astronaut")
        >>> Avatar.load("astronaut").photo_names
        ('astronaut.png',)
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
        """Make an avatar from one or several photographs of a person.

        Args:
            photos: image files; the best one first.
            checkpoint: name of a shipped model, or a file made by ``rome fit``; by default the shipped model.
            face: which person to use if a photograph shows several, counted from the left, from 1 (default:
                the largest face).
            photo_size: side in pixels of the crop kept of each photograph, and of the rendered images.
            warn: receives a sentence for everything that will look wrong.

        Raises:
            FileNotFoundError: a photograph or the model does not exist.
            ValueError: no face can be tracked in a photograph.
        """
        paths = [Path(photos)] if isinstance(photos, str | Path) else [Path(photo) for photo in photos]
        model = open_model(checkpoint)
        frames = read_person(photo_tracker(model, photo_size), paths, warn, face=face)
        return cls.create(model, frames, photo_names=[path.name for path in paths])

    def animate(self, driver: str | Path, output: str | Path) -> Path:
        """Drive the avatar with a video: its expressions, head pose, framing and sound.

        Frames without a face repeat the last pose. ``rome avatar animate`` has more options.

        Args:
            driver: video of a talking person, photographs or recorded motion; see ``read_driver``.
            output: ``.mp4``, ``.webm`` or ``.mov`` file to write.

        Raises:
            ValueError: no frame of the driver shows a face.
        """
        path, output = Path(driver), Path(output)
        found = read_driver(path, self)
        params, numbers = found.shown()
        lost = found.write(output, driven_frames(self, params), numbers)
        if lost not in ("", NO_SOUND, NO_VIDEO):
            _warn(f"{output} is silent: {lost}")
        return output

    def export(self, path: str | Path, body: BodyPart = "bust") -> Path:
        """Export the avatar for other programs, in the format of the file's suffix.

        Args:
            path: ``.glb``, ``.vrm``, ``.usdz`` (rigged), ``.obj``, ``.ply`` or ``.npz`` (parameters).
            body: how much of the person a rigged file shows: ``none`` (head and neck), ``bust`` or
                ``full`` (a whole body in plain clothes).

        Raises:
            ValueError: there is no format with that suffix, or it has no such body.
        """
        path = Path(path)
        # If several formats share a suffix, the first is the newest.
        formats = {suffix: name for name, suffix in reversed(SUFFIXES.items())}
        if path.suffix.lower() not in formats:
            raise ValueError(f"cannot write {path}: the suffix must be one of {', '.join(formats)}")
        return export_avatar(self, path, formats[path.suffix.lower()], body=body)
