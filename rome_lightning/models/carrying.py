"""The photograph, warped to a new pose by the mesh."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Int32, Shaped
from torch import Tensor

from rome_lightning.models.photo_canvas import BESIDE, HAIR, LOOSE, RGB, SKIN, sampled_beyond, to_canvas
from rome_lightning.models.photo_layers import CarriedPhotos, facing_camera
from rome_lightning.renderer import interpolate, push_pull
from rome_lightning.renderer.morphology import dilate, erode, opened
from rome_lightning.renderer.nearest_fill import values_of
from rome_lightning.renderer.pooling import in_planes

NUM_LAYERS = 7
"""How many of ``CarriedPhotos.layers`` the result of ``carry`` begins with."""
NUM_CARRIED = NUM_LAYERS + 6
VISIBILITY, CARRIED_HAIR, OWN_VIEW, IN_MOUTH, DEPTH, TORN = (
    slice(i, i + 1) for i in range(NUM_LAYERS, NUM_CARRIED)
)
"""Number of channels of ``carry``, and the last ones: the photographs' share of each pixel, 0 beside the
mesh; hair; how close the view is to a photograph's; 1 inside the mouth; the depth of the mesh, image widths,
with ``INSIDE``, 0 beside it; and whether neighbouring pixels come from places apart in every photograph. All
but the depth are in [0, 1]."""
STRETCHED, NOT_STRETCHED = 0.12, 0.35
"""Ratio of the cosines in the photograph and in the driven view up to which a point is not taken from the
photograph, and from which it is."""
STRETCHED_UPPER, NOT_STRETCHED_UPPER = 0.25, 0.55
STRETCHED_LOWER, NOT_STRETCHED_LOWER = 0.4, 0.8
"""The same on the face down to the eyes and below them. A shadow or strand from the photograph's outline
would become a band when stretched over a smooth cheek; hair, ears and the hairline need their detail more."""
OUTLINE = 0.5
"""Largest cosine of a point on the outline."""
SAME_OUTLINE = 0.3
"""Difference of the cosines from which a point on one outline is not on the other."""
SAME_BESIDE = 0.45
"""The same for what lies beside the outline."""
TURNED_AWAY = 0.13
"""Mean difference of the cosines over neck and shoulders from which a photograph's outline of them is not
valid: about 18 degrees. A transition would show translucent shoulders."""
ANOTHER_VIEW = 0.1
"""Mean difference of the cosines above which a view is not the photograph's own: about 15 degrees."""
SAME_VIEW = 0.15
"""Difference of the cosines up to which both views see a point at the same angle."""
LEAST_FACING = 0.05
"""Cosine below which both views count as equally grazing."""
INSIDE = 0.05
"""Added to the depth of eyeballs and the inside of the mouth, image widths."""
TORN_FROM = (1.0, 2.5)
"""Change of the displacement between neighbouring pixels up to which a photograph shows a contour itself, and
from which it does not, pixels."""
FAR = 1e4
"""More than any displacement, pixels."""
WITHIN = 0.98
"""Distance from the middle of a crop, in half its width, up to which texels know what it shows."""
EDGE = 0.01
"""Distance from the mesh over which the motion of the outline fades out, image widths."""
UNCOVERED = 0.008
"""Least distance from the source's mesh of what can appear from behind a face, image widths."""
FRAGMENT = 0.014
"""Half the width below which anything beside a face counts as an artefact, image widths."""
FLAT = 0.01
"""Spread of a plane's points below which they do not determine its slope, image widths."""
RIM = 0.006
"""Width of the rim of a matte that may show the background, image widths."""
_SHARPNESS = 4
"""Exponent of the visibility in the weights of several photographs: the best view of a point should win."""


def carry(
    photos: CarriedPhotos,
    vertices_px: Float[Tensor, "b v 3"],
    faces: Int[Tensor, "f 3"],
    face_ids: Int32[Tensor, "b h w"],
    visible: Float[Tensor, "b m h w"],
    same_mouth: Float[Tensor, "b n"],
    parts: Float[Tensor, "1 v 6"],
    ear_plane: Int[Tensor, " m"],
    distance: Float[Tensor, "b 1 h w"],
    nearest: Int32[Tensor, "b h w"],
) -> Float[Tensor, "b 13 h w"]:
    """Warp the photographs with the driven mesh, and say how well they show each point.

    Each covered pixel shows a surface point that also appears somewhere in the photograph. The displacement
    between the two is extended smoothly beyond the mesh, so that loose hair and clothes follow. What lies
    beside a face is as far back as ears and neck, and moves with them: a cheek that turns outward covers it
    and does not push it along.

    Args:
        photos: of each avatar.
        vertices_px: the driven mesh, pixels.
        faces: triangles of the mesh.
        face_ids: visible face per pixel, -1 on the background.
        visible: ``visibility`` and ``own_only`` of each photograph at the driven mesh's pixels; m = 2 n.
        same_mouth: whether the mouth is as open as in each photograph, [0, 1].
        parts: 1 on the vertices of scalp, ears, neck and shoulders, 0 on the face; 1 on neck and shoulders;
            1 on the face below the eyes; 1 on all but the middle of the face; 1 inside the mouth; and 1 on
            eyeballs; 0 elsewhere.
        ear_plane: vertices as far back as the ears.
        distance: from each pixel to the driven mesh, image widths.
        nearest: of ``nearest_covered``, where ``face_ids`` shows the mesh.

    Returns:
        The first seven channels of ``CarriedPhotos.layers``, with opacity 1 on the mesh where no matte shows
        the point; and the channels ``VISIBILITY``, ``CARRIED_HAIR``, ``OWN_VIEW``, ``IN_MOUTH``,
        ``DEPTH`` and ``TORN``.
    """
    batch, count = photos.vertices.shape[:2]
    mask = (face_ids >= 0)[:, None]
    visibility, own_only = (visible * mask).chunk(2, dim=1)
    facing = facing_camera(vertices_px, faces)
    mesh = _on_mesh(photos, vertices_px, facing, faces, face_ids, parts, ear_plane)
    place, same, around, torso = _places(mesh, mask, distance, nearest)
    grid = to_canvas(place, photos.layers).flatten(0, 1).permute(0, 2, 3, 1)
    layers, opaque, known = sampled_beyond(photos.layers.flatten(0, 1), grid)
    layers = layers.unflatten(0, (batch, count))
    matte, known = opaque.view_as(visibility), known.view_as(visibility)
    hair, beside, face = (layers[:, :, channel].squeeze(2) for channel in (HAIR, BESIDE, SKIN))
    own_view = _own_view(photos, facing).expand_as(visibility)
    alike = torch.lerp(same_mouth[..., None, None].expand_as(visibility), own_view, mesh.off_middle)
    visibility = visibility - (1 - alike) * own_only
    # Of the surface beyond the crop, whose visibility is not known, all that faced the camera.
    beyond = (2 * place - 1).abs().amax(2) > WITHIN
    far = beyond & mask & (mesh.there > LEAST_FACING)
    visibility = torch.maximum(visibility, far.to(visibility.dtype))
    shown = visibility * _not_stretched(mesh, hair) * _is_surface(_without_rim(matte, hair), mesh)
    full = hair * torch.maximum(photos.full_hair, layers[:, :, LOOSE].squeeze(2))
    opacity = _opacity_on_mesh(matte, shown, mesh)
    opacity = torch.where(mask, opacity, _opacity_beside(matte, hair, full, same, around, mask))
    # What appears from behind a face may have been farther beside it, and full hair on the head; but not the
    # rim of the face itself, which the mesh misses.
    uncovered = (1 - around) * (beside / UNCOVERED).clamp_max(1) * (1 - face)
    # A coat keeps its outline, however far from the mesh.
    coat = torso * (1 - face) * (1 - hair)
    free = torch.maximum(torch.maximum(uncovered, full), coat)
    beside = torch.lerp(beside, distance.expand_as(beside), free)
    # A kernel of WebGPU joins at most seven parts.
    given = torch.stack([opacity, known, beside], dim=2)
    parts_of_each = [layers[:, :, RGB], given, layers[:, :, LOOSE], hair[:, :, None]]
    if count == 1:
        # Copied once, below.
        *best, hair = (part[:, 0] for part in parts_of_each)
        of_best = [shown, own_view]
    else:
        *best, hair = _best_view(torch.cat(parts_of_each, dim=2), shown, mask).split([NUM_LAYERS, 1], dim=1)
        of_best = [share.amax(1, keepdim=True) for share in (shown, own_view)]
    # A kernel of WebGPU joins at most seven parts; in exported programs, joins of joins are merged.
    seen = torch.stack([of_best[0], hair, of_best[1]], dim=2)[:, 0]
    return torch.cat([*best, seen, mesh.in_mouth, mesh.depth, _torn(mesh, mask)], dim=1)


def _not_stretched(mesh: _OnMesh, hair: Float[Tensor, "b n h w"]) -> Float[Tensor, "b n h w"]:
    """Whether a point can be taken from each photograph without too much stretching, [0, 1].

    Args:
        mesh: at the pixels of the driven view.
        hair: whether each photograph shows hair there, [0, 1].
    """
    around = torch.maximum(mesh.around, hair * mesh.lower)
    lower = torch.maximum(mesh.lower * (1 - hair), mesh.in_mouth)
    upper = 1 - torch.maximum(around, lower)
    none = STRETCHED * around + STRETCHED_UPPER * upper + STRETCHED_LOWER * lower
    full = NOT_STRETCHED * around + NOT_STRETCHED_UPPER * upper + NOT_STRETCHED_LOWER * lower
    return ((mesh.there / mesh.now.clamp_min(LEAST_FACING) - none) / (full - none)).clamp(0, 1)


def _torn(mesh: _OnMesh, mask: Bool[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
    """``TORN``, from 0 where the displacement changes by ``TORN_FROM`` pixels to 1."""
    pixel = mesh.displacement.new_tensor([mask.shape[-1], mask.shape[-2]])
    places = (mesh.displacement.detach().unflatten(1, (-1, 2)) * pixel[:, None, None]).flatten(1, 2)
    largest = dilate(torch.where(mask, places, -FAR), 1)
    change = (largest - erode(torch.where(mask, places, FAR), 1)).unflatten(1, (-1, 2))
    change = change.amax(2).amin(1, keepdim=True)
    return ((change - TORN_FROM[0]) / (TORN_FROM[1] - TORN_FROM[0])).clamp(0, 1)


def _opacity_on_mesh(
    matte: Float[Tensor, "b n h w"], shown: Float[Tensor, "b n h w"], mesh: _OnMesh
) -> Float[Tensor, "b n h w"]:
    """The matte where a photograph shows the point or shares the mesh's outline; opaque elsewhere."""
    outline = _is_outline(mesh.there, mesh.now) * mesh.turned
    return torch.lerp(torch.ones_like(matte), matte, torch.maximum(shown, outline))


def _opacity_beside(
    matte: Float[Tensor, "b n h w"],
    hair: Float[Tensor, "b n h w"],
    full_hair: Float[Tensor, "b n h w"],
    same: Float[Tensor, "b n h w"],
    around: Float[Tensor, "b 1 h w"],
    mask: Bool[Tensor, "b 1 h w"],
) -> Float[Tensor, "b n h w"]:
    """The matte of what remains beside the mesh.

    Skin and clothes remain beside the outline they have in the photograph, hair beside any scalp, and full
    hair beside a face too. No gradient flows through the removal of thin pieces, see ``blend``.

    Args:
        matte: of each photograph.
        hair: 1 on hair.
        full_hair: 1 on full hair.
        same: whether the nearest outline of the mesh is the photograph's, [0, 1].
        around: 1 beside scalp, ears, neck and shoulders, 0 beside the face.
        mask: pixels of the mesh.
    """
    kept = torch.maximum(torch.lerp(full_hair, hair, around), (2 * same - 1).clamp_min(0))
    matte = matte * kept
    pieces = fragments_beside(matte.detach(), mask)
    return matte - pieces * (1 - around) * (1 - same)


class _OnMesh(NamedTuple):
    """Values of the driven mesh at each pixel that it covers; n is the number of photographs."""

    displacement: Float[Tensor, "b k h w"]
    """From the pixel to its point in each photograph, fractions of width and height; k = 2 n."""
    of_ear_plane: Float[Tensor, "b k h w"]
    """The same as if the pixel showed the plane of the ears; for all pixels."""
    there: Float[Tensor, "b n h w"]
    """Cosine between normal and camera in each photograph."""
    now: Float[Tensor, "b 1 h w"]
    """The same in the driven view."""
    around: Float[Tensor, "b 1 h w"]
    """1 on scalp, ears, neck and shoulders, 0 on the face."""
    torso: Float[Tensor, "b 1 h w"]
    """1 on neck and shoulders."""
    lower: Float[Tensor, "b 1 h w"]
    """1 on the face below the eyes."""
    off_middle: Float[Tensor, "b 1 h w"]
    """0 on the middle of the face, where the mouth is, else 1."""
    in_mouth: Float[Tensor, "b 1 h w"]
    """1 inside the mouth."""
    depth: Float[Tensor, "b 1 h w"]
    """Larger is farther, image widths."""
    turned: Float[Tensor, "b n h w"]
    """Whether neck and shoulders face as in each photograph, so that its outline is theirs, [0, 1]; 1 on the
    head."""


def _on_mesh(
    photos: CarriedPhotos,
    vertices_px: Float[Tensor, "b v 3"],
    facing_now: Float[Tensor, "b v 1"],
    faces: Int[Tensor, "f 3"],
    face_ids: Int32[Tensor, "b h w"],
    parts: Float[Tensor, "1 v 6"],
    ear_plane: Int[Tensor, " m"],
) -> _OnMesh:
    """The mesh at the pixels of the driven view; its ``facing_camera``, the rest as for ``carry``."""
    batch, count = photos.vertices.shape[:2]
    size = vertices_px.new_tensor(face_ids.shape[:0:-1])
    here = (vertices_px[..., :2] + 0.5) / size
    # Displacements are interpolated, not positions, which lose precision far from 0.
    moved = (photos.vertices[..., :2] - here[:, None]).transpose(1, 2).flatten(2)
    facing = photos.vertices[..., 2].transpose(1, 2)
    torso = parts[..., 1:2]
    # Of shoulders the mesh is better evidence than a photograph from another side; of hair it is not.
    turned = torch.lerp(torch.ones_like(facing), _turned_alike(facing, facing_now, torso), torso)
    # What lies behind lids and lips touches them, but has a contour there.
    behind = vertices_px[..., 2:] / size[0] + INSIDE * parts[..., 4:].sum(-1, keepdim=True)
    of_parts = parts[..., :5].expand(batch, -1, -1)
    per_vertex = torch.cat([moved, facing, facing_now, turned, of_parts, behind], dim=-1)
    values = in_planes(interpolate(vertices_px, faces, face_ids, per_vertex.float().contiguous()))
    # In two steps: a kernel of WebGPU has at most eight buffers.
    displacement, there, now, turned, rest = values.split([2 * count, count, 1, count, 6], dim=1)
    around, torso, lower, off_middle, in_mouth, depth = rest.split(1, dim=1)
    plane = _plane_displacement(here, moved, ear_plane, _pixel_centres(face_ids))
    return _OnMesh(displacement, plane, there, now, around, torso, lower, off_middle, in_mouth, depth, turned)


def _own_view(photos: CarriedPhotos, facing: Float[Tensor, "b v 1"]) -> Float[Tensor, "b n 1 1"]:
    """How close the driven view is to each photograph's, in which the matte draws the outline, [0, 1].

    Args:
        photos: of each avatar.
        facing: ``facing_camera`` of the driven mesh.
    """
    change = (photos.vertices[..., 2] - facing[:, None, :, 0]).abs().mean(-1)
    return (1 - change / ANOTHER_VIEW).clamp_min(0)[..., None, None]


def _turned_alike(
    there: Float[Tensor, "b v n"], now: Float[Tensor, "b v 1"], part: Float[Tensor, "b v 1"]
) -> Float[Tensor, "b 1 n"]:
    """Whether a part of the body faces the camera as in each photograph, 0 or 1.

    Args:
        there: cosine between each vertex's normal and the camera in the photographs.
        now: the same in the driven view.
        part: 1 on the vertices of the part.
    """
    change = ((there - now).abs() * part).sum(1, keepdim=True) / part.sum(1, keepdim=True)
    return (change < TURNED_AWAY).to(change.dtype)


def _places(
    mesh: _OnMesh,
    mask: Bool[Tensor, "b 1 h w"],
    distance: Float[Tensor, "b 1 h w"],
    nearest: Int32[Tensor, "b h w"],
) -> tuple[
    Float[Tensor, "b n 2 h w"], Float[Tensor, "b n h w"], Float[Tensor, "b 1 h w"], Float[Tensor, "b n h w"]
]:
    """Positions in the photographs that correspond to each pixel, also beyond the mesh.

    Returns:
        The positions, fractions of width and height; whether the nearest outline of the mesh is that of each
        photograph, [0, 1]; and ``_OnMesh.around``, extended beyond the mesh.
    """
    known = mask.to(mesh.displacement.dtype)
    behind = torch.where(mesh.around > 0.5, mesh.displacement, mesh.of_ear_plane)
    inside = torch.cat([behind, mesh.displacement, mesh.around], dim=1)
    behind, outline, around = push_pull(inside, known).split([behind.shape[1], behind.shape[1], 1], dim=1)
    # The soft edge of an outline that both views share moves with it. Beside any other outline the
    # photograph shows more of the surface, which is hidden here.
    same = (2 * (1 - (mesh.there - mesh.now).abs() / SAME_BESIDE)).clamp(0, 1) * mesh.turned
    # An eyelid or a fold of the ear may lie on the outline but is not evidence about the head's.
    reach = max(1, round(FRAGMENT * int(mask.shape[-1])))
    # No gradient flows through it, see ``blend``.
    opening = dilate(erode(torch.where(mask, same, 1.0), reach) * known, reach)
    same = same + (opening - same).detach()
    # Neck and shoulders as a whole face as in the photograph or not, whatever a fold of the mesh does.
    torso = ((mesh.torso > 0.5) & (mesh.turned > 0.5) & mask).to(same.dtype)
    same, torso = values_of(nearest, torch.cat([torch.maximum(same, torso), torso], dim=1)).chunk(2, dim=1)
    edge = (same * (1 - distance / EDGE).clamp_min(0))[:, :, None]
    beside = torch.lerp(behind.unflatten(1, (-1, 2)), outline.unflatten(1, (-1, 2)), edge)
    displacement = torch.where(mask, mesh.displacement, beside.flatten(1, 2)).unflatten(1, (-1, 2))
    return _pixel_centres(mask[:, 0]) + displacement, same, around, torso


def _pixel_centres(picture: Shaped[Tensor, "b h w"]) -> Float[Tensor, "2 h w"]:
    """X and y of pixel centres, fractions of width and height."""
    height, width = picture.shape[-2:]
    rows = (torch.arange(height, device=picture.device, dtype=torch.float32) + 0.5) / height
    columns = (torch.arange(width, device=picture.device, dtype=torch.float32) + 0.5) / width
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"))


def _plane_displacement(
    here: Float[Tensor, "b v 2"],
    moved: Float[Tensor, "b v k"],
    plane: Int[Tensor, " m"],
    pixels: Float[Tensor, "2 h w"],
) -> Float[Tensor, "b k h w"]:
    """The displacement at each pixel if it showed a point of a plane that moves with the head.

    Under a rigid motion and a camera without perspective, the image of a plane moves by an affine map, which
    is fitted to vertices of the plane.

    Args:
        here: the driven mesh, fractions of width and height.
        moved: displacement of each vertex, one pair per photograph.
        plane: vertices near the plane.
        pixels: pixel centres, fractions of width and height.
    """
    points, values = here[:, plane], moved[:, plane]
    middle, mean = points.mean(1, keepdim=True), values.mean(1, keepdim=True)
    points = points - middle
    # A plane seen edge-on has no slope across it.
    across = points.transpose(1, 2)
    # Cramer's rule: ONNX has no linear solver.
    xx, xy, _, yy = (across @ points / len(plane)).flatten(1).unbind(-1)
    xx, yy = xx + FLAT**2, yy + FLAT**2
    adjugate = torch.stack([yy, -xy, -xy, xx], dim=-1).unflatten(-1, (2, 2))
    determinant = (xx * yy - xy * xy)[:, None, None]
    slope = adjugate @ (across @ (values - mean) / len(plane)) / determinant
    away_x, away_y = pixels[0, 0] - middle[:, :, 0], pixels[1, :, 0] - middle[:, :, 1]
    # An affine map is the sum of a row and a column.
    row = mean[:, 0, :, None] + slope[:, 0, :, None] * away_x[:, None]
    return row[:, :, None] + (slope[:, 1, :, None] * away_y[:, None])[..., None]


def _without_rim(matte: Float[Tensor, "b n h w"], hair: Float[Tensor, "b n h w"]) -> Float[Tensor, "b n h w"]:
    """The matte without its rim, which often has a line of the background's colour, except in hair."""
    return torch.lerp(erode(matte, max(1, round(RIM * int(matte.shape[-1])))), matte, hair)


def _is_surface(matte: Float[Tensor, "b n h w"], mesh: _OnMesh) -> Float[Tensor, "b n h w"]:
    """Whether what a photograph shows at a point is the surface itself, [0, 1].

    Background that the source's mesh covers is background in that view only; other views show the surface.

    Args:
        matte: of the photograph.
        mesh: at the pixels of the driven view.
    """
    same_view = (1 - (mesh.there - mesh.now).abs() / SAME_VIEW).clamp(0, 1) * mesh.turned
    return torch.maximum((2 * matte - 1).clamp(0, 1), same_view)


def _is_outline(there: Float[Tensor, "b n h w"], now: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b n h w"]:
    """Whether a point lies on the outline of both views, [0, 1]; arguments as for ``_is_surface``.

    The matte is reliable there, although outlines are seen at grazing angles.
    """
    on_both = (2 * (1 - there.abs() / OUTLINE) * (1 - now / OUTLINE).clamp_min(0)).clamp(0, 1)
    return on_both * (2 * (1 - (there - now).abs() / SAME_OUTLINE)).clamp(0, 1)


def fragments_beside(
    matte: Float[Tensor, "b n h w"], mask: Bool[Tensor, "b 1 h w"]
) -> Float[Tensor, "b n h w"]:
    """Opacity of pieces beside the mesh too thin to be hair, such as the edge of an ear behind a face."""
    reach = max(1, round(FRAGMENT * int(matte.shape[-1])))
    person = torch.where(mask, 1.0, matte)
    return person - opened(person, reach)


def _best_view(
    layers: Float[Tensor, "b n 9 h w"], visibility: Float[Tensor, "b n h w"], mask: Bool[Tensor, "b 1 h w"]
) -> Float[Tensor, "b 8 h w"]:
    """One photograph per pixel: the best view of the point on the mesh, the best overall elsewhere."""
    overall = visibility.sum((-1, -2), keepdim=True)
    weight = torch.where(mask, visibility, overall / overall.amax(1, keepdim=True).clamp_min(1e-6)) + 1e-3
    weight = weight.pow(_SHARPNESS)
    return (layers * (weight / weight.sum(1, keepdim=True))[:, :, None]).sum(1)
