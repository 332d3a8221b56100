"""Transfers between texture space, vertices and the image."""

# Annotations are not postponed here: torch infers the operators' schemas from them.
import torch
from jaxtyping import Bool, Float, Int, Int32
from torch import Tensor, nn
from torch.nn import functional as F

from rome_lightning.acceleration import has_kernels, kernels
from rome_lightning.acceleration.operator import operator
from rome_lightning.geometry import vertex_normals
from rome_lightning.geometry.checks import check_batches, check_faces
from rome_lightning.renderer.interpolation import interpolate
from rome_lightning.renderer.mesh_check import bounded, check_face_ids, check_mesh
from rome_lightning.renderer.released import released_faces, released_share
from rome_lightning.renderer.torch_visibility import visible_faces


def sample_texture(
    texture: Float[Tensor, "#b c s s"],
    uv: Float[Tensor, "b 2 h w"],
    mask: Float[Tensor, "b 1 h w"] | None = None,
) -> Float[Tensor, "b c h w"]:
    """Bilinear texture lookup.

    Args:
        texture: any unit; a batch of 1 is shared.
        uv: texture coordinates in [0, 1], v down; the border is repeated outside.
        mask: 1 where ``uv`` is defined, any dtype; multiplies the result. By default everywhere.

    Returns:
        Texture values in float32 (float64 for a float64 texture).
    """
    dtype = torch.float64 if texture.dtype == torch.float64 else torch.float32
    grid = 2 * uv.to(dtype).permute(0, 2, 3, 1) - 1
    texture = texture.to(dtype).expand(len(uv), -1, -1, -1)
    sampled = F.grid_sample(texture, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled if mask is None else sampled * mask.to(dtype)


def render_texture(
    vertices_px: Float[Tensor, "b v 3"],
    faces: Int[Tensor, "f 3"],
    face_ids: Int32[Tensor, "b h w"],
    uvs: Float[Tensor, "u 2"],
    uv_faces: Int[Tensor, "f 3"],
    texture: Float[Tensor, "#b c s s"],
    fused: bool | None = None,
) -> Float[Tensor, "b c h w"]:
    """Render a textured mesh: interpolate texture coordinates and look them up in one pass.

    Gradients flow to the texture and to x and y of the vertices, not to ``uvs``.

    Args:
        vertices_px: pixels.
        faces: corner indices into the vertices.
        face_ids: visible face per pixel, -1 on the background.
        uvs: texture coordinates in [0, 1], v down; the border is repeated outside.
        uv_faces: corner indices into ``uvs``, one row per face.
        texture: any unit; a batch of 1 is shared.
        fused: use the equivalent Warp kernels; by default wherever they can run.

    Returns:
        Texture values, 0 on the background; channels-last, like those of ``interpolate``.
    """
    dtype = torch.float64 if vertices_px.dtype == torch.float64 else torch.float32
    vertices_px, texture, uvs = vertices_px.to(dtype), texture.to(dtype), uvs.detach().to(dtype)
    if has_kernels(vertices_px) if fused is None else fused:
        values: Tensor = _render_texture(vertices_px, faces, face_ids, uvs, uv_faces, texture)
        return values
    uv = interpolate(vertices_px, faces, face_ids, uvs[None], uv_faces, fused=False)
    return sample_texture(texture, uv, (face_ids >= 0)[:, None])


@operator("render_texture")
def _render_texture(
    vertices_px: Tensor, faces: Tensor, face_ids: Tensor, uvs: Tensor, uv_faces: Tensor, texture: Tensor
) -> Tensor:
    """Forward, opaque to graph capture. Needs Warp."""
    vertices_px = check_mesh(vertices_px, faces)
    check_face_ids(vertices_px, faces, face_ids)
    check_batches(face_ids=(face_ids, False), texture=(texture, True))
    check_faces("uv_faces", uv_faces, len(uvs))
    if len(uv_faces) != len(faces):
        raise ValueError(f"uv_faces must have {len(faces)} rows as faces, got {len(uv_faces)}")
    return kernels("renderer").render_texture(vertices_px, faces, face_ids, uvs, uv_faces, texture)


@_render_texture.register_fake
def _(
    vertices_px: Tensor, faces: Tensor, face_ids: Tensor, uvs: Tensor, uv_faces: Tensor, texture: Tensor
) -> Tensor:
    return texture.new_empty((*face_ids.shape, texture.shape[1])).permute(0, 3, 1, 2)


@operator("render_texture_backward")
def _render_texture_backward(
    gradient: Tensor,
    vertices_px: Tensor,
    faces: Tensor,
    face_ids: Tensor,
    uvs: Tensor,
    uv_faces: Tensor,
    texture: Tensor,
    to_vertices: bool,
    to_textures: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients for vertices and texture; one that is not needed is empty."""
    inputs = (gradient, bounded(vertices_px), faces, face_ids, uvs, uv_faces, texture)
    return kernels("renderer").render_texture_backward(*inputs, to_vertices, to_textures)


@_render_texture_backward.register_fake
def _(
    gradient: Tensor,
    vertices_px: Tensor,
    faces: Tensor,
    face_ids: Tensor,
    uvs: Tensor,
    uv_faces: Tensor,
    texture: Tensor,
    to_vertices: bool,
    to_textures: bool,
) -> tuple[Tensor, Tensor]:
    batch, channels, *size = texture.shape
    to_texture = texture.new_empty((batch, *size, channels) if to_textures else (0, 0, 0, channels))
    to_vertex = vertices_px.new_empty(vertices_px.shape if to_vertices else (0, 0, 3))
    return to_vertex, to_texture.permute(0, 3, 1, 2)


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _backward(ctx, gradient: Tensor):  # type: ignore[no-untyped-def]
    to_vertices, to_textures = ctx.needs_input_grad[0], ctx.needs_input_grad[5]
    to_vertex, to_texture = _render_texture_backward(gradient, *ctx.saved_tensors, to_vertices, to_textures)
    to_texture = to_texture if to_textures else None
    return to_vertex if to_vertices else None, None, None, None, None, to_texture


_render_texture.register_autograd(_backward, setup_context=_setup_context)


class UVLayout(nn.Module):
    """A head's UV layout, rasterized once: the surface point of each texel.

    Args:
        head_faces: corner indices into vertices.
        uvs: texture coordinates in [0, 1], v down; in double precision where ties matter.
        uv_faces: corner indices into ``uvs``, one row per head face.
        size: texels per side.
        released: choose faces and weight corners as the release does, see ``renderer.released``.
    """

    head_faces: Int[Tensor, "f 3"]
    uv_faces: Int[Tensor, "f 3"]
    texels: Float[Tensor, "1 u 3"]
    face_ids: Int[Tensor, "1 s s"]
    mask: Bool[Tensor, "s s"]
    share: Float[Tensor, "1 1 s s"] | None

    def __init__(
        self,
        head_faces: Int[Tensor, "f 3"],
        uvs: Float[Tensor, "u 2"],
        uv_faces: Int[Tensor, "f 3"],
        size: int,
        released: bool = False,
    ) -> None:
        super().__init__()
        if head_faces.shape != uv_faces.shape:
            raise ValueError(
                f"uv_faces must have one row per face, {len(head_faces)}, got {tuple(uv_faces.shape)}"
            )
        self.size = size
        texels = torch.cat([uvs * size - 0.5, torch.zeros_like(uvs[:, :1])], dim=-1)[None]
        if released:
            # In single precision from the numbers in the file, as in the release: rounding breaks ties.
            up = torch.stack([uvs[:, 0], 1 - uvs[:, 1]], dim=-1).float()
            points = torch.stack([1 - 2 * up[:, 0], 2 * up[:, 1] - 1, torch.ones_like(up[:, 0])], dim=-1)
            face_ids = released_faces(points[None], uv_faces, (size, size))
        else:
            face_ids = visible_faces(texels.double(), uv_faces, (size, size))
        share = released_share(texels.float(), uv_faces, face_ids) if released else None
        self.register_buffer("share", share, persistent=False)
        for name, tensor in {
            "head_faces": head_faces.int(),
            "uv_faces": uv_faces.int(),
            "texels": texels.float(),
            "face_ids": face_ids,
            "mask": face_ids[0] >= 0,
        }.items():
            self.register_buffer(name, tensor, persistent=False)

    def gather(self, vertex_attributes: Float[Tensor, "b v c"]) -> Float[Tensor, "b c s s"]:
        """Interpolate vertex attributes at texels; 0 where ``mask`` is false. Differentiable."""
        values = interpolate(self.texels, self.uv_faces, self.face_ids, vertex_attributes, self.head_faces)
        return values if self.share is None else values * self.share


def unproject(
    image: Float[Tensor, "b c h w"],
    vertices_px: Float[Tensor, "b v 3"],
    faces: Int[Tensor, "f 3"],
    face_ids: Int32[Tensor, "b h w"],
    layout: UVLayout,
) -> tuple[Float[Tensor, "b c s s"], Float[Tensor, "b 1 s s"], Float[Tensor, "b 1 s s"]]:
    """Map an image to texture space through the surface it shows.

    Args:
        image: any unit.
        vertices_px: pixels of ``image``.
        faces: corner indices.
        face_ids: visible face per pixel of ``image``, -1 on the background.
        layout: the mesh's UV layout.

    Returns:
        The image's value at each texel's surface point, not multiplied by visibility (0 outside the layout,
        the border's value beyond the image); the visibility in [0, 1]: 0 where the point is hidden, seen from
        inside, beyond the image or outside the silhouette, and falling to 0 towards grazing angles; and the
        visibility regardless of the angle. Only the values are differentiable, in image and vertices.
    """
    height, width = image.shape[-2:]
    points = layout.gather(vertices_px)
    scale = torch.tensor([2 / width, 2 / height], device=points.device, dtype=points.dtype)
    grid = (points[:, :2].permute(0, 2, 3, 1) + 0.5) * scale - 1
    inside = layout.mask[None, None]
    # Zero padding would darken the texels seen at the image's border.
    values = F.grid_sample(image.to(points.dtype), grid, padding_mode="border", align_corners=False) * inside
    unhidden, facing = _texel_visibility(points, vertices_px, faces, face_ids, layout)
    ramp = ((facing - 0.1) / 0.4).clamp(0, 1)
    return values, unhidden * ramp * ramp * (3 - 2 * ramp), unhidden


@torch.no_grad()
def _texel_visibility(
    points: Float[Tensor, "b 3 s s"],
    vertices_px: Float[Tensor, "b v 3"],
    faces: Int[Tensor, "f 3"],
    face_ids: Int32[Tensor, "b h w"],
    layout: UVLayout,
) -> tuple[Float[Tensor, "b 1 s s"], Float[Tensor, "b 1 s s"]]:
    """Whether the surface point of each texel is visible in an image, and how far it faces the camera.

    Args:
        points: of the texels, pixels.
        vertices_px: pixels.
        faces: corner indices.
        face_ids: visible face per pixel of the image, -1 on the background.
        layout: the mesh's UV layout.

    Returns:
        1 where the point is visible, 0 where it is hidden, beyond the image or outside the layout, in between
        where bilinear sampling mixes both (a depth test at its four pixels); and the cosine between normal
        and direction to the camera, [-1, 1].
    """
    height, width = face_ids.shape[1:]
    depth = interpolate(vertices_px, faces, face_ids, vertices_px[..., 2:])
    depth = torch.where(face_ids[:, None] >= 0, depth, torch.inf).flatten(1)
    # Projection flips y and z, which is a rotation: normals of the projected mesh still point outward.
    facing = layout.gather(-vertex_normals(vertices_px, faces)[..., 2:])
    # One pixel of slack, plus the change of the surface's depth over a pixel at this angle.
    slope = (1 - facing.square()).clamp_min(0).sqrt() / facing.clamp_min(0.1)
    slack = 1 + slope[:, 0]
    x, y, z = points.unbind(1)
    left, top = x.floor(), y.floor()
    seen = torch.zeros_like(x)
    for dx in (0, 1):
        for dy in (0, 1):
            column, row = left + dx, top + dy
            weight = (1 - (x - column).abs()) * (1 - (y - row).abs())
            within = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            index = row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
            surface = depth.gather(1, index.flatten(1)).view_as(z)
            agrees = within & surface.isfinite() & ((z - surface).abs() <= slack)
            seen += weight * agrees
    return seen.square()[:, None] * (facing > 0) * layout.mask[None, None], facing
