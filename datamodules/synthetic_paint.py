"""Random people for ``datamodules.synthetic``: shape, displacements and a painted texture."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn

from rome_lightning.head import REGIONS, HeadModel
from rome_lightning.renderer import UVLayout, extend_outside
from rome_lightning.types import HeadParams, Region

_SKIN = np.array(
    [[0.96, 0.80, 0.69], [0.90, 0.71, 0.57], [0.78, 0.57, 0.42], [0.58, 0.40, 0.28], [0.38, 0.26, 0.19]]
)
_HAIR = np.array(
    [
        [0.10, 0.08, 0.07],
        [0.26, 0.17, 0.11],
        [0.45, 0.29, 0.17],
        [0.78, 0.63, 0.39],
        [0.62, 0.28, 0.14],
        [0.62, 0.61, 0.60],
    ]
)
_IRIS = np.array([[0.30, 0.19, 0.10], [0.24, 0.39, 0.52], [0.30, 0.42, 0.26], [0.42, 0.32, 0.17]])


@dataclass(frozen=True)
class Person:
    """What all frames of a person share."""

    shape: Float[Tensor, " s"]
    """Identity coefficients of the head model."""
    lengths: Float[Tensor, " v"]
    """Displacement of each vertex along its normal, metres."""
    texture: Float[Tensor, "9 t t"]
    """RGB in [0, 1], then a vote in [0, 1] for each ``Region``."""
    camera: np.ndarray
    """(scale, t_x, t_y), about which those of the frames vary."""


class HeadSurface(nn.Module):
    """What painting needs to know about a head model: the position of each texel on the mean head.

    Args:
        head: any head model.
        texture_size: texels per side.
    """

    def __init__(self, head: HeadModel, texture_size: int) -> None:
        super().__init__()
        rest = head(HeadParams.neutral(1, head.num_shape, head.num_expression).to(head.faces.device))
        layout = UVLayout(head.faces, head.uvs, head.uv_faces, texture_size)
        self.vertices = rest[0].cpu()
        self.texel_mask = layout.mask[None, None].cpu()
        self.edges = head.edges.cpu()
        masks = torch.stack([head.region(name).float() for name in REGIONS], dim=-1)
        self.vertex_regions = dict(zip(REGIONS, masks.cpu().T, strict=True))
        teeth, tongue = _mouth_parts(head)
        attributes = torch.cat([rest[0], masks, teeth[:, None], tongue[:, None]], dim=-1)
        texels = layout.gather(attributes[None])[0].cpu()
        self.points = texels[:3].permute(1, 2, 0)
        self.regions = dict(zip((*REGIONS, "teeth", "tongue"), texels[3:], strict=True))
        joints = head.joint_template.reshape(5, 3).cpu()
        self.eyes = joints[3:5]
        self.lips = self._lip_contour(head)

    def _lip_contour(self, head: HeadModel) -> Float[Tensor, "n 3"]:
        """Vertices of the face that touch the inside of the mouth; none if the head has no inside."""
        face, mouth = self.vertex_regions["face"] > 0, self.vertex_regions["mouth"] > 0
        a, b = self.edges.unbind(1)
        touching = torch.cat([a[face[a] & mouth[b]], b[face[b] & mouth[a]]]).unique()
        return self.vertices[touching]

    def smooth(self, values: Float[Tensor, " v"], rounds: int) -> Float[Tensor, " v"]:
        """Repeatedly average values with their neighbours on the mesh."""
        a, b = self.edges.unbind(1)
        degree = torch.zeros(len(values)).index_add_(0, self.edges.flatten(), torch.ones(2 * len(a)))
        for _ in range(rounds):
            total = torch.zeros_like(values).index_add_(0, a, values[b]).index_add_(0, b, values[a])
            values = (values + total / degree.clamp_min(1)) / 2
        return values


def _mouth_parts(head: HeadModel) -> tuple[Float[Tensor, " v"], Float[Tensor, " v"]]:
    """Teeth and tongue: the separate pieces inside the mouth; the tongue is the narrowest."""
    faces = head.faces.cpu().numpy()
    corners = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]])
    graph = coo_array((np.ones(len(corners)), corners.T), shape=(head.num_vertices,) * 2)
    labels = connected_components(graph, directed=False)[1]
    mouth = head.region("mouth").cpu().numpy()
    x = head.template.reshape(-1, 3)[:, 0].cpu().numpy()
    teeth, tongue = torch.zeros(head.num_vertices), torch.zeros(head.num_vertices)
    loose = [label for label in np.unique(labels[mouth]) if mouth[labels == label].all()]
    widths = {label: np.ptp(x[np.flatnonzero(labels[: len(x)] == label)]) for label in loose}
    narrowest = min(widths, key=lambda label: widths[label], default=None)
    for label in loose:
        part = tongue if label == narrowest else teeth
        part[torch.from_numpy(labels == label)] = 1.0
    return teeth.to(head.faces.device), tongue.to(head.faces.device)


def random_person(rng: np.random.Generator, surface: HeadSurface, head: HeadModel) -> Person:
    """A person that depends only on the state of ``rng``."""
    shape = torch.from_numpy(rng.normal(0, 0.7, head.num_shape).clip(-2, 2)).float()
    hair_length = rng.uniform(0, 1)
    lengths = _displacements(rng, surface, hair_length)
    texture = _paint(rng, surface, hair_length)
    camera = np.array([rng.uniform(4.2, 5.0), rng.normal(0, 0.005), rng.uniform(0.02, 0.05)])
    return Person(shape, lengths, texture, camera)


def _noise(
    rng: np.random.Generator,
    points: Float[Tensor, "*n 3"],
    wavelength: float,
    stretch: tuple[float, ...] = (1.0, 1.0, 1.0),
) -> Float[Tensor, "*n"]:
    """Smooth noise in space with mean 0 and standard deviation 1.

    Args:
        rng: source of randomness.
        points: metres.
        wavelength: metres.
        stretch: factors of the wavelength along x, y and z.
    """
    count = 24
    directions = rng.normal(size=(3, count))
    directions *= rng.uniform(0.6, 1.4, count) / np.linalg.norm(directions, axis=0)
    waves = torch.from_numpy(2 * math.pi * directions / wavelength / np.array(stretch)[:, None]).float()
    phases = torch.from_numpy(rng.uniform(0, 2 * math.pi, count)).float()
    return (points @ waves + phases).cos().sum(-1) * math.sqrt(2 / count)


def _is_long(points: Float[Tensor, "*n 3"], hair_length: float) -> Bool[Tensor, "*n"]:
    """Part of the neck that long hair covers: its back and sides."""
    reach = 0.06 - 0.1 * hair_length
    behind = (points[..., 2] < min(reach, 0.02)) & (points[..., 0].abs() < 0.075)
    return behind & (hair_length > 0.5)


def _displacements(rng: np.random.Generator, surface: HeadSurface, hair_length: float) -> Float[Tensor, " v"]:
    """Raise hair from the scalp and clothes from the shoulders; the face is unchanged."""
    regions, points = surface.vertex_regions, surface.vertices
    hair = regions["scalp"] + regions["neck"] * _is_long(points, hair_length)
    thickness = rng.uniform(0.006, 0.02) + 0.018 * hair_length
    waves = 1 + 0.22 * _noise(rng, points, 0.05) + 0.08 * _noise(rng, points, 0.02)
    # Full height only away from the hairline, so that the rim has no step.
    rim = surface.smooth(hair, 8).clamp(0, 1) * hair.clamp(0, 1)
    above = 0.8 + 0.5 * ((points[:, 1] - 0.05) / 0.08).clamp(-0.5, 1)
    lengths = thickness * rim * waves * above
    clothes = surface.smooth(regions["shoulders"], 3) * regions["shoulders"]
    lengths = lengths + clothes * rng.uniform(0.004, 0.012) * (1 + 0.3 * _noise(rng, points, 0.06))
    keep = 1 - regions["face"] - regions["eyes"] - regions["mouth"] - regions["ears"]
    return lengths * keep.clamp(0, 1)


def _paint(rng: np.random.Generator, surface: HeadSurface, hair_length: float) -> Float[Tensor, "9 t t"]:
    points = surface.points
    skin = _between(rng, _SKIN)
    canvas = _Canvas(points, skin * (1 + 0.03 * _noise(rng, points, 0.03)[..., None].numpy()))
    _paint_face(rng, surface, canvas, skin)
    _paint_eyes(surface, canvas, _IRIS[rng.integers(len(_IRIS))] * rng.uniform(0.8, 1.2))
    canvas.paint(surface.regions["mouth"] > 0.5, np.array([0.35, 0.12, 0.12]), Region.FACE_SKIN)
    canvas.paint(surface.regions["tongue"] > 0.5, np.array([0.70, 0.35, 0.35]), Region.FACE_SKIN)
    canvas.paint(surface.regions["teeth"] > 0.5, np.array([0.92, 0.90, 0.84]), Region.FACE_SKIN)
    canvas.paint(surface.regions["neck"] > 0.5, None, Region.BODY_SKIN)
    _paint_hair(rng, surface, canvas, hair_length)
    _paint_clothes(rng, surface, canvas)
    # Bilinear lookups reach beyond the charts, so their border is repeated outwards.
    texture, _ = extend_outside(canvas.texture()[None], surface.texel_mask)
    return texture[0]


class _Canvas:
    """Colour and label per texel."""

    def __init__(self, points: Float[Tensor, "s s 3"], colour: np.ndarray) -> None:
        self.points = points
        self.colour = torch.as_tensor(colour).float().clone()
        self.labels = torch.full(points.shape[:2], int(Region.FACE_SKIN))

    def paint(self, where: Tensor, colour: np.ndarray | Tensor | None, label: Region | None = None) -> None:
        """Paint texels.

        Args:
            where: weight in [0, 1] or mask.
            colour: one colour or one per texel; None keeps the colour.
            label: new label where the weight is above a half; None keeps it.
        """
        weight = where.float()
        if colour is not None:
            value = torch.as_tensor(colour).float()
            self.colour = self.colour + weight[..., None] * (value - self.colour)
        if label is not None:
            self.labels[weight > 0.5] = int(label)

    def texture(self) -> Float[Tensor, "9 t t"]:
        """Colour and votes."""
        votes = torch.nn.functional.one_hot(self.labels, len(Region)).float()
        return torch.cat([self.colour.clamp(0, 1), votes], dim=-1).permute(2, 0, 1).contiguous()


def _between(rng: np.random.Generator, palette: np.ndarray) -> np.ndarray:
    """A colour between two neighbours of a palette."""
    place = rng.uniform(0, len(palette) - 1)
    low = min(int(place), len(palette) - 2)
    return palette[low] + (place - low) * (palette[low + 1] - palette[low])


def _paint_face(rng: np.random.Generator, surface: HeadSurface, canvas: _Canvas, skin: np.ndarray) -> None:
    points, face = surface.points, surface.regions["face"]
    left, right = surface.eyes
    red = skin * np.array([1.0, 0.72, 0.70])
    for eye in (left, right):
        side = float(eye[0].sign())
        centre = eye + torch.tensor([side * 0.012, -0.045, 0.02])
        distance = (points - centre).norm(dim=-1)
        canvas.paint(face * rng.uniform(0.25, 0.5) * (-((distance / 0.022) ** 2)).exp(), red)
        _paint_brow(rng, points, eye, canvas, face)
    freckles = _noise(rng, points, 0.004)
    canvas.paint(face * (freckles > 2.0) * rng.uniform(0, 0.4), skin * 0.7)
    if len(surface.lips):
        centre, reach = surface.lips.mean(0), float(surface.lips[:, 0].abs().max())
        # Thick in the middle, thin at the corners.
        along = ((points[..., 0] - centre[0]) / (reach * 1.04)).clamp(-1, 1)
        thickness = rng.uniform(0.008, 0.012) * (1 - along**2).sqrt() + 1e-5
        flat = points.reshape(-1, 3)
        distance = torch.cat([torch.cdist(part, surface.lips).amin(1) for part in flat.split(16384)])
        inside = ((thickness - distance.reshape(points.shape[:2])) / 0.002 + 0.5).clamp(0, 1)
        canvas.paint(face * inside * 0.85, skin * np.array([0.88, 0.52, 0.50]) + np.array([0.05, 0, 0]))


def _paint_brow(
    rng: np.random.Generator,
    points: Float[Tensor, "s s 3"],
    eye: Float[Tensor, 3],
    canvas: _Canvas,
    face: Tensor,
) -> None:
    side = float(eye[0].sign())
    along = ((points[..., 0] - eye[0]) * side + 0.018) / 0.045
    middle = eye[1] + 0.021 + 0.012 * along.clamp(0, 1) * (1.6 - 1.4 * along.clamp(0, 1))
    thickness = 0.0045 * (1 - 0.6 * along.clamp(0, 1))
    inside = ((thickness - (points[..., 1] - middle).abs()) / 0.0015 + 0.5).clamp(0, 1)
    inside = inside * ((along > 0) & (along < 1) & (points[..., 2] > 0.04))
    canvas.paint(face * inside * 0.85, np.array([0.16, 0.11, 0.08]))


def _paint_eyes(surface: HeadSurface, canvas: _Canvas, iris: np.ndarray) -> None:
    """Sclera, iris and pupil by the angle from the axis of the eyeball."""
    eyeball = surface.regions["eyes"] > 0.5
    canvas.paint(eyeball, np.array([0.93, 0.92, 0.90]), Region.FACE_SKIN)
    for eye in surface.eyes:
        ray = surface.points - eye
        near = eyeball & (ray[..., 0].abs() < 0.02)
        angle = torch.rad2deg(torch.atan2(ray[..., :2].norm(dim=-1), ray[..., 2]))
        for limit, colour in ((23.0, iris * 0.4), (21.0, iris), (9.5, np.array([0.03, 0.03, 0.03]))):
            canvas.paint(near * ((limit - angle) / 2 + 0.5).clamp(0, 1), colour)


def _paint_hair(rng: np.random.Generator, surface: HeadSurface, canvas: _Canvas, hair_length: float) -> None:
    points = surface.points
    hair = surface.regions["scalp"] + surface.regions["neck"] * _is_long(points, hair_length)
    colour = _between(rng, _HAIR) if rng.random() < 0.6 else _HAIR[rng.integers(len(_HAIR))]
    # Strands: noise that is fine across and long along the head.
    strands = 0.12 * _noise(rng, points, 0.006, (1.0, 8.0, 2.0)) + 0.10 * _noise(
        rng, points, 0.03, (1.0, 3.0, 1.0)
    )
    edge = 0.5 + 0.12 * _noise(rng, points, 0.008)
    where = ((hair - edge) / 0.2 + 0.5).clamp(0, 1)
    canvas.paint(where, torch.as_tensor(colour).float() * (1 + strands)[..., None], Region.HAIR)


def _paint_clothes(rng: np.random.Generator, surface: HeadSurface, canvas: _Canvas) -> None:
    points = surface.points
    colours = rng.uniform(0.08, 0.85, (2, 3))
    stripes = (torch.sin(points[..., 1] * 2 * math.pi / rng.uniform(0.015, 0.05)) > 0.3).float()
    pattern = stripes if rng.random() < 0.5 else (_noise(rng, points, 0.05) > 1.2).float()
    colour = torch.as_tensor(colours[0]) + pattern[..., None] * torch.as_tensor(colours[1] - colours[0]) * 0.7
    colour = colour * (1 + 0.05 * _noise(rng, points, 0.02)[..., None])
    canvas.paint(surface.regions["shoulders"] > 0.5, colour, Region.CLOTHES)
