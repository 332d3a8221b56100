"""DECA's encoder in the tracker, and the files that it is read from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from deca_files import GivenFaces, constant_weights, faces_at, write_deca, write_seeing
from foreign_tracks import SIZE, deca_pixels, in_picture, posed, similarity

from rome_lightning.head import HeadModel, load_head
from rome_lightning.tracking import Detections, Tracker
from rome_lightning.tracking.foreign import DecaEncoder
from rome_lightning.tracking.photos import fit_together
from rome_lightning.types import HeadParams

TFORM = similarity(0.6, 0, -40, -30)
FRAMES = np.full((4, 480, 640, 3), 128, np.uint8)


class Exploit:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path, ("ran",))


@pytest.fixture
def faces(head: HeadModel, codes: dict[str, np.ndarray]) -> Detections:
    """The first person of ``codes`` seen by DECA, shifted, not at all, and with other landmarks."""
    pixels = deca_pixels(posed(head, codes)[0], codes["cam"][0], TFORM)
    landmarks = head.landmarks(torch.from_numpy(pixels).float()[None]).repeat(4, 1, 1)
    landmarks[1] += torch.tensor([12.0, -8.0])
    landmarks[2] = 0
    landmarks[3, ::2] += 40
    return faces_at(landmarks, torch.tensor([True, True, False, True]))


def encoder_of(codes: dict[str, np.ndarray], landmarks: torch.Tensor, folder: Path) -> DecaEncoder:
    return DecaEncoder.load(write_seeing(folder / "deca_model.tar", codes, TFORM, landmarks))


def test_its_parameters_replace_the_fit(
    head: HeadModel, codes: dict[str, np.ndarray], faces: Detections, tmp_path: Path
) -> None:
    encoder = encoder_of(codes, faces.landmarks, tmp_path)
    tracker = Tracker(head, SIZE, detector=GivenFaces(faces), encoder=encoder)
    clip = tracker.track(FRAMES, masks=False)
    assert clip.reasons == ("", "", "no face", "head does not fit")
    assert torch.allclose(clip.params.shape, torch.from_numpy(codes["shape"][:1]).expand(4, -1))
    assert torch.allclose(clip.params.expression[:2], torch.from_numpy(codes["exp"][:1]).expand(2, -1))
    assert torch.allclose(clip.params.jaw_pose[0], torch.from_numpy(codes["pose"][0, 3:]))
    seen = head.landmarks(torch.from_numpy(in_picture(head, clip)).float())
    assert float((seen[:2] - faces.landmarks[:2]).abs().max()) < 0.02
    # A frame without a face holds the nearest one's parameters.
    assert torch.equal(clip.params.camera[2], clip.params.camera[1])
    assert clip.residual[:2].max() < 1e-3
    assert clip.residual[2].isnan()
    motion = tracker.track_motion(FRAMES)
    assert torch.equal(motion.params.camera, clip.params.camera)
    assert motion.reasons == clip.reasons


def test_photographs_share_their_mean_identity(
    head: HeadModel, codes: dict[str, np.ndarray], faces: Detections, tmp_path: Path
) -> None:
    encoder = encoder_of(codes, faces.landmarks, tmp_path)
    tracker = Tracker(head, SIZE, detector=GivenFaces(faces), encoder=encoder)
    clip = tracker.track(FRAMES[:1], masks=False)
    other = clip.params.shape + 0.5
    wider = HeadParams(**{**vars(clip.params), "shape": other})
    clips = [clip, type(clip)(**{**vars(clip), "params": wider})]
    params = fit_together(tracker, clips, [faces[:1]] * 2)
    assert torch.allclose(params.shape, ((clip.params.shape + other) / 2).expand(2, -1))
    face = head.region("face")
    for row in range(2):
        before, after = (
            torch.from_numpy(in_picture(head, type(clip)(**{**vars(clip), "params": each})))[0, face]
            for each in (clips[row].params, params[row : row + 1])
        )
        assert torch.allclose(before.mean(0), after.mean(0), atol=1e-3)


def test_it_wants_flame() -> None:
    with pytest.raises(ValueError, match="parameters of DECA are FLAME's, the head is"):
        Tracker(load_head("open"), encoder=DecaEncoder())


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"deca_model\.tar is linked from"):
        DecaEncoder.load(tmp_path / "deca_model.tar")
    path = write_deca(tmp_path / "hostile.tar", {"encoder.conv1.weight": Exploit()})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="could run code"):
        DecaEncoder.load(path)
    torch.save({"state_dict": {}}, tmp_path / "other.tar")
    with pytest.raises(ValueError, match="it has no E_flame"):
        DecaEncoder.load(tmp_path / "other.tar")
    weights = constant_weights({})
    del weights["layers.0.bias"]
    with pytest.raises(ValueError, match=r"E_flame\.layers\.0\.bias does not fit"):
        DecaEncoder.load(write_deca(tmp_path / "lacking.tar", weights))
    whole = write_deca(tmp_path / "whole.tar", constant_weights({})).read_bytes()
    (tmp_path / "short.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is damaged"):
        DecaEncoder.load(tmp_path / "short.tar")


def test_names_with_a_prefix_are_read_too(tmp_path: Path) -> None:
    weights = constant_weights({"pose": torch.arange(6.0)})
    torch.save({f"E_flame.{name}": value for name, value in weights.items()}, tmp_path / "flat.tar")
    codes = DecaEncoder.load(tmp_path / "flat.tar")(torch.zeros(1, 3, 224, 224))
    assert torch.equal(codes[0, 200:206], torch.arange(6.0))
