"""Real frames of a prepared dataset by clip and frame number, for evaluations."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.batches import clip_offsets
from datamodules.codec import select_frames
from datamodules.manifest import Manifest
from datamodules.plan import ClipTable, PlanClip
from datamodules.reading import ClipReader
from datamodules.shards import typical_frame
from datamodules.synthetic import SyntheticHeads
from rome_lightning.geometry import axis_angle_to_matrix, matrix_to_axis_angle
from rome_lightning.geometry.openings import eye_opening, mouth_opening
from rome_lightning.head import HeadModel
from rome_lightning.types import Frames, HeadParams
from rome_lightning.types.clip import ClipInfo, FrameState
from rome_lightning.types.landmarks import NUM_LANDMARKS


class StoredClips:
    """The clips of one split of a dataset.

    Args:
        manifest: ``manifest.json`` or its folder.
        split: ``train``, ``val`` or ``test``.
        image_size: side of the frames, pixels; at most what is stored.
        held_out_ratio: lists only the share at the end of each clip that a training with this
            ``holdout_ratio`` did not see; 0 for whole clips. Typical frames are chosen from the whole clip.
    """

    def __init__(self, manifest: Path, split: str, image_size: int, held_out_ratio: float = 0.0) -> None:
        folder = manifest if manifest.is_dir() else manifest.parent
        self.manifest = Manifest.load(manifest)
        stored = self.manifest.image_size
        if image_size > stored:
            raise ValueError(
                f"the protocol scores images of {image_size} pixels, {manifest} stores {stored}; prepare the "
                f"dataset again with --image-size {image_size}"
            )
        self._reader = ClipReader(self.manifest, folder, split)
        self.image_size = image_size
        self.name = self.manifest.dataset
        self.hash = self.manifest.hash
        self.clips: list[ClipInfo] = []
        self._index: dict[str, tuple[int, dict[int, int]]] = {}
        for index, plan in enumerate(self._reader.plan_clips()):
            if plan.frames:
                self._add(index, plan.frames)
        if not self.clips:
            present = ", ".join(sorted({shard.split for shard in self.manifest.shards}))
            raise ValueError(f"{manifest} has no clips in split {split!r}, only in {present}; set --split")
        if held_out_ratio:
            clips = ClipTable.of([PlanClip(0, clip.frames) for clip in self.clips])
            _, held = clips.held_out(held_out_ratio)
            self.clips = [
                dataclasses.replace(clip, frames=rest.frames)
                for clip, rest in zip(self.clips, held, strict=True)
                if rest.frames
            ]

    def _add(self, index: int, usable: Sequence[int]) -> None:
        arrays, header = self._reader.meta(index)
        numbers = {int(arrays["frame_number"][place]): place for place in usable}
        place = typical_frame(select_frames(arrays, usable)["expression"], usable)
        typical = int(arrays["frame_number"][place])
        key = self._reader.key(index)
        states = dict(zip(numbers, _states(select_frames(arrays, usable)), strict=True))
        self.clips.append(ClipInfo(key, header["identity"], tuple(sorted(numbers)), typical, states))
        self._index[key] = (index, numbers)

    def frames(self, clip: str, numbers: Sequence[int]) -> Frames:
        """Frames of a clip.

        Args:
            clip: its key.
            numbers: frame numbers of the source video.
        """
        return self._frames(clip, numbers).resized(self.image_size)

    def photo(self, clip: str, number: int, size: int) -> Frames:
        """One frame at another size, see ``PhotoSource``."""
        if size > self.manifest.image_size:
            raise ValueError(
                f"photo_size {size} exceeds what dataset {self.name} stores, {self.manifest.image_size} "
                f"pixels; prepare it again with --image-size {size}"
            )
        return self._frames(clip, [number]).resized(size)

    def _frames(self, clip: str, numbers: Sequence[int]) -> Frames:
        """Frames as they are stored."""
        index, places = self._index[clip]
        chosen = [places[number] for number in numbers]
        rows = select_frames(self._reader.meta(index)[0], chosen)
        values = {name: torch.from_numpy(np.array(rows[name])) for name in rows if name != "offsets"}
        images = [self._reader.frame(index, place) for place in chosen]

        def stacked(name: str) -> Tensor:
            return torch.from_numpy(np.stack([getattr(image, name) for image in images]))

        return Frames(
            image=stacked("image").permute(0, 3, 1, 2).float() / 255,
            foreground_mask=stacked("matte")[:, None].float() / 255,
            regions=stacked("regions"),
            landmarks=values["landmarks"],
            params=HeadParams.from_packed(
                values["shape"], values["expression"], values["pose"], values["camera"]
            ),
            offsets=clip_offsets(rows, len(chosen)),
        )


def _states(rows: Mapping[str, np.ndarray]) -> list[FrameState]:
    """The tracker's result in each frame."""
    landmarks = torch.from_numpy(np.array(rows["landmarks"]))
    # The neck turns the head relative to the bust, which the global pose turns.
    turns = [axis_angle_to_matrix(torch.from_numpy(np.array(rows["pose"][:, a : a + 3]))) for a in (0, 3)]
    poses = matrix_to_axis_angle(turns[0] @ turns[1]).tolist()
    if landmarks.shape[1] == NUM_LANDMARKS:
        eyes, mouths = eye_opening(landmarks).tolist(), mouth_opening(landmarks).tolist()
    else:
        # Other sets of points do not show how far eyes and mouth are open.
        eyes = mouths = [float("nan")] * len(landmarks)
    return [
        FrameState((x, y, z), eye, mouth) for (x, y, z), eye, mouth in zip(poses, eyes, mouths, strict=True)
    ]


class JoinedClips:
    """Clips of several splits of one dataset.

    Args:
        parts: with frames of one size.
    """

    def __init__(self, parts: Sequence[StoredClips]) -> None:
        self.name, self.hash = parts[0].name, parts[0].hash
        self.clips = [clip for part in parts for clip in part.clips]
        self._part = {clip.key: part for part in parts for clip in part.clips}

    def frames(self, clip: str, numbers: Sequence[int]) -> Frames:
        """Frames of a clip; arguments as for ``StoredClips.frames``."""
        return self._part[clip].frames(clip, numbers)

    def photo(self, clip: str, number: int, size: int) -> Frames:
        """One frame at another size, see ``PhotoSource``."""
        return self._part[clip].photo(clip, number, size)


class SyntheticPeople:
    """Synthetic heads with exactly known geometry.

    Args:
        head: whose synthetic people they are.
        num_people: people.
        frames_per_person: frames of each.
        seed: of people and frames.
        image_size: side of the frames, pixels.
    """

    def __init__(
        self, head: HeadModel, num_people: int, frames_per_person: int, seed: int, image_size: int
    ) -> None:
        self.heads = SyntheticHeads(head, image_size, seed)
        self.name = f"synthetic heads, seed {seed}"
        self.hash = f"synthetic/{self.heads.head.name}/{seed}/{image_size}"
        numbers = tuple(range(frames_per_person))
        self.clips = [
            ClipInfo(f"synthetic-{index:05d}", f"synthetic-{index:05d}", numbers, 0)
            for index in range(num_people)
        ]

    def frames(self, clip: str, numbers: Sequence[int]) -> Frames:
        """Rendered frames with ground-truth parameters."""
        return self.heads.draw([_person(clip)] * len(numbers), list(numbers))[0]

    def vertices(self, clip: str, number: int) -> tuple[Tensor, Tensor]:
        """Ground-truth vertices of a frame with and without hair and clothes, metres, (v, 3)."""
        params = self.heads.params([_person(clip)], [number])
        geometry = self.heads.geometry([_person(clip)], params)
        return geometry.vertices[0], (geometry.vertices - geometry.offsets)[0]


def _person(clip: str) -> int:
    return int(clip.removeprefix("synthetic-"))
