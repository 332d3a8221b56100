"""Photographs of a person, made ready for ``Avatar.create``: tracked, and compared with each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rome_lightning import assets
from rome_lightning.media.pictures import read_image
from rome_lightning.models import AvatarModel
from rome_lightning.tracking import Tracker, track_photos
from rome_lightning.tracking.crop import RELEASE_RULE
from rome_lightning.tracking.foreign import DecaEncoder, FlameTrack
from rome_lightning.types import Frames

PHOTO_SIZE = 512
"""Side of the crop that an avatar keeps of its photographs, and of its images, pixels."""
SAME_PERSON = 0.363
"""SFace cosine above which two faces are taken for one person's; the value of OpenCV's example."""


def photo_tracker(
    model: AvatarModel,
    photo_size: int = PHOTO_SIZE,
    image_size: int | None = None,
    encoder: DecaEncoder | None = None,
) -> Tracker:
    """A tracker that crops photographs as the model was trained.

    Args:
        model: released models have the release's square.
        photo_size: side of the crops, pixels: sharper than the networks need, because the picture and the
            exported texture are taken from them.
        image_size: side of the images that the networks see, pixels, which no crop is smaller than; as
            trained if not given.
        encoder: see ``Tracker``.

    Raises:
        ValueError: there is an encoder, and the model's head is not FLAME.
    """
    is_released = model.config.decoder.interpolation == "release"
    size = max(photo_size, image_size or model.image_size)
    rule = RELEASE_RULE if is_released else None
    return Tracker(model.head, image_size=size, crop_rule=rule, encoder=encoder)


def read_person(
    tracker: Tracker,
    paths: Sequence[Path],
    warn: Callable[[str], None],
    names: Sequence[str] | None = None,
    face: int | None = None,
    tracks: Sequence[FlameTrack] | None = None,
) -> Frames:
    """Read and track photographs of one person.

    Args:
        tracker: of ``photo_tracker``.
        paths: image files; the best one first.
        warn: receives a sentence for everything that will look wrong, and for each photograph that seems to
            show another person than the first.
        names: of the photographs, for messages; their paths by default.
        face: see ``track_photos``.
        tracks: see ``track_photos``.

    Raises:
        FileNotFoundError: a photograph does not exist.
        ValueError: no face can be tracked in a photograph, or parameters do not fit it.
    """
    names = [str(path) for path in paths] if names is None else names
    frames = track_photos(tracker, [read_image(path) for path in paths], names, face, warn, tracks)
    if len(frames) > 1:
        _warn_of_others(frames, names, warn)
    return frames


def _warn_of_others(frames: Frames, names: Sequence[str], warn: Callable[[str], None]) -> None:
    """Warn about photographs that seem to show somebody other than the first."""
    # Torchmetrics, which takes seconds to import, is for several photographs only.
    from rome_lightning.metrics import SFaceEmbedder, csim

    try:
        networks = assets.resolve("yunet"), assets.resolve("sface")
    except OSError as error:
        warn(f"cannot check that all photos show one person: {error}")
        return
    embeddings, found = SFaceEmbedder(*networks)(frames.image)
    similar = csim(embeddings, embeddings[:1].expand_as(embeddings))
    for index, name in enumerate(names[1:], start=1):
        if bool(found[0] & found[index]) and float(similar[index]) < SAME_PERSON:
            warn(
                f"{name} may not show the same person as {names[0]} (similarity {float(similar[index]):.2f}, "
                f"one person's photos usually have more than {SAME_PERSON})"
            )
