"""Neural textures from source images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Int, Int32
from torch import Tensor, nn
from torch.nn import functional as F

from rome_lightning.head import HeadModel
from rome_lightning.models.completion import Completion
from rome_lightning.models.config import TextureConfig
from rome_lightning.models.mouth import between_lids, between_lips, widened
from rome_lightning.networks import CompactUNet, TextureEncoder
from rome_lightning.renderer import UVLayout, push_pull, unproject
from rome_lightning.renderer.morphology import dilate, erode
from rome_lightning.types import Frames, Region
from rome_lightning.types.struct import TensorStruct

EROSION = 0.006
"""Distance inside the matte's outline from which colours are trusted, image widths."""

MOUTH_REACH = 0.012
"""How far the photograph is used beyond the visible part of eyes and mouth, texture widths."""
TEETH_EDGE = 0.003
"""Distance from the opening of a mouth up to which its lips give the texture no colour, image widths."""
BARE_EAR, HAIRY_EAR = 0.3, 0.6
"""Share of hair on the visible part of an ear up to which it counts as bare, and from which as covered."""
BARE_CHEEK, HAIRY_CHEEK = 0.2, 0.35
"""The same on the visible part of the cheek in front of the ear up to which hair lies behind that side of the
face, and from which in front of it."""


@dataclass(frozen=True)
class Observation(TensorStruct):
    """The part of the surface that photographs show, in texture space."""

    colour: Float[Tensor, "b 3 s s"]
    """RGB in [0, 1]; meaningless where nothing is visible."""
    visibility: Float[Tensor, "b 1 s s"]
    """How well each texel is visible, [0, 1]."""
    hair: Float[Tensor, "b 1 s s"]
    """Whether each texel shows hair, [0, 1]."""
    unhidden: Float[Tensor, "b 1 s s"]
    """Whether each texel is unoccluded, [0, 1], however grazing the angle."""
    own_only: Float[Tensor, "b 1 s s"]
    """The part of ``unhidden`` that is valid only while the person looks as in the photograph: the inside of
    the mouth, and lips where the photograph shows teeth, while the mouth is as open; in the photograph's own
    view, lids where it shows the eye, hair in front of an ear or cheek that is bare otherwise, and skin at
    the sides of the face, which reflects its surroundings there."""


@dataclass(frozen=True)
class Surface:
    """The surface of a head at a texture size."""

    layout: UVLayout
    completion: Completion


def surface_of(head: HeadModel, size: int) -> Surface:
    """The surface of a head in textures of ``size`` x ``size`` texels, on the head's device."""
    return _surface(head, size, head.template.device)


@lru_cache(maxsize=4)
def _surface(head: HeadModel, size: int, device: torch.device) -> Surface:
    """Cached, because it takes as long as creating an avatar, and most avatars share one head and size."""
    layout = UVLayout(head.faces, head.uvs, head.uv_faces, size).to(device)
    return Surface(layout, Completion(head, layout).to(device))


def build_texture_model(config: TextureConfig, head: HeadModel) -> nn.Module:
    """The module that ``config.source`` names."""
    return DirectTexture(config) if config.source == "direct" else UnprojectedTexture(config, head)


class DirectTexture(nn.Module):
    """ROME's encoder: the network maps the image straight into UV space and learns the unwrapping.

    Source: ROME sec. 3.2, E_tex.
    """

    def __init__(self, config: TextureConfig) -> None:
        super().__init__()
        self.encoder = TextureEncoder(out_channels=config.channels, base_width=config.width)

    def forward(self, source: Frames) -> Float[Tensor, "b c s s"]:
        """Neural texture at the resolution of the image."""
        return self.encoder(torch.cat([source.image, source.foreground_mask], dim=1))


class UnprojectedTexture(nn.Module):
    """The source's pixels mapped to UV space through the mesh and completed by a U-Net.

    The first three channels start as the observed colours, so new faces keep their looks; the network adds
    what the image does not show.

    Departure from ROME, whose encoder has to learn where each pixel belongs, which takes many identities.
    """

    faces: Tensor

    prior_mask: Tensor

    def __init__(self, config: TextureConfig, head: HeadModel) -> None:
        super().__init__()
        if config.channels < 3:
            raise ValueError(
                f"an unprojected texture needs at least 3 channels for the colour, got {config.channels}; "
                "set avatar.texture.channels"
            )
        self.layout = UVLayout(head.faces, head.uvs, head.uv_faces, config.size)
        self.register_buffer("faces", head.faces, persistent=False)
        self.completion = Completion(head, self.layout) if config.mirror else None
        inputs = 8 if config.mirror else 7
        self.network = CompactUNet(inputs, config.channels, config.width, config.num_levels)
        self.prior = (
            nn.Parameter(torch.zeros(1, config.channels, config.size, config.size)) if config.prior else None
        )
        # Skin, hair and clothes differ between people, so only eyes and mouth are shared.
        shared = head.region("eyes", "mouth").float()[None, :, None]
        self.register_buffer("prior_mask", (self.layout.gather(shared) > 0).float(), persistent=False)
        with torch.no_grad():
            # The first three channels start as the unchanged observed colours.
            for parameter in self.network.head.parameters():
                parameter[:3].zero_()

    def observe(
        self,
        source: Frames,
        vertices_px: Float[Tensor, "b v 3"],
        face_ids: Int32[Tensor, "b h w"],
        surface: Surface | None = None,
    ) -> Observation:
        """Observe the surface in each source, at the texture's own size by default; see ``observe``."""
        layout = self.layout if surface is None else surface.layout
        completion = self.completion if surface is None else surface.completion
        return observe(source, vertices_px, self.faces, face_ids, layout, completion)

    def forward(self, seen: Observation) -> Float[Tensor, "b c s s"]:
        """Neural texture of an observation."""
        return self.complete(seen.colour, seen.visibility, seen.hair)

    def complete(
        self,
        colour: Float[Tensor, "b 3 s s"],
        visibility: Float[Tensor, "b 1 s s"],
        hair: Float[Tensor, "b 1 s s"],
    ) -> Float[Tensor, "b c s s"]:
        """Neural texture from the fields of an ``Observation``."""
        completed, change = self._changed(colour, visibility, hair)
        return torch.cat([completed + change[:, :3], change[:, 3:]], dim=1)

    def detailed(self, seen: Observation, fine: Observation, surface: Surface) -> Float[Tensor, "b c s s"]:
        """Neural texture from the colours of a finer observation and the network's upsampled changes.

        Args:
            seen: at the network's size.
            fine: of the same photographs.
            surface: at the size of ``fine``.
        """
        _, change = self._changed(seen.colour, seen.visibility, seen.hair)
        completed, _ = surface.completion(fine.colour, fine.visibility, fine.hair)
        change = F.interpolate(change, completed.shape[-2:], mode="bilinear", align_corners=False)
        return torch.cat([completed + change[:, :3], change[:, 3:]], dim=1)

    def _changed(
        self,
        colour: Float[Tensor, "b 3 s s"],
        visibility: Float[Tensor, "b 1 s s"],
        hair: Float[Tensor, "b 1 s s"],
    ) -> tuple[Float[Tensor, "b 3 s s"], Float[Tensor, "b c s s"]]:
        """Completed colours, and the network's output: changes of the colours, then the other channels."""
        inputs = [colour * visibility]
        if self.completion is None:
            completed = push_pull(colour, visibility)
            inputs += [completed, visibility]
        else:
            completed, known = self.completion(colour, visibility, hair)
            inputs += [completed, visibility, known]
        change = self.network(torch.cat(inputs, dim=1) - 0.5)
        if self.completion is not None:
            # Few photographs show the inside of a mouth: generic colours beat what can be learned from them.
            change = change * (1 - self.completion.is_interior * (1 - visibility))
        if self.prior is not None:
            change = change + self.prior * self.prior_mask * (1 - visibility)
        return completed, change


def observe(
    source: Frames,
    vertices_px: Float[Tensor, "b v 3"],
    faces: Int[Tensor, "f 3"],
    face_ids: Int32[Tensor, "b h w"],
    layout: UVLayout,
    completion: Completion | None = None,
) -> Observation:
    """Observe the surface in images: the colour of each texel, its visibility, and whether it is hair.

    Args:
        source: the identity frames.
        vertices_px: the mesh in each source frame, pixels; receives no gradient.
        faces: triangles of the mesh.
        face_ids: visible face per pixel of each source frame, -1 on the background.
        layout: texels of the texture.
        completion: provides the regions of the texture: a collar behind the chin, hair in front of a cheek
            and teeth are not skin, and the inside of the mouth is valid only for a mouth that is as open.
    """
    # Pixels on the outline contain background, which would smear over the side of the head.
    inner = erode(source.foreground_mask, max(1, round(EROSION * source.image_size[0])))
    labels = [source.region_mask(label) for label in (Region.HAIR, Region.CLOTHES, Region.OTHER)]
    teeth = widened(between_lips(source.landmarks, source.image_size))
    # Landmarks miss the edge of the lips, and a line of teeth would spread over lips that close.
    near_teeth = dilate(teeth, max(1, round(TEETH_EDGE * source.image_size[1])))
    eyes = between_lids(source.landmarks, source.image_size)
    image = torch.cat([source.image, inner, *labels, teeth, near_teeth, eyes], dim=1)
    vertices_px = vertices_px.detach()
    observed, visibility, unhidden = unproject(image, vertices_px, faces, face_ids, layout)
    person = ((observed[:, 3:4] - 0.5) * 2).clamp(0, 1).square()
    hair, clothes, eyewear, teeth, near_teeth, eyes = observed[:, 4:].split(1, dim=1)
    own_only = torch.zeros_like(unhidden)
    if completion is not None:
        not_skin = torch.maximum(completion.is_mouth, completion.bare * teeth)
        # A lid of the mesh that covers some of the iris would take it along when it moves.
        not_lid = completion.lids * eyes
        skin = 1 - completion.bare * clothes.square()
        ears, cheeks = (
            _share_of_hair(part, visibility * person, hair)
            for part in (completion.ears, completion.before_ears)
        )
        over_ears = hair * _on_each(completion.ears, 1 - _between(ears, BARE_EAR, HAIRY_EAR))
        # Hair that hangs in front of an ear stays before the cheek; other hair there lies behind the face.
        bare_cheeks = _on_each(completion.halves, 1 - _between(cheeks, BARE_CHEEK, HAIRY_CHEEK))
        over_cheeks = hair * completion.hairless * bare_cheeks
        visibility = visibility * skin * (1 - over_cheeks) * (1 - over_ears)
        # The arms of spectacles are seen at grazing angles only; below the eyes the label means earrings.
        arms = eyewear * completion.sides * (1 - completion.hairless) * unhidden
        visibility = torch.maximum(visibility, arms)
        visibility = visibility * (1 - torch.stack([not_skin, completion.bare * near_teeth, not_lid]).amax(0))
        # Only a small part of a tooth shows between the lips: all of it is better than generic colours.
        reached = dilate(unhidden, round(MOUTH_REACH * layout.size))
        unhidden = torch.lerp(unhidden * skin, reached, completion.is_interior)
        own_light = completion.own_view_only(visibility * person) * (1 - hair)
        own_only = unhidden * torch.stack([not_skin, not_lid, over_ears, over_cheeks, own_light]).amax(0)
    return Observation(observed[:, :3], visibility * person, hair, unhidden, own_only)


def _share_of_hair(
    parts: Float[Tensor, "2 1 s s"], seen: Float[Tensor, "b 1 s s"], hair: Float[Tensor, "b 1 s s"]
) -> Float[Tensor, "b 2"]:
    """Share of hair on the visible part of each of two parts of the texture.

    Args:
        parts: 1 on the texels of each.
        seen: how well each texel is visible, [0, 1].
        hair: whether it shows hair, [0, 1].
    """
    each = parts.transpose(0, 1)
    return (each * seen * hair).sum((-1, -2)) / (each * seen).sum((-1, -2)).clamp_min(1)


def _between(values: Tensor, low: float, high: float) -> Tensor:
    """0 up to the first limit, 1 from the second, linear between."""
    return ((values - low) / (high - low)).clamp(0, 1)


def _on_each(parts: Float[Tensor, "2 1 s s"], values: Float[Tensor, "b 2"]) -> Float[Tensor, "b 1 s s"]:
    """One value on each of two parts of the texture, 0 elsewhere."""
    return (parts.transpose(0, 1) * values[..., None, None]).sum(1, keepdim=True)
