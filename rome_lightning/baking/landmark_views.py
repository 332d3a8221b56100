"""Shaded renders of a head with known geometry, for finding landmarks on it with a detector."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from rome_lightning.geometry import project, vertex_normals
from rome_lightning.head import HeadModel
from rome_lightning.media.image import to_uint8
from rome_lightning.renderer import get_rasterizer, interpolate
from rome_lightning.tracking.detector import FaceDetector
from rome_lightning.types import HeadParams
from rome_lightning.types.landmarks import LEFT_IRIS, RIGHT_IRIS

Detect = Callable[[list[np.ndarray]], tuple[Tensor, Tensor]]
"""RGB images to landmarks (n, 478, 3) in pixels and found (n)."""

IMAGE_SIZE = 384
IRIS_RADIUS = 0.094
"""Of the landmark ring, in distances between the irises; measured on faces of MediaPipe."""
FRONTAL = 0.3
"""Radians of yaw up to which all landmarks of a view are trusted."""


@dataclass(frozen=True)
class View:
    """A render with known geometry and what the detector saw in it."""

    vertices_px: Float[Tensor, "v 3"]
    facing: Float[Tensor, " v"]
    """Cosine between vertex normal and the direction to the viewer."""
    landmarks_px: Float[Tensor, "478 2"]
    unit: float
    """Iris distance, pixels."""
    frontal: bool
    weight: float = 1.0


def random_params(head: HeadModel, count: int, generator: torch.Generator) -> HeadParams:
    """Identities, expressions and views that move every landmark: open mouths, half-shut eyes, turns."""

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    def uniform(*size: int) -> Tensor:
        return torch.rand(*size, generator=generator)

    expression = uniform(count, head.num_expression) * (uniform(count, head.num_expression) < 0.12)
    names = head.expression_names
    expression[:, names.index("jawOpen")] = (uniform(count) * 1.1 - 0.4).clamp_min(0)
    blink = (uniform(count) * 1.3 - 0.4).clamp(0, 0.9)
    expression[:, names.index("eyeBlinkLeft")] = blink
    expression[:, names.index("eyeBlinkRight")] = blink
    if "mouthClose" in names:
        expression[:, names.index("mouthClose")] = 0
    angles = (uniform(count, 3) * 2 - 1) * torch.tensor([0.35, 0.75, 0.15])
    return dataclasses.replace(
        HeadParams.neutral(count, head.num_shape, head.num_expression),
        shape=normal(count, head.num_shape) * 0.7,
        expression=expression,
        global_pose=angles,
        camera=torch.tensor([7.5, 0.0, 0.0]).repeat(count, 1),
    )


def neutral_params(head: HeadModel) -> HeadParams:
    """The mean head from the front."""
    params = HeadParams.neutral(1, head.num_shape, head.num_expression)
    return dataclasses.replace(params, camera=torch.tensor([[7.5, 0.0, 0.0]]))


def eye_spheres(head: HeadModel) -> list[tuple[Float[Tensor, " 3"], Bool[Tensor, " v"]]]:
    """Centre of the left and right eyeball of the mean head, and their vertices."""
    rest = head(HeadParams.neutral(1, head.num_shape, head.num_expression))[0]
    eyes = head.region("eyes")
    sides = [eyes & (rest[:, 0] > 0), eyes & (rest[:, 0] < 0)]
    return [((rest[side].amin(0) + rest[side].amax(0)) / 2, side) for side in sides]


def render(head: HeadModel, params: HeadParams) -> tuple[list[UInt8[np.ndarray, "h w 3"]], Tensor, Tensor]:
    """Shaded pictures with painted irises.

    Returns:
        RGB pictures; vertices in pixels (b, v, 3); cosine of each vertex normal to the viewer (b, v).
    """
    world = head(params, in_world=True)
    normals = vertex_normals(world, head.faces)
    vertices_px = project(world, params.camera, (IMAGE_SIZE, IMAGE_SIZE))
    rest = head(HeadParams.neutral(1, head.num_shape, head.num_expression))
    eyes = torch.zeros(rest.shape[1], 4)
    for centre, side in eye_spheres(head):
        eyes[side, :3] = rest[0, side] - centre
        eyes[side, 3] = 1
    inside = head.region("mouth").float()[:, None]
    rasterizer = get_rasterizer()
    face_ids = rasterizer.face_ids(vertices_px, head.faces, (IMAGE_SIZE, IMAGE_SIZE))
    attributes = torch.cat(
        [normals, eyes.expand(len(world), -1, -1), inside.expand(len(world), -1, -1)], dim=-1
    )
    image = interpolate(vertices_px, head.faces, face_ids, attributes)
    colour = _shade(
        image[:, :3], image[:, 3:6], image[:, 6:7], image[:, 7:8], face_ids[:, None] >= 0, iris_angle(head)
    )
    return list(to_uint8(colour)), vertices_px, normals[..., 2]


def _shade(
    normals: Tensor, eye: Tensor, is_eye: Tensor, inside: Tensor, covered: Tensor, iris: float
) -> Tensor:
    """Phong shading of skin, dark mouths, white eyeballs with iris and pupil; grey background."""
    normals = F.normalize(normals, dim=1)
    light = F.normalize(torch.tensor([0.3, 0.5, 1.0]), dim=0)
    diffuse = (normals * light[:, None, None]).sum(1, keepdim=True).clamp_min(0)
    gloss = diffuse.pow(20) * 0.12

    def colour(*rgb: float) -> Tensor:
        return torch.tensor(rgb)[None, :, None, None]

    off_axis = torch.atan2(eye[:, :2].norm(dim=1, keepdim=True), eye[:, 2:])
    white = colour(0.92, 0.9, 0.88)
    ball = torch.where(off_axis < iris, colour(0.25, 0.16, 0.1), white)
    ball = torch.where(off_axis < 0.45 * iris, colour(0.02, 0.02, 0.02), ball)
    skin = colour(0.85, 0.64, 0.53) * (1 - 0.75 * inside)
    albedo = torch.where(is_eye > 0.5, ball, skin)
    shaded = albedo * (0.3 + 0.7 * diffuse) + gloss
    return torch.where(covered, shaded, colour(0.45, 0.5, 0.55)).clamp(0, 1)


def iris_angle(head: HeadModel) -> float:
    """Half opening angle of the landmark ring of an iris seen from the eyeball's centre, radians."""
    rest = head(HeadParams.neutral(1, head.num_shape, head.num_expression))[0]
    (left, side), (right, _) = eye_spheres(head)
    radius = (rest[side] - left).norm(dim=1).median()
    return float(torch.asin((IRIS_RADIUS * (left - right).norm() / radius).clamp(max=0.9)))


def observe(head: HeadModel, params: HeadParams, detect: Detect, batch: int = 8) -> list[View]:
    """Render, detect, and keep the views with a face."""
    views = []
    for start in range(0, len(params), batch):
        part = params[slice(start, start + batch)]
        pictures, vertices_px, facing = render(head, part)
        landmarks, found = detect(pictures)
        for index in found.nonzero().flatten().tolist():
            views.append(
                View(
                    vertices_px=vertices_px[index],
                    facing=facing[index],
                    landmarks_px=landmarks[index, :, :2],
                    unit=float((landmarks[index, LEFT_IRIS[0]] - landmarks[index, RIGHT_IRIS[0]]).norm()),
                    frontal=abs(float(part.global_pose[index, 1])) < FRONTAL,
                )
            )
    return views


def mediapipe_detect(pictures: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    """The default detector."""
    found = FaceDetector(num_faces=1).detect(np.stack(pictures))
    return torch.cat([found.landmarks, found.depth[..., None]], dim=-1), found.found
