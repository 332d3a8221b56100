"""DECA's official encoder compared with ours on generated weights: the crop and all outputs.

    python -m benchmarks.deca --deca CHECKOUT [--record FILE]

CHECKOUT is a clone of https://github.com/yfeng95/DECA (non-commercial research; nothing of it is part of this
project). Both crop the same photographs of scikit-image by the same landmarks, which the official code reads
from a text file. ``--record`` writes the official results for ``tests/parity``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from rome_lightning.tracking import FaceDetector
from rome_lightning.tracking.foreign import DecaEncoder
from rome_lightning.tracking.foreign.cameras import CropCamera
from rome_lightning.tracking.foreign.deca import CODES, crop_face, crop_transforms
from rome_lightning.types.landmarks import IBUG68

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from deca_files import deca_weights, photographs, write_deca  # noqa: E402


def official(checkout: Path) -> tuple[Any, Any]:
    """The official data set and encoder, without the detector that the landmarks replace."""
    detector = types.ModuleType("face_alignment")
    detector.LandmarksType = types.SimpleNamespace(_2D=0)  # type: ignore[attr-defined]
    detector.FaceAlignment = lambda *_, **__: None  # type: ignore[attr-defined]
    sys.modules.setdefault("face_alignment", detector)
    sys.path.insert(0, str(checkout))
    from decalib.datasets.datasets import TestData
    from decalib.models.encoders import ResnetEncoder

    return TestData, ResnetEncoder


def our_values(encoder: DecaEncoder, photo: np.ndarray, landmarks: Tensor) -> dict[str, Tensor]:
    """Crop and parameters of one photograph by our code."""
    transform = crop_transforms(landmarks)[0]
    image = crop_face(photo, transform)
    track = encoder.track(photo[None], landmarks)
    assert isinstance(track.camera, CropCamera)
    return {
        "transform": transform.float(), "image": image, "codes": encoder(image[None])[0],
        "shape": track.shape[0], "expression": track.expression[0],
        "pose": torch.cat([track.global_pose, track.jaw_pose], 1)[0], "camera": track.camera.weak[0],
    }  # fmt: skip


def official_values(
    data_set: Any, encoder: Any, photo: np.ndarray, landmarks: Tensor, folder: Path
) -> dict[str, Tensor]:
    """The same by the official code, which reads files."""
    points = np.stack([landmarks[0, list(rows)].double().mean(0).numpy() for rows in IBUG68])
    Image.fromarray(photo).save(folder / "photo.png")
    np.savetxt(folder / "photo.txt", points, fmt="%.17g")
    sample = data_set(str(folder / "photo.png"))[0]
    codes = encoder(sample["image"][None])[0]
    return {
        "transform": sample["tform"], "image": sample["image"], "codes": codes,
        "shape": codes[:100], "expression": codes[150:200], "pose": codes[200:206], "camera": codes[206:209],
    }  # fmt: skip


@torch.no_grad()
def main() -> None:
    """Compare, and record on request."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--deca", type=Path, required=True, metavar="CHECKOUT")
    parser.add_argument("--record", type=Path, help="Write the official results.")
    arguments = parser.parse_args()
    data_set, network = official(arguments.deca)
    recorded: dict[str, Tensor] = {}
    with tempfile.TemporaryDirectory() as name:
        folder, weights = Path(name), deca_weights()
        theirs = network(outsize=sum(CODES.values())).eval()
        theirs.load_state_dict(weights)
        ours = DecaEncoder.load(write_deca(folder / "deca_model.tar", weights))
        print(f"{'photograph':12}{'quantity':12}{'difference':>12}{'spread':>10}")
        for title, photo in photographs().items():
            landmarks = FaceDetector().detect(photo[None]).landmarks
            wanted = official_values(data_set, theirs, photo, landmarks, folder)
            found = our_values(ours, photo, landmarks)
            for key, value in wanted.items():
                difference = float((found[key] - value).abs().max())
                print(f"{title:12}{key:12}{difference:12.1e}{float(value.std()):10.2g}")
            thinned = {**wanted, "image": wanted["image"][:, ::16, ::16], "landmarks": landmarks[0]}
            kept = ("landmarks", "transform", "image", "codes")
            recorded |= {f"{title}/{key}": thinned[key].contiguous() for key in kept}
    if arguments.record:
        save_file(recorded, arguments.record)


if __name__ == "__main__":
    main()
