"""Generated ``deca_model.tar`` (DECA's layers and names, none of its weights), and photographs to encode."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import skimage.data
import torch
from released_files import random_weight

from rome_lightning.media.frame_reader import FrameSequence
from rome_lightning.tracking import Detections, FaceDetector
from rome_lightning.tracking.foreign import DecaEncoder
from rome_lightning.tracking.foreign.deca import CODES, crop_transforms


def photographs() -> dict[str, np.ndarray]:
    """A photograph by NASA, in the public domain, and a part of it that DECA's crop reaches beyond."""
    whole = skimage.data.astronaut()
    return {"whole": whole, "cut": np.ascontiguousarray(whole[80:300, 180:400])}


def deca_weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights of ``E_flame``."""
    rng = np.random.default_rng(seed)
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in DecaEncoder().state_dict().items()}
    return {key: random_weight(key, shape, rng) for key, shape in shapes.items()}


def constant_weights(code: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights whose output is the same for every picture.

    Args:
        code: values by the names of ``CODES``; 0 for the others.
    """
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in DecaEncoder().state_dict().items()}
    # Views of one number, which is all that is saved of them.
    weights = {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}
    output = [code.get(name, torch.zeros(width)).flatten() for name, width in CODES.items()]
    return weights | {"layers.2.bias": torch.cat(output)}


def moved_camera(camera: np.ndarray, before: np.ndarray, after: np.ndarray) -> torch.Tensor:
    """DECA's camera for another crop of the same picture.

    Args:
        camera: scale, x, y.
        before: similarity from the picture to the camera's crop, (3, 3).
        after: to the other crop; with the same rotation.
    """
    scale, x, y = camera.tolist()
    growth = after[0, 0] / before[0, 0]
    # A point at s (x + t) in [-1, 1] is at (s (x + t) + 1) 112 in the crop, and y points up.
    shift = (growth + (after[:2, 2] - growth * before[:2, 2]) / 112 - 1) / (growth * scale)
    return torch.tensor([growth * scale, x + shift[0], y - shift[1]], dtype=torch.float32)


def write_deca(path: Path, weights: dict[str, torch.Tensor]) -> Path:
    """A file as DECA's training saves it."""
    others = {"E_detail": {"layers.0.bias": torch.zeros(4)}, "D_detail": {}, "global_step": 7}
    torch.save({"E_flame": weights, **others}, path)
    return path


def write_seeing(
    path: Path, codes: dict[str, np.ndarray], before: np.ndarray, landmarks: torch.Tensor
) -> Path:
    """A file whose encoder sees the same person in every picture, where it is in DECA's crop.

    Args:
        path: to write.
        codes: of DECA; the first person's are taken.
        before: similarity from the picture to the crop of ``codes``, (3, 3).
        landmarks: MediaPipe's of the person in the picture, (1, 478, 2).
    """
    camera = moved_camera(codes["cam"][0], before, crop_transforms(landmarks)[0].numpy())
    code = {"shape": codes["shape"][0], "expression": codes["exp"][0], "pose": codes["pose"][0]}
    values = {name: torch.from_numpy(value) for name, value in code.items()} | {"camera": camera}
    return write_deca(path, constant_weights(values))


def faces_at(landmarks: torch.Tensor, found: torch.Tensor) -> Detections:
    """Detections with these landmarks (n, 478, 2) and nothing else."""
    count = len(landmarks)
    return Detections(
        landmarks=landmarks,
        depth=torch.zeros(count, 478),
        blendshapes=torch.zeros(count, 52),
        pose=torch.eye(4).repeat(count, 1, 1),
        found=found,
        num_faces=found.int(),
    )


class GivenFaces(FaceDetector):
    """A detector that finds in the first frames what it is told."""

    def __init__(self, faces: Detections) -> None:
        super().__init__()
        self.faces = faces

    def detect(self, frames: FrameSequence, *_: object, **__: object) -> Detections:
        return self.faces[: len(frames)]

    def upside_down(self, frames: FrameSequence, found: Detections) -> torch.Tensor:
        return torch.zeros(len(frames), dtype=torch.bool)
