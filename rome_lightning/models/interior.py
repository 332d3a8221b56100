"""Generic colours of what a photograph seldom shows: eyeballs and the inside of the mouth."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from rome_lightning.head.model import HeadModel
from rome_lightning.head.topology import face_components
from rome_lightning.renderer import UVLayout

SCLERA = (0.78, 0.75, 0.73)
IRIS = (0.33, 0.23, 0.16)
PUPIL = (0.05, 0.04, 0.04)
TEETH = (0.85, 0.80, 0.72)
TONGUE = (0.70, 0.40, 0.38)
CAVITY = (0.36, 0.14, 0.13)
"""sRGB colours."""

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
    colours = torch.tensor(CAVITY).repeat(head.num_vertices, 1)
    labels = torch.from_numpy(face_components(head.faces.cpu().numpy()))
    pieces = torch.zeros(head.num_vertices, dtype=torch.long)
    pieces[head.faces.cpu().flatten()] = labels.repeat_interleave(3)
    mouth, outside = head.region("mouth").cpu(), ~head.region("mouth", "eyes").cpu()
    # Teeth and tongue are pieces of their own; what hangs together with the face is the cavity.
    loose = mouth & ~torch.isin(pieces, pieces[outside].unique())
    colours[loose] = torch.tensor(TEETH)
    if "tongueOut" in head.expression_names:
        move = head.basis[head.num_shape + head.expression_names.index("tongueOut")].view(-1, 3).norm(dim=-1)
        moving = torch.zeros(head.num_vertices, dtype=torch.bool)
        moving[: head.num_carriers] = move.cpu() > 1e-3
        colours[loose & torch.isin(pieces, pieces[loose & moving].unique())] = torch.tensor(TONGUE)
    texels = layout.gather(colours[None])[0]
    eyes = layout.gather(head.region("eyes").cpu().float()[None, :, None])[0, 0] > 0.5
    texels[:, eyes] = _eye_colours(head, positions[:, eyes].T).T
    return texels


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
