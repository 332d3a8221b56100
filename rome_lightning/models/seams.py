"""Seams of a UV layout: edges of the surface at which two charts, far apart in the texture, meet."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rome_lightning.head import HeadModel
from rome_lightning.renderer import UVLayout, interpolate, sample_texture

WITHOUT = ("scalp", "eyes", "mouth")
"""Regions whose seams stay: strands differ between texels, eyes and mouth have colours of their own."""
LEAST_KNOWN = 0.05
"""Weight of a texel that nobody saw, beside one that is known."""


class Seams(nn.Module):
    """Removes steps between charts from a completed texture.

    Each chart is filled from its own surroundings in the texture. Where a neck meets a chest, one may be
    filled with skin and the other with cloth: a wedge below the ear.

    Args:
        head: model with seams.
        layout: texels of the texture.
    """

    sides: Tensor
    uvs: Tensor
    beside: Tensor
    corners: Tensor
    weights: Tensor

    def __init__(self, head: HeadModel, layout: UVLayout) -> None:
        super().__init__()
        self.register_buffer("sides", _twins(head), persistent=False)
        self.register_buffer("uvs", head.uvs.float(), persistent=False)
        beside, corners, weights = _texels_beside(self.sides, layout)
        self.register_buffer("beside", beside, persistent=False)
        self.register_buffer("corners", corners, persistent=False)
        self.register_buffer("weights", weights, persistent=False)

    def forward(
        self,
        colour: Float[Tensor, "b 3 s s"],
        smooth: Float[Tensor, "b 3 s s"],
        visibility: Float[Tensor, "b 1 s s"],
        known: Float[Tensor, "b 1 s s"],
    ) -> Float[Tensor, "b 3 s s"]:
        """The texture with equal colours on both sides of each seam.

        Both sides change to their mean, weighted by how well they are known, and less with the distance from
        the seam, over one row of faces. What a photograph shows stays.

        Args:
            colour: completed, RGB.
            smooth: the same without fine structure.
            visibility: of each texel, [0, 1].
            known: from either side of the head, [0, 1].
        """
        places = self.uvs[self.sides].permute(2, 0, 1)[None].expand(len(colour), -1, -1, -1)
        values, weight = sample_texture(torch.cat([smooth, known], dim=1), places).split([3, 1], dim=1)
        weight = weight.square() + LEAST_KNOWN
        mean = (values * weight).sum(2, keepdim=True) / weight.sum(2, keepdim=True)
        changes = colour.new_zeros(len(colour), 3, len(self.uvs))
        changes[:, :, self.sides.flatten()] = (mean - values).flatten(2)
        change = torch.zeros_like(colour).flatten(2)
        change[:, :, self.beside] = (changes[:, :, self.corners] * self.weights).sum(-1)
        return (colour + change.view_as(colour) * (1 - visibility)).clamp(0, 1)


def _twins(head: HeadModel) -> Int[Tensor, "2 n"]:
    """The two texture coordinates of each vertex on a seam, as indices."""
    pairs = torch.stack([head.faces.flatten(), head.uv_faces.flatten()], dim=1).long().unique(dim=0)
    vertices, counts = pairs[:, 0].unique(return_counts=True)
    # Corners of more than two charts are rare.
    double = (counts == 2) & ~head.region(*WITHOUT)[vertices]
    first = counts.cumsum(0) - counts
    return pairs[torch.stack([first[double], first[double] + 1]), 1]


def _texels_beside(
    sides: Int[Tensor, "2 n"], layout: UVLayout
) -> tuple[Int[Tensor, " m"], Int[Tensor, "m 3"], Float[Tensor, "m 3"]]:
    """Flat texels of the faces at a seam, with the corners of their faces and barycentric weights."""
    at_seam = torch.isin(layout.uv_faces.long(), sides).any(1)
    face_ids = layout.face_ids[0].long()
    beside = ((face_ids >= 0) & at_seam[face_ids.clamp_min(0)]).flatten().nonzero()[:, 0]
    faces = face_ids.flatten()[beside]
    corner = torch.arange(3 * len(layout.uv_faces), dtype=torch.int32, device=faces.device).view(-1, 3)
    one_hot = torch.eye(3, device=faces.device).repeat(len(layout.uv_faces), 1)[None]
    weights = interpolate(layout.texels, layout.uv_faces, layout.face_ids, one_hot, corner)
    return beside, layout.uv_faces[faces].long(), weights[0].flatten(1)[:, beside].T.contiguous()
