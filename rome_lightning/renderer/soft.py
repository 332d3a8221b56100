"""The probabilistic silhouette of SoftRas, with gradients for vertices near the contour."""

# Annotations are not postponed here: torch infers the operators' schemas from them.
from typing import TypedDict

import torch
from jaxtyping import Bool, Float, Int, Int32, Int64
from torch import Tensor

from rome_lightning.acceleration import has_kernels, kernels
from rome_lightning.acceleration.operator import operator
from rome_lightning.renderer.mesh_check import bounded, check_image_size, check_mesh
from rome_lightning.renderer.released import AREA_EPSILON, DEPTH_SHIFT
from rome_lightning.renderer.torch_visibility import _expand

FULL_REACH = 9.21
"""Ratio of blur radius to sigma at which the sigmoid has fallen to 1e-4, so that nothing is cut off."""


class SoftSettings(TypedDict):
    """Keyword arguments of ``soft_silhouette``."""

    sigma: float
    blur_radius: float
    faces_per_pixel: int
    by_depth: bool
    clip_depth: bool


OFFICIAL: SoftSettings = {
    "sigma": 1e-4,
    "blur_radius": 1e-4,
    "faces_per_pixel": 10,
    "by_depth": True,
    "clip_depth": False,
}
"""Settings of the official ROME release. They cut the sigmoid off at 0.27, so gradients are several times
smaller than the derivative of the area (about 4.6 times on a head of 10,000 faces at 256 pixels, more on
finer meshes): occupancy weights do not transfer to other settings."""


def soft_silhouette(
    vertices_px: Float[Tensor, "b v 3"],
    faces: Int[Tensor, "f 3"],
    image_size: tuple[int, int],
    sigma: float = 1e-4,
    blur_radius: float | None = None,
    faces_per_pixel: int = 10,
    by_depth: bool = False,
    clip_depth: bool = True,
    fused: bool | None = None,
) -> Float[Tensor, "b 1 h w"]:
    """Probability that a pixel is covered, from the distances to its nearest faces.

    ``1 - prod_k sigmoid(d_k / sigma)`` over up to ``faces_per_pixel`` faces that contain the pixel or whose
    border is within the blur radius; ``d_k`` is the squared distance to the border, negative inside.

    Args:
        vertices_px: pixels; no face is behind the camera.
        faces: corner indices.
        image_size: (height, width).
        sigma: softness in NDC squared, NDC being [-1, 1] along the shorter side.
        blur_radius: squared distance in NDC beyond which faces are ignored; 9.21 sigma by default.
        faces_per_pixel: faces kept at each pixel.
        by_depth: keep the faces with the smallest depth instead of the smallest ``d_k``.
        clip_depth: outside a face, use the depth of its border; else that of its plane with the release's
            weights, see ``renderer.released``.
        fused: use the equivalent Warp kernels; by default wherever they can run.

    Departure from ROME: the release sets ``blur_radius = sigma`` and keeps faces by the depth of their
    planes, as PyTorch3D does, see ``OFFICIAL``. On a mesh with faces smaller than the blur radius, the ten
    faces with the smallest depth may all lie beside the pixel and leave holes inside the silhouette.

    Source: Liu et al., Soft Rasterizer, 2019, eq. 1 and 6.
    """
    dtype = torch.float64 if vertices_px.dtype == torch.float64 else torch.float32
    vertices_px = vertices_px.to(dtype)
    blur_radius = FULL_REACH * sigma if blur_radius is None else blur_radius
    fused = has_kernels(vertices_px) if fused is None else fused
    unit = (min(image_size) / 2) ** 2
    epsilon, shift = (0.0, 0.0) if clip_depth else (AREA_EPSILON * unit, DEPTH_SHIFT * unit**0.5)
    settings = (blur_radius * unit, faces_per_pixel, by_depth, epsilon, shift, fused)
    layers = _layers(vertices_px.detach(), faces, *image_size, *settings)
    uncovered = _uncovered if fused else uncovered_in_torch
    # Where training tolerates vertices that are not finite, they were drawn at the origin.
    return 1 - uncovered(bounded(vertices_px), faces, layers, sigma * unit)[:, None]


@operator("soft_layers")
def _layers(
    vertices_px: Tensor,
    faces: Tensor,
    height: int,
    width: int,
    blur: float,
    num_layers: int,
    by_depth: bool,
    epsilon: float,
    shift: float,
    fused: bool,
) -> Tensor:
    """Faces within reach of each pixel, int32 (b, h, w, num_layers), best first, padded with -1.

    ``blur`` is in square pixels. Depth is interpolated with weights clipped to the face where ``epsilon``,
    square pixels, is 0; else as PyTorch3D does without clipping, moved by ``shift``, pixels.
    """
    check_image_size(height, width)
    vertices_px = check_mesh(vertices_px, faces)
    if num_layers < 1:
        raise ValueError(f"faces_per_pixel must be at least 1, got {num_layers}")
    if fused:
        settings = (blur, num_layers, by_depth, epsilon, shift)
        return kernels("renderer").soft_layers(vertices_px, faces, height, width, *settings)
    image, face, row, column = _candidates(vertices_px, faces, (height, width), blur)
    corners = _corners(vertices_px, faces, image, face, row, column)
    squared, inside, parts = _distance(corners[..., :2])
    kept = inside | (squared < blur)
    image, face, row, column = image[kept], face[kept], row[kept], column[kept]
    if by_depth and epsilon > 0:
        total = parts[kept].sum(-1, keepdim=True) + epsilon
        rank = (parts[kept] / total * (corners[kept][..., 2] + shift)).sum(-1)
        # As in PyTorch3D, planes that would be behind the viewer here are dropped.
        front = (rank >= 0) & (total[:, 0].sub(epsilon).abs() > epsilon)
        image, face, row, column, rank = image[front], face[front], row[front], column[front], rank[front]
    elif by_depth:
        parts = (parts[kept] * parts[kept].sum(-1, keepdim=True).sign()).clamp_min(0)
        rank = (parts * corners[kept][..., 2]).sum(-1) / parts.sum(-1)
    else:
        rank = torch.where(inside, -squared, squared)[kept]
    pixel = (image * height + row) * width + column
    order = _by_pixel_and_rank(pixel, rank)
    pixel, face = pixel[order], face[order]
    layer = torch.arange(len(pixel), device=pixel.device) - torch.searchsorted(pixel, pixel)
    first = layer < num_layers
    layers = torch.full((len(vertices_px) * height * width, num_layers), -1, device=faces.device)
    layers[pixel[first], layer[first]] = face[first]
    return layers.to(torch.int32).view(-1, height, width, num_layers)


@_layers.register_fake
def _(
    vertices_px: Tensor,
    faces: Tensor,
    height: int,
    width: int,
    blur: float,
    num_layers: int,
    by_depth: bool,
    epsilon: float,
    shift: float,
    fused: bool,
) -> Tensor:
    return vertices_px.new_empty((vertices_px.shape[0], height, width, num_layers), dtype=torch.int32)


def _by_pixel_and_rank(pixel: Int64[Tensor, " n"], rank: Float[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """Stable order by pixel, then rank."""
    by_rank = torch.sort(rank.float(), stable=True).indices
    return by_rank[torch.sort(pixel[by_rank], stable=True).indices]


def _candidates(
    vertices_px: Float[Tensor, "b v 3"], faces: Int[Tensor, "f 3"], image_size: tuple[int, int], blur: float
) -> tuple[Int64[Tensor, " n"], ...]:
    """Image, face, row and column of the pixels in the enlarged bounding boxes of all faces."""
    height, width = image_size
    radius = blur**0.5
    corners = vertices_px[:, faces.long()]
    a, b, c = corners[..., :2].unbind(2)
    area = (b[..., 0] - a[..., 0]) * (c[..., 1] - a[..., 1]) - (c[..., 0] - a[..., 0]) * (
        b[..., 1] - a[..., 1]
    )
    low, high = corners.amin(2) - radius, corners.amax(2) + radius
    image, face = (area != 0).nonzero(as_tuple=True)
    low, high = low[image, face], high[image, face]
    left, right = (side[:, 0].ceil().clamp(0, width).long() for side in (low, high))
    top, bottom = (side[:, 1].ceil().clamp(0, height).long() for side in (low, high))
    index, step = _expand((bottom - top).clamp_min(0))
    row = top[index] + step
    span, step = _expand((right - left).clamp_min(0)[index])
    index = index[span]
    return image[index], face[index], row[span], left[index] + step


def _corners(
    vertices_px: Float[Tensor, "b v 3"],
    faces: Int[Tensor, "f 3"],
    image: Int64[Tensor, " n"],
    face: Int64[Tensor, " n"],
    row: Int64[Tensor, " n"],
    column: Int64[Tensor, " n"],
) -> Float[Tensor, "n 3 3"]:
    """Corners of faces with x and y relative to a pixel centre."""
    centre = torch.stack([column, row, torch.zeros_like(row)], dim=-1).to(vertices_px.dtype)
    return vertices_px[image[:, None], faces.long()[face]] - centre[:, None]


def _distance(
    corners: Float[Tensor, "n 3 2"],
) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"], Float[Tensor, "n 3"]]:
    """Squared distance from the origin to the border of triangles, whether it is inside, and sub-areas."""
    tails, heads = corners, corners.roll(-1, dims=1)
    along = heads - tails
    length = along.square().sum(-1)
    share = (-(tails * along).sum(-1) / torch.where(length > 0, length, 1)).clamp(0, 1)
    squared = (tails + share[..., None] * along).square().sum(-1).amin(-1)
    parts = tails[..., 0] * heads[..., 1] - tails[..., 1] * heads[..., 0]
    inside = (parts > 0).all(-1) | (parts < 0).all(-1)
    return squared, inside, parts.roll(-1, dims=1)


def uncovered_in_torch(
    vertices_px: Float[Tensor, "b v 3"],
    faces: Int[Tensor, "f 3"],
    layers: Int32[Tensor, "b h w k"],
    sigma: float,
) -> Float[Tensor, "b h w"]:
    """The torch version of ``_uncovered``, differentiated by autograd."""
    image, row, column, layer = (layers >= 0).nonzero(as_tuple=True)
    face = layers[image, row, column, layer].long()
    squared, inside, _ = _distance(_corners(vertices_px, faces, image, face, row, column)[..., :2])
    signed = torch.where(inside, -squared, squared)
    factors = torch.ones(layers.shape, dtype=vertices_px.dtype, device=vertices_px.device)
    factors = factors.index_put((image, row, column, layer), torch.sigmoid(signed / sigma))
    return factors.prod(-1)


@operator("soft_uncovered")
def _uncovered(vertices_px: Tensor, faces: Tensor, layers: Tensor, sigma: float) -> Tensor:
    """Probability (b, h, w) that no face covers a pixel; ``sigma`` in square pixels. Needs Warp."""
    return kernels("renderer").soft_uncovered(vertices_px, faces, layers, sigma)


@_uncovered.register_fake
def _(vertices_px: Tensor, faces: Tensor, layers: Tensor, sigma: float) -> Tensor:
    return vertices_px.new_empty(layers.shape[:3])


@operator("soft_uncovered_backward")
def _uncovered_backward(
    gradient: Tensor, uncovered: Tensor, vertices_px: Tensor, faces: Tensor, layers: Tensor, sigma: float
) -> Tensor:
    """Gradient of ``_uncovered`` for the vertices."""
    return kernels("renderer").soft_uncovered_backward(gradient, uncovered, vertices_px, faces, layers, sigma)


@_uncovered_backward.register_fake
def _(
    gradient: Tensor, uncovered: Tensor, vertices_px: Tensor, faces: Tensor, layers: Tensor, sigma: float
) -> Tensor:
    return torch.empty_like(vertices_px, memory_format=torch.contiguous_format)


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(output, *inputs[:3])
    ctx.sigma = inputs[3]


def _backward(ctx, gradient: Tensor):  # type: ignore[no-untyped-def]
    return _uncovered_backward(gradient, *ctx.saved_tensors, ctx.sigma), None, None, None


_uncovered.register_autograd(_backward, setup_context=_setup_context)
