"""A photo of a smile: how much is the person, how much the expression?"""

import dataclasses

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from rome_lightning.geometry import project
from rome_lightning.head import HeadModel, load_head
from rome_lightning.tracking.fit import ClipFit, FitSettings, fit_clip
from rome_lightning.types import HeadParams

SIZE = 512
SMILE, SCORE = 0.9, 0.5
"""Weight of a smile, and what a detector says of it."""


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("open")


def someone(head: HeadModel, seed: int, smile: float) -> HeadParams:
    """A person at random, facing the camera."""
    generator = torch.Generator().manual_seed(seed)
    params = HeadParams.neutral(1, head.num_shape, head.num_expression)
    expression = params.expression.clone()
    expression[:, _smiles(head)] = smile
    shape = 0.4 * torch.randn(1, head.num_shape, generator=generator)
    return dataclasses.replace(params, shape=shape, expression=expression)


def _smiles(head: HeadModel) -> list[int]:
    return [head.expression_names.index(f"mouthSmile{side}") for side in ("Left", "Right")]


def fit_photos(head: HeadModel, photos: list[HeadParams], score: float, factor: float) -> ClipFit:
    points = [project(head.landmarks(head.to_world(head(p), p)), p.camera, (SIZE, SIZE)) for p in photos]
    scores = torch.zeros(len(photos), head.num_expression)
    scores[:, _smiles(head)] = score
    settings = FitSettings(smile_shape=factor, smooth_pose=False)
    return fit_clip(head, torch.cat(points), (SIZE, SIZE), scores, settings=settings)


def smile_of(head: HeadModel, fit: ClipFit) -> Float[Tensor, " n"]:
    return fit.params.expression[:, _smiles(head)].mean(1)


def test_a_smile_is_an_expression_more_than_a_mouth_of_ones_own(head: HeadModel) -> None:
    """In the mean over people; of single ones, the own mouth may be as crooked as a smile."""
    photos = [someone(head, seed, SMILE) for seed in range(6)]
    before, after = ([fit_photos(head, [photo], SCORE, factor) for photo in photos] for factor in (1.0, 10.0))
    missed_before, missed = (
        torch.cat([SMILE - smile_of(head, fit) for fit in fits]).mean() for fits in (before, after)
    )
    assert missed_before > 0.03, "what is missed must be worth mending"
    assert missed < 0.8 * missed_before
    residual_before, residual = (torch.cat([fit.residual for fit in fits]).mean() for fits in (before, after))
    assert residual < 1.1 * residual_before, "the mesh must fit the photos as well"


def test_the_caution_begins_where_a_smile_does(head: HeadModel) -> None:
    photo = someone(head, 0, 0.0)
    still = [fit_photos(head, [photo], 0.05, factor) for factor in (1.0, 10.0)]
    torch.testing.assert_close(still[1].params.stored_pose, still[0].params.stored_pose, atol=0, rtol=0)
    torch.testing.assert_close(still[1].params.shape, still[0].params.shape, atol=0, rtol=0)
