"""The training objective: the terms of ROME sec. 3.4 and ours."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from rome_lightning.geometry import full_precision
from rome_lightning.head import HeadModel
from rome_lightning.losses import (
    chamfer_2d,
    dice,
    feature_matching,
    hinge_generator,
    landmark_distance,
    laplacian,
    occupancy,
    photometric,
)
from rome_lightning.models.foreground import foreground_colour
from rome_lightning.renderer import OFFICIAL, coverage, soft_silhouette
from rome_lightning.renderer.morphology import dilate
from rome_lightning.training.config import TERMS, LossConfig
from rome_lightning.training.critics import build_gaze, build_identity, build_perceptual
from rome_lightning.types import AvatarBatch, Frames, Region, Rendered
from rome_lightning.types.landmarks import (
    IBUG68,
    INNER_LIPS,
    LEFT_IRIS,
    LEFT_LIDS,
    NUM_LANDMARKS,
    OUTER_LIPS,
    RIGHT_IRIS,
    RIGHT_LIDS,
)

LIPS_AND_EYES = (*OUTER_LIPS, *INNER_LIPS, *RIGHT_LIDS, *LEFT_LIDS, RIGHT_IRIS[0], LEFT_IRIS[0])
"""MediaPipe landmarks around which expressions are read."""


@dataclass(frozen=True)
class LossTerms:
    """Raw and weighted values of one step."""

    raw: dict[str, Tensor]
    weighted: dict[str, Tensor]
    """Times their weights; the total is their sum."""
    total: Tensor

    def as_logs(self, stage: str) -> dict[str, Tensor]:
        """Detached values keyed ``stage/loss``, ``stage/loss_name`` and ``stage/weighted_name``."""
        logs = {f"{stage}/loss_{name}": value.detach() for name, value in self.raw.items()}
        logs |= {f"{stage}/weighted_{name}": value.detach() for name, value in self.weighted.items()}
        return {f"{stage}/loss": self.total.detach(), **logs}


@dataclass(frozen=True)
class ImagePair:
    """What the image terms and the discriminator compare."""

    predicted: Float[Tensor, "b 3 h w"]
    """RGB in [0, 1], composited on the background."""
    wanted: Float[Tensor, "b 3 h w"]
    """The target, composited on the same background."""
    valid: Float[Tensor, "b 1 h w"]
    """1 where the target is known, 0 beyond the video's border, where both images show the background."""


def composited(
    rendered: Rendered, target: Frames, background: Float[Tensor, "b 3"], *, own_colours: bool = False
) -> ImagePair:
    """Both images on one background; equal where the target is unknown.

    Args:
        rendered: the targets' reproductions, composited on ``background``.
        target: frames to reproduce.
        background: RGB in [0, 1] per target.
        own_colours: composite the person's own colours, without the share that the target's background has in
            them; see ``foreground_colour``.
    """
    plain = background[:, :, None, None].expand_as(target.image)
    valid = 1 - target.region_mask(Region.OUTSIDE)
    matte = target.foreground_mask
    colour = foreground_colour(target.image, matte) if own_colours else target.image
    wanted = torch.lerp(plain, colour, matte * valid)
    return ImagePair(torch.where(valid > 0, rendered.image, plain), wanted, valid)


class Objective(nn.Module):
    """Weighted sum of the loss terms between rendered and target frames.

    Args:
        config: weights, variants and schedules.
        head: for the regions that each occupancy term holds fixed.
    """

    edges: Tensor
    hair_vertices: Tensor
    neck_vertices: Tensor
    markup68: Tensor

    def __init__(self, config: LossConfig, head: HeadModel) -> None:
        super().__init__()
        self.config = config
        self.head = head
        self.perceptual = build_perceptual(config)
        self.gaze = build_gaze(config)
        self.identity = build_identity(config)
        self.register_buffer("edges", head.edges, persistent=False)
        self.register_buffer("hair_vertices", head.region("scalp")[:, None], persistent=False)
        self.register_buffer("neck_vertices", head.region("neck", "shoulders")[:, None], persistent=False)
        self.register_buffer("markup68", _markup68(), persistent=False)
        if config.landmarks > 0:
            head.landmark_indices("ibug68")  # raises where the head has no such points

    def forward(
        self,
        rendered: Rendered,
        batch: AvatarBatch,
        images: ImagePair,
        discriminator: nn.Module | None = None,
        step: int = 0,
    ) -> LossTerms:
        """All terms of positive weight.

        Args:
            rendered: the targets' reproductions.
            batch: sources and targets.
            images: of the same targets, see ``composited``.
            discriminator: scores images; it should not collect gradients meanwhile.
            step: of training, for the schedules.
        """
        active = {name for name in TERMS if self.config.weight(name, step) > 0}
        raw = self._image_terms(active, rendered, batch.target, images)
        if discriminator is not None and "adversarial" in active:
            raw |= self._adversarial_terms(active, discriminator, images)
        if "segmentation" in active:
            mask = batch.target.foreground_mask
            raw["segmentation"] = dice(rendered.mask * images.valid, mask * images.valid)
        if "matte" in active:
            raw["matte"] = ((rendered.mask - batch.target.foreground_mask).abs() * images.valid).mean()
        raw |= self._geometry_terms(active, rendered, batch.target, images.valid)
        if not raw:
            raise ValueError("no loss term has a positive weight; set one under losses")
        weighted = {name: self.config.weight(name, step) * value for name, value in raw.items()}
        return LossTerms(raw, weighted, torch.stack(list(weighted.values())).sum())

    def _image_terms(
        self, active: set[str], rendered: Rendered, target: Frames, images: ImagePair
    ) -> dict[str, Tensor]:
        """Colours, features, eyes and identity."""
        raw: dict[str, Tensor] = {}
        if "photometric" in active:
            weight = self._photometric_weight(rendered, target) * images.valid
            raw["photometric"] = photometric(images.predicted, images.wanted, weight)
        if self.perceptual is not None and "perceptual" in active:
            raw["perceptual"] = self.perceptual(
                *self._crop(images.predicted, images.wanted, target.landmarks)
            )
        if self.gaze is not None and "gaze" in active:
            raw["gaze"] = self.gaze(images.predicted, images.wanted, target.landmarks)
        if self.identity is not None and "identity" in active:
            raw["identity"] = self.identity(images.predicted, images.wanted, target.landmarks)
        return raw

    @staticmethod
    def _adversarial_terms(
        active: set[str], discriminator: nn.Module, images: ImagePair
    ) -> dict[str, Tensor]:
        """Terms of the discriminator."""
        scores, features = discriminator(images.predicted)
        raw = {"adversarial": hinge_generator(scores)}
        if "feature_matching" in active:
            with torch.no_grad():
                _, wanted = discriminator(images.wanted)
            raw["feature_matching"] = feature_matching(wanted, features)
        return raw

    @full_precision
    def _geometry_terms(
        self, active: set[str], rendered: Rendered, target: Frames, valid: Float[Tensor, "b 1 h w"]
    ) -> dict[str, Tensor]:
        """Silhouette, chamfer and smoothness: the terms that make the mesh grow hair and shoulders."""
        raw: dict[str, Tensor] = {}
        person = target.foreground_mask * valid
        if "occupancy_hair" in active:
            silhouette = self._silhouette(rendered, fixed=self.neck_vertices)
            head_mask = person * target.region_mask(Region.HAIR, Region.FACE_SKIN, Region.OTHER)
            counted = valid
            if self.config.occupancy_hair_region == "beside_body":
                counted = valid * (1 - target.region_mask(Region.BODY_SKIN, Region.CLOTHES))
            raw["occupancy_hair"] = occupancy(silhouette * counted, head_mask * counted)
        if "occupancy_all" in active:
            silhouette = self._silhouette(rendered, fixed=self.hair_vertices)
            raw["occupancy_all"] = occupancy(silhouette * valid, person)
        if "chamfer" in active:
            raw["chamfer"] = chamfer_2d(
                rendered.vertices_px,
                _visible(rendered, self.head.faces, valid),
                person,
                squared=self.config.chamfer_squared,
                max_points=self.config.chamfer_points,
            )
        if "laplacian" in active:
            raw["laplacian"] = laplacian(rendered.offsets, self.edges, self.config.laplacian_norm)
        if "landmarks" in active:
            points = self.head.landmarks(rendered.vertices_px, "ibug68")
            wanted = self.markup68 @ target.landmarks
            raw["landmarks"] = landmark_distance(points, wanted, target.image_size)
        return raw

    def _silhouette(self, rendered: Rendered, fixed: Tensor) -> Float[Tensor, "b 1 h w"]:
        """Differentiable coverage in which the ``fixed`` vertices get no gradient."""
        vertices_px = torch.where(fixed, rendered.vertices_px.detach(), rendered.vertices_px)
        if self.config.silhouette == "antialiased":
            return coverage(vertices_px, self.head.faces, rendered.face_ids)
        height, width = rendered.face_ids.shape[-2:]
        if self.config.silhouette == "official":
            return soft_silhouette(vertices_px, self.head.faces, (height, width), **OFFICIAL)
        return soft_silhouette(vertices_px, self.head.faces, (height, width))

    def _photometric_weight(self, rendered: Rendered, target: Frames) -> Float[Tensor, "b 1 h w"]:
        """More weight on the mesh, most around eyes and mouth, where expressions are read."""
        weight = 1 + self.config.mesh_weight * rendered.mesh_mask.float()
        if self.config.feature_weight > 0:
            weight = weight + self.config.feature_weight * feature_map(target.landmarks, target.image_size)
        return weight

    def _crop(
        self, predicted: Tensor, wanted: Tensor, landmarks: Float[Tensor, "b l 2"]
    ) -> tuple[Tensor, Tensor]:
        """One square per image, centred near a random facial landmark; the same for both images."""
        size = self.config.perceptual_crop
        height, width = predicted.shape[-2:]
        if size is None or size >= min(height, width):
            return predicted, wanted
        pick = torch.randint(landmarks.shape[1], (len(landmarks),), device=landmarks.device)
        jitter = (torch.rand(len(landmarks), 2, device=landmarks.device) - 0.5) * size
        centre = landmarks[torch.arange(len(landmarks), device=landmarks.device), pick] + jitter
        limit = landmarks.new_tensor([width - size, height - size])
        left_top = (centre - size / 2).round().clamp(min=0).minimum(limit).long()
        steps = torch.arange(size, device=landmarks.device)
        rows, columns = left_top[:, 1:] + steps, left_top[:, :1] + steps
        image = torch.arange(len(landmarks), device=landmarks.device)[:, None, None]
        pairs = torch.cat([predicted, wanted], dim=1)
        # Indexed on the device: to slice, the host would have to wait for the positions.
        crops = pairs.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)
        return crops[:, :3], crops[:, 3:]


def _markup68() -> Float[Tensor, "68 478"]:
    """Means of MediaPipe's landmarks that are the points of the 68-point markup."""
    rows = torch.zeros(len(IBUG68), NUM_LANDMARKS)
    for row, group in zip(rows, IBUG68, strict=True):
        row[list(group)] = 1 / len(group)
    return rows


def _visible(rendered: Rendered, faces: Tensor, valid: Float[Tensor, "b 1 h w"]) -> Bool[Tensor, "b v"]:
    """Vertices of the faces that some known pixel shows."""
    shown = (rendered.face_ids >= 0) & (valid[:, 0] > 0)
    corners = faces[rendered.face_ids.clamp_min(0).flatten(1).long()].flatten(1)
    counts = rendered.vertices_px.new_zeros(rendered.vertices_px.shape[:2], dtype=torch.long)
    return counts.scatter_add(1, corners, shown.flatten(1).repeat_interleave(3, dim=1).long()) > 0


def feature_map(landmarks: Float[Tensor, "b l 2"], image_size: tuple[int, int]) -> Float[Tensor, "b 1 h w"]:
    """Soft discs around the landmarks of eyes and lips, [0, 1].

    Args:
        landmarks: 478 MediaPipe points, pixels.
        image_size: (height, width), pixels.
    """
    height, width = image_size
    points = landmarks[:, list(LIPS_AND_EYES)].round().long()
    inside = (points >= 0).all(-1) & (points[..., 0] < width) & (points[..., 1] < height)
    index = points[..., 1].clamp(0, height - 1) * width + points[..., 0].clamp(0, width - 1)
    marks = torch.zeros(len(landmarks), height * width, device=landmarks.device)
    marks = marks.scatter_reduce(1, index, inside.float(), "amax").view(-1, 1, height, width)
    radius = max(1, round(width * 0.03))
    return F.avg_pool2d(dilate(marks, radius), 2 * radius + 1, stride=1, padding=radius)
