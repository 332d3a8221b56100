"""Parts of an evaluation that were cut short by a full disk or a kill are scored again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from rome_lightning.evaluation.evaluator import _is_whole

WHOLE = save({"values/l1": torch.zeros(3)}, {"reasons": "[]"})


@pytest.mark.parametrize(
    ("data", "is_whole"),
    [(WHOLE, True), (b"", False), (WHOLE[:-4], False), (WHOLE[:20], False), (b"x" * 100, False)],
)
def test_a_part_is_whole_or_missing(tmp_path: Path, data: bytes, is_whole: bool) -> None:
    (tmp_path / "0.safetensors").write_bytes(data)
    assert _is_whole(tmp_path / "0.safetensors") == is_whole
    assert not _is_whole(tmp_path / "absent.safetensors")
