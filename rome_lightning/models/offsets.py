"""Vertex offsets, which form hair, neck and shoulders on the parametric head."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rome_lightning.geometry import vertex_normals
from rome_lightning.head import HeadModel
from rome_lightning.head.depth import foreshortening
from rome_lightning.head.moving import moving_vertices
from rome_lightning.models.basis import LinearBasis, mesh_fingerprint
from rome_lightning.models.config import AvatarConfig, BasisConfig, OffsetConfig
from rome_lightning.models.regressors import ImageRegressor
from rome_lightning.networks import CompactUNet, OffsetMLP, UNet, harmonic_encoding
from rome_lightning.renderer import UVLayout
from rome_lightning.types import Frames

POSITION_SCALE = 5.0
"""Metres to the unit of the position map, as in the release."""


def build_offset_source(config: AvatarConfig, head: HeadModel) -> OffsetSource | None:
    """The offset source named by ``config.offsets.kind``; ``None`` for the bare head."""
    if config.offsets.kind == "none":
        return None
    if config.offsets.kind == "basis":
        return BasisOffsets(config.basis, head)
    if config.offsets.kind == "fitted":
        return FittedOffsets(head)
    return OffsetNetwork(config.offsets, head, config.texture.channels)


class OffsetSource(nn.Module):
    """Source of an avatar's offsets, the only difference between the full and the linear model.

    Args:
        head: determines the movable vertices.
    """

    moving: Tensor
    """Indices of the movable vertices."""
    falloff: Tensor
    """Factor on the offset of each, fading to 0 towards the face, (m, 1)."""
    needs_texture = True
    """Whether ``rest_offsets`` needs the texture seen through the bare head."""
    expression_dependent = False
    """Whether to call ``posed_offsets`` for each frame instead of ``rest_offsets`` once."""

    def __init__(self, head: HeadModel) -> None:
        super().__init__()
        moving, falloff = moving_vertices(head)
        self.register_buffer("moving", moving, persistent=False)
        self.register_buffer("falloff", falloff, persistent=False)

    def rest_offsets(
        self, source: Frames, texture: Float[Tensor, "b c s s"] | None, vertices: Float[Tensor, "b v 3"]
    ) -> Float[Tensor, "b v 3"]:
        """Offsets of each source's head at rest, metres; they rotate with the posed skin.

        Args:
            source: the identity frames.
            texture: neural texture seen through the bare head, if ``needs_texture``.
            vertices: the bare head at rest, metres.
        """
        # Implemented by subclasses whose offsets do not depend on the expression.
        raise NotImplementedError

    def posed_offsets(
        self, texture: Float[Tensor, "b c s s"], vertices: Float[Tensor, "b v 3"]
    ) -> Float[Tensor, "b v 3"]:
        """Offsets of a posed head, metres; only if they are ``expression_dependent``.

        Args:
            texture: neural texture of the avatar.
            vertices: the bare head under the driver's expression and pose, metres.
        """
        # Implemented by subclasses whose offsets depend on the expression.
        raise NotImplementedError

    def basis(self, head: HeadModel) -> LinearBasis | None:
        """The linear basis of the offsets; ``None`` without one."""
        return None


class OffsetNetwork(OffsetSource):
    """Offset magnitudes from the neural texture and a map of the mesh's positions.

    The position map is rasterized into UV space, harmonic-encoded and concatenated with the texture. A U-Net
    maps both to a latent geometry map; each movable vertex samples it at its UV, and a small network predicts
    the magnitude of its offset.

    Source: ROME sec. 3.2, E_geom and G_geom.
    Departure from ROME: the compact network's region mask falls off smoothly towards the face, so that no
    step forms at the hairline; the released network keeps the release's mask, without a falloff.
    """

    faces: Tensor
    sample_grid: Tensor
    encoded_uvs: Tensor

    def __init__(self, config: OffsetConfig, head: HeadModel, texture_channels: int) -> None:
        super().__init__(head)
        self.config = config
        self.expression_dependent = config.expression_dependent
        self.register_buffer("faces", head.faces, persistent=False)
        released = config.network == "release"
        uvs = head.uvs if head.exact_uvs is None else head.exact_uvs
        self.layout = UVLayout(head.faces, uvs, head.uv_faces, config.uv_size, released)
        inputs = texture_channels + 39
        if config.network == "release":
            self.geometry_network: nn.Module = UNet(inputs, config.latent_channels, base_width=config.width)
        else:
            self.geometry_network = CompactUNet(inputs, config.latent_channels, config.width, num_levels=3)
        outputs = 1 if config.direction == "normal" else 3
        self.vertex_network = OffsetMLP(config.latent_channels + 26, outputs, width=config.mlp_width)
        if config.network == "compact":
            # Starts as the bare head, as fitted by the tracker.
            nn.init.zeros_(self.vertex_network.get_parameter("block_2.8.weight"))

        uvs = head.vertex_uvs[self.moving]
        self.register_buffer("sample_grid", (2 * uvs - 1)[None, :, None], persistent=False)
        if config.network == "release":
            uvs = _released_coordinates(uvs, config.uv_size)
            self.falloff = torch.ones_like(self.falloff)
        encoded = harmonic_encoding(uvs[None], variant=config.harmonics, dim=-1)
        self.register_buffer("encoded_uvs", encoded, persistent=False)

    def forward(
        self, texture: Float[Tensor, "b c s s"], vertices: Float[Tensor, "b v 3"]
    ) -> Float[Tensor, "b v k"]:
        """Bounded magnitudes per vertex, metres; ``k`` is 1 along the normal, else 3.

        Args:
            texture: neural texture; no gradient flows into it (ROME detaches it here).
            vertices: posed head without global rotation, metres, head space.
        """
        positions = self.layout.gather(vertices * POSITION_SCALE)
        positions = harmonic_encoding(positions, variant=self.config.harmonics, dim=1)
        small = F.interpolate(texture.detach(), size=positions.shape[-2:], mode="bilinear", antialias=True)
        # The released weights expect the texture first.
        maps = [small, positions] if self.config.network == "release" else [positions, small]
        latent = self.geometry_network(torch.cat(maps, dim=1))
        grid = self.sample_grid.expand(len(vertices), -1, -1, -1)
        sampled = F.grid_sample(latent, grid, align_corners=False, padding_mode="border")
        per_vertex = torch.cat(
            [sampled.squeeze(-1).transpose(1, 2), self.encoded_uvs.expand(len(vertices), -1, -1)], dim=-1
        )
        moved = self.vertex_network(per_vertex).tanh() * self.falloff * self.config.max_offset
        magnitudes = moved.new_zeros(*vertices.shape[:2], moved.shape[-1])
        return magnitudes.index_copy(1, self.moving, moved)

    def rest_offsets(
        self, source: Frames, texture: Float[Tensor, "b c s s"] | None, vertices: Float[Tensor, "b v 3"]
    ) -> Float[Tensor, "b v 3"]:
        """Magnitudes times the normals at rest."""
        assert texture is not None
        return self.posed_offsets(texture, vertices)

    def posed_offsets(
        self, texture: Float[Tensor, "b c s s"], vertices: Float[Tensor, "b v 3"]
    ) -> Float[Tensor, "b v 3"]:
        """Magnitudes times the normals of the given mesh."""
        magnitudes = self(texture, vertices)
        if self.config.direction == "free":
            return magnitudes
        return magnitudes * vertex_normals(vertices.detach(), self.faces)


def _released_coordinates(uvs: Float[Tensor, "n 2"], size: int) -> Float[Tensor, "n 2"]:
    """Input coordinates of the release's vertex network, about -1 to 1.

    The release samples ``linspace(-1, 1, size)`` as if its ends were the image's corners, although they are
    the centres of its outer pixels: its weights were trained with this zoom by half a pixel.
    """
    return 2 * (uvs * size - 0.5) / (size - 1) - 1


class BasisOffsets(OffsetSource):
    """Offsets from a linear basis, with coefficients that a network predicts from the source.

    Source: ROME sec. 3.5, the distilled linear model.
    """

    components: Tensor
    mean: Tensor
    scale: Tensor
    needs_texture = False

    def __init__(self, config: BasisConfig, head: HeadModel) -> None:
        super().__init__(head)
        self.config = config
        num_components = config.num_hair + config.num_neck
        # Stored with the weights, so that a checkpoint needs no separate basis file.
        self.register_buffer("components", torch.zeros(num_components, head.num_vertices, 3))
        self.register_buffer("mean", torch.zeros(head.num_vertices, 3))
        self.register_buffer("scale", torch.ones(num_components))
        normalize = config.image == "person"
        self.regressor = ImageRegressor(config.encoder, num_components, config.input_size, normalize)

    def set_basis(self, basis: LinearBasis) -> None:
        """Set the basis; the network predicts its coefficients in standard deviations.

        Raises:
            ValueError: the numbers of components or vertices differ from this model's.
        """
        wanted = (self.config.num_hair, self.config.num_neck, self.components.shape[1])
        given = (basis.num_hair, basis.num_neck, basis.components.shape[1])
        if wanted != given:
            raise ValueError(
                f"the model takes {wanted[0]} hair and {wanted[1]} neck components of {wanted[2]} vertices, "
                f"the basis has {given[0]} and {given[1]} of {given[2]}; set avatar.basis.num_hair, num_neck"
            )
        self.components.copy_(basis.components)
        self.mean.copy_(basis.mean)
        self.scale.copy_(basis.std)

    def basis(self, head: HeadModel) -> LinearBasis:
        """The current basis."""
        return LinearBasis(
            self.components, self.mean, self.scale, self.config.num_hair, head.name, mesh_fingerprint(head)
        )

    def coefficients(self, source: Frames) -> Float[Tensor, "b k"]:
        """Coefficients of each source, metres.

        Departure from ROME: the person is composited on grey, so that the background has no influence.
        """
        image = source.image
        if self.config.image == "person":
            image = torch.lerp(torch.full_like(image, 0.5), image, source.foreground_mask)
        outputs: Tensor = self.regressor(image)
        return outputs * self.scale

    def rest_offsets(
        self, source: Frames, texture: Float[Tensor, "b c s s"] | None, vertices: Float[Tensor, "b v 3"]
    ) -> Float[Tensor, "b v 3"]:
        """The mean plus the components times their coefficients; texture and vertices are ignored."""
        return self.mean + torch.einsum("bk,kvc->bvc", self.coefficients(source), self.components)


class FittedOffsets(OffsetSource):
    """Offsets fitted to each person's outline in advance, see ``tracking.outline.fit_outline``.

    Training reads them from the dataset (``rome prepare --fit-outline true``); those of an avatar are fitted
    when it is created, by ``refine_offsets``.

    Departure from ROME: hair that can be measured in the photograph needs no network.
    """

    needs_texture = False

    def __init__(self, head: HeadModel) -> None:
        super().__init__(head)
        self.head = head

    def rest_offsets(
        self, source: Frames, texture: Float[Tensor, "b c s s"] | None, vertices: Float[Tensor, "b v 3"]
    ) -> Float[Tensor, "b v 3"]:
        """The frames' offsets, or ``foreshortening`` if none were fitted; the texture is ignored."""
        return foreshortening(self.head, vertices) if source.offsets is None else source.offsets
