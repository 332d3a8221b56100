"""DECA's encoder: FLAME parameters of a picture by the user's own ``deca_model.tar``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from rome_lightning.media.frame_reader import FrameSequence
from rome_lightning.pretrained.weights import read_tensors
from rome_lightning.tracking.foreign.cameras import CropCamera
from rome_lightning.tracking.foreign.formats import FlameTrack
from rome_lightning.types.landmarks import IBUG68

CROP_SIZE = 224
"""Side of the picture that the encoder sees, pixels."""
CODES = {"shape": 100, "texture": 50, "expression": 50, "pose": 6, "camera": 3, "light": 27}
"""What the encoder's outputs mean, in order."""
_FEATURES, _HIDDEN = 2048, 1024
_FACE_SCALE, _CROP_SCALE = 1.1, 1.25
_BATCH = 8


class DecaEncoder(nn.Module):
    """ResNet-50 and two linear layers, from a face to FLAME's and DECA's other parameters.

    Layers and key names are those of ``decalib/models/encoders.py`` in yfeng95/DECA.

    Source: Feng et al., Learning an animatable detailed 3D face model from in-the-wild images, 2021, sec. 4.
    """

    def __init__(self) -> None:
        # Imports torch's compiler, which takes seconds.
        from torchvision.models import resnet50

        super().__init__()
        self.encoder = resnet50(weights=None)
        self.encoder.fc = nn.Identity()
        self.layers = nn.Sequential(
            nn.Linear(_FEATURES, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, sum(CODES.values()))
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read DECA's checkpoint; only its encoder of FLAME parameters is used.

        Args:
            path: ``deca_model.tar``.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged, holds more than tensors, or is not DECA's.
        """
        content = read_tensors(
            path, "deca_model.tar is linked from https://github.com/yfeng95/DECA (non-commercial research)"
        )
        weights = _encoder_weights(content)
        if not weights:
            raise ValueError(f"{path} is not DECA's deca_model.tar: it has no E_flame")
        encoder = cls()
        wanted = encoder.state_dict()
        # Only training counts batches.
        ignored = {key for key in wanted if key.endswith(".num_batches_tracked")}
        wrong = sorted(set(weights) - ignored ^ set(wanted) - ignored)
        wrong += [key for key in wanted if key in weights and weights[key].shape != wanted[key].shape]
        if wrong:
            raise ValueError(f"{path} is not DECA's deca_model.tar: E_flame.{wrong[0]} does not fit")
        # Without the counts of batches, as checked above.
        encoder.load_state_dict(weights, strict=False)
        return encoder.eval().requires_grad_(False)

    def forward(self, image: Float[Tensor, "b 3 224 224"]) -> Float[Tensor, "b 236"]:
        """The parameters, see ``CODES``.

        Args:
            image: RGB in [0, 1], see ``crop_face``.
        """
        parameters: Tensor = self.layers(self.encoder(image))
        return parameters

    @torch.no_grad()
    def track(
        self,
        pictures: FrameSequence,
        landmarks: Float[Tensor, "n 478 2"],
        found: Bool[Tensor, " n"] | None = None,
    ) -> FlameTrack:
        """FLAME parameters of each picture; texture and light are dropped.

        Args:
            pictures: whole, not cropped.
            landmarks: MediaPipe's, pixels of the picture.
            found: pictures with a face; all by default. The others' parameters are 0.
        """
        count = len(landmarks)
        found = torch.ones(count, dtype=torch.bool) if found is None else found
        codes = torch.zeros(count, sum(CODES.values()))
        transforms = torch.eye(3, dtype=torch.float64).repeat(count, 1, 1)
        places = found.nonzero().flatten()
        transforms[places] = crop_transforms(landmarks[places])
        crops = self._crops(pictures, transforms, found)
        for rows in places.split(_BATCH):
            codes[rows] = self(torch.stack([next(crops) for _ in rows]))
        code = dict(zip(CODES, codes.split(list(CODES.values()), dim=1), strict=True))
        return FlameTrack(
            shape=code["shape"],
            expression=code["expression"],
            global_pose=code["pose"][:, :3],
            neck_pose=torch.zeros(count, 3),
            jaw_pose=code["pose"][:, 3:],
            eye_pose=torch.zeros(count, 6),
            camera=CropCamera(code["camera"], transforms.float(), CROP_SIZE),
            kind="deca",
        )

    @staticmethod
    def _crops(
        pictures: FrameSequence, transforms: Float64[Tensor, "n 3 3"], found: Bool[Tensor, " n"]
    ) -> Iterator[Float[Tensor, "3 224 224"]]:
        """Of the pictures with a face, read one after the other."""
        for picture, transform, is_found in zip(pictures, transforms, found.tolist(), strict=True):
            if is_found:
                yield crop_face(picture, transform)


def _encoder_weights(content: Any) -> dict[str, Tensor]:
    """The tensors of ``E_flame``, a dictionary of its own or a prefix of the names."""
    if not isinstance(content, Mapping):
        return {}
    own = content.get("E_flame")
    if isinstance(own, Mapping):
        return {str(key): value for key, value in own.items() if isinstance(value, Tensor)}
    prefix = "E_flame."
    return {
        str(key).removeprefix(prefix): value
        for key, value in content.items()
        if str(key).startswith(prefix) and isinstance(value, Tensor)
    }


def crop_transforms(landmarks: Float[Tensor, "n 478 2"]) -> Float64[Tensor, "n 3 3"]:
    """Similarities from the picture to DECA's crop, in homogeneous pixels.

    The square's side is 1.1 times the mean of width and height of the box of the 68-point landmarks, then
    1.25 times that.

    Args:
        landmarks: MediaPipe's, pixels of the picture.

    Departure from DECA: the 68 points are those of MediaPipe's landmarks at the same places, not FAN's.
    Source: ``decalib/datasets/datasets.py`` of yfeng95/DECA.
    """
    points = torch.stack([landmarks[:, list(rows)].double().mean(1) for rows in IBUG68], dim=1)
    low, high = points.amin(1), points.amax(1)
    side = ((high - low).mean(1) * _FACE_SCALE * _CROP_SCALE).floor().clamp_min(1)
    scale = (CROP_SIZE - 1) / side
    result = torch.eye(3, dtype=torch.float64).repeat(len(points), 1, 1)
    result[:, 0, 0] = result[:, 1, 1] = scale
    result[:, :2, 2] = -scale[:, None] * ((low + high) / 2 - side[:, None] / 2)
    return result


def crop_face(
    picture: UInt8[np.ndarray, "h w 3"], transform: Float64[Tensor, "3 3"]
) -> Float[Tensor, "3 224 224"]:
    """The square of a picture that the encoder sees: bilinear, not antialiased, black outside.

    Args:
        picture: RGB.
        transform: of ``crop_transforms``.

    Returns:
        RGB in [0, 1].
    """
    height, width = picture.shape[:2]
    scale, left, top = float(transform[0, 0]), *(-transform[:2, 2] / transform[0, 0]).tolist()
    steps = torch.arange(CROP_SIZE, dtype=torch.float64) / scale
    x, y = left + steps, top + steps
    # Only the pixels under the square are converted, because photographs are large.
    first_x, last_x = _span(float(x[0]), float(x[-1]), width)
    first_y, last_y = _span(float(y[0]), float(y[-1]), height)
    shown = torch.from_numpy(picture[first_y : last_y + 1, first_x : last_x + 1]).permute(2, 0, 1).double()
    columns = 2 * (x - first_x + 0.5) / shown.shape[2] - 1
    rows = 2 * (y - first_y + 0.5) / shown.shape[1] - 1
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
    sampled = F.grid_sample(shown[None] / 255, grid[None], align_corners=False, padding_mode="zeros")
    return sampled[0].float()


def _span(first: float, last: float, length: int) -> tuple[int, int]:
    """First and last pixel that are sampled, at least one."""
    start = min(max(int(np.floor(first)), 0), length - 1)
    return start, max(min(int(np.ceil(last)), length - 1), start)
