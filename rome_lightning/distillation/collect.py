"""A model's offsets for the people of a dataset, on disk, in blocks of clips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rome_lightning.avatar.refine import refine_offsets
from rome_lightning.media.tensors import read_tensors, write_tensors
from rome_lightning.models import AvatarModel
from rome_lightning.types import Frames
from rome_lightning.types.params import at_rest

BLOCK_FORMAT = "rome-offsets/1"
"""Of the files of an ``OffsetStore``."""


class Clip(Protocol):
    """What must be known about a clip before its frames are read."""

    @property
    def key(self) -> str:
        """Name of the clip."""
        ...

    @property
    def frames(self) -> tuple[int, ...]:
        """Numbers of the frames that may be used."""
        ...

    @property
    def typical(self) -> int:
        """The frame that a person would choose as photograph."""
        ...


class Clips(Protocol):
    """Where frames come from; ``datamodules.evaluation.StoredClips`` is one."""

    @property
    def clips(self) -> Sequence[Any]:
        """All clips; each is a ``Clip``."""
        ...

    def frames(self, clip: str, numbers: Sequence[int]) -> Frames:
        """Frames of a clip by their numbers."""
        ...


@dataclass(frozen=True)
class Block:
    """Offsets of the sources of some clips."""

    clips: tuple[str, ...]
    """Clip of each source."""
    offsets: Float[Tensor, "n m 3"]
    """Offsets at rest of the vertices that may move, metres."""


class OffsetStore:
    """A folder of blocks that survives being killed: each file in it is complete.

    Args:
        folder: created if needed.
        spec: what the offsets are a function of; another one is refused, so that results of two models
            never mix.

    Raises:
        ValueError: the folder holds offsets of something else.
    """

    def __init__(self, folder: Path, spec: dict[str, Any]) -> None:
        self.folder, self.spec = folder, spec
        for path in sorted(folder.glob("*.safetensors"))[:1]:
            found = read_tensors(path, BLOCK_FORMAT)[1]["spec"]
            other = sorted(key for key in found.keys() | spec.keys() if found.get(key) != spec.get(key))
            if other:
                raise ValueError(
                    f"{folder} contains offsets made with another {', '.join(other)}; delete the folder or "
                    "write to another output"
                )

    def path(self, split: str, index: int) -> Path:
        """File of a block."""
        return self.folder / f"{split}-{index:06d}.safetensors"

    def write(self, split: str, index: int, block: Block) -> None:
        """Store a block, all or nothing."""
        header = {"format": BLOCK_FORMAT, "spec": self.spec, "clips": block.clips}
        write_tensors(self.path(split, index), {"offsets": block.offsets.float()}, header)

    def read(self, split: str, index: int) -> Block:
        """A stored block.

        Raises:
            ValueError: the file is damaged.
        """
        tensors, header = read_tensors(self.path(split, index), BLOCK_FORMAT)
        return Block(tuple(header["clips"]), tensors["offsets"])

    def blocks(self, split: str) -> Iterator[Block]:
        """Every block of a split, one in memory at a time."""
        for path in sorted(self.folder.glob(f"{split}-*.safetensors")):
            yield self.read(split, int(path.stem.rsplit("-", 1)[1]))


def collect(
    model: AvatarModel,
    clips: Clips,
    store: OffsetStore,
    split: str,
    *,
    image_size: int,
    sources_per_clip: int = 1,
    refine_steps: int = 16,
    block_size: int = 16,
    part: tuple[int, int] = (0, 1),
    device: str = "cpu",
) -> Iterator[tuple[int, int]]:
    """Fill a store with what is missing; yields (blocks done, blocks of this part) after each.

    The blocks and their contents are the same for any number of parts.

    Args:
        model: in evaluation mode.
        clips: of one split.
        store: where the offsets go.
        split: name of the split.
        image_size: side of the images that the model sees, pixels.
        sources_per_clip: the clip's typical frame, then evenly spaced ones.
        refine_steps: as for ``Avatar.create``; 0 takes the network's own offsets.
        block_size: clips per file.
        part: (i, n): this process takes every n-th block from the i-th.
        device: where the model runs.

    Raises:
        ValueError: the model has no offsets.
    """
    if model.offset_network is None:
        raise ValueError(
            "the checkpoint's model has no offsets (offsets.kind: none), so there is nothing to distil; use "
            "one trained with offsets.kind: network"
        )
    ordered = sorted(clips.clips, key=lambda clip: clip.key)
    starts = range(0, len(ordered), block_size)
    mine = [index for index in range(len(starts)) if index % part[1] == part[0]]
    for done, index in enumerate(mine):
        if not store.path(split, index).is_file():
            chosen = ordered[starts[index] : starts[index] + block_size]
            names, found = [], []
            for clip in chosen:
                sources = clips.frames(clip.key, source_frames(clip, sources_per_clip))
                offsets = _offsets(model, sources.resized(image_size).to(device), refine_steps)
                names += [clip.key] * len(offsets)
                found.append(offsets[:, model.offset_network.moving].cpu())
            store.write(split, index, Block(tuple(names), torch.cat(found)))
        yield done + 1, len(mine)


def source_frames(clip: Clip, count: int) -> list[int]:
    """The typical frame, then others evenly spaced over the clip, at most as many as it has."""
    others = [frame for frame in clip.frames if frame != clip.typical]
    places = np.linspace(0, len(others) - 1, min(count - 1, len(others))).round().astype(int)
    return [clip.typical, *(others[place] for place in places)]


@torch.no_grad()
def _offsets(model: AvatarModel, sources: Frames, refine_steps: int) -> Float[Tensor, "b v 3"]:
    """Offsets at rest; of models whose offsets depend on the expression, those of the neutral one."""
    assert model.offset_network is not None
    offsets = model.rest_offsets(sources)
    if offsets is None:
        rest = model.head(at_rest(sources.params))
        return model.offset_network.rest_offsets(sources, model.encode(sources).texture, rest)
    return refine_offsets(model, offsets, sources, refine_steps)
