"""Real frames of a prepared dataset by clip and frame number, as evaluations ask for them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datamodules.codec import select_frames
from datamodules.manifest import Manifest
from datamodules.reading import ClipReader
from datamodules.talking_heads import Sample, collate, to_frames
from rome_lightning.data import Frames


@dataclass(frozen=True)
class StoredClip:
    """What pair rules have to know about a clip; see ``rome_lightning.evaluation.pairs.ClipInfo``."""

    key: str
    identity: str
    frames: tuple[int, ...]
    typical: int


class StoredClips:
    """The clips of one split of a dataset.

    Args:
        manifest: ``manifest.json`` or its folder.
        split: ``train``, ``val`` or ``test``.
        image_size: side of the frames, pixels; at most what is stored.
    """

    def __init__(self, manifest: Path, split: str, image_size: int) -> None:
        folder = manifest if manifest.is_dir() else manifest.parent
        self._manifest = Manifest.load(manifest)
        if image_size > self._manifest.image_size:
            raise ValueError(
                f"the protocol scores images of {image_size} pixels, {manifest} stores {self._manifest.image_size}; "
                f"prepare the dataset again with --image_size {image_size}"
            )
        self._reader = ClipReader(self._manifest, folder, split)
        if not len(self._reader):
            present = sorted({shard.split for shard in self._manifest.shards})
            raise ValueError(
                f"{manifest} has no clips in split {split!r}, only in {', '.join(present)}; set --split"
            )
        self.image_size = image_size
        self.name = self._manifest.dataset
        self.hash = self._manifest.hash
        self.clips: list[StoredClip] = []
        self._index: OrderedDict[str, tuple[int, dict[int, int]]] = OrderedDict()
        for index, plan in enumerate(self._reader.plan_clips()):
            self._add(index, plan.frames)

    def _add(self, index: int, usable: Sequence[int]) -> None:
        if not usable:
            return
        arrays, header = self._reader.meta(index)
        numbers = {int(arrays["frame_number"][i]): i for i in usable}
        expression = select_frames(arrays, usable)["expression"]
        distance = np.abs(expression - np.median(expression, axis=0)).sum(axis=1)
        typical = int(arrays["frame_number"][usable[int(distance.argmin())]])
        key = self._reader.key(index)
        self.clips.append(StoredClip(key, header["identity"], tuple(sorted(numbers)), typical))
        self._index[key] = (index, numbers)

    def frames(self, clip: str, numbers: Sequence[int]) -> Frames:
        """Frames of a clip.

        Args:
            clip: its key.
            numbers: frame numbers of the source video.
        """
        index, places = self._index[clip]
        chosen = [places[number] for number in numbers]
        arrays, _ = self._reader.meta(index)
        # The first one stands for the source that collating wants apart.
        wanted = [chosen[0], *chosen]
        images = [self._reader.frame(index, place) for place in chosen]
        sample = Sample([images[0], *images], select_frames(arrays, wanted), clip, None, 0)
        return to_frames(collate([sample]).target, self.image_size)
