"""Other views of single photographs as training sources."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rome_lightning.head import HeadModel
from rome_lightning.models import AvatarCode, AvatarModel
from rome_lightning.models.symmetry import mirrored_vertices
from rome_lightning.types import Frames, HeadParams, Region

_ERASED_TILT_DEG = 35.0
"""Largest tilt of the line that erased sources end at, from the vertical."""
_ERASED_FROM = 0.2
"""Its largest distance from the middle of the face, image widths."""
_SIDES = (("Left", "Right"), ("left", "right"))


@dataclass(frozen=True)
class ViewsConfig:
    """How often another view of the same person, rendered from the same photograph, replaces a source.

    Source: the round trip of Zhou et al., Rotate-and-Render, CVPR 2020.
    """

    redrawn: float = 0.0
    """Share of the sources that the model itself re-renders under a random pose and another person's
    expression, so that single photographs train large turns."""
    mirrored: float = 0.0
    """Share of the others that are mirrored: a head turned to the right teaches its left side."""
    mirror_from_deg: float = 8.0
    """Turn of the head from which mirroring shows another side, degrees."""
    erased: float = 0.0
    """Share of the remaining sources that lose everything beyond a random line beside the middle of the face:
    the photograph itself then teaches its hidden side."""
    yaw_deg: float = 40.0
    """Largest turn of a redrawn source away from the photograph's, degrees, left and right."""
    pitch_deg: float = 15.0
    """The same, up and down."""
    roll_deg: float = 8.0
    """The same, in the plane of the picture."""
    expression: float = 0.5
    """Share of the redrawn sources with the expression of another image of the batch."""

    def __post_init__(self) -> None:
        for name in ("redrawn", "mirrored", "erased", "expression"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"views.{name} is a share in [0, 1], got {getattr(self, name)}")


class SourceViews(nn.Module):
    """Replace sources of a batch by other views of the same people.

    Args:
        config: how often.
        head: of the model.
    """

    mirror: Tensor
    mirrored_shape: Tensor
    mirrored_expression: Tensor
    scalp: Tensor

    def __init__(self, config: ViewsConfig, head: HeadModel) -> None:
        super().__init__()
        self.config = config
        self.head = head
        self.register_buffer("mirror", mirrored_vertices(head), persistent=False)
        self.register_buffer("mirrored_shape", _mirrored_shape(head, self.mirror), persistent=False)
        self.register_buffer("mirrored_expression", _mirrored_names(head.expression_names), persistent=False)
        self.register_buffer("scalp", head.region("scalp"), persistent=False)

    def forward(self, model: AvatarModel, source: Frames) -> Frames:
        """The sources, some of them replaced.

        Args:
            model: draws the other views; no gradient flows into it.
            source: photographs.
        """
        chance = torch.rand(len(source), device=source.image.device)
        redrawn = chance < self.config.redrawn
        turned = source.params.global_pose[:, 1].abs() > torch.deg2rad(
            source.image.new_tensor(self.config.mirror_from_deg)
        )
        rest = (chance - self.config.redrawn) / max(1 - self.config.redrawn, 1e-6)
        mirrored = ~redrawn & turned & (rest < self.config.mirrored)
        if bool(mirrored.any()):
            source = _replaced(source, mirrored, self.mirrored(source[mirrored]))
        if bool(redrawn.any()):
            others = source.params.expression.roll(1, 0)[redrawn]
            source = _replaced(source, redrawn, self.redrawn(model, source[redrawn], others))
        erased = ~redrawn & (torch.rand(len(source), device=redrawn.device) < self.config.erased)
        if bool(erased.any()):
            source = _replaced(source, erased, self.erased(source[erased]))
        return source

    def mirrored(self, frames: Frames) -> Frames:
        """Mirror images, with the parameters of the mirrored heads."""
        p = frames.params
        flip = frames.image.new_tensor([1.0, -1.0, -1.0])
        left, right = p.eye_pose.split(3, dim=-1)
        params = HeadParams(
            shape=p.shape @ self.mirrored_shape,
            expression=p.expression[:, self.mirrored_expression],
            global_pose=p.global_pose * flip,
            neck_pose=p.neck_pose * flip,
            jaw_pose=p.jaw_pose * flip,
            eye_pose=torch.cat([right * flip, left * flip], dim=-1),
            camera=p.camera * p.camera.new_tensor([1.0, -1.0, 1.0]),
            torso_shift=p.torso_shift * p.torso_shift.new_tensor([-1.0, 1.0, 1.0]),
        )
        offsets = frames.offsets
        if offsets is not None:
            offsets = offsets[:, self.mirror] * offsets.new_tensor([-1.0, 1.0, 1.0])
        width = frames.image.shape[-1]
        landmarks = torch.stack([width - 1 - frames.landmarks[..., 0], frames.landmarks[..., 1]], dim=-1)
        return Frames(
            image=frames.image.flip(-1),
            foreground_mask=frames.foreground_mask.flip(-1),
            regions=frames.regions.flip(-1),
            # Points keep their numbers, which then name the other side: sources need none.
            landmarks=landmarks,
            params=params,
            offsets=offsets,
        )

    def erased(self, frames: Frames) -> Frames:
        """The photographs, unknown beyond a random line; the model must complete the hidden part."""
        count, (height, width) = len(frames), frames.image_size
        tilt, shift = torch.rand(2, count, 1, 1, device=frames.image.device)
        tilt = torch.deg2rad(_ERASED_TILT_DEG * (2 * tilt - 1))
        side = torch.where(torch.rand_like(shift) < 0.5, -1.0, 1.0)
        middle = frames.landmarks.mean(1)[..., None, None]
        rows = torch.arange(height, device=tilt.device).view(1, -1, 1) - middle[:, 1]
        columns = torch.arange(width, device=tilt.device).view(1, 1, -1) - middle[:, 0]
        beyond = side * (columns * tilt.cos() + rows * tilt.sin()) > _ERASED_FROM * width * shift
        return dataclasses.replace(
            frames,
            foreground_mask=torch.where(beyond[:, None], 0.0, frames.foreground_mask),
            regions=torch.where(beyond, int(Region.OUTSIDE), frames.regions).to(frames.regions.dtype),
        )

    @torch.no_grad()
    def redrawn(self, model: AvatarModel, frames: Frames, expression: Float[Tensor, "b e"]) -> Frames:
        """The people under random poses, rendered by the model.

        Args:
            model: in training.
            frames: photographs.
            expression: of other people, worn by a share of them.
        """
        config, count, device = self.config, len(frames), frames.image.device
        angles = torch.deg2rad(
            frames.image.new_tensor([config.pitch_deg, config.yaw_deg, config.roll_deg])
        ) * (2 * torch.rand(count, 3, device=device) - 1)
        worn = torch.rand(count, 1, device=device) < config.expression
        params = dataclasses.replace(
            frames.params,
            global_pose=frames.params.global_pose + angles,
            expression=torch.where(worn, expression, frames.params.expression),
        )
        code = model.encode(frames)
        rendered = model.render(code, params, frames.image_size)
        offsets = frames.offsets
        if offsets is not None and model.perspective is not None and code.offsets is not None:
            # What a fit to the drawn picture would find.
            offsets = model.perspective.flattened(code.offsets, params)
        return Frames(
            image=rendered.rgb.clamp(0, 1),
            foreground_mask=rendered.mask,
            regions=self._regions(frames, rendered.face_ids, rendered.mask),
            landmarks=self._moved_landmarks(model, code, frames, rendered.vertices_px),
            params=params,
            offsets=offsets,
        )

    def _moved_landmarks(
        self, model: AvatarModel, code: AvatarCode, frames: Frames, vertices_px: Float[Tensor, "b v 3"]
    ) -> Float[Tensor, "b l 2"]:
        """Detected landmarks, moved as the mesh moves between photograph and drawn picture."""
        if "mediapipe" not in self.head.landmark_names:
            return frames.landmarks
        before = model.project(model.deform(code, frames.params).vertices, frames.params, frames.image_size)
        moved = self.head.landmarks(vertices_px) - self.head.landmarks(before)
        return frames.landmarks + moved[..., :2]

    def _regions(self, photo: Frames, face_ids: Tensor, mask: Float[Tensor, "b 1 h w"]) -> Tensor:
        """Labels of a drawn picture: hair on the scalp of whoever has some, else skin; nothing is unknown."""
        hair, person = photo.region_mask(Region.HAIR), photo.foreground_mask
        hairy = (hair * person).mean((1, 2, 3)) > 0.1 * person.mean((1, 2, 3))
        on_scalp = self.scalp[self.head.faces[face_ids.clamp_min(0).long(), 0]] & (face_ids >= 0)
        labels = torch.where(on_scalp & hairy[:, None, None], int(Region.HAIR), int(Region.FACE_SKIN))
        return torch.where(mask[:, 0] > 0.5, labels, int(Region.BACKGROUND)).to(torch.uint8)


def _replaced(frames: Frames, where: Bool[Tensor, " b"], others: Frames) -> Frames:
    """Frames with some rows replaced by those of others, in order."""
    order = torch.arange(len(frames), device=where.device)
    order[where] = len(frames) + torch.arange(len(others), device=where.device)
    return Frames.cat([frames, others])[order]


def _mirrored_names(names: tuple[str, ...]) -> Tensor:
    """For each expression the index of the one that is its mirror image."""
    other = []
    for name in names:
        swapped = name
        for left, right in _SIDES:
            if left in name:
                swapped = name.replace(left, right)
                break
            if right in name:
                swapped = name.replace(right, left)
                break
        other.append(names.index(swapped) if swapped in names else names.index(name))
    return torch.tensor(other)


def _mirrored_shape(head: HeadModel, mirror: Tensor) -> Float[Tensor, "s s"]:
    """Matrix that takes shape coefficients (rows) to those of the mirrored head, by least squares."""
    basis = head.basis[: head.num_shape].unflatten(1, (-1, 3)).double()
    carriers = mirror[: head.num_carriers]
    # A carrier's mirror image is a carrier: midpoints mirror to midpoints.
    mirrored = basis[:, carriers.clamp_max(head.num_carriers - 1)] * basis.new_tensor([-1.0, 1.0, 1.0])
    solution = torch.linalg.lstsq(basis.flatten(1).T, mirrored.flatten(1).T).solution
    return solution.T.float()
