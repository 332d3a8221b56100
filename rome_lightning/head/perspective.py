"""Perspective of a camera close to the face, which the tracker's camera lacks."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from rome_lightning.geometry import axis_angle_to_matrix, full_precision
from rome_lightning.head import HeadModel
from rome_lightning.types import HeadParams

FARTHEST = 0.08
"""Depth behind the eyes beyond which points stop shrinking, metres: that of the ears. Nothing behind them is
on the outline of a frontal photograph, and ``lifted`` would stretch it to a point."""


class Perspective:
    """A camera at a distance from the eyes, on top of the weak perspective of ``HeadParams``.

    Behind the eyes, points shrink with their depth, as far back as the ears. The face in front of the eyes is
    unchanged, because trackers fit its pose and expression in weak perspective. Offsets fitted without
    perspective remain usable: ``lifted`` converts them so that the mesh looks the same to this camera.

    Departure from ROME, whose camera has no perspective. A head fitted to a photograph taken at close range
    is then too narrow behind the face, and a rotation moves its ears and hair too far.

    Args:
        head: model of the meshes.
        distance: from the camera to the eyes, metres.
    """

    def __init__(self, head: HeadModel, distance: float) -> None:
        self.head = head
        self.distance = distance

    @full_precision
    def seen(self, world: Float[Tensor, "b v 3"]) -> Float[Tensor, "b v 3"]:
        """Move world points to where weak perspective must draw them, metres; the depth is kept."""
        return self._scaled(world, 1 / self._farther(world))

    @full_precision
    def lifted(
        self,
        offsets: Float[Tensor, "b v 3"],
        params: HeadParams,
        posed: Float[Tensor, "b v 3"] | None = None,
    ) -> Float[Tensor, "b v 3"]:
        """Offsets at rest with which the head looks as in weak perspective with the given ones, metres.

        Args:
            offsets: fitted in weak perspective.
            params: of the image they were fitted to.
            posed: the bare head under them, if the caller has it.
        """
        world = self._world(offsets, params, self.head(params) if posed is None else posed)
        return offsets + self._at_rest(self._scaled(world, self._farther(world)) - world, params)

    @full_precision
    def flattened(self, offsets: Float[Tensor, "b v 3"], params: HeadParams) -> Float[Tensor, "b v 3"]:
        """The inverse of ``lifted``."""
        world = self._world(offsets, params, self.head(params))
        return offsets + self._at_rest(self.seen(world) - world, params)

    def _world(
        self, offsets: Float[Tensor, "b v 3"], params: HeadParams, posed: Float[Tensor, "b v 3"]
    ) -> Float[Tensor, "b v 3"]:
        return self.head.to_world(posed + self.head.turn(offsets, params), params)

    def _at_rest(self, world: Float[Tensor, "b v 3"], params: HeadParams) -> Float[Tensor, "b v 3"]:
        """Convert displacements of the posed head's vertices to displacements at rest."""
        posed = world @ axis_angle_to_matrix(params.global_pose)
        return torch.linalg.solve(self.head.turning(params), posed)

    def _eyes(self, world: Float[Tensor, "b v 3"]) -> Float[Tensor, "b 1 3"]:
        return world[:, self.head.region("eyes")].mean(1, keepdim=True)

    def _farther(self, world: Float[Tensor, "b v 3"]) -> Float[Tensor, "b v 1"]:
        """Depth of each point from the camera, relative to the eyes'; 1 in front of them."""
        behind = (self._eyes(world)[..., 2:] - world[..., 2:]).clamp(0, FARTHEST)
        return 1 + behind / self.distance

    def _scaled(self, world: Float[Tensor, "b v 3"], scale: Float[Tensor, "b v 1"]) -> Float[Tensor, "b v 3"]:
        """Scale the distance of points from the line through camera and eyes."""
        eyes = self._eyes(world)[..., :2]
        return torch.cat([eyes + (world[..., :2] - eyes) * scale, world[..., 2:]], dim=-1)
