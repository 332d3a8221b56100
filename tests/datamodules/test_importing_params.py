"""Images with FLAME parameters of another tracker become datasets with these parameters."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_tracker import SquareTracker
from flame_files import make_arrays
from small_prepare import picture

from datamodules.importing import import_dataset
from datamodules.importing.parameters import ParameterFolder
from datamodules.importing.sources import FrameClip
from datamodules.manifest import Manifest
from datamodules.prepare import PrepareConfig
from datamodules.reading import ClipReader
from rome_lightning.geometry import ndc_to_pixels
from rome_lightning.head import HeadModel
from rome_lightning.head.flame import load_flame
from rome_lightning.head.flame.registration import add_mediapipe
from rome_lightning.tracking.foreign import KINDS
from rome_lightning.tracking.tracked import TrackedClip
from rome_lightning.types import HeadParams

NUM_FRAMES = 8


@pytest.fixture(autouse=True)
def quick_landmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Landmarks by registration alone: refining them takes ten seconds and has its own test."""
    monkeypatch.setattr("datamodules.importing.pipeline.with_landmarks", add_mediapipe)


@pytest.fixture(scope="module")
def flame(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("flame") / "generic_model.pkl"
    path.write_bytes(pickle.dumps(make_arrays(), protocol=2))
    return path


@pytest.fixture(scope="module")
def head(flame: Path) -> HeadModel:
    return add_mediapipe(load_flame(flame))


def codes_of(number: int, scale: float = 10.0) -> dict[str, np.ndarray]:
    """Parameters of one frame; the image, 96 x 80 pixels, is DECA's crop made wider."""
    rng = np.random.default_rng(number)
    return {
        "shape": np.full((1, 100), 0.1),
        "exp": rng.normal(0, 0.3, (1, 50)),
        "pose": rng.normal(0, 0.1, (1, 6)),
        "cam": np.array([[scale, 0.0, 0.0]]),
        # 224 pixels show the middle 80 of 96; half a pixel, because DECA counts from pixel centres.
        "tform": np.array([[[2.8, 0, 1.4 - 22.4], [0, 2.8, 1.4], [0, 0, 1]]]),
    }


class FaceTracker(SquareTracker):
    """Detects the landmarks of the head that DECA's codes describe, and another head's in frame 5."""

    def track(self, frames: np.ndarray, fps: float | None = None) -> TrackedClip:
        clip = super().track(frames, fps)
        numbers = [round((float(frame.mean()) - float(frames[0].mean())) / 4) for frame in frames]
        codes = [codes_of(number if number != 5 else 50) for number in numbers]
        count = len(codes)

        def stacked(name: str, columns: slice) -> torch.Tensor:
            return torch.from_numpy(np.concatenate([code[name][:, columns] for code in codes])).float()

        params = HeadParams(
            stacked("shape", slice(None)), stacked("exp", slice(None)), stacked("pose", slice(3)),
            torch.zeros(count, 3), stacked("pose", slice(3, 6)), torch.zeros(count, 6), torch.zeros(count, 3),
        )  # fmt: skip
        points = self.head.landmarks(self.head.to_world(self.head(params), params))
        ndc = points * torch.tensor([10.0, -10.0, -10.0])
        in_frame = ndc_to_pixels(ndc, (80, 80)) + torch.tensor([8.0, 0.0, 0.0])
        landmarks = clip.crop.to_crop(in_frame[..., :2], self.config.image_size)
        return dataclasses.replace(clip, landmarks=landmarks)


def write_pictures(folder: Path, seed: int = 0) -> None:
    folder.mkdir(parents=True)
    for number in range(NUM_FRAMES):
        (folder / f"{number}.png").write_bytes(picture(seed, number))


def run(source: Path, output: Path, flame: Path, **options: Any) -> tuple[list[str], Manifest, ClipReader]:
    config = PrepareConfig(image_size=64, min_frames=4, min_identity_similarity=None, head=str(flame))
    lines: list[str] = []
    manifest = import_dataset("deca", source, output, config, lines.append, FaceTracker, **options)
    return lines, manifest, ClipReader(manifest, output, "train")


def test_parameters_of_each_picture(flame: Path, head: HeadModel, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in" / "anna" / "clip")
    for number in range(NUM_FRAMES):
        np.savez(tmp_path / "in" / "anna" / "clip" / f"{number}.npz", **codes_of(number))
    # JSON files of other programs are not DECA's.
    for name in ("clip.json", "clip/transforms.json", "clip/0.json"):
        (tmp_path / "in" / "anna" / name).write_text('{"frames": [{"w": 1}]}')
    lines, _, reader = run(tmp_path / "in", tmp_path / "out", flame)
    arrays, header = reader.meta(0)
    # The tracker refuses frame 2, and the landmarks of frame 5 are not those of its parameters.
    kept = [0, 1, 3, 4, *range(6, NUM_FRAMES)]
    assert arrays["frame_number"].tolist() == kept
    np.testing.assert_allclose(arrays["expression"], np.concatenate([codes_of(k)["exp"] for k in kept]), 1e-5)
    np.testing.assert_allclose(arrays["pose"][:, :3], [codes_of(k)["pose"][0, :3] for k in kept], atol=1e-5)
    np.testing.assert_allclose(arrays["pose"][:, 6:9], [codes_of(k)["pose"][0, 3:] for k in kept], atol=1e-5)
    np.testing.assert_allclose(arrays["shape"], np.full(100, 0.1), 1e-6)
    # 64 pixels show 70 of the picture, whose height of 80 shows NDC from -1 to 1.
    np.testing.assert_allclose(arrays["camera"][:, 0], 10 * 80 / 70, rtol=1e-4)
    assert header["tracker"].endswith("parameters of deca")
    assert any("landmarks of deca's head are 0." in line for line in lines)
    # Other parameters give another dataset.
    changed = codes_of(3)
    changed["exp"][0, 0] += 0.1
    np.savez(tmp_path / "in" / "anna" / "clip" / "3.npz", **changed)
    lines, _, reader = run(tmp_path / "in", tmp_path / "out", flame)
    assert not any("kept from an earlier run" in line for line in lines)
    np.testing.assert_allclose(reader.meta(0)[0]["expression"][2], changed["exp"][0], 1e-5)
    # The index of the earlier run is removed.
    assert len(list((tmp_path / "out").glob("*.index.safetensors"))) == 1
    lines, _, _ = run(tmp_path / "in", tmp_path / "out", flame)
    assert any("kept from an earlier run" in line for line in lines)


def test_parameters_of_whole_clips_elsewhere(flame: Path, tmp_path: Path) -> None:
    together: dict[str, list[np.ndarray]] = {}
    for number in range(NUM_FRAMES):
        for name, array in codes_of(number).items():
            together.setdefault(name, []).append(array)
    content = {name: np.concatenate(arrays) for name, arrays in together.items()}
    write_pictures(tmp_path / "in" / "bert")
    np.savez(tmp_path / "codes.npz", **content)
    _, _, reader = run(tmp_path / "in", tmp_path / "out", flame, params=tmp_path / "codes.npz")
    np.testing.assert_allclose(reader.meta(0)[0]["expression"][0], content["exp"][0], 1e-5)
    write_pictures(tmp_path / "in" / "anna", seed=1)
    with pytest.raises(ValueError, match="one file for several clips"):
        run(tmp_path / "in", tmp_path / "out2", flame, params=tmp_path / "codes.npz")
    (tmp_path / "codes").mkdir()
    np.savez(tmp_path / "codes" / "anna.npz", **content)
    _, manifest, _ = run(tmp_path / "in", tmp_path / "out3", flame, params=tmp_path / "codes")
    # The clip without parameters is skipped, with the reason.
    assert [item["input"] for item in manifest.failed] == ["bert"]
    assert "no parameters of deca for bert" in manifest.failed[0]["reason"]


def test_the_folder_of_the_only_clip_may_be_where_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "anna").mkdir()
    np.savez(tmp_path / "anna.npz", **codes_of(0))
    clip = FrameClip(".", "anna", lambda: (), ("0",))
    monkeypatch.chdir(tmp_path / "anna")
    track = ParameterFolder("deca", Path(), single=True).read(clip, 1)
    np.testing.assert_allclose(track.expression, codes_of(0)["exp"], rtol=1e-5)


def test_refusals(flame: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in" / "bert")
    config = PrepareConfig(image_size=64, min_identity_similarity=None)
    for kind in KINDS:
        with pytest.raises(ValueError, match=r"pass FLAME's generic_model\.pkl as --head"):
            import_dataset(kind, tmp_path / "in", tmp_path / "out", config, print, SquareTracker)
    with pytest.raises(ValueError, match="parameters are supported with --from deca"):
        import_dataset(
            "frames", tmp_path / "in", tmp_path / "out", config, print, SquareTracker, params=tmp_path
        )
    np.savez(tmp_path / "in" / "bert" / "0.npz", **codes_of(0))
    with pytest.raises(ValueError, match=r"no parameters for 1 \(7 of 8 pictures\)"):
        run(tmp_path / "in", tmp_path / "out", flame)
