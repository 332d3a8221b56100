"""The colours of a whole figure: what the photograph shows, and below it a garment that goes with it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from rome_lightning.avatar import Avatar
from rome_lightning.export.body import BodyData, Figure, load_body, with_body
from rome_lightning.export.bust import avatar_cut
from rome_lightning.export.glb import rest_and_joints
from rome_lightning.export.surface import Cut
from rome_lightning.head import HeadModel
from rome_lightning.models.texture import Observation, surface_of
from rome_lightning.renderer import UVLayout, push_pull
from rome_lightning.renderer.pooling import smoothed

BODY_TEXTURE = 1024
"""Side of the body's texture, texels."""
_FADE, _NECKLINE = 0.05, 0.004
"""Height over which the photograph becomes the garment, metres: the same clothes fade, all else ends at a
neckline."""
_SAME_CLOTH = 0.12
"""Difference of colours, RGB in [0, 1], at which clothes still count as the same, by 1 / e."""
_COLLAR = 0.05
"""How far the garment reaches above the photograph's end where no photograph shows the neck, metres."""
_LIT = (0.36, 0.66)
"""Share of the face's texels, from dark to light, between which the hands' colour lies."""
_FADE_OFFSETS = 0.06
"""Height over which the fitted shoulders fade to those of the head model, metres."""
_LARGEST_OFFSET = 0.03
"""How far shoulders and neck may be from the head model's: a body in plain clothes wears no ruff, metres."""
_BESIDE = 0.06
"""Height of the strip above the photograph's end from which the garment's colour is taken, metres."""
_SKIN_LIKE = 0.035
"""Difference of chromaticity at which a colour is half like skin."""
_PLAIN_SHIRT, _PLAIN_TROUSERS, _SHOES = (0.42, 0.46, 0.52), (0.17, 0.18, 0.21), (0.10, 0.10, 0.11)
_DARKEST_CLOTH = 0.07
_ENOUGH = 200
"""Texels of cloth that must be seen for the garment to have their colour, in a texture of 512."""
_HEM_ABOVE_HIPS = 0.02
_HEM, _SOFT = 0.004, 0.003
"""Half width of the line between shirt and trousers, and the softness of its edges, metres."""
_LIGHT = (0.15, 0.65, 0.75)
_DARKEST = 0.72
"""Of the shading that the textures hold, as unlit programs add none."""


@dataclass(frozen=True)
class Dressed:
    """What a figure has in place of the bust's own."""

    offsets: Float[Tensor, "v 3"]
    colour_texture: Float[Tensor, "3 t t"]
    body_texture: Float[Tensor, "3 s s"]


@torch.no_grad()
def dress(avatar: Avatar, texture: Float[Tensor, "3 t t"]) -> Dressed:
    """Offsets and textures for a whole figure.

    Args:
        avatar: the person.
        texture: the bust's complete colours, RGB in [0, 1].
    """
    head, shape = avatar.model.head, avatar.code.shape[0]
    cut, texture = avatar_cut(avatar), texture.cpu()
    offsets = _faded_offsets(head, shape, avatar.rest_mesh().offsets[0].cpu(), cut)
    rest, joints = rest_and_joints(head, shape, offsets)
    figure = with_body(head, shape, rest, joints)
    layout = surface_of(head, texture.shape[-1]).layout
    on_body = _body_region(head)
    fields = torch.cat(
        [cut.above(rest)[:, None], on_body[:, None].float(), _shade(figure.head_hanging_normals)], 1
    )
    height, body, shade = layout.gather(fields[None].to(layout.texels.device))[0].cpu()
    skin = _skin_colour(head, layout, texture)
    likeness = _skin_likeness(texture, skin)
    seen = avatar.observed_texture(texture.shape[-1])
    shirt = _cloth_colour(seen, height, body, likeness)
    garment = shirt[:, None, None] * shade
    same = _blurred((-((texture - garment).norm(dim=0) / _SAME_CLOTH).square()).exp())
    fade = torch.lerp(torch.tensor(_NECKLINE), torch.tensor(_FADE), same)
    # Nothing but a guess would be seen of the nape.
    unseen = _smooth_step(2 * _blurred(1 - seen.visibility[0, 0].cpu()) - 0.5)
    shown = torch.where(body > 0.5, _smooth_step((height - _COLLAR * unseen) / fade), 1.0)
    whole = torch.lerp(garment, texture, shown)
    # Bilinear lookups at the border of a chart reach beyond it.
    whole = push_pull(whole[None], layout.mask[None, None].float().cpu().expand(1, 1, -1, -1))[0]
    hands = _lit_skin(head, layout, texture, seen)
    return Dressed(offsets, whole, _body_texture(load_body(), figure, shirt, hands))


def _body_region(head: HeadModel) -> Tensor:
    return head.region("neck", "shoulders").cpu()


def _faded_offsets(head: HeadModel, shape: Tensor, offsets: Tensor, cut: Cut) -> Float[Tensor, "v 3"]:
    """Below the photograph nothing held the fit of the shoulders, and above it hair may hang on them."""
    bare, _ = rest_and_joints(head, shape, None)
    height = torch.minimum(cut.above(bare), cut.above(bare + offsets))
    kept = _smooth_step(height / _FADE_OFFSETS)[:, None]
    kept = kept / (1 + (offsets.norm(dim=1, keepdim=True) / _LARGEST_OFFSET).square()).sqrt()
    return torch.where(_body_region(head)[:, None], offsets * kept, offsets)


def _shade(normals: Float[Tensor, "n 3"]) -> Float[Tensor, "n 1"]:
    """Light from above and ahead, [0, 1]."""
    light = F.normalize(torch.tensor(_LIGHT), dim=0)
    return _DARKEST + (1 - _DARKEST) * (0.5 + 0.5 * normals.float() @ light)[:, None]


def _skin_colour(head: HeadModel, layout: UVLayout, texture: Tensor) -> Float[Tensor, 3]:
    face = layout.gather(head.region("face").float()[None, :, None])[0, 0].cpu() > 0.9
    return texture[:, face].median(1).values


def _lit_skin(head: HeadModel, layout: UVLayout, texture: Tensor, seen: Observation) -> Float[Tensor, 3]:
    """Of the face as the photograph shows it, without its shadows, brows and beard."""
    face = layout.gather(head.region("face").float()[None, :, None])[0, 0].cpu() > 0.9
    visible = seen.visibility[0, 0].cpu() > 0.5
    colours = texture[:, face & visible if bool((face & visible).any()) else face]
    order = colours.mean(0).argsort()
    first, last = (round(share * (len(order) - 1)) for share in _LIT)
    return colours[:, order[first : last + 1]].mean(1)


def _skin_likeness(texture: Tensor, skin: Tensor) -> Float[Tensor, "t t"]:
    """Whether colours are of the skin's hue and not much darker, [0, 1]."""
    chroma = texture / texture.sum(0, keepdim=True).clamp_min(0.05)
    away = (chroma - (skin / skin.sum().clamp_min(0.05))[:, None, None]).norm(dim=0)
    bright = (texture.mean(0) / skin.mean().clamp_min(0.05)).clamp(0, 1)
    return _blurred(_smooth_step(2 - away / _SKIN_LIKE) * _smooth_step((bright - 0.35) / 0.3))


def _blurred(values: Float[Tensor, "t t"]) -> Float[Tensor, "t t"]:
    """Without single texels."""
    return smoothed(values[None, None], len(values) // 64)[0, 0]


def _cloth_colour(seen: Observation, height: Tensor, body: Tensor, likeness: Tensor) -> Float[Tensor, 3]:
    """The photograph's clothes just above its end; a plain colour where it shows none."""
    visible = seen.visibility[0, 0].cpu() > 0.5
    hairless = seen.hair[0, 0].cpu() < 0.5
    cloth = visible & hairless & (body > 0.9) & (height > 0) & (height < _BESIDE) & (likeness < 0.5)
    if int(cloth.sum()) < _ENOUGH * (len(height) / 512) ** 2:
        return torch.tensor(_PLAIN_SHIRT)
    colour = seen.colour[0].cpu()[:, cloth].median(1).values
    # Without this a black garment would show no form.
    return _DARKEST_CLOTH + (1 - _DARKEST_CLOTH) * colour


def _body_texture(body: BodyData, figure: Figure, shirt: Tensor, skin: Tensor) -> Float[Tensor, "3 s s"]:
    """Shirt, trousers and shoes in one colour each, and hands."""
    layout = UVLayout(body.faces, body.uvs, body.uv_faces, BODY_TEXTURE)
    arms = torch.tensor([any(part in bone.name for part in ("Arm", "Hand")) for bone in figure.bones])
    fields = torch.cat(
        [
            figure.hanging[:, 1:2],
            figure.weights[:, arms].sum(1, keepdim=True),
            _shade(figure.hanging_normals),
        ],
        1,
    )
    height, arm, shade = layout.gather(fields[None])[0]
    hips = next(bone.place[1] for bone in figure.bones if bone.name == "hips")
    hem = height - hips - _HEM_ABOVE_HIPS
    trousers = torch.lerp(torch.tensor(_PLAIN_TROUSERS), 0.4 * shirt, 0.3)
    # Edges of one or two texels.
    is_trousers = torch.where(arm < 0.5, _smooth_step(0.5 - hem / _SOFT), 0.0)
    colours = torch.lerp(shirt[:, None, None], trousers[:, None, None], is_trousers)
    is_line = _smooth_step((_HEM - hem.abs()) / _SOFT + 0.5)
    colours = colours * (1 - 0.3 * torch.where(arm < 0.5, is_line, 0.0))
    faces = layout.face_ids[0].long().clamp_min(0)
    on_hands, on_feet = (part[body.faces].all(1)[faces] for part in (body.hands, body.feet))
    # On the whole as light as the face, whose colour has the photograph's own light.
    hands = skin[:, None, None] / shade[on_hands & layout.mask].mean()
    colours = torch.where(on_hands, hands, colours)
    colours = torch.where(on_feet, torch.tensor(_SHOES)[:, None, None], colours)
    return push_pull((colours * shade)[None], layout.mask[None, None].float())[0].clamp(0, 1)


def _smooth_step(values: Tensor) -> Tensor:
    ramp = values.clamp(0, 1)
    return ramp * ramp * (3 - 2 * ramp)
