"""Generic colours of what a photograph seldom shows: eyeballs and the inside of the mouth."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rome_lightning.head.model import HeadModel
from rome_lightning.head.topology import face_components
from rome_lightning.renderer import UVLayout

SCLERA = (0.78, 0.75, 0.73)
IRIS = (0.33, 0.23, 0.16)
PUPIL = (0.05, 0.04, 0.04)
TEETH = (0.78, 0.74, 0.69)
GUMS = (0.68, 0.36, 0.36)
TONGUE = (0.68, 0.37, 0.36)
CAVITY = (0.34, 0.13, 0.12)
"""sRGB colours."""
DARK_FROM, DARK_AT = 0.004, 0.045
"""Distance behind the front teeth from which the mouth grows dark, and at which it is, metres."""
DARKNESS = 0.4
"""How dark it grows, share of the brightness."""
CROWN = 0.0095
"""Height of the teeth above the gums, metres."""
TOOTH_EDGES = (0.0, 0.0082, 0.0148, 0.0222, 0.0290, 0.0358, 0.0455)
"""Where one tooth ends and the next begins, metres along the arch from its middle."""
GAP, GAP_DARKNESS = 0.0012, 0.45
"""Width of the shade between two teeth, metres, and how dark it is."""

_IRIS_RADIUS, _PUPIL_RADIUS = 0.0059, 0.0024
"""Metres."""


def interior_colours(
    head: HeadModel, layout: UVLayout, positions: Float[Tensor, "3 s s"]
) -> Float[Tensor, "3 s s"]:
    """Colours of eyeballs, teeth, tongue and cavity at every texel, RGB in [0, 1]; elsewhere arbitrary.

    Args:
        head: with regions ``mouth`` and ``eyes``.
        layout: texels of the texture.
        positions: of each texel on the mean head, metres.
    """
    tongue, upper, lower = (part.to(positions.dtype) for part in _mouth_parts(head))
    tongue, upper, lower = layout.gather(torch.stack([tongue, upper, lower], dim=-1)[None])[0] > 0.5
    texels = torch.tensor(CAVITY)[:, None, None].expand_as(positions).clone()
    texels[:, tongue] = torch.tensor(TONGUE)[:, None]
    front = float(positions[2, upper | lower].max()) if bool((upper | lower).any()) else 0.0
    for teeth, is_upper in ((upper, True), (lower, False)):
        texels[:, teeth] = _teeth_colours(positions[:, teeth], front, is_upper)
    inside = layout.gather(head.region("mouth").cpu().float()[None, :, None])[0, 0] > 0.5
    behind = front - positions[2, inside]
    texels[:, inside] *= 1 - DARKNESS * ((behind - DARK_FROM) / (DARK_AT - DARK_FROM)).clamp(0, 1)
    eyes = layout.gather(head.region("eyes").cpu().float()[None, :, None])[0, 0] > 0.5
    texels[:, eyes] = _eye_colours(head, positions[:, eyes].T).T
    return texels


def _mouth_parts(head: HeadModel) -> tuple[Bool[Tensor, " v"], Bool[Tensor, " v"], Bool[Tensor, " v"]]:
    """Vertices of the tongue, the upper and the lower teeth; none on heads without."""
    labels = torch.from_numpy(face_components(head.faces.cpu().numpy()))
    pieces = torch.zeros(head.num_vertices, dtype=torch.long)
    pieces[head.faces.cpu().flatten()] = labels.repeat_interleave(3)
    mouth, outside = head.region("mouth").cpu(), ~head.region("mouth", "eyes").cpu()
    # Teeth and tongue are pieces of their own; what hangs together with the face is the cavity.
    loose = mouth & ~torch.isin(pieces, pieces[outside].unique())
    tongue = torch.zeros_like(loose)
    if "tongueOut" in head.expression_names:
        move = head.basis[head.num_shape + head.expression_names.index("tongueOut")].view(-1, 3).norm(dim=-1)
        tongue[: head.num_carriers] = move.cpu() > 1e-3
        tongue = loose & torch.isin(pieces, pieces[loose & tongue].unique())
    teeth = loose & ~tongue
    height = head.to_vertices(head.template.unflatten(0, (-1, 3)))[:, 1].cpu()
    middle = height[teeth].mean()
    upper = torch.zeros_like(teeth)
    for piece in pieces[teeth].unique():
        of = teeth & (pieces == piece)
        upper |= of & (height[of].mean() > middle)
    return tongue, upper, teeth & ~upper


def _teeth_colours(points: Float[Tensor, "3 n"], front: float, is_upper: bool) -> Float[Tensor, "3 n"]:
    """Teeth with shades between them, and gums.

    Args:
        points: on the mean head, metres.
        front: z of the foremost tooth.
        is_upper: which row.
    """
    if points.shape[1] == 0:
        return points
    x, y, z = points
    # From the middle of the arch; the chord is close to the arc as far as anyone looks.
    along = (x.square() + (front - z).square()).sqrt()
    edge = (along[:, None] - torch.tensor(TOOTH_EDGES)).abs().amin(1)
    shade = 1 - GAP_DARKNESS * (1 - edge / GAP).clamp(0, 1)
    from_edge = y - y.min() if is_upper else y.max() - y
    gums = ((from_edge - CROWN) / 0.001).clamp(0, 1)
    return torch.lerp(
        torch.tensor(TEETH)[:, None] * shade, torch.tensor(GUMS)[:, None].expand(3, len(x)), gums
    )


def _eye_colours(head: HeadModel, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Sclera, iris and pupil by the angle to the forward gaze, in human size whatever the eyeball's."""
    joints = head.joint_template.float().cpu().view(5, 3)
    centres = torch.where(points[:, :1] > 0, joints[3], joints[4])
    gaze = points - centres
    radius = gaze.norm(dim=-1, keepdim=True).clamp_min(1e-6)
    angle = (gaze[:, 2:] / radius).clamp(-1, 1).arccos()

    def within(disc: float) -> Tensor:
        """1 inside a disc of this radius in metres, 0 outside, soft over 3 degrees."""
        return (((disc / radius).asin() - angle) / 0.05 + 0.5).clamp(0, 1)

    colours = torch.tensor(SCLERA).expand(len(points), 3)
    for disc, colour in ((_IRIS_RADIUS, IRIS), (_PUPIL_RADIUS, PUPIL)):
        colours = torch.lerp(colours, torch.tensor(colour).expand_as(colours), within(disc))
    return colours
