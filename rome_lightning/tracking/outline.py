"""Fit the offsets of hair, neck and shoulders to a person's outline in photographs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F
from torch.optim.adam import adam

from rome_lightning.geometry import project, vertex_normals
from rome_lightning.head import HeadModel
from rome_lightning.head.depth import behind_ears, foreshortening
from rome_lightning.head.moving import moving_vertices
from rome_lightning.losses import occupancy
from rome_lightning.renderer import Rasterizer, coverage
from rome_lightning.types import Frames, Region
from rome_lightning.types.params import at_rest

SMOOTHNESS = 60.0
"""Weight of the mesh Laplacian in the step's metric: an outline's pull reaches a few rings of vertices."""
LEARNING_RATES = (1e-2, 1e-3)
"""Steps of Adam in the smoothed coordinates, metres: the first ones, and the last, see ``_rates``. Steps of
2 cm fit closer, but pull hair of some people beyond the photograph: pieces stand beside their heads."""
BETAS = (0.5, 0.99)
"""Betas of Adam, with less memory than usual: an outline that is reached pulls the other way at once."""
NUM_STEPS = 16
"""As close to the outline as 60 steps of 2 mm with the usual betas."""
OTHERS_WEIGHT = 0.5
"""Weight of further photographs relative to the first."""
LAPLACIAN_WEIGHT = 10.0
"""Weight of the added displacement's roughness against the squared error of the silhouette."""

_NEIGHBOURS: WeakKeyDictionary[HeadModel, tuple[Tensor, Tensor]] = WeakKeyDictionary()
_SMOOTHERS: WeakKeyDictionary[HeadModel, Tensor] = WeakKeyDictionary()
"""Of the heads in use: datasets fit thousands of people on one head, and an inverse takes half a second."""


def fit_outline(
    head: HeadModel,
    frames: Frames,
    rasterizer: Rasterizer,
    start: Float[Tensor, "b v 3"] | None = None,
    num_steps: int = NUM_STEPS,
    max_offset: float = 0.12,
    falloff: Float[Tensor, "m 1"] | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Float[Tensor, "b v 3"]:
    """Offsets that move hair, neck and shoulders until the mesh's outline is the person's in every picture.

    Steps are taken in coordinates smoothed over the surface, so that the contour, which alone gets
    gradients, takes its surroundings with it and the far side of the head follows smoothly.

    Source: the smoothed coordinates: Nicolet et al., Large steps in inverse rendering of geometry, 2021.

    Args:
        head: the model that ``frames`` were tracked with.
        frames: one picture of each person, or all those of one person, the most trusted first.
        rasterizer: finds the visible triangles.
        start: offsets to begin with, one row per person, metres; by default the depth
            that photographs show of one person, see ``foreshortening``.
        num_steps: of Adam.
        max_offset: longest offset, metres.
        falloff: share of its offset that each of ``moving_vertices`` keeps; by default theirs.
        on_step: is told after each step how many are done.

    Returns:
        Displacements of each person's head at rest, metres, head space; they turn with the skin.
    """
    people = 1 if start is None else len(start)
    rest = head(at_rest(frames.params[slice(0, people)])).detach()
    if start is None:
        start = foreshortening(head, rest)
    moving, usual_falloff = moving_vertices(head)
    falloff = usual_falloff if falloff is None else falloff
    smooth, neighbours = _smoother_of(head), _neighbours_of(head)
    pictures_each = len(frames) // people
    directions = _directions(head, rest, is_side_seen=pictures_each > 1)
    turning = head.turning(frames.params)
    begun = start.repeat_interleave(pictures_each, dim=0)
    begun = (head(frames.params) + head.turn(begun, frames.params, turning)).detach()
    outline, known = _outlines(frames, pictures_each)
    steps = torch.zeros_like(start[:, moving, :1]).requires_grad_()
    moments, count = (torch.zeros_like(steps), torch.zeros_like(steps)), torch.zeros(())

    def current() -> Float[Tensor, "b v 3"]:
        lengths = torch.zeros_like(start[..., :1])
        lengths = lengths.index_copy(1, moving, falloff * (smooth @ steps))
        return _shortened(start + lengths * directions, max_offset)

    with torch.enable_grad():
        for step, rate in enumerate(_rates(num_steps)):
            grown = (current() - start).repeat_interleave(pictures_each, dim=0)
            turned = head.turn(grown, frames.params, turning)
            world = head.to_world(begun + turned, frames.params)
            vertices_px = project(world, frames.params.camera, frames.image_size)
            face_ids = rasterizer.face_ids(vertices_px, head.faces, frames.image_size)
            silhouette = coverage(vertices_px, head.faces, face_ids)
            # A sum over the pictures of a person: further ones must not make the first count less.
            loss = pictures_each * occupancy(silhouette * known, outline)
            loss = loss + LAPLACIAN_WEIGHT * _roughness(turned, *neighbours)
            (gradient,) = torch.autograd.grad(loss, steps)
            adam_step(steps, gradient, moments, count, rate, BETAS)
            if on_step is not None:
                on_step(step + 1)
    return current().detach()


def _rates(num_steps: int) -> list[float]:
    """Learning rates: seven tenths of the steps are large, the others shrink evenly to the smallest."""
    first, last = LEARNING_RATES
    shrinking = num_steps - int(0.7 * num_steps)
    shares = [max(0, step + 1 - num_steps + shrinking) / shrinking for step in range(num_steps)]
    return [first + share * (last - first) for share in shares]


def adam_step(
    values: Tensor,
    gradient: Tensor,
    moments: tuple[Tensor, Tensor],
    count: Tensor,
    rate: float,
    betas: tuple[float, float],
) -> None:
    """A step of ``torch.optim.Adam``, whose class imports the compiler: as long as all the steps take."""
    with torch.no_grad():
        adam(
            [values], [gradient], [moments[0]], [moments[1]], [], [count],
            amsgrad=False, maximize=False, foreach=False,
            lr=rate, beta1=betas[0], beta2=betas[1], weight_decay=0.0, eps=1e-8,
        )  # fmt: skip


def _directions(head: HeadModel, rest: Float[Tensor, "b v 3"], is_side_seen: bool) -> Float[Tensor, "b v 3"]:
    """Where each vertex may go: along its normal, but in one picture not backwards behind the ears.

    One outline says nothing of the depth of the far side, which hair that grows sideways would take along.
    """
    normals = vertex_normals(rest, head.faces)
    if is_side_seen:
        return normals
    sideways, forward = normals.split([2, 1], dim=-1)
    kept = torch.where(forward < 0, 1 - behind_ears(head, rest), 1.0)
    return torch.cat([sideways, forward * kept], dim=-1)


def _outlines(
    frames: Frames, pictures_each: int
) -> tuple[Float[Tensor, "b 1 h w"], Float[Tensor, "b 1 h w"]]:
    """Where the person is, and how far each pixel is known and counts, [0, 1]."""
    # Nobody knows what is beyond the border of a picture.
    known = 1 - frames.region_mask(Region.OUTSIDE)
    if pictures_each > 1:
        known[1:] = OTHERS_WEIGHT * known[1:] * beside_head(frames[slice(1, None)])
    return frames.foreground_mask * known, known


def beside_head(pictures: Frames) -> Float[Tensor, "b 1 h w"]:
    """Where further pictures show background above the chin, [0, 1]: the mesh must not be there.

    They only carve: hair hangs and poses are off by a little from one picture to another, so a mesh that
    grew into every outline would be larger than the head in each. Below the chin tracking guesses: the
    shoulders of two pictures do not agree.
    """
    rows = torch.arange(pictures.image_size[0], device=pictures.image.device).view(1, 1, -1, 1)
    chin = pictures.landmarks[..., 1].amax(1).view(-1, 1, 1, 1)
    return (rows < chin).to(pictures.image.dtype) * (1 - pictures.foreground_mask)


def _shortened(offsets: Float[Tensor, "b v 3"], limit: float) -> Float[Tensor, "b v 3"]:
    """The same directions with lengths of at most ``limit``; its gradient is finite at 0."""
    square = offsets.square().sum(-1, keepdim=True)
    return offsets * (limit / square.clamp_min(limit**2).sqrt())


class _Roughness(Function):
    """``losses.laplacian`` of a mesh whose neighbours are known, in a tenth of its time on a CPU.

    Gathers in both directions: a neighbour's neighbour is the vertex itself.
    """

    @staticmethod
    def forward(
        ctx: Any, offsets: Float[Tensor, "b v 3"], table: Int[Tensor, "v n"], count: Float[Tensor, "v 1"]
    ) -> Float[Tensor, ""]:
        rows = (_gathered(offsets, table) - count * offsets) / count.clamp_min(1)
        ctx.save_for_backward(rows.sign(), table, count)
        return rows.abs().sum(-1).mean()

    @staticmethod
    def backward(ctx: Any, gradient: Float[Tensor, ""]) -> tuple[Float[Tensor, "b v 3"], None, None]:
        signs, table, count = ctx.saved_tensors
        rows = signs / count.clamp_min(1) * (gradient / signs[..., 0].numel())
        return _gathered(rows, table) - count * rows, None, None


def _gathered(values: Float[Tensor, "b v 3"], table: Int[Tensor, "v n"]) -> Float[Tensor, "b v 3"]:
    """Sum over each vertex's neighbours; the row behind the last is 0."""
    rows = F.pad(values, (0, 0, 0, 1)).transpose(0, 1)
    # A sixth of the time of an indexed copy and its sum.
    sums = F.embedding_bag(table, rows.flatten(1), mode="sum")
    return sums.unflatten(1, rows.shape[1:]).transpose(0, 1)


def _roughness(
    offsets: Float[Tensor, "b v 3"], table: Int[Tensor, "v n"], count: Float[Tensor, "v 1"]
) -> Float[Tensor, ""]:
    result: Tensor = _Roughness.apply(offsets, table, count)
    return result


def _neighbours_of(head: HeadModel) -> tuple[Int[Tensor, "v n"], Float[Tensor, "v 1"]]:
    """Neighbours of each vertex, filled up with the number of vertices, and how many they are."""
    known = _NEIGHBOURS.get(head)
    if known is None or known[0].device != head.edges.device:
        start, end = torch.cat([head.edges, head.edges.flip(1)]).unbind(1)
        order = start.argsort(stable=True)
        start, end = start[order], end[order]
        count = torch.bincount(start, minlength=head.num_vertices)
        place = torch.arange(len(start), device=start.device) - (count.cumsum(0) - count)[start]
        table = start.new_full((head.num_vertices, int(count.max())), head.num_vertices)
        table[start, place] = end
        known = _NEIGHBOURS[head] = table, count[:, None].float()
    return known


def _smoother_of(head: HeadModel) -> Float[Tensor, "m m"]:
    """``_smoother`` of the vertices of a head that may move."""
    moving, _ = moving_vertices(head)
    known = _SMOOTHERS.get(head)
    if known is None or known.device != moving.device:
        known = _SMOOTHERS[head] = _smoother(moving, head.edges, head.num_vertices)
    return known


def _smoother(
    moving: Int[Tensor, " m"], edges: Int[Tensor, "e 2"], num_vertices: int
) -> Float[Tensor, "m m"]:
    """Inverse of (1 + weight x Laplacian) over the moving vertices, whose other neighbours stay at 0."""
    index = torch.full((num_vertices,), -1, dtype=torch.long, device=moving.device)
    index[moving] = torch.arange(len(moving), device=moving.device)
    start, end = torch.cat([edges, edges.flip(1)]).unbind(1)
    matrix = torch.eye(len(moving), device=moving.device)
    ours = index[start] >= 0
    row, column = index[start[ours]], index[end[ours]]
    weight = torch.full_like(row, SMOOTHNESS, dtype=matrix.dtype)
    matrix.index_put_((row, row), weight, accumulate=True)
    inside = column >= 0
    matrix.index_put_((row[inside], column[inside]), -weight[inside], accumulate=True)
    # Symmetric and positive: Cholesky's way takes half the time.
    return torch.cholesky_inverse(torch.linalg.cholesky(matrix))
