"""Deferred neural rendering: from rasterized features to colour and mask."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int32
from torch import Tensor, nn
from torch.nn import functional as F

from rome_lightning.geometry import vertex_normals
from rome_lightning.head import HeadModel
from rome_lightning.head.depth import around_eyes, ear_plane, lower_face, sides_of_face
from rome_lightning.models.blending import NUM_CORRECTIONS, NUM_NETWORK_LAYERS, blend
from rome_lightning.models.carrying import carry
from rome_lightning.models.config import DeferredRendererConfig
from rome_lightning.models.mouth import lip_vertices, same_mouth
from rome_lightning.models.photo_layers import CarriedPhotos
from rome_lightning.networks import CompactUNet, UNet, harmonic_encoding
from rome_lightning.networks.fast import InferenceNetwork
from rome_lightning.renderer import (
    Rasterizer,
    interpolate,
    nearest_covered,
    released_share,
    render_texture,
    sample_texture,
)
from rome_lightning.renderer.nearest_fill import distance_to, values_of
from rome_lightning.renderer.pooling import binomial, enlarged, folded, unfolded
from rome_lightning.types import Rendered

CAMERA_AXES = (1.0, -1.0, -1.0)
"""From pixels (y down, z away from the camera) to the axes of a head seen from the front: a rotation, so
faces keep their orientation. Pixels scale all axes equally, so normals keep their angles."""
MASK_PRIOR_LOGIT = 3.0
"""Logit of the mask on the mesh before the network's correction: 95 %."""
MASK_BOUND = 1.5
"""Largest change of that logit on the mesh: the mask stays above 82 % there."""
MASK_PRIOR_WIDTH = 0.06
"""Distance from the mesh, as a share of the image's width, at which the mask starts at 5 %."""


class DeferredRenderer(nn.Module):
    """Rasterize the mesh once, sample the neural texture, and decode the result to an image.

    Source: ROME sec. 3.3 (after Thies et al., Deferred neural rendering, 2019).
    """

    faces: Tensor
    uvs: Tensor
    uv_faces: Tensor
    parts: Tensor
    ear_plane: Tensor
    lips: Tensor

    def __init__(
        self, config: DeferredRendererConfig, texture_channels: int, head: HeadModel, rasterizer: Rasterizer
    ) -> None:
        super().__init__()
        self.config = config
        self.rasterizer = rasterizer
        # The kernels use 32-bit indices directly and would convert others in each call.
        self.register_buffer("faces", head.faces.int(), persistent=False)
        self.register_buffer("uvs", head.uvs, persistent=False)
        self.register_buffer("uv_faces", head.uv_faces.int(), persistent=False)
        around, torso = head.region("scalp", "ears", "neck", "shoulders"), head.region("neck", "shoulders")
        off_middle = around | sides_of_face(head) | around_eyes(head)
        parts = [around, torso, lower_face(head), off_middle, head.region("mouth"), head.region("eyes")]
        self.register_buffer("parts", torch.stack(parts, dim=-1).float()[None], persistent=False)
        self.register_buffer("ear_plane", ear_plane(head), persistent=False)
        self.register_buffer("lips", lip_vertices(head), persistent=False)
        inputs = (
            texture_channels + 3 * (1 + 2 * config.normal_frequencies) + (2 if config.extend_outside else 0)
        )
        self.texture_channels = texture_channels
        outputs = 3 if config.mask_network else 4
        if config.carry:
            folded = config.unshuffle**2
            inputs, outputs = (inputs + NUM_NETWORK_LAYERS) * folded, NUM_CORRECTIONS * folded
        self.network_inputs = inputs
        self.network: nn.Module | None = _build_network(config, inputs, outputs, config.width)
        """``None`` in the copies of ``for_inference`` that leave out its corrections."""
        self.mask_network = (
            _build_network(config, inputs, 1, config.width // 2) if config.mask_network else None
        )

    def forward(
        self,
        maps: Float[Tensor, "#b m s s"],
        vertices: Float[Tensor, "b v 3"],
        offsets: Float[Tensor, "b v 3"],
        vertices_px: Float[Tensor, "b v 3"],
        image_size: tuple[int, int],
        background: Float[Tensor, "b 3"] | float,
        carried: CarriedPhotos | None = None,
    ) -> Rendered:
        """Render textured meshes.

        Args:
            maps: neural textures and the other texture-space inputs, see ``AvatarCode.maps``; a batch of 1 is
                shared.
            vertices: metres, head space; normals are computed from them, as in the release.
            offsets: passed through to ``Rendered``.
            vertices_px: the same vertices in pixels.
            image_size: (height, width), pixels.
            background: RGB in [0, 1] per image, or one grey level for all.
            carried: the photographs, for a renderer with ``carry``.
        """
        # Rasterization needs float32, whatever the trainer's precision: in half, vertices move by pixels.
        with torch.autocast(vertices.device.type, enabled=False):
            vertices_px = vertices_px.float()
            face_ids = self.rasterizer.face_ids(vertices_px, self.faces, image_size)
        rgb, mask, normals = self.shade(maps, vertices, vertices_px, face_ids, carried)
        if not isinstance(background, Tensor):
            background = torch.full((len(rgb), 3), background, dtype=rgb.dtype, device=rgb.device)
        image = torch.lerp(background[:, :, None, None].expand_as(rgb), rgb, mask)
        mesh_mask = (face_ids >= 0).unsqueeze(1)
        return Rendered(image, rgb, mask, normals, mesh_mask, face_ids, vertices, vertices_px, offsets)

    def shade(
        self,
        maps: Float[Tensor, "#b m s s"],
        vertices: Float[Tensor, "b v 3"],
        vertices_px: Float[Tensor, "b v 3"],
        face_ids: Int32[Tensor, "b h w"],
        carried: CarriedPhotos | None = None,
        nearest: Int32[Tensor, "b h w"] | None = None,
    ) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b 1 h w"], Float[Tensor, "b 3 h w"] | None]:
        """Colour and opacity, [0, 1], and normals (``Rendered.normals``) of rasterized meshes.

        Args:
            maps: as for ``forward``, like ``vertices``, ``vertices_px`` and ``carried``.
            vertices: metres.
            vertices_px: pixels.
            face_ids: visible face per pixel, -1 beside the mesh.
            carried: the photographs.
            nearest: flat index of the nearest covered pixel, see ``nearest_covered``; computed by default.
        """
        with torch.autocast(vertices.device.type, enabled=False):
            is_covered = face_ids >= 0
            mesh_mask = is_covered.unsqueeze(1)
            normals, seen = self._normals(vertices.float(), vertices_px, face_ids)
            mesh = (vertices_px, self.faces, face_ids)
            if self.config.interpolation == "release":
                sampled, seen = self._released_features(maps, vertices.float(), *mesh)
            else:
                sampled = render_texture(*mesh, self.uvs, self.uv_faces, maps)
            # Distance from each pixel to the mesh; just 0 or 1 without an extension.
            distance = 1 - mesh_mask.float()
            layers = None
            if self.config.extend_outside:
                nearest, away = (
                    nearest_covered(is_covered) if nearest is None else (nearest, distance_to(nearest))
                )
                sampled, distance = values_of(nearest, sampled).contiguous(), away[:, None]
                if carried is not None:
                    texture_channels = sampled.shape[1] - 2 * carried.visibility.shape[1]
                    visible = sampled[:, texture_channels:]
                    same = same_mouth(carried.vertices[..., :2], vertices_px[..., :2], self.lips)
                    sampled = sampled[:, :texture_channels]
                    layers = carry(
                        carried, *mesh, visible, same, self.parts, self.ear_plane, distance, nearest
                    )
        rgb, mask = self.paint(sampled, seen, mesh_mask, distance, layers)
        return rgb, mask, normals

    def _normals(
        self, vertices: Float[Tensor, "b v 3"], vertices_px: Float[Tensor, "b v 3"], face_ids: Tensor
    ) -> tuple[Float[Tensor, "b 3 h w"] | None, Float[Tensor, "b 3 h w"] | None]:
        """Unit normals of a mesh at the pixels it covers, 0 elsewhere, in head space and in the network's."""
        if self.network is None:
            return None, None
        spaces = [vertices]
        if self.config.normals == "camera":
            spaces.append(vertices_px * vertices_px.new_tensor(CAMERA_AXES))
        per_vertex = torch.cat([vertex_normals(vertices, self.faces) for vertices in spaces], dim=-1)
        normals = interpolate(vertices_px, self.faces, face_ids, per_vertex)
        if torch.is_grad_enabled() and normals.requires_grad:
            units = [F.normalize(part, dim=1) for part in normals.split(3, dim=1)]
        else:
            # A fifth of the time of ``normalize``, but without a gradient at 0.
            parts = normals.contiguous().split(3, dim=1)
            units = [part / part.square().sum(1, keepdim=True).sqrt().clamp_min(1e-12) for part in parts]
        return units[0], units[-1]

    def _released_features(
        self,
        texture: Float[Tensor, "b c s s"],
        vertices: Float[Tensor, "b v 3"],
        vertices_px: Float[Tensor, "b v 3"],
        faces: Tensor,
        face_ids: Tensor,
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b 3 h w"]]:
        """Texture and normals at each pixel as in the release."""
        share = released_share(vertices_px, faces, face_ids)
        uv = interpolate(vertices_px, faces, face_ids, self.uvs[None], self.uv_faces)
        # The release interpolates coordinates in [-1, 1], so its weights pull towards the middle.
        uv = uv * share + (1 - share) / 2
        normals = interpolate(vertices_px, faces, face_ids, vertex_normals(vertices, faces)) * share
        return sample_texture(texture, uv, (face_ids >= 0)[:, None]), normals

    def decode(
        self,
        texture: Float[Tensor, "b c s s"],
        uv: Float[Tensor, "b 2 h w"],
        normals: Float[Tensor, "b 3 h w"],
        mesh_mask: Bool[Tensor, "b 1 h w"],
        distance: Float[Tensor, "b 1 h w"],
        layers: Float[Tensor, "b 13 h w"] | None = None,
    ) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b 1 h w"]]:
        """Colour and opacity, [0, 1], from a rasterizer's outputs: networks and lookups only.

        ``forward`` looks the texture up while interpolating; programs that run the exported networks start
        from texture coordinates.

        Args:
            texture: neural textures.
            uv: texture coordinates; with ``extend_outside`` extended beyond the mesh.
            normals: unit normals of the mesh; 0 outside it.
            mesh_mask: pixels whose centre the mesh covers.
            distance: to the mesh, image widths; see ``extend_outside``.
            layers: the result of ``carry``, for a renderer with it.
        """
        sampled = sample_texture(texture, uv, None if self.config.extend_outside else mesh_mask)
        return self.paint(sampled, normals, mesh_mask, distance, layers)

    def paint(
        self,
        sampled: Float[Tensor, "b c h w"],
        normals: Float[Tensor, "b 3 h w"] | None,
        mesh_mask: Bool[Tensor, "b 1 h w"],
        distance: Float[Tensor, "b 1 h w"],
        layers: Float[Tensor, "b 13 h w"] | None = None,
    ) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b 1 h w"]]:
        """Colour and opacity, [0, 1], from the texture sampled at each pixel.

        Args:
            sampled: the neural texture; without the network its colours are enough.
            normals: as in ``decode``, like ``mesh_mask`` and ``distance``; for the network.
            mesh_mask: covered pixels.
            distance: to the mesh.
            layers: the result of ``carry``, for a renderer with it.
        """
        if self.network is None or normals is None:
            assert layers is not None
            rgb, mask = blend(None, sampled[:, :3], layers, mesh_mask, distance)
            return clamp_colour(rgb), mask
        with torch.autocast(sampled.device.type, enabled=False):
            parts = self._features(sampled, normals, mesh_mask, distance)
            if layers is not None:
                parts.append(layers[:, :NUM_NETWORK_LAYERS])
            features = torch.cat(parts, dim=1)
        if layers is not None:
            corrections = self._corrections(features)
            rgb, mask = blend(corrections, sampled[:, :3], layers, mesh_mask, distance)
            return clamp_colour(rgb), mask
        decoded = self.network(features).float()
        if self.mask_network is not None:
            decoded = torch.cat([decoded, self.mask_network(features).float()], dim=1)
        if not self.config.residual:
            return decoded[:, :3].sigmoid(), decoded[:, 3:].sigmoid()
        rgb = clamp_colour(sampled[:, :3] + decoded[:, :3])
        # 1 on the mesh, falling to -1 with the distance from it.
        inside = 1 - 2 * (distance / MASK_PRIOR_WIDTH).clamp_max(1)
        # The mesh stays opaque, whatever the colours of a new person suggest.
        change = torch.where(mesh_mask, MASK_BOUND * (decoded[:, 3:] / MASK_BOUND).tanh(), decoded[:, 3:])
        return rgb, (MASK_PRIOR_LOGIT * inside + change).sigmoid()

    def _corrections(self, features: Float[Tensor, "b k h w"]) -> Float[Tensor, "b 5 h w"]:
        """The network's outputs, computed at its own size and upsampled to that of the image."""
        assert self.network is not None
        height, width = features.shape[-2:]
        known, fold = self.config.network_size, self.config.unshuffle
        is_larger = known is not None and max(height, width) > known
        if known is not None and is_larger:
            features = F.interpolate(features, (known, known), mode="bilinear", antialias=True)
        folds_itself = isinstance(self.network, InferenceNetwork)
        outputs = self.network(features if fold == 1 or folds_itself else folded(features, fold)).float()
        if fold > 1:
            # Each pixel of a block has channels of its own, which draw a fine grid on smooth surfaces.
            outputs = binomial(unfolded(outputs, fold))
        if is_larger:
            outputs = enlarged(outputs, (height, width))
        return outputs

    def _features(
        self,
        sampled: Float[Tensor, "b c h w"],
        normals: Float[Tensor, "b 3 h w"],
        mesh_mask: Bool[Tensor, "b 1 h w"],
        distance: Float[Tensor, "b 1 h w"],
    ) -> list[Float[Tensor, "b k h w"]]:
        """Inputs of the image network, to be concatenated."""
        encoded = normals
        if self.config.normal_frequencies:
            encoded = harmonic_encoding(
                normals, self.config.normal_frequencies, variant=self.config.harmonics, dim=1
            )
        outside = [mesh_mask.to(sampled.dtype), distance] if self.config.extend_outside else []
        return [sampled, encoded, *outside]


def _build_network(config: DeferredRendererConfig, inputs: int, outputs: int, width: int) -> nn.Module:
    if config.network == "release":
        return UNet(
            inputs, outputs, base_width=width, downsampling=config.pooling, upsampling=config.upsampling
        )
    network = CompactUNet(
        inputs,
        outputs,
        width,
        config.num_levels,
        downsampling=config.pooling,
        upsampling=config.upsampling,
    )
    # Starts as the sampled texture, so training only has to learn corrections.
    for parameter in network.head.parameters():
        nn.init.zeros_(parameter)
    return network


def clamp_colour(rgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Clamp to [0, 1] but pass the gradient, so that a pixel outside the range can return."""
    return rgb + (rgb.clamp(0, 1) - rgb).detach()
