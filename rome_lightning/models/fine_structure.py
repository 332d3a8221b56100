"""Fine structure of a texture, strands of hair and grain of skin, and the smooth colour beneath it."""

from __future__ import annotations

import itertools

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from rome_lightning.renderer import push_pull

LEAST_BAND = 0.5
"""Least width of what is repeated, relative to the band."""
SKIN_REACH = 0.05
"""Width of the squares on the cheeks, of which one gives its grain to the hidden face, share of the
texture."""
CHEEK = ((0.03, -0.018), (0.036, -0.036))
"""The middles of these squares: distance from the plane between both sides, and height, metres."""


def smooth_map(
    values: Float[Tensor, "b c s s"], weight: Float[Tensor, "b 1 s s"], cells: int
) -> Float[Tensor, "b c s s"]:
    """A smooth map of weighted values, extended to where the weight is 0.

    Args:
        values: of each texel.
        weight: of each texel.
        cells: across the map.
    """
    texels = max(1, values.shape[-1] // cells)
    total = F.avg_pool2d(weight, texels)
    mean = F.avg_pool2d(values * weight, texels) / total.clamp_min(1e-6)
    coarse = push_pull(mean, (total * 4).clamp_max(1))
    return F.interpolate(coarse, size=values.shape[-2:], mode="bilinear", align_corners=False)


def fine_structure(
    colour: Float[Tensor, "b 3 s s"], weight: Float[Tensor, "b 1 s s"], cells: int, contrast: float
) -> Float[Tensor, "b 3 s s"]:
    """The deviation of known texels from their smooth colour; 0 elsewhere. What deviates much fades.

    Args:
        colour: RGB in [0, 1].
        weight: 1 on the known texels of a region.
        cells: cells of the smooth colour across the texture.
        contrast: deviation of which only 1 / e is kept.
    """
    detail = (colour - smooth_map(colour, weight, cells)) * weight
    return detail * torch.exp(-(detail.abs().amax(1, keepdim=True) / contrast).square())


def spot_noise(sample: Float[Tensor, "b 3 k k"], noise: Float[Tensor, "1 1 t t"]) -> Float[Tensor, "b 3 t t"]:
    """A tile of noise that looks like a sample of fine structure without repeating anything in it.

    It continues at its borders. Source: Galerne, Gousseau and Morel, Random phase textures: theory and
    synthesis (IEEE Transactions on Image Processing, 2011), asymptotic discrete spot noise.

    Args:
        sample: of what is alike everywhere, such as the grain of skin.
        noise: white, with variance 1.
    """
    batch, side = len(sample), sample.shape[-1]
    spot = (sample - sample.mean((-1, -2), keepdim=True)).flatten(0, 1)[:, None] / side
    around = F.pad(noise, (0, side - 1, 0, side - 1), mode="circular")
    return F.conv2d(around, spot)[0].unflatten(0, (batch, 3))


def quadratic_axes(side: int) -> Float[Tensor, "kk 6"]:
    """Orthonormal axes of all quadratic functions on a square of ``side`` texels."""
    places = torch.linspace(-1, 1, side, dtype=torch.float64)
    y, x = torch.meshgrid(places, places, indexing="ij")
    basis = torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y], dim=-1).flatten(0, 1)
    return torch.linalg.qr(basis).Q.float()


def without_trend(sample: Float[Tensor, "*b k k"], axes: Float[Tensor, "kk 6"]) -> Float[Tensor, "*b k k"]:
    """Squares without their quadratic fits: shading, whose copies at random places would be dents.

    Args:
        sample: fine structure.
        axes: of ``quadratic_axes``.
    """
    flat = sample.flatten(-2)
    return (flat - (flat @ axes) @ axes.T).view_as(sample)


def repeated_detail(
    colour: Float[Tensor, "b 3 s s"],
    weight: Float[Tensor, "b 1 s s"],
    share: float,
    cells: int,
    contrast: float,
) -> Float[Tensor, "b 3 s s"]:
    """The fine structure of the known texels, mirrored into the hidden part: row by row, then downwards.

    Rows of the texture run around the head, so strands keep their direction. Without this the hidden side
    looks as smooth as a cap.

    Args:
        colour: RGB in [0, 1].
        weight: 1 on the known texels of a region.
        share: width of the band that is repeated, share of the texture.
        cells: cells of the smooth colour across the texture.
        contrast: deviation from the smooth colour of which only 1 / e is repeated; what deviates more fades.
    """
    reach = max(2, round(share * colour.shape[-1]))
    detail = fine_structure(colour, weight, cells, contrast)
    seen = weight[:, 0] > 0.5
    in_rows, filled = _reflected(detail, seen, reach)
    # Behind the ears there are rows without any hair that is seen.
    turned = in_rows.transpose(-1, -2).contiguous(), filled.transpose(-1, -2).contiguous()
    in_columns, _ = _reflected(*turned, reach)
    return torch.where(seen[:, None], 0.0, in_columns.transpose(-1, -2))


def _reflected(
    detail: Float[Tensor, "b 3 s s"], seen: Bool[Tensor, "b s s"], reach: int
) -> tuple[Float[Tensor, "b 3 s s"], Bool[Tensor, "b s s"]]:
    """Each row, with the nearest seen part mirrored into the rest, and where that was possible.

    Args:
        detail: fine structure.
        seen: where it is known.
        reach: width of the band that is repeated, texels; less where the seen part is narrower.
    """
    size = detail.shape[-1]
    columns = torch.arange(size, device=detail.device, dtype=torch.int32).expand_as(seen)
    before, after = _nearest(~seen, columns)
    # A narrow piece, repeated, would become stripes.
    wide = seen & (after - before > reach * LEAST_BAND)
    left, right = _nearest(wide, columns)
    from_left = columns - left <= right - columns
    source = torch.where(from_left, left, right)
    width = torch.where(from_left, columns - before, after - columns)
    width = width.gather(-1, source.clamp(0, size - 1).long())
    band = width.clamp(1, reach)
    distance = (columns - source).abs()
    # Mirrored back and forth within the band.
    folded = (distance - 1).clamp_min(0) % (2 * band)
    folded = torch.where(folded < band, folded, 2 * band - 1 - folded)
    column = torch.where(from_left, source - folded, source + folded).clamp(0, size - 1).long()
    reflected = detail.gather(-1, column[:, None].expand_as(detail))
    reached = distance <= size
    reflected = torch.where(reached[:, None], reflected, 0.0)
    return torch.where(seen[:, None], detail, reflected), seen | reached


def _nearest(
    marked: Bool[Tensor, "b s s"], columns: Int[Tensor, "b s s"]
) -> tuple[Int[Tensor, "b s s"], Int[Tensor, "b s s"]]:
    """The last marked column up to each column and the first one from it on, far outside if there is none."""
    size = columns.shape[-1]
    left = _running_max(torch.where(marked, columns, -2 * size))
    right = size - 1 - _running_max(torch.where(marked.flip(-1), columns, -2 * size)).flip(-1)
    return left, right


def _running_max(values: Int[Tensor, "b s s"]) -> Int[Tensor, "b s s"]:
    """Running maximum along each row."""
    if not (torch.compiler.is_compiling() or torch.jit.is_tracing()):
        return values.cummax(-1).values
    # ONNX has no such operator.
    step, size = 1, values.shape[-1]
    while step < size:
        shifted = torch.cat([values[..., :1].expand(*values.shape[:-1], step), values[..., :-step]], dim=-1)
        values = torch.maximum(values, shifted)
        step *= 2
    return values


def cheek_squares(places: Float[Tensor, "3 s s"], face: Float[Tensor, "s s"]) -> Int[Tensor, "4 k k"]:
    """The texels, flat, of the squares on both cheeks.

    Args:
        places: of the mean head's surface, metres.
        face: 1 on the face.
    """
    size = places.shape[-1]
    side = max(2, round(SKIN_REACH * size))
    offsets = torch.arange(side, device=places.device) - side // 2
    squares = []
    for sign, (aside, height) in itertools.product((1.0, -1.0), CHEEK):
        middle = places.new_tensor([sign * aside, height])[:, None, None]
        away = (places[:2] - middle).norm(dim=0) + (face < 0.99)
        row, column = divmod(int(away.argmin()), size)
        squares.append((row + offsets)[:, None] * size + column + offsets)
    return torch.stack(squares)
