"""MediaPipe's landmarks on FLAME, refined by fits of FLAME to the open head.

The registration of the two surfaces leaves each landmark off by a systematic millimetre. The open head's
landmarks are where the detector sees them, so they reveal the error: FLAME is fitted to heads sampled from
the open head's identities and expressions, and each landmark slides along the surface by its mean residual,
first in space, then in the image.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from rome_lightning.geometry import axis_angle_to_matrix, project
from rome_lightning.head import HeadModel
from rome_lightning.head.data import LandmarkEmbedding
from rome_lightning.head.flame.registration import add_mediapipe, embed_mediapipe
from rome_lightning.head.open_head import load_open_head
from rome_lightning.tracking.fit import fit_clip
from rome_lightning.tracking.fit_settings import FitSettings
from rome_lightning.tracking.jaw import has_named_expressions
from rome_lightning.types import HeadParams
from rome_lightning.types.landmarks import LEFT_IRIS, NUM_SKIN, RIGHT_IRIS

_IN_SPACE, _IN_IMAGE = 2, 3
"""Number of moves by residuals with their depth, which shows errors of the lips that expressions hide in the
image, and without."""
_IMAGE_STEP = 1.3
"""Move per residual in the image, of which the surface undoes the part along its normal; 2 does not
converge."""
_NUM_PEOPLE = 12
_POSES = ((0.0, 0.0), (0.0, 0.45), (0.0, -0.45), (0.3, 0.0))
"""Pitch and yaw of the sampled poses, radians."""
_IDENTITY = 0.7
"""Standard deviation of the identities, of those of the open head."""
_SIZE = 512
_SETTLED: dict[str, LandmarkEmbedding] = {}
"""Cache for this process: the search takes 20 seconds."""


def with_landmarks(head: HeadModel) -> HeadModel:
    """The head itself; FLAME has MediaPipe's landmarks from now on, by registration."""
    if has_named_expressions(head) or "mediapipe" in head.landmark_names:
        return head
    return settle_landmarks(add_mediapipe(head))


def settle_landmarks(head: HeadModel) -> HeadModel:
    """The head itself, whose landmarks ``mediapipe`` are moved along its surface.

    Args:
        head: FLAME with these landmarks from registration.
    """
    # The name contains the file's hash; the 68 points change the start of the search.
    key = f"{head.name} {head.num_shape} {head.num_expression} {'ibug68' in head.landmark_names}"
    if key not in _SETTLED:
        _SETTLED[key] = _settled(head)
    head.add_landmarks("mediapipe", _SETTLED[key])
    return head


def _settled(head: HeadModel) -> LandmarkEmbedding:
    """The embedding with the smallest residual in the image; the head gets the last one."""
    source = load_open_head()
    seen = [_landmarks(source, _person(source, seed)) for seed in range(_NUM_PEOPLE)]
    best, least = _embedding_of(head), torch.inf
    for number in range(_IN_SPACE + _IN_IMAGE + 1):
        in_image = number >= _IN_SPACE
        moves = torch.stack([_left(head, landmarks, in_image) for landmarks in seen]).mean(0)
        for ring in (LEFT_IRIS, RIGHT_IRIS):
            # Each ring turns with its eye, so only its centre can be off.
            moves[list(ring)] = moves[list(ring)].mean(0)
        left = float(moves[:NUM_SKIN].norm(dim=-1).mean())
        if in_image and left < least:
            best, least = _embedding_of(head), left
        if number < _IN_SPACE + _IN_IMAGE:
            step = _IMAGE_STEP if in_image else 1.0
            points = head.landmarks(head.template.view(1, -1, 3))[0] + step * moves
            head.add_landmarks("mediapipe", embed_mediapipe(head, points.double().numpy()))
    return best


def _embedding_of(head: HeadModel) -> LandmarkEmbedding:
    """Where the landmarks are now."""
    corners = head.get_buffer("landmark_corners_mediapipe")
    places = (head.faces[None] == corners[:, None]).all(-1).int().argmax(1)
    return LandmarkEmbedding(places, head.get_buffer("landmark_weights_mediapipe"))


def _person(source: HeadModel, seed: int) -> HeadParams:
    """A person in all poses, with a random face in all calls but the first."""
    generator = torch.Generator().manual_seed(seed)
    count = len(_POSES)
    params = HeadParams.neutral(count, source.num_shape, source.num_expression)
    shape = _IDENTITY * torch.randn(1, source.num_shape, generator=generator)
    weights = 0.4 * torch.rand(count, source.num_expression, generator=generator)
    weights *= torch.rand(weights.shape, generator=generator) < 0.15
    weights[0] = 0
    names = source.expression_names
    closed, opened = names.index("mouthClose"), names.index("jawOpen")
    weights[:, closed] = torch.minimum(weights[:, closed], weights[:, opened])
    pitch, yaw = torch.tensor(_POSES).unbind(1)
    return HeadParams(
        shape=shape.expand(count, -1).contiguous(),
        expression=weights,
        global_pose=torch.stack([pitch, yaw, torch.zeros(count)], dim=1),
        neck_pose=params.neck_pose,
        jaw_pose=params.jaw_pose,
        eye_pose=params.eye_pose,
        camera=params.camera,
    )


def _landmarks(source: HeadModel, params: HeadParams) -> Float[Tensor, "n 478 3"]:
    vertices = source.to_world(source(params), params)
    return source.landmarks(project(vertices, params.camera, (_SIZE, _SIZE)))


def _left(head: HeadModel, landmarks: Float[Tensor, "n 478 3"], in_image: bool) -> Float[Tensor, "478 3"]:
    """Mean residual of a fit, metres in head space; with ``in_image`` without its depth."""
    size = (_SIZE, _SIZE)
    count = len(landmarks)
    settings = FitSettings(shape_steps=4, frame_steps=3, smooth_pose=False)
    params = fit_clip(head, landmarks, size, torch.zeros(count, head.num_expression), None, settings).params
    found = head.landmarks(project(head.to_world(head(params), params), params.camera, size))
    left = landmarks - found
    # Weak perspective does not determine the distance of the head. Surfaces of two models differ in depth by
    # millimetres that no place on the surface can change; fits do not see them.
    left[..., 2] = 0 if in_image else left[..., 2] - left[:, :NUM_SKIN, 2].mean(1, keepdim=True)
    scale = params.camera[:, :1] * _SIZE / 2
    in_world = left * torch.tensor([1.0, -1.0, -1.0]) / scale[..., None]
    turned = axis_angle_to_matrix(params.global_pose) @ axis_angle_to_matrix(params.neck_pose)
    return (in_world @ turned).mean(0)
