"""The training objective: the terms of ROME sec. 3.4 and ours."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rome_lightning.assets import resolve
from rome_lightning.assets.weights import load_vgg16_features, load_vgg19_normalized
from rome_lightning.data import AvatarBatch, Frames, Region, Rendered
from rome_lightning.geometry import unique_edges
from rome_lightning.head import HeadModel
from rome_lightning.losses import (
    PerceptualLoss,
    chamfer_2d,
    dice,
    feature_matching,
    hinge_generator,
    laplacian,
    occupancy,
    photometric,
)
from rome_lightning.renderer import OFFICIAL, coverage, soft_silhouette
from rome_lightning.training.config import LossConfig

LIPS_AND_EYES = (
    # MediaPipe landmark indices: outer and inner lips, right eye, left eye, irises.
    *(61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 185, 40, 39, 37, 0, 267, 269, 270, 409),
    *(78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 191, 80, 81, 82, 13, 312, 311, 310, 415),
    *(33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246),
    *(362, 382, 381, 380, 374, 373, 390, 249, 263, 466, 388, 387, 386, 385, 384, 398),
    *(468, 473),
)


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


def composited(rendered: Rendered, target: Frames, background: Float[Tensor, "b 3"]) -> ImagePair:
    """Both images on one background; equal where nobody knows what the target looks like.

    Args:
        rendered: the targets' reproductions, composited on ``background``.
        target: frames to reproduce.
        background: RGB in [0, 1] per target.
    """
    plain = background[:, :, None, None].expand_as(target.image)
    valid = 1 - target.region_mask(Region.OUTSIDE)
    wanted = torch.lerp(plain, target.image, target.foreground_mask * valid)
    return ImagePair(torch.where(valid > 0, rendered.image, plain), wanted, valid)


class Objective(nn.Module):
    """Weighted sum of the loss terms between rendered and target frames.

    Args:
        config: weights and variants.
        head: for the regions that each occupancy term holds fixed.
    """

    edges: Tensor
    hair_vertices: Tensor
    neck_vertices: Tensor

    def __init__(self, config: LossConfig, head: HeadModel) -> None:
        super().__init__()
        self.config = config
        self.head = head
        self.perceptual = self._build_perceptual() if config.perceptual > 0 else None
        self.register_buffer("edges", unique_edges(head.faces), persistent=False)
        self.register_buffer("hair_vertices", head.region("scalp")[:, None], persistent=False)
        self.register_buffer("neck_vertices", head.region("neck", "shoulders")[:, None], persistent=False)

    def _build_perceptual(self) -> PerceptualLoss:
        if self.config.perceptual_network == "vgg16":
            return PerceptualLoss.vgg16_shallow(load_vgg16_features(resolve("lpips_vgg16")))
        return PerceptualLoss.vgg19(load_vgg19_normalized(resolve("vgg19_normalized")))

    def forward(
        self,
        rendered: Rendered,
        batch: AvatarBatch,
        images: ImagePair,
        discriminator: nn.Module | None = None,
    ) -> LossTerms:
        """All terms of positive weight.

        Args:
            rendered: the targets' reproductions.
            batch: sources and targets.
            images: of the same targets, see ``composited``.
            discriminator: scores images; it should not collect gradients meanwhile.
        """
        target = batch.target
        raw: dict[str, Tensor] = {}
        if self.config.photometric > 0:
            weight = self._photometric_weight(rendered, target) * images.valid
            raw["photometric"] = photometric(images.predicted, images.wanted, weight)
        if self.perceptual is not None:
            raw["perceptual"] = self.perceptual(
                *self._crop(images.predicted, images.wanted, target.landmarks)
            )
        if discriminator is not None:
            raw |= self._adversarial_terms(discriminator, images)
        if self.config.segmentation > 0:
            raw["segmentation"] = dice(rendered.mask * images.valid, target.foreground_mask * images.valid)
        raw |= self._geometry_terms(rendered, target, images.valid)
        weighted = {name: getattr(self.config, name) * value for name, value in raw.items()}
        return LossTerms(raw, weighted, torch.stack(list(weighted.values())).sum())

    def _adversarial_terms(self, discriminator: nn.Module, images: ImagePair) -> dict[str, Tensor]:
        """What the discriminator says of the prediction."""
        scores, features = discriminator(images.predicted)
        raw = {"adversarial": hinge_generator(scores)}
        if self.config.feature_matching > 0:
            with torch.no_grad():
                _, wanted = discriminator(images.wanted)
            raw["feature_matching"] = feature_matching(wanted, features)
        return raw

    def _geometry_terms(self, rendered: Rendered, target: Frames, valid: Tensor) -> dict[str, Tensor]:
        """Silhouette, chamfer and smoothness: what makes the mesh grow hair and shoulders."""
        raw: dict[str, Tensor] = {}
        person = target.foreground_mask * valid
        if self.config.occupancy_hair > 0:
            head_mask = person * target.region_mask(Region.HAIR, Region.FACE_SKIN, Region.OTHER)
            # Below the chin the mesh shows its neck: only what the head covers is asked for there.
            body = target.region_mask(Region.BODY_SKIN, Region.CLOTHES)
            silhouette = self._silhouette(rendered, fixed=self.neck_vertices)
            raw["occupancy_hair"] = occupancy(silhouette * (1 - body) * valid, head_mask * (1 - body))
        if self.config.occupancy_all > 0:
            silhouette = self._silhouette(rendered, fixed=self.hair_vertices)
            raw["occupancy_all"] = occupancy(silhouette * valid, person)
        if self.config.chamfer > 0:
            raw["chamfer"] = chamfer_2d(
                rendered.vertices_px, self._visible(rendered), person, max_points=self.config.chamfer_points
            )
        if self.config.laplacian > 0:
            raw["laplacian"] = laplacian(rendered.offsets, self.edges)
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

    def _visible(self, rendered: Rendered) -> Tensor:
        """Vertices of the faces that some pixel shows."""
        corners = self.head.faces[rendered.face_ids.clamp_min(0).flatten(1).long()].flatten(1)
        shown = (rendered.face_ids >= 0).flatten(1).repeat_interleave(3, dim=1).long()
        counts = shown.new_zeros(rendered.vertices_px.shape[:2]).scatter_add(1, corners, shown)
        return counts > 0

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
        limit = torch.tensor([width - size, height - size], device=landmarks.device)
        left_top = (centre - size / 2).round().clamp(min=0).minimum(limit).long().tolist()
        pairs = torch.cat([predicted, wanted], dim=1)
        crops = torch.stack(
            [p[:, y : y + size, x : x + size] for p, (x, y) in zip(pairs, left_top, strict=True)]
        )
        return crops[:, :3], crops[:, 3:]


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
    spread = F.max_pool2d(marks, 2 * radius + 1, stride=1, padding=radius)
    return F.avg_pool2d(spread, 2 * radius + 1, stride=1, padding=radius)
