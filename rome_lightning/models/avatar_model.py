"""One photograph to a textured, rigged mesh with hair, drawn by a neural renderer."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rome_lightning.geometry import project
from rome_lightning.head import HeadModel, load_head
from rome_lightning.models.basis import LinearBasis
from rome_lightning.models.config import AvatarConfig
from rome_lightning.models.deferred_renderer import DeferredRenderer
from rome_lightning.models.offsets import build_offset_source
from rome_lightning.models.regressors import DriverEncoder
from rome_lightning.models.texture import build_texture_model
from rome_lightning.renderer import get_rasterizer
from rome_lightning.types import Frames, HeadParams, Rendered
from rome_lightning.types.params import at_rest
from rome_lightning.types.struct import TensorStruct


@dataclass(frozen=True)
class AvatarCode(TensorStruct):
    """What is computed once per source image: the avatar itself."""

    texture: Float[Tensor, "b c s s"]
    """Neural texture."""
    shape: Float[Tensor, "b k"]
    """Identity coefficients of the head model."""
    offsets: Float[Tensor, "b v 3"] | None
    """Displacements of the head at rest, metres, head space; they turn with the skin. ``None`` when they
    depend on the expression or there are none."""


@dataclass(frozen=True)
class HeadMesh(TensorStruct):
    """The avatar's mesh under one expression and pose."""

    vertices: Float[Tensor, "b v 3"]
    """Posed vertices with offsets, metres, head space (no global rotation)."""
    offsets: Float[Tensor, "b v 3"]
    """What the offsets added, metres."""


class AvatarModel(nn.Module):
    """Encode a source once, then deform and render it for any driver.

    The full and the linear model are both this class: they differ in ``offset_network`` only.

    Source: ROME, fig. 2. One rasterization per frame: its id buffer serves colours, normals, masks and
    the silhouettes of the losses.

    Args:
        config: every option; see ``AvatarConfig``.
        head: the head model, if it is loaded already; must be the one ``config.head`` names.
    """

    def __init__(self, config: AvatarConfig, head: HeadModel | None = None) -> None:
        super().__init__()
        self.config = config
        self.head = head if head is not None else load_head(config.head)
        self.rasterizer = get_rasterizer(config.rasterizer)
        self.texture_model = build_texture_model(config.texture, self.head, self.rasterizer)
        self.offset_network = build_offset_source(config, self.head)
        self.driver_network = (
            DriverEncoder(config.driver, self.head) if config.driver.encoder != "none" else None
        )
        self.renderer = DeferredRenderer(config.decoder, config.texture.channels, self.head, self.rasterizer)

    def forward(
        self,
        source: Frames,
        driver: HeadParams,
        background: Float[Tensor, "b 3"] | float = 1.0,
        image_size: tuple[int, int] | None = None,
    ) -> Rendered:
        """Draw each source under its drivers (a multiple of the sources; see ``AvatarBatch``)."""
        code = self.encode(source).repeat_interleave(len(driver) // len(source))
        return self.render(code, driver, image_size or source.image_size, background)

    def encode(self, source: Frames) -> AvatarCode:
        """The avatar of each source frame.

        Departure from ROME: an unprojected texture is taken twice, through the bare head to find the
        offsets, then through the mesh that has grown, so that hair keeps its place on the surface.
        """
        texture, offsets = self._geometry(source)
        if texture is None or (offsets is not None and self._texture_sees_mesh):
            texture = self.encode_texture(source, None if offsets is None else offsets.detach())
        return AvatarCode(texture, source.params.shape, offsets)

    def reconstruct(self, source: Frames) -> HeadMesh:
        """The mesh of each source frame alone, without the texture that it would be drawn with."""
        texture, offsets = self._geometry(source)
        return self._deform(texture, source.params.shape, offsets, source.params)

    @property
    def _texture_sees_mesh(self) -> bool:
        return self.config.texture.source == "unprojected"

    def _geometry(self, source: Frames) -> tuple[Tensor | None, Tensor | None]:
        """Offsets at rest, if there are any, and the texture that they were found with, if one was needed."""
        part = self.offset_network
        if part is None:
            return None, None
        if part.expression_dependent:
            return self.encode_texture(source), None
        texture = None
        if part.needs_texture:
            # Taken again through the mesh that grows from it, this texture only serves the offsets.
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self._texture_sees_mesh):
                texture = self.encode_texture(source)
        return texture, part.rest_offsets(source, texture, self.rest(source.params))

    def rest(self, params: HeadParams) -> Float[Tensor, "b v 3"]:
        """The bare heads at rest, metres."""
        vertices: Tensor = self.head(at_rest(params))
        return vertices

    def encode_texture(
        self, source: Frames, offsets: Float[Tensor, "b v 3"] | None = None
    ) -> Float[Tensor, "b c s s"]:
        """Neural texture of each source, seen on the bare head or on one with offsets.

        Args:
            source: the identity frames.
            offsets: displacements of the head at rest, metres.
        """
        vertices = self.head(source.params)
        if offsets is not None:
            vertices = vertices + self.head.turn(offsets, source.params)
        return self.texture_model(source, self.project(vertices, source.params, source.image_size))

    def deform(self, code: AvatarCode, driver: HeadParams) -> HeadMesh:
        """Pose the avatar: its own shape, the driver's expression and pose."""
        return self._deform(code.texture, code.shape, code.offsets, driver)

    def _deform(
        self, texture: Tensor | None, shape: Tensor, rest_offsets: Tensor | None, driver: HeadParams
    ) -> HeadMesh:
        posed = self.head(dataclasses.replace(driver, shape=shape))
        if rest_offsets is not None:
            offsets = self.head.turn(rest_offsets, driver)
        elif self.offset_network is not None:
            assert texture is not None
            offsets = self.offset_network.posed_offsets(texture, posed)
        else:
            offsets = torch.zeros_like(posed)
        return HeadMesh(posed + offsets, offsets)

    @property
    def basis(self) -> LinearBasis | None:
        """The basis of a linear model; ``None`` for others."""
        return None if self.offset_network is None else self.offset_network.basis(self.head)

    def estimate_driver(
        self, image: Float[Tensor, "b 3 h w"], shape: Float[Tensor, "b k"] | None = None
    ) -> HeadParams:
        """Expression, pose and camera of frames, without a tracker.

        Args:
            image: RGB in [0, 1], cropped as the training data are.
            shape: identity coefficients to hand through; the mean head's if not given.

        Raises:
            ValueError: the model was trained without such a network.
        """
        if self.driver_network is None:
            raise ValueError(
                "this model cannot read a driver's parameters off its frames; use the tracker, or train with "
                "avatar.driver.encoder set"
            )
        if shape is None:
            shape = image.new_zeros(len(image), self.head.num_shape)
        params: HeadParams = self.driver_network(image, shape)
        return params

    def render(
        self,
        code: AvatarCode,
        driver: HeadParams,
        image_size: tuple[int, int],
        background: Float[Tensor, "b 3"] | float = 1.0,
    ) -> Rendered:
        """Draw the avatar under the driver's expression, pose and camera.

        Args:
            code: the avatars.
            driver: one per avatar.
            image_size: (height, width), pixels.
            background: RGB in [0, 1] per image, or one grey for all.
        """
        mesh = self.deform(code, driver)
        vertices_px = self.project(mesh.vertices, driver, image_size)
        return self.renderer(code.texture, mesh.vertices, mesh.offsets, vertices_px, image_size, background)

    def project(
        self, vertices: Float[Tensor, "b v 3"], params: HeadParams, image_size: tuple[int, int]
    ) -> Float[Tensor, "b v 3"]:
        """Head space to pixels through the global pose and camera of ``params``."""
        return project(self.head.to_world(vertices, params), params.camera, image_size)
