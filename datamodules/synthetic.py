"""Synthetic heads with exact ground truth: for tests, and for training without any video.

A person is a random shape of the head model, displacements along the normals (hair, clothes) and a
painted texture; a frame adds pose, expression and light. Everything is a function of (seed, person,
frame). The rendered geometry is known exactly, unlike in real videos.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from datamodules.base import RomeDataModule
from datamodules.plan import EvaluationPlan, Pair, PlanClip, TrainingPlan
from datamodules.sampler import EvaluationSampler, TrainingSampler
from datamodules.synthetic_paint import HeadSurface, Person, random_person
from rome_lightning.geometry import project, vertex_normals
from rome_lightning.head import HeadModel, load_head
from rome_lightning.renderer import get_rasterizer, interpolate, sample_texture
from rome_lightning.types import AvatarBatch, Frames, HeadParams
from rome_lightning.types.struct import TensorStruct

_SUPERSAMPLING = 2
"""Subpixels per axis: texture and silhouette are anti-aliased by averaging them."""


@dataclass(frozen=True)
class HeadGeometry(TensorStruct):
    """Exact ground truth of the rendered frames."""

    vertices: Float[Tensor, "b v 3"]
    """Posed vertices with offsets, metres, head space (not globally rotated)."""
    offsets: Float[Tensor, "b v 3"]
    """Displacement added to the posed vertices, along their normals, metres."""


@dataclass(frozen=True)
class SyntheticBatch(AvatarBatch):
    """An ``AvatarBatch`` that knows the true geometry."""

    source_geometry: HeadGeometry | None = None
    target_geometry: HeadGeometry | None = None


@dataclass(frozen=True)
class Light:
    """Lambert's law with a constant ambient part."""

    direction: Float[Tensor, "b 3"]
    """Unit vectors towards the light, world space."""
    colour: Float[Tensor, "b 3"]
    ambient: Float[Tensor, "b 1"]
    """Share of ambient light."""


class SyntheticHeads(nn.Module):
    """Renders frame ``f`` of person ``p``, a pure function of (seed, p, f).

    Args:
        head: any head model; frames have landmarks if it has the ``mediapipe`` embedding.
        image_size: height and width of the frames, pixels.
        seed: of all persons and frames.
        texture_size: texels per side.
        rasterizer: backend, see ``rome_lightning.renderer``.
    """

    def __init__(
        self,
        head: HeadModel,
        image_size: int = 128,
        seed: int = 0,
        texture_size: int = 256,
        rasterizer: str = "auto",
    ) -> None:
        super().__init__()
        self.head = head
        self.image_size = image_size
        self.seed = seed
        self.rasterizer = get_rasterizer(rasterizer)
        self.surface = HeadSurface(head, texture_size)
        self._people: OrderedDict[int, Person] = OrderedDict()

    def person(self, index: int) -> Person:
        """Shape, displacements and texture of a person."""
        if index not in self._people:
            self._people[index] = random_person(self._generator(index), self.surface, self.head)
            if len(self._people) > 256:
                self._people.popitem(last=False)
        self._people.move_to_end(index)
        return self._people[index]

    def _generator(self, person: int, frame: int = -1) -> np.random.Generator:
        # Counter-based, so neither the order nor the number of calls matters.
        counter = [0, frame + 1, 0, 0]
        return np.random.Generator(np.random.Philox(key=[self.seed, person], counter=counter))

    def params(self, people: Sequence[int], frames: Sequence[int]) -> HeadParams:
        """Parameters of frames, on the head's device."""
        rows = [
            _random_params(self._generator(person, frame), self.person(person), self.head)
            for person, frame in zip(people, frames, strict=True)
        ]
        return HeadParams.cat(rows).to(self.head.faces.device)

    def geometry(self, people: Sequence[int], params: HeadParams) -> HeadGeometry:
        """Exact geometry of people with given parameters."""
        bare = self.head(params)
        lengths = torch.stack([self.person(person).lengths for person in people]).to(bare)
        offsets = vertex_normals(bare, self.head.faces) * lengths[:, :, None]
        return HeadGeometry(bare + offsets, offsets)

    @torch.no_grad()
    def draw(self, people: Sequence[int], frames: Sequence[int]) -> tuple[Frames, HeadGeometry]:
        """Frames with their ground truth, on the head's device."""
        params = self.params(people, frames)
        geometry = self.geometry(people, params)
        generators = [self._generator(p, 2**20 + f) for p, f in zip(people, frames, strict=True)]
        rgb, mask, labels, vertices_px = self._shade(people, geometry, params, _random_light(generators))
        background = _random_background(generators, self.image_size).to(rgb)
        image = rgb + (1 - mask) * background
        regions = (labels.argmax(1) * (mask[:, 0] > 0.5)).to(torch.uint8)
        if "mediapipe" in self.head.landmark_names:
            landmarks = self.head.landmarks(vertices_px)[..., :2]
        else:
            landmarks = vertices_px[:, :0, :2]
        return Frames(image.clamp(0, 1), mask, regions, landmarks, params), geometry

    def _shade(
        self, people: Sequence[int], geometry: HeadGeometry, params: HeadParams, light: Light
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Premultiplied colour, mask, votes for each region, projected vertices."""
        head, size = self.head, self.image_size * _SUPERSAMPLING
        world = head.to_world(geometry.vertices, params)
        vertices_px = project(world, params.camera, (size, size))
        ids = self.rasterizer.face_ids(vertices_px, head.faces, (size, size))
        mask = (ids >= 0).unsqueeze(1).to(world.dtype)
        uv = interpolate(vertices_px, head.faces, ids, head.uvs[None], head.uv_faces)
        normals = interpolate(vertices_px, head.faces, ids, vertex_normals(world, head.faces))
        texture = torch.stack([self.person(person).texture for person in people]).to(world)
        texels = sample_texture(texture, uv, mask)
        lambert = (F.normalize(normals, dim=1) * light.direction.to(world)[:, :, None, None]).sum(
            1, keepdim=True
        )
        ambient = light.ambient.to(world)[:, :, None, None]
        shade = ambient + (1 - ambient) * lambert.clamp_min(0) * light.colour.to(world)[:, :, None, None]
        layers = torch.cat([texels[:, :3] * shade, mask, texels[:, 3:]], dim=1)
        layers = F.avg_pool2d(layers, _SUPERSAMPLING)
        # From subpixels to pixels, whose centres are at integers.
        scaled = torch.cat(
            [(vertices_px[..., :2] + 0.5) / _SUPERSAMPLING - 0.5, vertices_px[..., 2:]], dim=-1
        )
        return layers[:, :3], layers[:, 3:4], layers[:, 4:], scaled


def _random_params(rng: np.random.Generator, person: Person, head: HeadModel) -> HeadParams:
    gaze = rng.normal(0, [0.06, 0.12]).clip(-0.3, 0.3)
    degrees = math.pi / 180
    global_pose = rng.normal(0, np.array([5, 14, 4]) * degrees).clip(-0.6, 0.6)
    neck_pose = rng.normal(0, np.array([4, 5, 3]) * degrees).clip(-0.2, 0.2)
    pose = np.concatenate([global_pose, neck_pose, np.zeros(3), [*gaze, 0], [*gaze, 0]])
    camera = person.camera + np.concatenate([rng.normal(0, 0.03, 1), rng.normal(0, 0.004, 2)])
    expression = _random_expression(rng, head, gaze)
    return HeadParams.from_packed(
        person.shape[None],
        torch.from_numpy(expression).float()[None],
        torch.from_numpy(pose).float()[None],
        torch.from_numpy(camera).float()[None],
    )


def _random_expression(rng: np.random.Generator, head: HeadModel, gaze: np.ndarray) -> np.ndarray:
    """A few blendshapes, mostly the same on both sides; other heads get normally distributed coefficients.

    Args:
        rng: source of randomness.
        head: gives the names.
        gaze: (pitch, yaw) of the eyes, radians; pitch > 0 looks down, yaw > 0 to the subject's left.
    """
    names = head.expression_names
    if "jawOpen" not in names:
        return rng.normal(0, 0.7, head.num_expression)
    stems = sorted(
        {name.removesuffix("Left").removesuffix("Right") for name in names if name not in _SPECIAL}
    )
    amount: dict[str, float] = {}
    for stem in rng.choice(stems, rng.integers(2, 7), replace=False):
        strength = rng.uniform(0.1, 0.7)
        for side in ("", "Left", "Right"):
            amount[f"{stem}{side}"] = strength * (1 if side == "" else rng.uniform(0.7, 1.0))
    amount["jawOpen"] = max(rng.normal(0.1, 0.2), 0.0)
    amount["mouthClose"] = min(amount["jawOpen"], max(rng.normal(-0.1, 0.1), 0.0))
    blink = rng.uniform(0.7, 1.0) if rng.random() < 0.1 else rng.uniform(0, 0.2)
    down, left = gaze / 0.4
    for side, outward in (("Left", left), ("Right", -left)):
        amount[f"eyeBlink{side}"] = blink
        amount[f"eyeLookDown{side}"], amount[f"eyeLookUp{side}"] = max(down, 0), max(-down, 0)
        amount[f"eyeLookOut{side}"], amount[f"eyeLookIn{side}"] = max(outward, 0), max(-outward, 0)
    return np.array([min(amount.get(name, 0.0), 1.0) for name in names])


_SPECIAL = frozenset(
    {"jawOpen", "mouthClose", "tongueOut", "eyeBlinkLeft", "eyeBlinkRight"}
    | {f"eyeLook{way}{side}" for way in ("Up", "Down", "In", "Out") for side in ("Left", "Right")}
)
"""Blendshapes that depend on other parameters."""


def _random_light(generators: Sequence[np.random.Generator]) -> Light:
    directions, colours, ambient = [], [], []
    for rng in generators:
        azimuth, height = rng.uniform(-1.1, 1.1), rng.uniform(0.0, 0.8)
        flat = math.cos(height)
        directions.append([math.sin(azimuth) * flat, math.sin(height), math.cos(azimuth) * flat])
        warmth = rng.normal(0, 0.05)
        colours.append(np.array([1 + warmth, 1.0, 1 - warmth]) * rng.uniform(0.95, 1.15))
        ambient.append([rng.uniform(0.35, 0.6)])
    values = (torch.tensor(np.array(rows), dtype=torch.float32) for rows in (directions, colours, ambient))
    return Light(*values)


def _random_background(generators: Sequence[np.random.Generator], size: int) -> Float[Tensor, "b 3 s s"]:
    """Two colours blended along a random direction."""
    ramp = np.linspace(-1, 1, size)
    images = []
    for rng in generators:
        first, second = rng.uniform(0.1, 0.9, (2, 3))
        angle = rng.uniform(0, 2 * math.pi)
        weight = (np.cos(angle) * ramp[None, :] + np.sin(angle) * ramp[:, None]) / 2.83 + 0.5
        images.append(first[:, None, None] * weight + second[:, None, None] * (1 - weight))
    return torch.tensor(np.array(images), dtype=torch.float32)


@dataclass(frozen=True)
class SyntheticRequest(TensorStruct):
    """Which frames to render; rendering happens on the device, in the training process."""

    people: Int[Tensor, " b"]
    source: Int[Tensor, " b"]
    """Frame numbers."""
    target: Int[Tensor, "b k"]

    def __len__(self) -> int:
        return len(self.people)


class _Pairs(Dataset[Pair]):
    """Pairs by (epoch, position), of a plan of either kind."""

    def __init__(self, source: TrainingPlan | EvaluationPlan, first_person: int = 0) -> None:
        self.source, self.first_person = source, first_person

    def __getitem__(self, place: tuple[int, int]) -> Pair:
        pair = self.source.pair(*place) if isinstance(self.source, TrainingPlan) else self.source[place[1]]
        return Pair(pair.clip + self.first_person, pair.source, pair.drivers)


def _collate(pairs: Sequence[Pair]) -> SyntheticRequest:
    return SyntheticRequest(
        torch.tensor([pair.clip for pair in pairs]),
        torch.tensor([pair.source for pair in pairs]),
        torch.tensor([pair.drivers for pair in pairs]),
    )


class SyntheticDataModule(RomeDataModule):
    """Batches of synthetic heads, rendered on the training device.

    Args:
        image_size: height and width of the batches in pixels.
        batch_size: sources per step on each device.
        num_driving: target frames per source in training; evaluation has one.
        num_people: people in training.
        num_val_people: further people for validation and testing; with 0, both use ``frames_per_person``
            further frames of the training people.
        frames_per_person: frames of each person.
        pairs_per_epoch: sources per training epoch over all devices.
        eval_pairs_per_person: evaluation pairs per person.
        seed: of people, frames and their order.
        head: ``open`` or the path of a FLAME pickle.
    """

    def __init__(
        self,
        image_size: int = 128,
        batch_size: int = 4,
        num_driving: int = 1,
        num_people: int = 64,
        num_val_people: int = 4,
        frames_per_person: int = 32,
        pairs_per_epoch: int = 400,
        eval_pairs_per_person: int = 4,
        seed: int = 0,
        head: str = "open",
    ) -> None:
        super().__init__(image_size)
        if frames_per_person < 2:
            raise ValueError(f"frames_per_person must be at least 2, got {frames_per_person}")
        if pairs_per_epoch < batch_size:
            raise ValueError(
                f"pairs_per_epoch must be at least batch_size {batch_size}, got {pairs_per_epoch}"
            )
        self.batch_size = batch_size
        self.num_driving = num_driving
        self.num_people = num_people
        self.num_val_people = num_val_people
        self.frames_per_person = frames_per_person
        self.pairs_per_epoch = pairs_per_epoch
        self.eval_pairs_per_person = eval_pairs_per_person
        self.seed = seed
        self.head_name = head
        self._heads: SyntheticHeads | None = None

    @property
    def heads(self) -> SyntheticHeads:
        """The generator, made on first use."""
        if self._heads is None:
            self._heads = SyntheticHeads(load_head(self.head_name), self.image_size, self.seed)
        return self._heads

    def train_dataloader(self) -> DataLoader[Pair]:
        """Requests; ``on_after_batch_transfer`` renders them."""
        clips = tuple(PlanClip(0, tuple(range(self.frames_per_person))) for _ in range(self.num_people))
        plan = TrainingPlan(clips, self.seed, self.pairs_per_epoch, self.num_driving)
        return self._loader(
            _Pairs(plan), TrainingSampler(self.pairs_per_epoch, self.batch_size, *self._world())
        )

    def val_dataloader(self) -> DataLoader[Pair]:
        """Fixed pairs, each once."""
        count = self.frames_per_person
        people, first = self.num_val_people, self.num_people
        targets = None
        if people == 0:
            people, first = self.num_people, 0
            targets = [PlanClip(0, tuple(range(count, 2 * count)))] * people
        clips = [PlanClip(0, tuple(range(count)))] * people
        pairs = EvaluationPlan(clips, targets, self.eval_pairs_per_person)
        return self._loader(_Pairs(pairs, first), EvaluationSampler(len(pairs), *self._world()))

    def test_dataloader(self) -> DataLoader[Pair]:
        """The same pairs as for validation."""
        return self.val_dataloader()

    def _world(self) -> tuple[int, int]:
        trainer = self.trainer
        return (trainer.world_size, trainer.global_rank) if trainer is not None else (1, 0)

    def _loader(self, dataset: _Pairs, sampler: Any) -> DataLoader[Pair]:
        return DataLoader(dataset, batch_size=self.batch_size, sampler=sampler, collate_fn=_collate)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Render the requested frames on the batch's device; other kinds of batches pass through."""
        if not isinstance(batch, SyntheticRequest):
            return batch
        heads = self.heads.to(batch.people.device)
        people = [int(person) for person in batch.people]
        source, source_geometry = heads.draw(people, [int(frame) for frame in batch.source])
        num_driving = batch.target.shape[1]
        repeated = [person for person in people for _ in range(num_driving)]
        target, target_geometry = heads.draw(repeated, [int(frame) for frame in batch.target.flatten()])
        clips = tuple(f"synthetic-{person:05d}" for person in people)
        return SyntheticBatch(source, target, clips, source_geometry, target_geometry)
