"""Batches as bytes, as workers decode them, and as floats, as models expect them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float16, UInt8
from torch import Tensor

from datamodules.augmentation import Augmentation, augmented, colour_matrix
from datamodules.pairs import BatchArrays, BatchNote
from datamodules.reading import ClipReader, JoinedReader
from rome_lightning.types import AvatarBatch, Frames, HeadParams
from rome_lightning.types.struct import TensorStruct


@dataclass(frozen=True)
class RawFrames(TensorStruct):
    """Frames as stored: bytes, converted to floats on the device."""

    image: UInt8[Tensor, "b h w 3"]
    matte: UInt8[Tensor, "b h w"]
    regions: UInt8[Tensor, "b h w"]
    landmarks: Float[Tensor, "b l 2"]
    params: HeadParams

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True)
class RawBatch(TensorStruct):
    """An ``AvatarBatch`` before it is decoded to floats."""

    source: RawFrames
    target: RawFrames
    clips: tuple[str, ...]
    jitter: Float[Tensor, "b 4"] | None
    """Change of the colours, uniform in [-1, 1]; None without augmentation."""
    offsets: Float16[Tensor, "b v 3"] | None = None
    """Offsets of the person of each source and its targets, see ``Frames.offsets``."""
    skipped: int = 0
    """Pairs that could not be read and were replaced."""
    restarted: int = 0
    """Workers that died or hung and were replaced during the wait for this batch."""
    seeds: tuple[int, ...] = ()
    """Seeds of the other changes of each pair, on the CPU, so that no device must be awaited."""

    def __len__(self) -> int:
        return len(self.source)


def to_frames(
    raw: RawFrames,
    image_size: int,
    colour: tuple[Float[Tensor, "b 3 3"], Float[Tensor, "b 3"]] | None = None,
    offsets: Float[Tensor, "b v 3"] | None = None,
) -> Frames:
    """Bytes to floats at the wanted size, on the device where they are.

    Args:
        raw: as stored.
        image_size: at most the stored size; smaller images are anti-aliased.
        colour: affine colour change of each frame.
        offsets: of each frame's person, see ``Frames.offsets``.
    """
    image = raw.image.permute(0, 3, 1, 2).float() / 255
    mask = raw.matte[:, None].float() / 255
    frames = Frames(image, mask, raw.regions, raw.landmarks, raw.params, offsets).resized(image_size)
    if colour is None:
        return frames
    matrix, shift = colour
    image = torch.einsum("bij,bjhw->bihw", matrix, frames.image) + shift[:, :, None, None]
    return dataclasses.replace(frames, image=image.clamp(0, 1))


def to_avatar_batch(raw: RawBatch, image_size: int, augmentation: Augmentation | None = None) -> AvatarBatch:
    """Decode a raw batch and, if it is a training batch, augment it."""
    source_colour = target_colour = source_offsets = target_offsets = None
    repeats = len(raw.target) // len(raw.source)
    if raw.offsets is not None:
        source_offsets = raw.offsets.float()
        target_offsets = source_offsets.repeat_interleave(repeats, 0) if repeats > 1 else source_offsets
    if augmentation is not None and raw.jitter is not None:
        matrix, shift = colour_matrix(raw.jitter, augmentation)
        source_colour = (matrix, shift)
        target_colour = (matrix.repeat_interleave(repeats, 0), shift.repeat_interleave(repeats, 0))
    source = to_frames(raw.source, image_size, source_colour, source_offsets)
    target = to_frames(raw.target, image_size, target_colour, target_offsets)
    if augmentation is not None and raw.jitter is not None:
        source, target = augmented(source, target, raw.seeds, augmentation)
    return AvatarBatch(source, target, raw.clips)


def raw_batch(
    arrays: BatchArrays, note: BatchNote, num_driving: int, augmented: bool, restarted: int = 0
) -> RawBatch:
    """Wrap the memory of a batch in tensors without copying.

    Args:
        arrays: as ``PairSource.write`` fills them.
        note: that it gives.
        num_driving: drivers per pair.
        augmented: whether the batch is a training batch, whose colours change.
        restarted: see ``RawBatch``.
    """
    count = len(note.clips)
    return RawBatch(
        source=_raw_frames(arrays, slice(0, count)),
        target=_raw_frames(arrays, slice(count, count * (1 + num_driving))),
        clips=note.clips,
        jitter=torch.from_numpy(arrays["jitter"][:count]) if augmented else None,
        offsets=torch.from_numpy(arrays["offsets"][:count]) if "offsets" in arrays else None,
        skipped=note.skipped,
        restarted=restarted,
        seeds=note.seeds,
    )


def _raw_frames(arrays: BatchArrays, rows: slice) -> RawFrames:
    def tensor(name: str) -> Tensor:
        return torch.from_numpy(arrays[name][rows])

    params = HeadParams.from_packed(*(tensor(name) for name in ("shape", "expression", "pose", "camera")))
    return RawFrames(tensor("image"), tensor("matte"), tensor("regions"), tensor("landmarks"), params)


def load_frames(
    reader: ClipReader | JoinedReader, clip: int, frames: Sequence[int], image_size: int
) -> Frames:
    """Frames of one clip as models expect them, on the CPU.

    Args:
        reader: of the clips.
        clip: number of the clip.
        frames: indices in the clip.
        image_size: at most the stored size.
    """
    images = [reader.frame(clip, frame) for frame in frames]
    arrays = {name: np.stack([getattr(i, name) for i in images]) for name in ("image", "matte", "regions")}
    arrays |= {name: np.array(values) for name, values in reader.parameters(clip, frames).items()}
    return to_frames(_raw_frames(arrays, slice(None)), image_size, offsets=clip_offsets(arrays, len(frames)))


def clip_offsets(arrays: Mapping[str, np.ndarray], count: int) -> Float[Tensor, "n v 3"] | None:
    """The offsets of a clip, repeated for a number of frames; None if it has none."""
    if "offsets" not in arrays:
        return None
    return torch.from_numpy(arrays["offsets"].astype(np.float32)).expand(count, -1, -1)
