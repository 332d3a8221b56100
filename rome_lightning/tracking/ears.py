"""Fit the ears of a head to photographs: no landmark lies on them."""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rome_lightning.geometry import project
from rome_lightning.head import HeadModel
from rome_lightning.head.depth import foreshortening
from rome_lightning.renderer import Rasterizer, coverage
from rome_lightning.renderer.morphology import dilate
from rome_lightning.tracking.outline import adam_step
from rome_lightning.types import Frames, Region
from rome_lightning.types.params import at_rest

NUM_STEPS = 20
LEARNING_RATE, BETAS = 0.2, (0.7, 0.99)
"""Steps of Adam and their size, units."""
UNITS = (0.01, 0.01, 0.2, 0.2, 0.3, 0.3)
"""One unit of each mode: metres up, metres forward, taller and longer by this share, metres outward per metre
behind the front of the ear, and metres backward per metre above its middle."""
MEAN = (0.15, 0.0, 0.0, 0.0, 0.2, 0.2)
DEVIATION = (0.5, 0.4, 0.7, 0.5, 0.4, 0.7)
"""Mean of the amounts, and a little more than their deviation, over 224 ears of 260 portraits, units. Depth
and length show only in pictures from the side: theirs are chosen."""
PRIOR = 2e-5
"""Weight of the squared deviations against the squared error of the silhouette."""
SURROUNDINGS = 0.012
"""Distance from an ear at which the skin beside it moves by 1 / e of what the ear does, metres."""
DEPTH = 0.045
"""Distance behind its front up to which an ear is turned outward, metres."""
WINDOW = 0.035
"""Distance from the ear within which the picture is evidence, image widths."""
HIDDEN, SEEN = 0.5, 0.8
"""Share of skin on an ear below which it counts as hidden by hair, and above which as seen."""
LEAST_AREA = 2e-4
"""Visible area of an ear from which it counts as seen, share of the image: a turned head hides one."""


def fit_ears(
    head: HeadModel,
    frames: Frames,
    rasterizer: Rasterizer,
    start: Float[Tensor, "b v 3"] | None = None,
) -> Float[Tensor, "b v 3"]:
    """Move, scale and turn the ears until their outlines are those of the skin in the pictures.

    Landmarks lie on the face, so a tracked head has the mean ears of such faces, up to a centimetre away from
    the person's. A photograph's ear would be painted partly on the scalp behind, and tear on a turn.

    Each ear has six modes, see ``UNITS``. An ear that hair or the head hides mirrors the other.

    Args:
        head: the model that ``frames`` were tracked with.
        frames: one picture of each person, or all those of one person.
        rasterizer: finds the visible triangles.
        start: offsets to begin with, one row per person, metres; ``foreshortening`` by default.

    Returns:
        ``start`` with the ears and the skin beside them moved, metres, head at rest.

    Departure from ROME, whose ears stay on the parametric head.
    """
    people = 1 if start is None else len(start)
    if start is None:
        start = foreshortening(head, head(at_rest(frames.params[slice(0, people)])))
    pictures_each = len(frames) // people
    modes = _modes(head, head.template.device)
    turning = head.turning(frames.params)
    begun = start.detach().repeat_interleave(pictures_each, dim=0)
    begun = (head(frames.params) + head.turn(begun, frames.params, turning)).detach()
    skin = frames.region_mask(Region.FACE_SKIN) + frames.region_mask(Region.BODY_SKIN)
    evidence, seen = _evidence(head, frames, rasterizer, _in_pixels(head, begun, frames), skin)
    # Without scalp, clothes and what a person wears, the ears have an outline of their own.
    faces = _faces(head, head.region("face", "eyes", "ears", "neck"), whole=True)
    mean, deviation = (skin.new_tensor(values) for values in (MEAN, DEVIATION))
    amounts = mean.expand(people, 2, -1).clone().requires_grad_()
    moments, count = (torch.zeros_like(amounts), torch.zeros_like(amounts)), torch.zeros(())
    with torch.enable_grad():
        for _ in range(NUM_STEPS):
            moved = torch.einsum("bsk,skvc->bvc", amounts, modes).repeat_interleave(pictures_each, dim=0)
            moved = begun + head.turn(moved, frames.params, turning)
            vertices_px = _in_pixels(head, moved, frames)
            face_ids = rasterizer.face_ids(vertices_px, faces, frames.image_size)
            missed = (coverage(vertices_px, faces, face_ids) - skin) * evidence
            loss = missed.square().mean((1, 2, 3)).sum()
            loss = loss + PRIOR * ((amounts - mean) / deviation).square().sum()
            (gradient,) = torch.autograd.grad(loss, amounts)
            adam_step(amounts, gradient, moments, count, LEARNING_RATE, BETAS)
    # A hidden ear is like the other. If both are hidden they stay where they are: under the hair.
    seen = seen.view(people, pictures_each, 2, 1).amax(1)
    found = amounts.detach() * seen
    found = found + (1 - seen) * found.flip(1)
    return start + torch.einsum("bsk,skvc->bvc", found, modes)


def _evidence(
    head: HeadModel,
    frames: Frames,
    rasterizer: Rasterizer,
    vertices_px: Float[Tensor, "b v 3"],
    skin: Float[Tensor, "b 1 h w"],
) -> tuple[Float[Tensor, "b 1 h w"], Float[Tensor, "b 2"]]:
    """Where the outline of the skin is that of an ear, and how much of each ear is seen, [0, 1]."""
    size = frames.image_size
    ears = _ears(head, head.template.device)
    visible = rasterizer.face_ids(vertices_px, head.faces, size)
    reach = max(1, round(WINDOW * size[1]))
    windows, seen, on_ears = [], [], torch.zeros_like(skin)
    for ear in ears:
        alone = _covered(rasterizer, vertices_px, _faces(head, ear, whole=True), size)
        shown = ((visible >= 0) & ear[head.faces].all(1)[visible.clamp_min(0).long()])[:, None].to(skin.dtype)
        share = (shown * skin).mean((1, 2, 3)) / shown.mean((1, 2, 3)).clamp_min(1e-6)
        large = (shown.mean((1, 2, 3)) > LEAST_AREA).to(skin.dtype)
        seen.append(((share - HIDDEN) / (SEEN - HIDDEN)).clamp(0, 1) * large)
        windows.append(dilate(alone, reach) * seen[-1][:, None, None, None])
        on_ears = torch.maximum(on_ears, alone)
    window = torch.maximum(*windows)
    window = window * (1 - frames.region_mask(Region.OUTSIDE) - frames.region_mask(Region.OTHER))
    # Skin on the scalp or the body of the mesh belongs to an ear only if hair covers the rest of the scalp.
    behind = _covered(
        rasterizer, vertices_px, _faces(head, head.region("scalp", "shoulders"), whole=False), size
    )
    behind = behind * (1 - on_ears)
    hair, bare = ((behind * window * part).sum((1, 2, 3)) for part in (frames.region_mask(Region.HAIR), skin))
    is_bald = (bare >= hair).to(skin.dtype)[:, None, None, None]
    return window * (1 - behind * skin * is_bald), torch.stack(seen, dim=1)


def _in_pixels(head: HeadModel, vertices: Float[Tensor, "b v 3"], frames: Frames) -> Float[Tensor, "b v 3"]:
    return project(head.to_world(vertices, frames.params), frames.params.camera, frames.image_size)


def _covered(
    rasterizer: Rasterizer,
    vertices_px: Float[Tensor, "b v 3"],
    faces: Int[Tensor, "f 3"],
    size: tuple[int, int],
) -> Float[Tensor, "b 1 h w"]:
    """1 on the pixels of these faces, whatever is in front of them."""
    return (rasterizer.face_ids(vertices_px, faces, size) >= 0)[:, None].to(vertices_px.dtype)


def _faces(head: HeadModel, vertices: Bool[Tensor, " v"], whole: bool) -> Int[Tensor, "f 3"]:
    """The faces all of whose corners, or one of them, are among the vertices."""
    corners = vertices[head.faces]
    return head.faces[corners.all(1) if whole else corners.any(1)]


@lru_cache(maxsize=4)
def _ears(head: HeadModel, device: torch.device) -> tuple[Bool[Tensor, " v"], Bool[Tensor, " v"]]:
    """The vertices of the left ear (x > 0) and of the right one."""
    left = head.to_vertices(head.template.unflatten(0, (-1, 3)))[:, 0] > 0
    ears = head.region("ears")
    return ears & left, ears & ~left


@lru_cache(maxsize=4)
def _modes(head: HeadModel, device: torch.device) -> Float[Tensor, "2 6 v 3"]:
    """Displacement of all vertices per unit of each mode of each ear, metres."""
    mean = head.to_vertices(head.template.unflatten(0, (-1, 3)))
    modes = mean.new_zeros(2, len(UNITS), *mean.shape)
    for index, ear in enumerate(_ears(head, device)):
        away = torch.cdist(mean, mean[ear]).amin(1)
        share = torch.exp(-(away / SURROUNDINGS).square()) * ~head.region("eyes", "mouth")
        middle = (mean[ear].amin(0) + mean[ear].amax(0)) / 2
        behind_front = (mean[ear, 2].amax() - mean[:, 2]).clamp(0, DEPTH)
        outward = mean[ear, 0].mean().sign()
        along_modes = (
            (1, torch.ones_like(share)), (2, torch.ones_like(share)),
            (1, mean[:, 1] - middle[1]), (2, mean[:, 2] - middle[2]), (0, outward * behind_front),
            (2, middle[1] - mean[:, 1]),
        )  # fmt: skip
        for mode, (axis, amount) in enumerate(along_modes):
            modes[index, mode, :, axis] = UNITS[mode] * share * amount
    return modes
