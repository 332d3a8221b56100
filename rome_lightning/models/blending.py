"""Blend the carried photograph, the texture and the network's corrections into one image."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.nn import functional as F

from rome_lightning.models.carrying import CARRIED_HAIR, DEPTH, IN_MOUTH, OWN_VIEW, TORN, VISIBILITY
from rome_lightning.models.photo_canvas import BESIDE, KNOWN, LOOSE, MATTE, RGB
from rome_lightning.renderer import push_pull
from rome_lightning.renderer.morphology import dilate, erode, opened
from rome_lightning.renderer.pooling import enlarged, halved, smoothed

NUM_NETWORK_LAYERS = 8
"""Channels of the carried photographs that the network receives: all up to the visibility."""
NUM_CORRECTIONS = 5
"""Outputs of the network: three for colour, one for the choice of source, one for the matte."""
SURE = 0.98
"""Largest share of either source before the network corrects it, so that the logit is finite."""
OPAQUE = 0.995
"""Largest opacity before the correction, likewise."""
GAIN = 4.0
"""Logits per unit of the network's output."""
UNSEEN_BOUND = 1.5
"""Largest change of the logits of choice and matte where the mesh shows a point that no photograph shows: it
stays opaque, and the photograph, which shows something else there, is not used."""
SEEN_BOUND = 6.0
"""The same where a photograph shows the point: its matte decides."""
BESIDE_BOUND = 2.0
"""Largest increase of the matte's logit beside the mesh: it may add hair, but no second outline of a face."""
GAP = 0.025
"""Half the width of the gaps beside hair that are filled with hair, in image widths."""
HOLE = 0.02
"""Half the width of holes in a turned mesh that are closed, in image widths."""
RIM = 0.008
"""Width of the mesh's outline, image widths."""
STEP = 0.006
"""Half the width of the square in which the mesh's outline counts as straight, image widths."""
JUMP = 0.02
"""Difference in depth between neighbouring pixels up to which they show one surface, image widths; from half
as much again they show two."""
FAR = 1e3
"""Deeper than any mesh, image widths."""
SLIVER = 0.006
"""Half the width of strips treated as artefacts, image widths."""
THIN = 0.2
"""Share of seen pixels around a thin strip from which it takes their colour."""
NECK_GAP = 0.014
"""The same of gaps, as between a jaw and the neck that it hid in the photograph."""
SHADOW, SHADOW_REACH = 0.2, 0.012
"""Light that lips take from teeth beside them, and how far their shadow reaches, image widths."""
REPEATED, APART = 0.008, 0.03
"""How much nearer to and farther from the source's mesh than the driven mesh a carried pixel may have been,
image widths: pixels from inside the mesh would repeat the face beside it."""
HANGING = 0.06
"""The same for hair that hangs over neck and shoulders."""


def blend(
    corrections: Float[Tensor, "b 5 h w"] | None,
    texture: Float[Tensor, "b 3 h w"],
    layers: Float[Tensor, "b 13 h w"],
    mesh_mask: Bool[Tensor, "b 1 h w"],
    distance: Float[Tensor, "b 1 h w"],
) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b 1 h w"]]:
    """Colour (not limited to [0, 1]) and opacity of an image.

    Without corrections the image is already usable: the photograph where it shows the point, else the
    completed texture; the photograph's matte where it shows the point, else opaque on the mesh.

    Args:
        corrections: outputs of the network.
        texture: colour of the texture at each pixel, extended beyond the mesh.
        layers: carried photographs, see ``carry``.
        mesh_mask: pixels whose centre the mesh covers.
        distance: to the mesh, image widths.
    """
    shown = share_of_photo(layers, mesh_mask)
    choice = shown.clamp(1 - SURE, SURE)
    if corrections is not None:
        bound = torch.lerp(torch.full_like(shown, UNSEEN_BOUND), torch.full_like(shown, SEEN_BOUND), shown)
        preference, change = (GAIN * corrections[:, 3:]).split(1, dim=1)
        choice = torch.sigmoid(torch.logit(choice) + _bounded(preference, bound))
    rgb = torch.lerp(texture, layers[:, RGB], choice)
    if corrections is not None:
        rgb = rgb + corrections[:, :3]
    # The matte does not soften the edges of teeth and tongue.
    smooth = smoothed(rgb)
    generic = layers[:, IN_MOUTH] * (1 - choice)
    rgb = torch.lerp(rgb, smooth, generic) * (1 - generic * lip_shadow(layers[:, IN_MOUTH]))
    # Beyond the border of the photograph there is only the mesh.
    on_mesh = torch.lerp(torch.ones_like(shown), layers[:, MATTE], layers[:, KNOWN])
    # Hair that hangs over neck and shoulders may leave the mesh: it is part of neither.
    near = same_side(layers[:, BESIDE], distance, HANGING, HANGING)
    loose = torch.maximum(same_side(layers[:, BESIDE], distance), layers[:, LOOSE] * near)
    beside = layers[:, MATTE] * layers[:, KNOWN] * loose
    # The outline is seen at grazing angles: without the photograph's matte a line of background remains.
    prior = torch.where(_inner(mesh_mask), on_mesh, beside)
    # In the photograph's own view every gap is real.
    turned = 1 - layers[:, OWN_VIEW]
    prior = prior + holes(prior.detach()) * mesh_mask * turned
    hair = (layers[:, CARRIED_HAIR] * torch.where(mesh_mask, shown, beside)).detach()
    gaps = hair_gaps(torch.where(mesh_mask, 1.0, prior.detach()), hair)
    gap = gaps * ~mesh_mask * turned
    prior = prior + (1 - prior) * gap
    rgb = torch.lerp(rgb, _hair_colour(layers[:, RGB], hair), gap)
    rgb = without_thin_fills(rgb, shown, layers[:, IN_MOUTH], mesh_mask)
    rgb = soft_contours(rgb, layers[:, DEPTH], mesh_mask, layers[:, TORN])
    # No gradient flows through it: rounding decides which of two nearly equal pixels is larger.
    opacity = prior + (without_slivers(prior, shown, mesh_mask) - prior).detach()
    opacity = opacity.clamp(1 - OPAQUE, OPAQUE)
    if corrections is not None:
        beside_mesh = _bounded(change.clamp_min(0), BESIDE_BOUND) + change.clamp_max(0)
        change = torch.where(mesh_mask, _bounded(change, bound), beside_mesh * (1 - gap))
        opacity = torch.sigmoid(torch.logit(opacity) + change)
    # After the corrections, which would sharpen it again.
    drawn = soft_edges(opacity, mesh_mask, layers[:, OWN_VIEW])
    return rgb, opacity + (drawn - opacity).detach()


def lip_shadow(in_mouth: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
    """Share of the light that lips take from what is close behind them: teeth between narrow lips are dark.

    Args:
        in_mouth: 1 inside the mouth.
    """
    # Half of the square around a pixel at a straight edge is inside, all of it far from the lips.
    inside = smoothed(in_mouth, max(1, round(SHADOW_REACH * int(in_mouth.shape[-1]))))
    return SHADOW * (2 - 2 * inside).clamp_max(1)


def holes(opacity: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
    """How much opacity each pixel lacks compared to what surrounds it closely.

    Where a mesh is larger than the person, the photograph shows background: beside other parts of the mesh
    that is a hole.
    """
    coarse = _halved(opacity)
    reach = max(1, round(HOLE * int(coarse.shape[-1])))
    closed = erode(dilate(coarse, reach), reach)
    return (enlarged(closed, opacity.shape[-2:]) - opacity).clamp_min(0)


def hair_gaps(opacity: Float[Tensor, "b 1 h w"], hair: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
    """Whether each pixel lies in a narrow gap beside hair, [0, 1].

    A jaw that turns away uncovers hair that it hid in the photograph.

    Args:
        opacity: of each pixel, [0, 1].
        hair: the part that is hair.
    """
    # The result is smooth, so half the resolution is enough.
    coarse, coarse_hair = _halved(torch.cat([opacity, hair], dim=1)).split(1, dim=1)
    reach = max(1, round(GAP * int(coarse.shape[-1])))
    # The border is no hair: between it and a crown below it there is no gap.
    wide = F.pad(coarse, (reach, reach, reach, reach), mode="replicate")
    closed = erode(dilate(wide, reach), reach)[..., reach:-reach, reach:-reach]
    gaps = (closed - coarse).clamp_min(0) * dilate(coarse_hair, reach)
    # Closing with squares leaves corners.
    gaps = smoothed(gaps, reach // 2)
    return enlarged(gaps, opacity.shape[-2:])


def _hair_colour(rgb: Float[Tensor, "b 3 h w"], hair: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 3 h w"]:
    """The colour of hair, extended smoothly beyond it."""
    sums, weight = _halved(torch.cat([rgb * hair, hair], dim=1)).split([3, 1], dim=1)
    filled = push_pull(sums / weight.clamp_min(1e-6), weight.clamp(0, 1))
    return enlarged(filled, rgb.shape[-2:])


def _halved(image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
    """The image at half its size; odd sizes are rounded up."""
    height, width = (int(side) for side in image.shape[-2:])
    if height % 2 or width % 2:
        image = F.pad(image, (0, width % 2, 0, height % 2), mode="replicate")
    return halved(image)


def without_slivers(
    opacity: Float[Tensor, "b 1 h w"], shown: Float[Tensor, "b 1 h w"], mesh_mask: Bool[Tensor, "b 1 h w"]
) -> Float[Tensor, "b 1 h w"]:
    """Remove thin lines of opacity between parts of the mesh that the photographs show and parts they do not.

    A thin strip that no photograph shows, next to mesh that is transparent by the matte, becomes transparent
    too; a thin gap next to mesh that no photograph shows is an artefact of the outline and is closed.

    Args:
        opacity: of each pixel, [0, 1].
        shown: how well the photographs show each pixel, [0, 1].
        mesh_mask: pixels whose centre the mesh covers.
    """
    reach = max(1, round(SLIVER * int(opacity.shape[-1])))
    mesh = mesh_mask.to(opacity.dtype)
    unseen = mesh * (1 - shown)
    wide = opened(unseen, reach)
    flank = 1 - dilate((1 - opacity) * mesh * shown, reach + 1)
    opacity = torch.lerp(opacity, torch.minimum(opacity, flank), unseen - wide)
    opacity = opacity - (opacity - opened(opacity, reach)) * mesh * dilate(unseen - wide, reach)
    clear = 1 - opacity
    reach = max(1, round(NECK_GAP * int(opacity.shape[-1])))
    gap = (clear - opened(clear, reach)) * mesh * dilate(wide, 2 * reach)
    return opacity + gap


def without_thin_fills(
    rgb: Float[Tensor, "b 3 h w"],
    shown: Float[Tensor, "b 1 h w"],
    in_mouth: Float[Tensor, "b 1 h w"],
    mesh_mask: Bool[Tensor, "b 1 h w"],
) -> Float[Tensor, "b 3 h w"]:
    """Give thin strips that no photograph shows, such as the rims of eyelids, the colours beside them.

    Args:
        rgb: of each pixel.
        shown: how well the photographs show each pixel, [0, 1].
        in_mouth: 1 inside the mouth, where the line between closed lips is not filled.
        mesh_mask: pixels whose centre the mesh covers.
    """
    reach = max(1, round(SLIVER * int(rgb.shape[-1])))
    unseen = (mesh_mask * (1 - shown) * (1 - in_mouth)).detach()
    thin = unseen - opened(unseen, reach)
    seen = shown * mesh_mask * (1 - in_mouth)
    sums, total = smoothed(torch.cat([rgb * seen, seen], dim=1), reach).split([3, 1], dim=1)
    return torch.lerp(rgb, sums / total.clamp_min(1e-3), thin * (total / THIN).clamp_max(1))


def soft_edges(
    opacity: Float[Tensor, "b 1 h w"],
    mesh_mask: Bool[Tensor, "b 1 h w"],
    own_view: Float[Tensor, "b 1 h w"],
) -> Float[Tensor, "b 1 h w"]:
    """Soften the mesh's outline to a width of two pixels, as in a photograph, without stairs.

    A slanted outline becomes as smooth as if its pixels were covered in parts.

    Args:
        opacity: of each pixel, [0, 1].
        mesh_mask: pixels whose centre the mesh covers.
        own_view: 1 where a photograph's matte draws the outline, which needs no softening.
    """
    mesh = mesh_mask.to(opacity.dtype)
    share = _coverage(mesh)
    values = torch.cat([opacity * mesh, mesh, opacity], dim=1)
    inside, covered, total = smoothed(values).split(1, dim=1)
    outside = (total - inside) / (1 - covered).clamp_min(1e-3)
    soft = torch.lerp(outside, inside / covered.clamp_min(1e-3), share)
    # Comparisons and ``where`` take several times as long.
    at_edge = (share * (1 - share) * covered * (1 - covered)).sign()
    return torch.lerp(opacity, soft, at_edge * (1 - own_view))


def soft_contours(
    rgb: Float[Tensor, "b 3 h w"],
    depth: Float[Tensor, "b 1 h w"],
    mesh_mask: Bool[Tensor, "b 1 h w"],
    torn: Float[Tensor, "b 1 h w"],
) -> Float[Tensor, "b 3 h w"]:
    """Soften contours inside the mesh, as of a jaw before the neck, like ``soft_edges`` the outlines.

    Args:
        rgb: of each pixel.
        depth: of the mesh, image widths; larger is farther.
        mesh_mask: pixels whose centre the mesh covers.
        torn: 0 where a photograph draws the contour, which then needs no softening.
    """
    reach = _step(mesh_mask)
    depth = depth.detach()
    far, near = torch.where(mesh_mask, depth, -FAR), torch.where(mesh_mask, depth, FAR)
    # A ramp: rounding must not decide about a whole pixel.
    jumps = (2 * (dilate(far, 1) - erode(near, 1)) / JUMP - 2).clamp(0, 1)
    # Pixels within reach of one at the contour can still see both surfaces.
    middle = (dilate(far, reach + 1) + erode(near, reach + 1)) / 2
    mesh = mesh_mask.to(rgb.dtype)
    front = (depth < middle).to(rgb.dtype) * mesh
    share = _coverage(front)
    before, covered, total, whole = smoothed(torch.cat([rgb * front, front, rgb * mesh, mesh], dim=1)).split(
        [3, 1, 3, 1], dim=1
    )
    behind = (total - before) / (whole - covered).clamp_min(1e-3)
    soft = torch.lerp(behind, before / covered.clamp_min(1e-3), share)
    at_edge = (covered * (whole - covered)).sign() * jumps * mesh
    return torch.lerp(rgb, soft, at_edge * torn)


def _coverage(inside: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
    """Share of each pixel inside an edge that is straight within ``STEP``, as if drawn two pixels wide."""
    reach = _step(inside)
    # Half of the square is covered where the edge passes.
    return ((smoothed(inside, reach) - 0.5) * (2 * reach + 1) / 2 + 0.5).clamp(0, 1)


def _step(image: Shaped[Tensor, "b 1 h w"]) -> int:
    """``STEP`` in pixels."""
    return max(1, round(STEP * int(image.shape[-1])))


def _bounded(logits: Float[Tensor, "b 1 h w"], bound: Tensor | float) -> Float[Tensor, "b 1 h w"]:
    """Soft clamp: small values are kept, large ones approach ``bound`` in magnitude."""
    return bound * (logits / bound).tanh()


def _inner(mesh_mask: Bool[Tensor, "b 1 h w"]) -> Bool[Tensor, "b 1 h w"]:
    """The mesh without its outline."""
    reach = max(1, round(RIM * int(mesh_mask.shape[-1])))
    return dilate((~mesh_mask).float(), reach) < 0.5


def share_of_photo(
    layers: Float[Tensor, "b 13 h w"], mesh_mask: Bool[Tensor, "b 1 h w"]
) -> Float[Tensor, "b 1 h w"]:
    """Share of the photograph in each pixel before the network corrects it, [0, 1]."""
    return torch.where(mesh_mask, layers[:, VISIBILITY], 1.0) * layers[:, KNOWN]


def same_side(
    beside: Float[Tensor, "b 1 h w"],
    distance: Float[Tensor, "b 1 h w"],
    repeated: float = REPEATED,
    apart: float = APART,
) -> Float[Tensor, "b 1 h w"]:
    """1 where a carried pixel was as far from the source's mesh as it is from the driven one, else less."""
    width = repeated if repeated == apart else torch.where(beside < distance, repeated, apart)
    return torch.exp(-(((beside - distance) / width).square()))
