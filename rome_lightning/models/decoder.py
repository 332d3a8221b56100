"""Deferred neural rendering: rasterized features to colour and mask."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rome_lightning.data import Rendered
from rome_lightning.geometry import vertex_normals
from rome_lightning.head import HeadModel
from rome_lightning.models.config import DecoderConfig
from rome_lightning.networks import CompactUNet, UNet, harmonic_encoding
from rome_lightning.renderer import Rasterizer, extend_outside, interpolate, sample_texture

MASK_PRIOR_LOGIT = 3.0
"""Logit of the mask on the mesh before the network corrects it: 95 %."""
MASK_BOUND = 1.5
"""Largest change of that logit on the mesh: the mask does not fall below 82 % there."""
MASK_PRIOR_WIDTH = 0.06
"""Distance from the mesh, as a share of the image's width, at which the mask starts at 5 %."""


class DeferredRenderer(nn.Module):
    """Rasterize the mesh once, sample the neural texture, and decode the result to an image.

    Source: ROME sec. 3.3 (after Thies et al., Deferred neural rendering, 2019).
    """

    faces: Tensor
    uvs: Tensor
    uv_faces: Tensor

    def __init__(
        self, config: DecoderConfig, texture_channels: int, head: HeadModel, rasterizer: Rasterizer
    ) -> None:
        super().__init__()
        self.config = config
        self.rasterizer = rasterizer
        self.register_buffer("faces", head.faces, persistent=False)
        self.register_buffer("uvs", head.uvs, persistent=False)
        self.register_buffer("uv_faces", head.uv_faces, persistent=False)
        inputs = (
            texture_channels + 3 * (1 + 2 * config.normal_frequencies) + (2 if config.extend_outside else 0)
        )
        if config.network == "release":
            self.network: nn.Module = UNet(inputs, 4, base_width=config.width)
        else:
            self.network = CompactUNet(inputs, 4, config.width, config.num_levels)
            # Starts as the sampled texture: training only has to learn corrections.
            for parameter in self.network.head.parameters():
                nn.init.zeros_(parameter)

    def forward(
        self,
        texture: Float[Tensor, "b c s s"],
        vertices: Float[Tensor, "b v 3"],
        offsets: Float[Tensor, "b v 3"],
        vertices_px: Float[Tensor, "b v 3"],
        image_size: tuple[int, int],
        background: Float[Tensor, "b 3"] | float,
    ) -> Rendered:
        """Draw meshes with their textures.

        Args:
            texture: neural textures.
            vertices: metres, head space; the normals are taken from them, as in the release.
            offsets: handed through to ``Rendered``.
            vertices_px: the same vertices in pixels.
            image_size: (height, width), pixels.
            background: RGB in [0, 1] per image, or one grey for all.
        """
        # Rasterization needs float32 whatever the trainer's precision: half moves vertices by pixels.
        with torch.autocast(vertices.device.type, enabled=False):
            vertices_px = vertices_px.float()
            face_ids = self.rasterizer.face_ids(vertices_px, self.faces, image_size)
            mesh_mask = (face_ids >= 0).unsqueeze(1)
            normals = F.normalize(
                interpolate(vertices_px, self.faces, face_ids, vertex_normals(vertices.float(), self.faces)),
                dim=1,
            )
            uv = interpolate(vertices_px, self.faces, face_ids, self.uvs[None], self.uv_faces)
            features, sampled, inside = self._features(texture.float(), uv, normals, mesh_mask)
        decoded = self.network(features).float()
        if self.config.residual:
            rgb = clamp_colour(sampled + decoded[:, :3])
            # What the mesh covers stays opaque whatever an unseen person's colours suggest.
            change = torch.where(mesh_mask, MASK_BOUND * (decoded[:, 3:] / MASK_BOUND).tanh(), decoded[:, 3:])
            mask = (MASK_PRIOR_LOGIT * inside + change).sigmoid()
        else:
            rgb, mask = decoded[:, :3].sigmoid(), decoded[:, 3:].sigmoid()
        if not isinstance(background, Tensor):
            background = torch.full((len(rgb), 3), background, dtype=rgb.dtype, device=rgb.device)
        image = torch.lerp(background[:, :, None, None].expand_as(rgb), rgb, mask)
        return Rendered(image, rgb, mask, normals, mesh_mask, face_ids, vertices, vertices_px, offsets)

    def _features(
        self,
        texture: Float[Tensor, "b c s s"],
        uv: Float[Tensor, "b 2 h w"],
        normals: Float[Tensor, "b 3 h w"],
        mesh_mask: Tensor,
    ) -> tuple[Float[Tensor, "b k h w"], Float[Tensor, "b 3 h w"], Float[Tensor, "b 1 h w"]]:
        """Input of the image network, the sampled colour, and 1 on the mesh falling to -1 beside it."""
        encoded = harmonic_encoding(
            normals, self.config.normal_frequencies, variant=self.config.harmonics, dim=1
        )
        covered = mesh_mask.to(texture.dtype)
        if not self.config.extend_outside:
            sampled = sample_texture(texture, uv) * covered
            return torch.cat([sampled, encoded], dim=1), sampled[:, :3], 2 * covered - 1
        uv, distance = extend_outside(uv, mesh_mask)
        sampled = sample_texture(texture, uv)
        inside = 1 - 2 * (distance / MASK_PRIOR_WIDTH).clamp_max(1)
        return torch.cat([sampled, encoded, covered, distance], dim=1), sampled[:, :3], inside


def clamp_colour(rgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Limit to [0, 1] and let the gradient through, so that a pixel beyond the range can come back."""
    return rgb + (rgb.clamp(0, 1) - rgb).detach()
