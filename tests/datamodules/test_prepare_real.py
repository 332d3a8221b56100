"""The real tracker on videos of drawn heads; skipped where its models are not at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.prepare import BuildOptions, PrepareConfig, prepare
from datamodules.reading import ClipReader
from datamodules.synthetic import SyntheticHeads
from rome_lightning import assets
from rome_lightning.head import load_head
from rome_lightning.media.video import write_video
from rome_lightning.types import Region

SIZE = 256
MODELS = ("face_landmarker", "selfie_multiclass", "modnet", "yunet", "sface")


def drawn(heads: SyntheticHeads, person: int, first: int, count: int, background: float) -> list[np.ndarray]:
    """Frames of a rendered person in front of a plain wall."""
    frames, _ = heads.draw([person] * count, list(range(first, first + count)))
    image = frames.image * frames.foreground_mask + background * (1 - frames.foreground_mask)
    return list((image.permute(0, 2, 3, 1) * 255).byte().numpy())


@pytest.mark.slow
def test_cut_to_another_person_and_back(tmp_path: Path) -> None:
    for name in MODELS:
        try:
            assets.resolve(name)
        except FileNotFoundError as error:
            pytest.skip(f"asset {name} is not available: {error}")
    heads = SyntheticHeads(load_head("open"), SIZE)
    anna, bert = drawn(heads, 0, 0, 20, 0.8), drawn(heads, 1, 0, 8, 0.1)
    # So close that the crop extends beyond the video.
    frames = [frame[64:192, 64:192] for frame in (*anna[:10], *bert, *anna[10:])]
    video = write_video(tmp_path / "interview.mp4", frames, fps=6)
    nobody = write_video(tmp_path / "nobody.mp4", [np.full_like(frame, 90) for frame in frames], fps=6)
    # Rendered people are more alike than real ones, whose limit is 0.363.
    config = PrepareConfig(min_frames=4, min_identity_similarity=0.7, max_yaw=80.0)
    manifest = prepare([video, nobody], tmp_path / "d", config, log=lambda line: None)
    reader = ClipReader(manifest, tmp_path / "d", "train")
    numbers = np.concatenate([reader.meta(clip)[0]["frame_number"] for clip in range(len(reader))])
    assert len(numbers) >= 12
    assert not set(numbers) & set(range(10, 18)), "frames of the other person"
    assert [item["input"] for item in manifest.failed] == ["nobody.mp4"]
    assert "no face found" in manifest.failed[0]["reason"]
    regions = torch.from_numpy(np.array(reader.frame(0, 0).regions))
    assert 0.02 < (regions == Region.OUTSIDE).float().mean() < 0.5
    assert (regions == Region.FACE_SKIN).float().mean() > 0.05
    prepare([video, nobody], tmp_path / "w", config, log=lambda line: None, options=BuildOptions(workers=2))
    for name in (*(shard.name + ".tar" for shard in manifest.shards), "manifest.json"):
        assert (tmp_path / "d" / name).read_bytes() == (tmp_path / "w" / name).read_bytes()
