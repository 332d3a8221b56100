"""Interpolation of vertex or corner attributes at pixels, with a hand-written backward pass."""

# Annotations are not postponed here: torch infers the operators' schemas from them.
import torch
from jaxtyping import Float, Int, Int32
from torch import Tensor

from rome_lightning.acceleration import has_kernels, kernels
from rome_lightning.acceleration.operator import operator
from rome_lightning.geometry.checks import check_batches, check_faces
from rome_lightning.renderer.mesh_check import bounded, check_face_ids, check_mesh


def interpolate(
    vertices_px: Float[Tensor, "#b v 3"],
    faces: Int[Tensor, "f 3"],
    face_ids: Int32[Tensor, "#b h w"],
    attributes: Float[Tensor, "#b n c"],
    attribute_faces: Int[Tensor, "f 3"] | None = None,
    fused: bool | None = None,
) -> Float[Tensor, "b c h w"]:
    """Barycentric interpolation at pixel centres.

    Weights are affine in the image, which is exact for a weak-perspective camera. Gradients flow to the
    attributes and to x and y of the vertices; ``coverage`` handles the motion of the contour.

    Args:
        vertices_px: pixels; a batch of 1 is shared.
        faces: corner indices into the vertices.
        face_ids: visible face per pixel, -1 on the background; a batch of 1 is shared.
        attributes: any unit; a batch of 1 is shared.
        attribute_faces: corner indices into the attributes where they are not per vertex, e.g. for UVs.
        fused: use the equivalent Warp kernels; by default wherever they can run.

    Returns:
        Interpolated attributes, 0 on the background; channels-last, so that the channels of a pixel are
        contiguous for the kernels and for the networks that follow.
    """
    dtype = torch.float64 if vertices_px.dtype == torch.float64 else torch.float32
    attribute_faces = faces if attribute_faces is None else attribute_faces
    vertices_px, attributes = vertices_px.to(dtype), attributes.to(dtype)
    fused = has_kernels(vertices_px) if fused is None else fused
    values: Tensor = _interpolate(vertices_px, faces, face_ids, attributes, attribute_faces, fused)
    return values


@operator("interpolate")
def _interpolate(
    vertices_px: Tensor,
    faces: Tensor,
    face_ids: Tensor,
    attributes: Tensor,
    attribute_faces: Tensor,
    fused: bool,
) -> Tensor:
    """Forward, opaque to graph capture."""
    vertices_px = check_mesh(vertices_px, faces)
    check_face_ids(vertices_px, faces, face_ids, shared=True)
    check_batches(vertices_px=(vertices_px, True), face_ids=(face_ids, True), attributes=(attributes, True))
    check_faces("attribute_faces", attribute_faces, attributes.shape[1])
    if len(attribute_faces) != len(faces):
        raise ValueError(f"attribute_faces must have {len(faces)} rows as faces, got {len(attribute_faces)}")
    if fused:
        return kernels("renderer").interpolate(vertices_px, faces, face_ids, attributes, attribute_faces)
    weights, _, _ = _barycentrics(vertices_px, faces, face_ids)
    values = _corner_values(attributes, attribute_faces, face_ids)
    height, width = face_ids.shape[1:]
    image = (values * weights.transpose(1, 2)[..., None]).sum(2)
    return image.unflatten(1, (height, width)).permute(0, 3, 1, 2)


@_interpolate.register_fake
def _(
    vertices_px: Tensor,
    faces: Tensor,
    face_ids: Tensor,
    attributes: Tensor,
    attribute_faces: Tensor,
    fused: bool,
) -> Tensor:
    batch = max(vertices_px.shape[0], face_ids.shape[0], attributes.shape[0])
    return attributes.new_empty((batch, *face_ids.shape[1:], attributes.shape[2])).permute(0, 3, 1, 2)


@operator("interpolate_backward")
def _interpolate_backward(
    gradient: Tensor,
    vertices_px: Tensor,
    faces: Tensor,
    face_ids: Tensor,
    attributes: Tensor,
    attribute_faces: Tensor,
    fused: bool,
    to_vertices: bool,
    to_attributes: bool,
) -> tuple[Tensor, Tensor]:
    """Backward; a gradient that is not needed is empty.

    The value at a pixel is an affine function of the position. Moving corner k by d moves that function
    by ``weight_k d`` at the pixel, so its value changes by ``-weight_k (slope . d)``.
    """
    vertices_px = bounded(vertices_px)
    if fused:
        inputs = (gradient, vertices_px, faces, face_ids, attributes, attribute_faces)
        return kernels("renderer").interpolate_backward(*inputs, to_vertices, to_attributes)
    weights, slope_x, slope_y = _barycentrics(vertices_px, faces, face_ids)
    pixels = gradient.flatten(2).transpose(1, 2)
    to_vertex = vertices_px.new_zeros(vertices_px.shape if to_vertices else (0, 0, 3))
    to_attribute = attributes.new_zeros(attributes.shape if to_attributes else (0, 0, attributes.shape[2]))
    if to_attributes:
        parts = weights.transpose(1, 2)[..., None] * pixels[:, :, None]
        _scatter(to_attribute, attribute_faces, face_ids, parts)
    if to_vertices:
        values = _corner_values(attributes, attribute_faces, face_ids)
        per_corner = (values * pixels[:, :, None]).sum(-1).transpose(1, 2)
        along_x, along_y = (slope_x * per_corner).sum(1), (slope_y * per_corner).sum(1)
        steps = torch.stack([along_x, along_y, torch.zeros_like(along_x)], dim=-1)
        _scatter(to_vertex, faces, face_ids, -weights.transpose(1, 2)[..., None] * steps[:, :, None])
    return to_vertex, to_attribute


@_interpolate_backward.register_fake
def _(
    gradient: Tensor,
    vertices_px: Tensor,
    faces: Tensor,
    face_ids: Tensor,
    attributes: Tensor,
    attribute_faces: Tensor,
    fused: bool,
    to_vertices: bool,
    to_attributes: bool,
) -> tuple[Tensor, Tensor]:
    return (
        vertices_px.new_empty(vertices_px.shape if to_vertices else (0, 0, 3)),
        attributes.new_empty(attributes.shape if to_attributes else (0, 0, attributes.shape[2])),
    )


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs[:5])
    ctx.fused = inputs[5]


def _backward(ctx, gradient: Tensor):  # type: ignore[no-untyped-def]
    to_vertices, to_attributes = ctx.needs_input_grad[0], ctx.needs_input_grad[3]
    to_vertex, to_attribute = _interpolate_backward(
        gradient, *ctx.saved_tensors, ctx.fused, to_vertices, to_attributes
    )
    to_attribute = to_attribute if to_attributes else None
    return to_vertex if to_vertices else None, None, None, to_attribute, None, None


_interpolate.register_autograd(_backward, setup_context=_setup_context)


def _barycentrics(
    vertices_px: Float[Tensor, "#b v 3"], faces: Int[Tensor, "f 3"], face_ids: Int32[Tensor, "#b h w"]
) -> tuple[Float[Tensor, "#b 3 n"], Float[Tensor, "#b 3 n"], Float[Tensor, "#b 3 n"]]:
    """Barycentric weights at pixel centres and their change per pixel along x and y.

    All are 0 on the background.
    """
    height, width = face_ids.shape[1:]
    ids = face_ids.flatten(1)
    corners = faces.long()[ids.clamp_min(0)]
    batch = max(len(vertices_px), len(ids))
    points = vertices_px[..., :2].expand(batch, -1, -1)
    index = corners.expand(batch, -1, -1).flatten(1)[..., None].expand(-1, -1, 2)
    xy = points.gather(1, index).unflatten(1, (-1, 3)).permute(3, 0, 2, 1)
    column = torch.arange(width, device=xy.device, dtype=xy.dtype).repeat(height)
    row = torch.arange(height, device=xy.device, dtype=xy.dtype).repeat_interleave(width)
    x, y = xy[0] - column, xy[1] - row
    x1, x2 = x.roll(-1, dims=1), x.roll(-2, dims=1)
    y1, y2 = y.roll(-1, dims=1), y.roll(-2, dims=1)
    parts = x1 * y2 - x2 * y1
    area = parts.sum(1, keepdim=True)
    # The sum of the parts is the area, but rounding may push a part of a sliver across zero.
    parts = torch.where(area < 0, -parts, parts).clamp_min(0) * (ids >= 0)[:, None]
    weights = parts / parts.sum(1, keepdim=True).clamp_min(torch.finfo(xy.dtype).tiny)
    inverse = torch.where((ids >= 0)[:, None] & (area != 0), 1 / area, 0)
    return weights, (y1 - y2) * inverse, (x2 - x1) * inverse


def _corner_values(
    attributes: Float[Tensor, "#b n c"],
    attribute_faces: Int[Tensor, "f 3"],
    face_ids: Int32[Tensor, "#b h w"],
) -> Float[Tensor, "#b p 3 c"]:
    """Attributes at the three corners of each pixel's face."""
    corners = attribute_faces.long()[face_ids.flatten(1).clamp_min(0)].flatten(1)
    batch, channels = max(len(attributes), len(corners)), attributes.shape[2]
    index = corners.expand(batch, -1)[..., None].expand(-1, -1, channels)
    return attributes.expand(batch, -1, -1).gather(1, index).unflatten(1, (-1, 3))


def _scatter(
    total: Float[Tensor, "#b n c"],
    faces: Int[Tensor, "f 3"],
    face_ids: Int32[Tensor, "#b h w"],
    parts: Float[Tensor, "b p 3 c"],
) -> None:
    """Add per-corner parts to the rows they came from, in place."""
    batch, size, channels = len(parts), total.shape[1], total.shape[2]
    ids = face_ids.flatten(1)
    rows = faces.long()[ids.clamp_min(0)].flatten(1).expand(batch, -1)
    if len(total) > 1:
        rows = rows + size * torch.arange(batch, device=rows.device)[:, None]
    covered = (ids >= 0).repeat_interleave(3, dim=1).expand(batch, -1).reshape(-1)
    parts = parts.reshape(-1, channels) * covered[:, None]
    total.view(-1, channels).index_add_(0, rows.reshape(-1), parts)
