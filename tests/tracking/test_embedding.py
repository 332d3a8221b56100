"""MediaPipe's landmarks on a FLAME with the open head's mesh, where their places are known."""

from __future__ import annotations

from pathlib import Path

import pytest
from human_flame import write_human_flame

from rome_lightning.head.flame import load_flame
from rome_lightning.head.flame.registration import add_mediapipe
from rome_lightning.head.open_head import load_open_head
from rome_lightning.tracking.embedding import settle_landmarks
from rome_lightning.types.landmarks import INNER_LIPS, LEFT_LIDS, NUM_SKIN, RIGHT_LIDS


@pytest.mark.slow
def test_landmarks_come_to_their_places(tmp_path: Path) -> None:
    head = load_flame(write_human_flame(tmp_path / "generic_model.pkl"))
    source = load_open_head()
    rest = head.template.view(1, -1, 3)
    # The same triangles and weights as on the open head; the closing faces come after them.
    true = source.landmarks(rest)[0]

    def errors_mm() -> dict[str, float]:
        off = 1e3 * (head.landmarks(rest)[0] - true).norm(dim=-1)
        lids = off[[*LEFT_LIDS, *RIGHT_LIDS]]
        return {
            "all": float(off[:NUM_SKIN].mean()),
            "lips": float(off[list(INNER_LIPS)].mean()),
            "lids": float(lids.mean()),
        }

    add_mediapipe(head)
    registered = errors_mm()
    settle_landmarks(head)
    settled = errors_mm()
    # Twice what was found.
    assert registered["all"] < 0.6
    assert settled["all"] < 0.65
    assert settled["lids"] < 0.3
    assert settled["lips"] < 0.75
