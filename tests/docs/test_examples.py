"""The examples in docstrings give what they say."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image
from tiny_run import need

from rome_lightning.media.video import write_video

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for folder in ("rome_lightning", "datamodules")
    for path in (ROOT / folder).rglob("*.py")
    if ">>> " in path.read_text()
)


def test_what_people_call_first_has_an_example() -> None:
    first = {"api", "head", "geometry.camera", "metrics.psnr", "models.shipped", "renderer.rasterizer"}
    assert set(MODULES) >= {f"rome_lightning.{name}" for name in first}


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "rome_lightning.api":
        need("face_landmarker", "selfie_multiclass", "modnet")
        Image.fromarray(skimage.data.astronaut()).save(tmp_path / "astronaut.png")
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/avatars.md"])
def test_the_samples_of_a_page_run_from_top_to_bottom(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    need("face_landmarker", "selfie_multiclass", "modnet")
    face = skimage.data.astronaut()
    for name in ("me.jpg", "photo.jpg"):
        Image.fromarray(face).save(tmp_path / name)
    wide = np.pad(face, ((0, 0), (32, 32), (0, 0)), mode="edge")
    write_video(tmp_path / "talk.mp4", [wide[:, 8 * i : 8 * i + 512] for i in range(3)], 25.0)
    monkeypatch.chdir(tmp_path)
    samples = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    assert samples
    for sample in samples:
        exec(compile(sample, page, "exec"), {})
    made = {path.name for path in tmp_path.iterdir()}
    assert made >= {"me.mp4", "me.glb"}
    if page == "docs/avatars.md":
        assert made >= {"me.vrm"}
        assert capsys.readouterr().out == "torch.Size([3, 3, 512, 512])\n"
