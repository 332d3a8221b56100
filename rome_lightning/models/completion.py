"""Complete the hidden parts of a head's texture: from the other side, then from their surroundings."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from rome_lightning.head import HeadModel
from rome_lightning.head.depth import around_eyes, lower_face
from rome_lightning.models.fine_structure import (
    cheek_squares,
    fine_structure,
    quadratic_axes,
    repeated_detail,
    smooth_map,
    spot_noise,
    without_trend,
)
from rome_lightning.models.interior import interior_colours
from rome_lightning.models.seams import Seams
from rome_lightning.models.symmetry import mirrored_uvs
from rome_lightning.renderer import UVLayout, push_pull, sample_texture
from rome_lightning.renderer.morphology import dilate, erode
from rome_lightning.renderer.pooling import halved, smoothed

FILL_REGIONS = (("face",), ("ears",), ("scalp",), ("neck",), ("shoulders",))
"""Regions filled from themselves: hair from hair, skin from skin, cloth from cloth."""
FACE, EARS, SCALP, NECK, SHOULDERS, NAPE = range(6)
"""Their indices, and that of the nape, the scalp below the ears, which is filled from face or hair."""
FACE_COLOUR = (0.68, 0.50, 0.42)
"""Mean colour of a face for which the generic colours of eyes and mouth are right."""
TINT = 0.57
"""Power of the ratio of a face's colour to that one by which they change. Both are fitted to the teeth of 516
portraits: light colours teeth as it does skin, but dark skin does not darken teeth as much."""
STRAND_REACH = 0.1
"""Width of the band beside the hidden scalp whose strands are repeated on it, share of the texture."""
STRAND_CONTRAST, SKIN_CONTRAST = 0.2, 0.06
"""Deviation from the smooth colour of which hair and skin repeat only 1 / e: gloss, moles and spectacles must
not appear twice."""
LEAST_LIGHT = 0.1
"""Least ratio of the colours."""
FACE_SPREAD = 0.06
"""Mean spread of a face's three channels above which a photograph counts as colour."""
ASYMMETRY = 0.10
"""Difference between both sides, RGB in [0, 1], at which the weight of the other side is 1 / e."""
COLLAR_SHIFT = 0.02
"""Half the width of the square over which both sides of a neck are averaged, twice, before they are compared,
share of the texture: a collar that sits a little higher on one side is the same collar."""
MAX_LOG_GAIN = 0.7
"""Bound on the log correction of the other side's exposure and colour."""
ENOUGH = 0.2
"""Visibility above which a texel is not filled."""
ENOUGH_UPPER, ENOUGH_LOWER = 0.45, 0.7
"""The same on the face down to the eyes and below them: the outline of a cheek is mostly shadow, light from
behind and strands of hair."""
COLLAR_EDGE = 0.3
"""Width of the edge between bare skin and collar, in shares of the distance between what is known of both."""
MIDDLE = 0.03
"""Distance from the plane between both sides of the head at which the fill of a side is its own, metres."""
SIDES = (0.045, 0.06)
"""Distance from that plane up to which a face is seen well, and from which its outline may be, metres."""
SHEEN = (0.03, 0.045)
"""Distance from that plane up to which skin has its own hue, and from which a photograph mostly shows what it
reflects, metres."""
OFF_EYES = (0.008, 0.018)
"""Distance from the eyes up to which the photograph is better than the texture whatever it reflects, and from
which it is not, metres."""
MAX_SHEEN = 0.05
"""Bound on the change of the logarithm of the hue: a beard differs more."""
OUTLINE_REACH = 0.05
"""Half the width of the window that measures how far inside a texel is, share of the texture; it is applied
twice."""
AT_OUTLINE = 0.02
"""Weight at the outline of a face, relative to that inside, with which its colour is extended."""
LIGHTNESS, UNUSUAL = 0.4, 0.05
"""Difference of the logarithm of the lightness at which that weight is 1 / e, and its least value."""
CELLS, SKIN_CELLS, HUE_CELLS = 32, 64, 8
"""Cells across the maps of gain and symmetry, too coarse to follow single strands of hair; across the smooth
colour of skin, which leaves folds in it; and across the hue of a face, in which lips must not count."""
LEAST_SEEN = 3e-4
"""Visible share of the texture at which half of a region's fill comes from the region itself."""


class Completion(nn.Module):
    """Complete observed colours by symmetry and by region.

    Hidden texels take the colour of their mirror image, relit for their own side: the ratio of both sides,
    where both are visible, is extended smoothly over the hidden side, so that no seam forms at the border.
    Their weight depends on how symmetric the visible part of their surroundings is: a parting, an earring or
    a logo is not repeated. What neither side shows is filled from the same region.

    Departure from ROME, whose networks have to invent the hidden side.
    """

    mirror: Tensor
    regions: Tensor
    charts: Tensor

    interior: Tensor
    is_interior: Tensor
    is_mouth: Tensor
    enough: Tensor
    hairless: Tensor
    lids: Tensor
    ears: Tensor
    halves: Tensor
    before_ears: Tensor
    sides: Tensor
    middle: Tensor
    sheen: Tensor
    own_hue: Tensor
    cheeks: Tensor
    trends: Tensor
    noise: Tensor

    def __init__(self, head: HeadModel, layout: UVLayout) -> None:
        super().__init__()
        mean = head.to_vertices(head.template.unflatten(0, (-1, 3)))[None]
        colours = interior_colours(head, layout, layout.gather(mean)[0])[None]
        inside = layout.gather(head.region("eyes", "mouth").float()[None, :, None])
        self.register_buffer("interior", colours, persistent=False)
        self.register_buffer("is_interior", (inside > 0.5).float(), persistent=False)
        mouth = layout.gather(head.region("mouth").float()[None, :, None])
        self.register_buffer("is_mouth", (mouth > 0.5).float(), persistent=False)
        self.register_buffer("mirror", mirrored_uvs(head, layout), persistent=False)
        weights = [layout.gather(region.float()[None, :, None]) for region in _fill_regions(head, mean[0])]
        self.register_buffer("regions", torch.cat(weights), persistent=False)
        faces = torch.stack([head.region("face"), lower_face(head)], dim=-1).float()
        face, lower = layout.gather(faces[None]).split(1, dim=1)
        enough = ENOUGH * (1 - face) + ENOUGH_UPPER * (face - lower) + ENOUGH_LOWER * lower
        self.register_buffer("enough", enough, persistent=False)
        self.register_buffer("hairless", lower, persistent=False)
        lids = layout.gather(around_eyes(head).float()[None, :, None])
        self.register_buffer("lids", lids, persistent=False)
        left = mean[0, :, 0] > 0
        ears = torch.stack([head.region("ears") & left, head.region("ears") & ~left], dim=-1)
        self.register_buffer("ears", layout.gather(ears[None].float()).transpose(0, 1), persistent=False)
        x, y = layout.gather(mean[..., :2]).split(1, dim=1)
        halves = torch.cat([x > 0, x <= 0]).float()
        self.register_buffer("halves", halves, persistent=False)
        before_ears = lower * (x.abs() > SIDES[1]) * (y > mean[:, head.region("ears"), 1].min())
        self.register_buffer("before_ears", before_ears * halves, persistent=False)
        off_side = ((layout.gather(mean[..., :1]).abs() - SIDES[0]) / (SIDES[1] - SIDES[0])).clamp(0, 1)
        self.register_buffer("sides", off_side * face, persistent=False)
        aside = ((layout.gather(mean[..., :1]).abs() - SHEEN[0]) / (SHEEN[1] - SHEEN[0])).clamp(0, 1)
        from_eyes = torch.cdist(mean, mean[:, head.region("eyes")]).amin(-1, keepdim=True)
        off_eyes = ((layout.gather(from_eyes) - OFF_EYES[0]) / (OFF_EYES[1] - OFF_EYES[0])).clamp(0, 1)
        self.register_buffer("sheen", aside * face * off_eyes, persistent=False)
        self.register_buffer("own_hue", (1 - 2 * aside).clamp_min(0) * face, persistent=False)
        off_middle = layout.gather(mean[..., :1]) / MIDDLE
        self.register_buffer("middle", torch.exp(-off_middle.square()), persistent=False)
        cheeks = cheek_squares(layout.gather(mean)[0], face[0, 0])
        self.register_buffer("cheeks", cheeks, persistent=False)
        self.register_buffer("trends", quadratic_axes(cheeks.shape[-1]), persistent=False)
        tile = max(2, layout.size // 4)
        noise = torch.randn(1, 1, tile, tile, generator=torch.Generator().manual_seed(0))
        self.register_buffer("noise", noise, persistent=False)
        self.register_buffer("charts", layout.mask[None, None].float(), persistent=False)
        self.seams = Seams(head, layout)

    def own_view_only(self, visibility: Float[Tensor, "b 1 s s"]) -> Float[Tensor, "b 1 s s"]:
        """The part of the face whose light depends on the view: its outline and its sides, [0, 1].

        Args:
            visibility: of each texel, [0, 1].
        """
        return torch.maximum(1 - self.inner_face(visibility), self.sheen)

    @property
    def bare(self) -> Float[Tensor, "1 1 s s"]:
        """1 on texels of face and ears, which clothes never cover."""
        return self.regions[[FACE, EARS]].sum(0, keepdim=True)

    def forward(
        self,
        colour: Float[Tensor, "b 3 s s"],
        visibility: Float[Tensor, "b 1 s s"],
        hair: Float[Tensor, "b 1 s s"],
    ) -> tuple[Float[Tensor, "b 3 s s"], Float[Tensor, "b 1 s s"]]:
        """The completed colours, and how well each texel is known from either side, [0, 1].

        Args:
            colour: RGB in [0, 1]; ignored where the visibility is 0.
            visibility: of each texel, [0, 1].
            hair: whether the photograph shows hair there, [0, 1].
        """
        other, other_hair, seen = self.other_side(colour, hair, visibility)
        hidden = (1 - visibility) * seen
        known = visibility + hidden
        either = torch.cat([colour, hair], 1) * visibility + torch.cat([other, other_hair], 1) * hidden
        mixed, hairy = (either / known.clamp_min(1e-6)).clamp(0, 1).split([3, 1], dim=1)
        inner = self.inner_face(known)
        filled = self.fill(mixed, known, hairy * known, inner)
        mixed = self._relit(mixed, filled, known, (1 - inner) * (1 - hairy))
        mixed = self._without_sheen(mixed, known, inner, 1 - hairy)
        # A view at a grazing angle is better than a guess.
        completed = torch.lerp(filled, mixed, (known / self.enough).clamp_max(1))
        charts = self.charts.expand_as(known)
        sums, weight = smoothed(torch.cat([completed * charts, charts], dim=1)).split([3, 1], dim=1)
        smooth = sums / weight.clamp_min(1e-3)
        # A texel of the neck is several pixels wide: enlarged, the slanted edge of a collar would be a comb.
        completed = torch.lerp(completed, smooth, self.regions[NECK] * (1 - visibility))
        completed = self.seams(completed, smooth, visibility, known)
        # Bilinear lookups at the border of a UV chart reach beyond it.
        return push_pull(completed, charts), known

    def other_side(
        self,
        colour: Float[Tensor, "b 3 s s"],
        hair: Float[Tensor, "b 1 s s"],
        visibility: Float[Tensor, "b 1 s s"],
    ) -> tuple[Float[Tensor, "b 3 s s"], Float[Tensor, "b 1 s s"], Float[Tensor, "b 1 s s"]]:
        """Colours of the mirrored texels, relit for this side, whether they are hair, and their weight."""
        # Weighted, so that charts do not bleed at their borders.
        observed = torch.cat([colour * visibility, hair * visibility, visibility], dim=1)
        sampled = sample_texture(observed, self.mirror.expand(len(colour), -1, -1, -1))
        seen = sampled[:, 4:]
        other, other_hair = (sampled[:, :4] / seen.clamp_min(1e-4)).split([3, 1], dim=1)
        both = (visibility * seen).square()
        ratio = _log_ratio(colour, other)
        neck = self.regions[[NECK, NAPE]].sum(0, keepdim=True)
        weight = both * neck
        reach = max(1, round(COLLAR_SHIFT * colour.shape[-1]))
        sums = smoothed(smoothed(torch.cat([colour * weight, other * weight, weight], dim=1), reach), reach)
        means = (sums[:, :6] / sums[:, 6:].clamp_min(1e-3)).split(3, dim=1)
        # A neck is in shadow below the ear, and collars that do not meet compare skin with cloth.
        ratio = torch.lerp(ratio, _log_ratio(*means).clamp_max(0), neck)
        gain = smooth_map(ratio, both, CELLS).exp()
        other = (other * gain).clamp(0, 1)
        # Without a texel visible on both sides, nothing is known of the person's symmetry.
        doubt = smooth_map((colour - other).abs().mean(1, keepdim=True), both, CELLS)
        difference = (means[0] - means[1] * gain).abs().mean(1, keepdim=True)
        doubt = torch.lerp(doubt, torch.minimum(doubt, smooth_map(difference, weight, CELLS)), neck)
        return other, other_hair, seen * torch.exp(-((doubt / ASYMMETRY).square()))

    def inner_face(self, known: Float[Tensor, "b 1 s s"]) -> Float[Tensor, "b 1 s s"]:
        """1 well inside the known part of the face, 0 at its outline on the sides of the head.

        At the outline of a photograph skin is in shadow, or lit from behind.
        """
        coarse = halved(known * self.bare)
        reach = max(1, round(OUTLINE_REACH * coarse.shape[-1]))
        # Without the holes of eyes and mouth.
        closed = erode(dilate(coarse, reach // 2), reach // 2)
        share = smoothed(smoothed(closed, reach), reach)
        whole = smoothed(smoothed(halved(self.bare), reach), reach)
        inner = ((share / whole.clamp_min(1e-3) - 0.5) * 2.5).clamp(0, 1)
        inner = F.interpolate(inner, size=known.shape[-2:], mode="bilinear", align_corners=False)
        return torch.lerp(torch.ones_like(inner), inner, self.sides)

    def _relit(
        self,
        colour: Float[Tensor, "b 3 s s"],
        filled: Float[Tensor, "b 3 s s"],
        known: Float[Tensor, "b 1 s s"],
        amount: Float[Tensor, "b 1 s s"],
    ) -> Float[Tensor, "b 3 s s"]:
        """The colour of skin in the light of the fill, with its own details.

        Args:
            colour: RGB in [0, 1].
            filled: of ``fill``.
            known: weight of each texel, [0, 1].
            amount: how much each texel is changed, [0, 1].
        """
        skin = self.bare.expand_as(known)
        before = smooth_map(colour, known * skin, SKIN_CELLS)
        after = smooth_map(filled, skin, SKIN_CELLS)
        gain = ((after + 0.03) / (before + 0.03)).log().clamp(-MAX_LOG_GAIN, MAX_LOG_GAIN)
        return (colour * (gain * amount * skin).exp()).clamp_max(1)

    def _without_sheen(
        self,
        colour: Float[Tensor, "b 3 s s"],
        known: Float[Tensor, "b 1 s s"],
        inner: Float[Tensor, "b 1 s s"],
        bare: Float[Tensor, "b 1 s s"],
    ) -> Float[Tensor, "b 3 s s"]:
        """Skin at the sides of a face in the hue of its middle.

        At grazing angles skin reflects its surroundings. A head that turns takes the place along but not the
        reflection, and the hue of skin changes little over a face.

        Args:
            colour: RGB in [0, 1].
            known: weight of each texel, [0, 1].
            inner: see ``inner_face``.
            bare: 1 where no hair is, [0, 1].
        """
        skin = self.bare.expand_as(known)
        hue = (colour + 0.03).log() - (colour.mean(1, keepdim=True) + 0.03).log()
        middle = smooth_map(hue, known * inner * self.own_hue, HUE_CELLS)
        change = middle - smooth_map(hue, known * skin, SKIN_CELLS)
        change = MAX_SHEEN * (change / MAX_SHEEN).tanh()
        return (colour * (change * self.sheen * bare * skin).exp()).clamp_max(1)

    def fill(
        self,
        colour: Float[Tensor, "b 3 s s"],
        known: Float[Tensor, "b 1 s s"],
        hair: Float[Tensor, "b 1 s s"],
        inner: Float[Tensor, "b 1 s s"],
    ) -> Float[Tensor, "b 3 s s"]:
        """Extend the known texels of each region over the whole region.

        Args:
            colour: RGB in [0, 1].
            known: weight of each texel, [0, 1].
            hair: the part of it that shows hair, [0, 1].
            inner: 0 at the outline of the face, see ``inner_face``.
        """
        batch, count = len(colour), len(self.regions)
        weight = known[:, None] * self.regions
        # A scalp with hair is filled from hair, not from the skin of temples and sideburns. So is a nape
        # under hair that hangs over the neck; otherwise it is filled from skin, never from the collar.
        hairy = [_is_hairy(hair, known, self.regions[index]) for index in (SCALP, NECK)]
        weight[:, SCALP] = torch.lerp(known, hair, hairy[0]) * self.regions[SCALP]
        weight[:, NAPE] = torch.lerp(known * self.bare, hair, hairy[1])
        # Skin at the outline is in shadow or lit from behind, and some shines: the rest decides the colour.
        lit = weight[:, FACE] * known * (AT_OUTLINE + inner.square())
        lit = lit * _typical(colour, lit)
        weight[:, FACE] = torch.maximum(lit, hair * self.hairless * self.regions[FACE])
        # The fill is smooth, so half the resolution is enough.
        total = halved(torch.cat([weight.flatten(1, 2), known], dim=1))
        sums = halved((colour[:, None] * torch.cat([weight, known[:, None]], 1)).flatten(1, 2))
        total, sums = total.unflatten(1, (-1, 1)), sums.unflatten(1, (-1, 3))
        fills = push_pull((sums / total.clamp_min(1e-6)).flatten(0, 1), total.flatten(0, 1))
        fills = F.interpolate(fills, size=colour.shape[-2:], mode="bilinear", align_corners=False)
        fills, everywhere = fills.unflatten(0, (batch, count + 1)).split([count, 1], dim=1)
        # A region of which almost nothing is visible is filled from its surroundings.
        amount = weight.mean((-1, -2), keepdim=True)
        own = fills
        fills = torch.lerp(everywhere, own, amount / (amount + LEAST_SEEN))
        grain = self._grain(colour, (known - hair).clamp_min(0))
        fills[:, FACE] += grain
        fills[:, NAPE] += grain * (1 - hairy[1])
        fills[:, EARS] = torch.lerp(
            fills[:, FACE], own[:, EARS], amount[:, EARS] / (amount[:, EARS] + LEAST_SEEN)
        )
        fills[:, NECK] = torch.lerp(fills[:, NAPE], fills[:, NECK], self._collar(known))
        strands = repeated_detail(colour, weight[:, SCALP], STRAND_REACH, CELLS, STRAND_CONTRAST)
        fills[:, SCALP] += strands * self.regions[SCALP]
        shares = self.regions / self.regions.sum(0, keepdim=True).clamp_min(1e-6)
        filled = self._joined((fills * shares).sum(1))
        return torch.lerp(filled, self._tinted_interior(colour, known), self.is_interior)

    def _grain(
        self, colour: Float[Tensor, "b 3 s s"], bare: Float[Tensor, "b 1 s s"]
    ) -> Float[Tensor, "b 3 s s"]:
        """Noise that looks like the grain of the cheeks where they are smoothest.

        Anything else there, such as the rim of spectacles or a shadow, would make the skin look embossed.

        Args:
            colour: RGB in [0, 1].
            bare: weight of each texel that shows skin, [0, 1].
        """
        skin = bare * self.regions[FACE]
        detail = torch.cat([fine_structure(colour, skin, SKIN_CELLS, SKIN_CONTRAST), skin], dim=1)
        squares = detail.flatten(2)[..., self.cheeks].transpose(1, 2)
        samples = without_trend(squares[:, :, :3], self.trends)
        hidden = 1 - squares[:, :, 3].mean((-1, -2))
        roughness = samples.square().mean((-1, -2, -3)) + hidden
        best = roughness.argmin(1)[:, None, None, None, None].expand(-1, -1, *samples.shape[2:])
        tile = spot_noise(samples.gather(1, best)[:, 0], self.noise)
        repeats = -(-colour.shape[-1] // tile.shape[-1])
        return tile.repeat(1, 1, repeats, repeats)[..., : colour.shape[-2], : colour.shape[-1]]

    def _collar(self, known: Float[Tensor, "b 1 s s"]) -> Float[Tensor, "b 1 s s"]:
        """The part of the neck that is closer to what is seen of it than to face and nape, [0, 1].

        What is seen of a neck from the side is often a collar, which must not rise to the ears.
        """
        seen = (known * self.regions[NECK] + self.regions[SHOULDERS]).clamp_max(1)
        bare = (self.bare + self.regions[NAPE]).clamp_max(1)
        weight = halved((seen + bare).clamp_max(1))
        near = push_pull(halved(seen) / weight.clamp_min(1e-6), weight)
        near = F.interpolate(near, size=known.shape[-2:], mode="bilinear", align_corners=False)
        return ((near - 0.5) / COLLAR_EDGE + 0.5).clamp(0, 1)

    def _joined(self, filled: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b 3 s s"]:
        """Blend the fill with its mirror image where both sides of the head meet; a chart ends there."""
        inside = (self.regions.sum(0, keepdim=True) > 0).to(filled.dtype).expand(len(filled), -1, -1, -1)
        other = sample_texture(
            torch.cat([filled * inside, inside], 1), self.mirror.expand(len(filled), -1, -1, -1)
        )
        other = torch.where(other[:, 3:] > 0.5, other[:, :3] / other[:, 3:].clamp_min(0.5), filled)
        return torch.lerp(filled, other, self.middle / 2)

    def _tinted_interior(
        self, colour: Float[Tensor, "b 3 s s"], known: Float[Tensor, "b 1 s s"]
    ) -> Float[Tensor, "b 3 s s"]:
        """Generic eyes and mouth in the light of the face, and grey in a greyscale photograph."""
        weight = known * self.bare
        total = weight.sum((1, 2, 3), keepdim=True)
        mean = (colour * weight).sum((2, 3), keepdim=True) / total.clamp_min(1)
        usual = colour.new_tensor(FACE_COLOUR)[:, None, None]
        gain = torch.where(total > 1, (mean / usual).clamp_min(LEAST_LIGHT) ** TINT, 1.0)
        spread = (colour.amax(1, keepdim=True) - colour.amin(1, keepdim=True)) * weight
        colourful = spread.sum((1, 2, 3), keepdim=True) / total.clamp_min(1) / FACE_SPREAD
        tinted = (self.interior * gain).clamp_max(1)
        return torch.lerp(tinted.mean(1, keepdim=True), tinted, colourful.clamp_max(1))


def _log_ratio(this: Float[Tensor, "b 3 s s"], other: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b 3 s s"]:
    """Logarithm of the ratio of both colours, bounded."""
    return ((this + 0.03) / (other + 0.03)).log().clamp(-MAX_LOG_GAIN, MAX_LOG_GAIN)


def _typical(colour: Float[Tensor, "b 3 s s"], weight: Float[Tensor, "b 1 s s"]) -> Float[Tensor, "b 1 s s"]:
    """How close the lightness of each texel is to the mean, (0, 1]: gloss and shadow are far from it."""
    lightness = (colour.mean(1, keepdim=True) + 0.03).log()
    total = weight.sum((2, 3), keepdim=True).clamp_min(1e-6)
    mean = (lightness * weight).sum((2, 3), keepdim=True) / total
    return UNUSUAL + torch.exp(-(((lightness - mean) / LIGHTNESS).square()))


def _is_hairy(
    hair: Float[Tensor, "b 1 s s"], known: Float[Tensor, "b 1 s s"], region: Float[Tensor, "1 s s"]
) -> Float[Tensor, "b 1 1 1"]:
    """Whether the known part of a region shows hair, [0, 1]."""
    share = (hair * region).sum((-1, -2), keepdim=True)
    share = share / (known * region).sum((-1, -2), keepdim=True).clamp_min(1)
    return ((share - 0.1) / 0.3).clamp(0, 1)


def _fill_regions(head: HeadModel, mean: Float[Tensor, "v 3"]) -> list[Bool[Tensor, " v"]]:
    """The vertices of each of ``FILL_REGIONS`` and of the nape, which is separate from the scalp here."""
    regions = [head.region(*names) for names in FILL_REGIONS]
    nape = regions[SCALP] & (mean[:, 1] < mean[head.region("ears"), 1].min())
    regions[SCALP] = regions[SCALP] & ~nape
    return [*regions, nape]
