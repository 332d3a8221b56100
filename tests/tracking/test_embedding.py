"""MediaPipe's landmarks on a FLAME with the open head's mesh, where their positions are known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import random_params
from human_flame import write_human_flame

from rome_lightning.geometry import project
from rome_lightning.head import HeadModel
from rome_lightning.head.flame import load_flame
from rome_lightning.head.flame.registration import add_mediapipe, embed_mediapipe
from rome_lightning.head.open_head import load_open_head
from rome_lightning.tracking import embedding
from rome_lightning.tracking.embedding import settle_landmarks
from rome_lightning.tracking.fit import fit_clip
from rome_lightning.types.landmarks import INNER_LIPS, LEFT_LIDS, NUM_SKIN, OUTER_LIPS, RIGHT_LIDS

SIZE = (512, 512)
PARTS = {"all": list(range(NUM_SKIN)), "lips": list(OUTER_LIPS), "lids": [*LEFT_LIDS, *RIGHT_LIDS]}


@pytest.fixture(scope="module")
def flame(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_human_flame(tmp_path_factory.mktemp("flame") / "generic_model.pkl")


def places(head: HeadModel) -> torch.Tensor:
    """The landmarks on the mean head."""
    return head.landmarks(head.template.view(1, -1, 3))[0]


def errors_mm(head: HeadModel) -> dict[str, float]:
    # The same triangles and weights as on the open head; the closing faces come after them.
    true = load_open_head().landmarks(head.template.view(1, -1, 3))[0]
    off = 1e3 * (places(head) - true).norm(dim=-1)
    return {name: float(off[rows].mean()) for name, rows in PARTS.items()}


def left_by_fits(head: HeadModel) -> float:
    """Residual of fits to people not used in the search, in iris distances."""
    source, left = load_open_head(), []
    for seed in range(4):
        params = random_params(source, 4, seed=seed)
        params.shape.copy_(params.shape[:1].expand_as(params.shape))
        vertices = source.to_world(source(params), params)
        landmarks = source.landmarks(project(vertices, params.camera, SIZE))
        fit = fit_clip(head, landmarks, SIZE, torch.zeros(4, head.num_expression))
        left.append(fit.residual.mean())
    return float(torch.stack(left).mean())


@pytest.mark.slow
def test_settled_landmarks_leave_less_to_fits(flame: Path) -> None:
    head = add_mediapipe(load_flame(flame))
    registered, left = errors_mm(head), left_by_fits(head)
    settle_landmarks(head)
    settled, left_now = errors_mm(head), left_by_fits(head)
    assert left_now < 0.9 * left
    assert settled["lips"] < 0.7 * registered["lips"]
    assert max(registered["all"], settled["all"]) < 0.4
    assert settled["lids"] < 0.2


@pytest.mark.slow
def test_landmarks_come_back_to_their_places(flame: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "_SETTLED", {})
    head = add_mediapipe(load_flame(flame))
    # Registration is off by 3 mm for mouths of another shape.
    points = places(head)
    points[[*INNER_LIPS, *OUTER_LIPS], 1] -= 0.003
    head.add_landmarks("mediapipe", embed_mediapipe(head, points.double().numpy()))
    moved = errors_mm(head)
    settle_landmarks(head)
    settled = errors_mm(head)
    assert moved["lips"] > 2.5
    assert settled["lips"] < 0.5 * moved["lips"]
    assert settled["all"] < moved["all"]
    assert settled["lids"] < 0.2
