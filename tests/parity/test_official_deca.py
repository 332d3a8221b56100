"""DECA's encoder against the official code.

``deca.safetensors`` holds what the official code makes of scikit-image's photograph with the weights that
``deca_files`` generates (``python -m benchmarks.deca --deca CHECKOUT --record FILE``). No values of DECA are
included.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from deca_files import deca_weights, photographs, write_deca
from safetensors.torch import load_file

from rome_lightning.tracking.foreign import DecaEncoder
from rome_lightning.tracking.foreign.cameras import CropCamera
from rome_lightning.tracking.foreign.deca import crop_face, crop_transforms

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> DecaEncoder:
    path = write_deca(tmp_path_factory.mktemp("deca") / "deca_model.tar", deca_weights())
    encoder = DecaEncoder.load(path)
    # A hundred megabytes, and pytest would keep three runs.
    path.unlink()
    return encoder


@pytest.mark.parametrize("title", ["whole", "cut"])
def test_codes_are_the_official_ones(encoder: DecaEncoder, title: str) -> None:
    record = load_file(Path(__file__).with_name("deca.safetensors"))
    transform, image, codes = (record[f"{title}/{name}"] for name in ("transform", "image", "codes"))
    photo = photographs()[title]
    landmarks = record[f"{title}/landmarks"][None]
    found = crop_transforms(landmarks)
    assert torch.allclose(found[0].float(), transform, rtol=1e-6)
    assert torch.allclose(crop_face(photo, found[0])[:, ::16, ::16], image, atol=1e-6)
    # Black beyond the photograph's upper border.
    assert bool((image[:, 0] == 0).all()) == (title == "cut")
    track = encoder.track(photo[None], landmarks)
    # Texture is between shape and expression, light behind the camera.
    assert torch.allclose(track.shape[0], codes[:100], atol=1e-5)
    assert torch.allclose(track.expression[0], codes[150:200], atol=1e-5)
    assert torch.allclose(torch.cat([track.global_pose, track.jaw_pose], 1)[0], codes[200:206], atol=1e-5)
    assert isinstance(track.camera, CropCamera)
    assert torch.allclose(track.camera.weak[0], codes[206:209], atol=1e-5)
    assert not track.neck_pose.any()
    assert not track.eye_pose.any()
