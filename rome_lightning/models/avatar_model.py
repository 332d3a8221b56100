"""One photograph to a textured, rigged mesh with hair, drawn by a neural renderer."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int32
from torch import Tensor, nn

from rome_lightning.geometry import project
from rome_lightning.head import HeadModel, load_head
from rome_lightning.head.perspective import Perspective
from rome_lightning.models.basis import LinearBasis
from rome_lightning.models.config import AvatarConfig
from rome_lightning.models.deferred_renderer import DeferredRenderer
from rome_lightning.models.framing import as_ffhq
from rome_lightning.models.fusion import fuse, texels_of_the_head, trusted_visibility
from rome_lightning.models.offsets import build_offset_source
from rome_lightning.models.photo_layers import CarriedPhotos, carried_photos
from rome_lightning.models.regressors import DriverEncoder
from rome_lightning.models.texture import (
    Observation,
    Surface,
    UnprojectedTexture,
    build_texture_model,
    surface_of,
)
from rome_lightning.renderer import get_rasterizer
from rome_lightning.types import Frames, HeadParams, Rendered
from rome_lightning.types.params import at_rest
from rome_lightning.types.struct import TensorStruct

MAX_TEXTURE_SIZE = 1024
"""Side of the largest texture made from a photograph, texels."""


@dataclass(frozen=True)
class AvatarCode(TensorStruct):
    """An avatar, computed once per source image."""

    texture: Float[Tensor, "b c s s"]
    """Neural texture."""
    shape: Float[Tensor, "b k"]
    """Identity coefficients of the head model."""
    offsets: Float[Tensor, "b v 3"] | None
    """Displacements of the head at rest, metres, head space; they rotate with the skin. ``None`` if they
    depend on the expression or the model has none."""
    carried: CarriedPhotos | None = None
    """The photographs, for a deferred renderer with ``carry``."""

    @functools.cached_property
    def maps(self) -> Float[Tensor, "b m s s"]:
        """``joined``, once for all frames."""
        return self.joined()

    @functools.cached_property
    def maps_of_colour(self) -> Float[Tensor, "b m s s"]:
        """The same with the texture's colours only, for a renderer without its network."""
        return self.joined(3)

    def joined(self, num_channels: int | None = None) -> Float[Tensor, "b m s s"]:
        """Concatenate the renderer's texture-space inputs.

        The neural texture, each photograph's visibility, and the part of the visibility that is valid only
        while the mouth is as open as in the photograph. Channels-last, for the lookup.

        Args:
            num_channels: of the neural texture, by default all.
        """
        parts = [self.texture[:, :num_channels].float()]
        if self.carried is not None:
            parts += [self.carried.visibility.float(), self.carried.own_only.float()]
        return torch.cat(parts, dim=1).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class HeadMesh(TensorStruct):
    """The avatar's mesh under one expression and pose."""

    vertices: Float[Tensor, "b v 3"]
    """Posed vertices with offsets, metres, head space (no global rotation)."""
    offsets: Float[Tensor, "b v 3"]
    """The displacement by the offsets, metres."""


class AvatarModel(nn.Module):
    """Encode a source once, then deform and render it for any driver.

    Both the full and the linear model use this class; they differ only in ``offset_network``.

    Source: ROME, fig. 2. Each frame is rasterized once: its id buffer serves colours, normals, masks and the
    silhouettes of the losses.

    Args:
        config: see ``AvatarConfig``.
        head: the head model that ``config.head`` names, if already loaded.
    """

    def __init__(self, config: AvatarConfig, head: HeadModel | None = None) -> None:
        super().__init__()
        self.config = config
        self.image_size = 256
        """Side of the training images, pixels; set when a model is loaded."""
        self.head = head if head is not None else load_head(config.head, config.release)
        self.perspective = (
            None if config.camera_distance is None else Perspective(self.head, config.camera_distance)
        )
        self.rasterizer = get_rasterizer(config.rasterizer)
        self.texture_model = build_texture_model(config.texture, self.head)
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
        """Render each source under its drivers, an equal number per source (see ``AvatarBatch``)."""
        code = self.encode(source).repeat_interleave(len(driver) // len(source))
        return self.render(code, driver, image_size or source.image_size, background)

    def encode(self, source: Frames) -> AvatarCode:
        """Encode each source frame as an avatar."""
        offsets = self.rest_offsets(source)
        return self.appearance(source, offsets)

    def encode_person(self, photos: Frames) -> AvatarCode:
        """Encode all photographs of one person as one avatar.

        Args:
            photos: one or several, with the same identity coefficients; the first has priority.

        Raises:
            ValueError: the photographs were fitted with different identities.
        """
        offsets = self.rest_offsets(photos)
        if offsets is not None:
            offsets = offsets.mean(0, keepdim=True)
        return self.person_appearance(photos, offsets)

    def rest_offsets(self, source: Frames) -> Float[Tensor, "b v 3"] | None:
        """Predict the offsets at rest from each source, metres; ``None`` if there are none.

        Departure from ROME: an unprojected texture is computed twice, through the bare head to predict the
        offsets, then through the mesh with offsets, so that hair keeps its place on the surface.
        """
        part = self.offset_network
        if part is None or part.expression_dependent:
            return None
        texture = None
        if part.needs_texture:
            # An unprojected one only serves the offsets and is computed again through the mesh with offsets.
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.texture_sees_mesh):
                texture = self._bare_texture(source)
        return part.rest_offsets(self.framed(source), texture, self.rest(source.params))

    def reconstruct(self, source: Frames) -> HeadMesh:
        """Reconstruct the mesh of each source frame, without a texture."""
        part = self.offset_network
        needs_texture = part is not None and part.expression_dependent
        texture = self._bare_texture(source) if needs_texture else None
        offsets = self._lifted(self.rest_offsets(source), source.params)
        return self._deform(texture, source.params.shape, offsets, source.params)

    @property
    def texture_sees_mesh(self) -> bool:
        """Whether the texture depends on the mesh through which the source is seen."""
        return self.config.texture.source == "unprojected"

    def appearance(
        self, source: Frames, offsets: Float[Tensor, "b v 3"] | None, photos: Frames | None = None
    ) -> AvatarCode:
        """Encode each source on a mesh with given offsets.

        Args:
            source: the identity frames, at the networks' size.
            offsets: displacements of the head at rest, metres, from ``rest_offsets`` or ``fit_outline``, that
                is, fitted in weak perspective.
            photos: the same frames at the resolution to carry; ``source`` by default.
        """
        if not isinstance(self.texture_model, UnprojectedTexture):
            offsets = self._lifted(offsets, source.params)
            return AvatarCode(self._bare_texture(source), source.params.shape, offsets)
        posed = self.head(source.params)
        offsets = self._lifted(offsets, source.params, posed)
        seen, fine, view = self._looks(source, photos, posed, offsets)
        texture = self.texture_model(seen) if fine is None else self.texture_model.detailed(seen, *fine)
        carried = None
        if self.config.decoder.carry:
            shown = seen if fine is None else fine[0]
            carried = carried_photos(photos or source, *view, shown.unhidden, shown.own_only, self.head)
        return AvatarCode(texture, source.params.shape, offsets, carried)

    def person_appearance(
        self, source: Frames, offsets: Float[Tensor, "1 v 3"] | None, photos: Frames | None = None
    ) -> AvatarCode:
        """Encode several frames of one person as one avatar; arguments as for ``appearance``.

        Unprojected textures fuse the observations. ROME's encoder works in image space; its textures of all
        photographs are averaged.

        Raises:
            ValueError: the frames were fitted with different identities.
        """
        shape = source.params.shape
        if float((shape - shape[:1]).abs().max()) > 1e-4:
            raise ValueError(
                f"the {len(source)} photographs must share one identity; track them together with "
                "rome_lightning.tracking.track_photos"
            )
        if len(source) == 1:
            return self.appearance(source, offsets, photos)
        offsets = self._lifted(offsets, source.params[slice(0, 1)])
        if not isinstance(self.texture_model, UnprojectedTexture):
            texture = self._bare_texture(source).mean(0, keepdim=True)
            return AvatarCode(texture, shape[:1], offsets)
        every = None if offsets is None else offsets.expand(len(source), -1, -1)
        seen, fine, view = self._looks(source, photos, self.head(source.params), every)
        trusted = texels_of_the_head(self.head, self.texture_model.layout)
        fused = fuse(seen, trusted)
        if fine is None:
            texture = self.texture_model(fused)
        else:
            seen, surface = fine
            trusted = texels_of_the_head(self.head, surface.layout)
            texture = self.texture_model.detailed(fused, fuse(seen, trusted), surface)
        carried = None
        if self.config.decoder.carry:
            shown = torch.cat([seen.unhidden[:1], trusted_visibility(seen, trusted)[1:]])
            # Where the first photograph shows the mouth, the others' are not used.
            own_only = torch.cat([seen.own_only[:1], torch.zeros_like(seen.own_only[1:])])
            each = carried_photos(photos or source, *view, shown, own_only, self.head)
            carried = each.map(lambda tensor: tensor.transpose(0, 1))
        return AvatarCode(texture, shape[:1], offsets, carried)

    def _bare_texture(self, source: Frames) -> Float[Tensor, "b c s s"]:
        """Neural texture of each source as seen through the bare head."""
        if isinstance(self.texture_model, UnprojectedTexture):
            texture: Tensor = self.texture_model(self._looks(source, None, self.head(source.params))[0])
        else:
            texture = self.texture_model(self.framed(source))
        return texture

    def framed(self, source: Frames) -> Frames:
        """What networks see that look at pictures; see ``AvatarConfig.framing``."""
        return as_ffhq(source) if self.config.framing == "ffhq" else source

    def _looks(
        self,
        source: Frames,
        photos: Frames | None,
        posed: Float[Tensor, "b v 3"],
        offsets: Float[Tensor, "b v 3"] | None = None,
    ) -> tuple[Observation, tuple[Observation, Surface] | None, tuple[Tensor, Tensor]]:
        """Observe the surface in frames through their mesh with these offsets, which get no gradient.

        Args:
            source: the frames at the networks' size.
            photos: the same frames at the resolution to carry.
            posed: the bare heads of the frames.
            offsets: at rest.

        Returns:
            The observation at the networks' size; a finer one with its surface if the photographs have more
            pixels than the texture; and ``_view`` of the photographs, or of the source without any.
        """
        assert isinstance(self.texture_model, UnprojectedTexture)
        if offsets is not None:
            offsets, turning = offsets.detach(), self.config.basis.turning
            posed = posed + (self.head.turn(offsets, source.params) if turning else offsets)
        seen_at = self._seen_at(posed, source.params)
        view = self._view(source, seen_at)
        seen = self.texture_model.observe(source, *view)
        if photos is None:
            return seen, None, view
        if photos.image_size != source.image_size:
            view = self._view(photos, seen_at)
        surface = self._finer_surface(photos)
        fine = None if surface is None else (self.texture_model.observe(photos, *view, surface), surface)
        return seen, fine, view

    def _view(
        self, frames: Frames, seen_at: Float[Tensor, "b v 3"]
    ) -> tuple[Float[Tensor, "b v 3"], Int32[Tensor, "b h w"]]:
        """Vertices of ``_seen_at`` in pixels of each frame, and the visible face at each pixel."""
        vertices_px = project(seen_at, frames.params.camera, frames.image_size)
        return vertices_px, self.rasterizer.face_ids(vertices_px, self.head.faces, frames.image_size)

    def _finer_surface(self, photos: Frames) -> Surface | None:
        """The surface at the photographs' resolution; ``None`` if the texture is as fine."""
        config = self.config.texture
        if not config.mirror:
            return None
        size = min(max(photos.image_size), MAX_TEXTURE_SIZE)
        return surface_of(self.head, size) if size > config.size else None

    def _lifted(
        self,
        offsets: Float[Tensor, "b v 3"] | None,
        params: HeadParams,
        posed: Float[Tensor, "b v 3"] | None = None,
    ) -> Float[Tensor, "b v 3"] | None:
        """Convert offsets fitted in weak perspective to the camera of ``project``; see ``lifted``."""
        if offsets is None or self.perspective is None:
            return offsets
        return self.perspective.lifted(offsets, params, posed)

    def rest(self, params: HeadParams) -> Float[Tensor, "b v 3"]:
        """The bare heads at rest, metres."""
        vertices: Tensor = self.head(at_rest(params))
        return vertices

    def deform(self, code: AvatarCode, driver: HeadParams) -> HeadMesh:
        """Pose the avatar: its own shape, the driver's expression and pose."""
        return self._deform(code.texture, code.shape, code.offsets, driver)

    def _deform(
        self, texture: Tensor | None, shape: Tensor, rest_offsets: Tensor | None, driver: HeadParams
    ) -> HeadMesh:
        posed = self.head(dataclasses.replace(driver, shape=shape))
        if rest_offsets is not None:
            turning = self.config.basis.turning
            offsets = self.head.turn(rest_offsets, driver) if turning else rest_offsets
        elif self.offset_network is not None:
            assert texture is not None
            offsets = self.offset_network.posed_offsets(texture, posed)
        else:
            offsets = torch.zeros_like(posed)
        return HeadMesh(posed + offsets, offsets)

    @property
    def basis(self) -> LinearBasis | None:
        """The linear model's basis; ``None`` for other models."""
        return None if self.offset_network is None else self.offset_network.basis(self.head)

    def estimate_driver(
        self, image: Float[Tensor, "b 3 h w"], shape: Float[Tensor, "b k"] | None = None
    ) -> HeadParams:
        """Estimate expression, pose and camera of frames without a tracker.

        Args:
            image: RGB in [0, 1], cropped like the training data.
            shape: identity coefficients to pass through; those of the mean head by default.

        Raises:
            ValueError: the model was trained without a driver network.
        """
        if self.driver_network is None:
            raise ValueError(
                "this model cannot estimate a driver's parameters from its frames; use the tracker, or "
                "train with avatar.driver.encoder set"
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
        """Render avatars under the drivers' expression, pose and camera.

        Args:
            code: the avatars, or one for all drivers.
            driver: one row per avatar.
            image_size: (height, width), pixels.
            background: RGB in [0, 1] per image, or one grey level for all.
        """
        # Compilers cannot enter the lock of a cached property.
        if torch.compiler.is_compiling():
            maps = code.joined()
        else:
            maps = code.maps if self.renderer.network is not None else code.maps_of_colour
        if len(code.shape) == 1:
            code = code.expand(len(driver))
        mesh = self.deform(code, driver)
        # The avatar rotates about its own neck, whatever the driver's shape.
        vertices_px = self.project(mesh.vertices, dataclasses.replace(driver, shape=code.shape), image_size)
        return self.renderer(
            maps, mesh.vertices, mesh.offsets, vertices_px, image_size, background, code.carried
        )

    def project(
        self, vertices: Float[Tensor, "b v 3"], params: HeadParams, image_size: tuple[int, int]
    ) -> Float[Tensor, "b v 3"]:
        """Project all vertices from head space to pixels, by the global pose and camera of ``params``."""
        return project(self._seen_at(vertices, params), params.camera, image_size)

    def _seen_at(self, vertices: Float[Tensor, "b v 3"], params: HeadParams) -> Float[Tensor, "b v 3"]:
        """Points of head space in the world, where weak perspective must draw them, metres."""
        world = self.head.to_world(vertices, params)
        return world if self.perspective is None else self.perspective.seen(world)
