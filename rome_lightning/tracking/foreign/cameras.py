"""Cameras of other trackers: from points of the world to pixels of the whole picture."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rome_lightning.geometry import axis_angle_to_matrix
from rome_lightning.types.struct import TensorStruct


@dataclass(frozen=True)
class CropCamera(TensorStruct):
    """DECA's weak perspective in a square crop of the face: ``x = s (X + t_x)``, y up.

    Source: ``decalib/utils/util.py`` (``batch_orth_proj``) and ``tensor_cropper.py`` of yfeng95/DECA: a point
    at x in [-1, 1] is at ``(x + 1) size / 2``, counted from the centre of the first pixel.
    """

    weak: Float[Tensor, "n 3"]
    """Scale, t_x, t_y."""
    crop_from_picture: Float[Tensor, "n 3 3"] | None
    """Similarity in homogeneous pixels; None where the picture is the crop."""
    size: int = 224
    """Side of the crop, pixels."""

    def project(
        self, points_world: Float[Tensor, "n v 3"], picture_size: tuple[int, int]
    ) -> Float[Tensor, "n v 2"]:
        """Pixels (x, y) of the picture, whose size is (height, width)."""
        moved = self.weak[:, None, :1] * (points_world[..., :2] + self.weak[:, None, 1:])
        in_crop = (moved * moved.new_tensor([1.0, -1.0]) + 1) * self.size / 2
        if self.crop_from_picture is None:
            sides = in_crop.new_tensor([picture_size[1], picture_size[0]])
            return (in_crop + 0.5) * sides / self.size - 0.5
        picture_from_crop = torch.linalg.inv(self.crop_from_picture)[:, :2]
        return in_crop @ picture_from_crop[..., :2].transpose(1, 2) + picture_from_crop[:, None, :, 2]

    def turns(self, centres_world: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3 3"]:
        """Rotation that the picture shows beyond the head's own: that of a turned crop."""
        angles = self.weak.new_zeros(len(centres_world), 3)
        if self.crop_from_picture is not None:
            angles[:, 2] = torch.atan2(self.crop_from_picture[:, 1, 0], self.crop_from_picture[:, 0, 0])
        return axis_angle_to_matrix(angles)


@dataclass(frozen=True)
class PinholeCamera(TensorStruct):
    """Perspective; the camera looks along -z, x right, y up.

    Source: ``vhap/util/render_nvdiffrast.py`` and ``vhap/model/tracker.py`` of ShenhanQian/VHAP.
    """

    focal: Float[Tensor, "n 2"]
    """Focal lengths in x and y, shares of the picture's width and height."""
    centre: Float[Tensor, "n 2"]
    """Principal point (x, y), shares of width and height from the upper left corner."""
    cam_from_world: Float[Tensor, "n 3 4"]
    """Metres; the head's own translation is part of it."""

    def to_camera(self, points_world: Float[Tensor, "n v 3"]) -> Float[Tensor, "n v 3"]:
        """Points in the camera's axes, metres."""
        rotation, shift = self.cam_from_world.split([3, 1], dim=2)
        return points_world @ rotation.transpose(1, 2) + shift.transpose(1, 2)

    def project(
        self, points_world: Float[Tensor, "n v 3"], picture_size: tuple[int, int]
    ) -> Float[Tensor, "n v 2"]:
        """Pixels (x, y) of the picture, whose size is (height, width)."""
        points = self.to_camera(points_world)
        slopes = points[..., :2] / points[..., 2:].neg() * points.new_tensor([1.0, -1.0])
        shares = slopes * self.focal[:, None] + self.centre[:, None]
        return shares * points.new_tensor([picture_size[1], picture_size[0]]) - 0.5

    def turns(self, centres_world: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3 3"]:
        """Rotation that the picture shows beyond the head's own: the camera's, from the line of sight."""
        away = self.to_camera(centres_world[:, None])[:, 0]
        forward = -away / away.norm(dim=1, keepdim=True)
        # The smallest rotation that brings the line of sight onto the axis.
        axis = torch.linalg.cross(forward, forward.new_tensor([0.0, 0.0, 1.0]).expand_as(forward), dim=1)
        sine = axis.norm(dim=1, keepdim=True)
        angle = torch.atan2(sine, forward[:, 2:])
        onto_axis = axis_angle_to_matrix(axis / sine.clamp_min(1e-9) * angle)
        return onto_axis @ self.cam_from_world[..., :3]
