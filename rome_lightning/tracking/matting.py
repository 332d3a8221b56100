"""Soft mattes of a portrait: fine at hair, closed on the face."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from rome_lightning import assets
from rome_lightning.networks.fast.eight_bit import has_byte_products
from rome_lightning.networks.portrait import MatteNetwork
from rome_lightning.pretrained.onnx_reader import read_onnx
from rome_lightning.tracking.detector import Progress

_STRIDE = 32

Run = Callable[[Tensor], Tensor]
"""From an RGB picture of (1, 3, s, s), [-1, 1], to opacity of (1, 1, s, s)."""


class Matter:
    """MODNet, a portrait matting network.

    On processors that multiply bytes, the asset runs as ``MatteNetwork``; a model that is named runs in ONNX
    Runtime.

    Source: Ke et al., MODNet: Real-Time Trimap-Free Portrait Matting via Objective Decomposition, AAAI 2022.
    """

    def __init__(self, model: Path | None = None, network_size: int = 256) -> None:
        """Set up; nothing is loaded before the first frame.

        Args:
            model: ONNX file; by default the asset ``modnet``.
            network_size: side at which the network sees a frame, a multiple of 32. On portrait crops 256
                is not only fastest but has the fewest holes; 512 shows finer hair in sharp photos.
        """
        if network_size <= 0 or network_size % _STRIDE:
            raise ValueError(f"network_size must be a positive multiple of {_STRIDE}, got {network_size}")
        self.model = model
        self.network_size = network_size

    def matte(
        self,
        frames: UInt8[np.ndarray, "n h w 3"],
        person: Float[Tensor, "n h w"] | None = None,
        progress: Progress | None = None,
    ) -> Float[Tensor, "n h w"]:
        """Opacity of the person.

        Args:
            frames: RGB, all of one size, best square portrait crops.
            person: foreground probability of the segmenter, which bounds the matte (``bounded_matte``);
                without it the matte may have holes and islands.
            progress: called after each frame.

        Returns:
            [0, 1], half precision.
        """
        run = self._open()
        result = torch.empty(len(frames), *frames[0].shape[:2], dtype=torch.float16)
        for index, frame in enumerate(frames):
            alpha = self._alpha(run, frame)
            result[index] = alpha if person is None else bounded_matte(alpha[None], person[index, None])[0]
            if progress is not None:
                progress("matte", index + 1, len(frames))
        return result

    def _open(self) -> Run:
        if self.model is None and has_byte_products():
            return _with_bytes
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # Other stages keep the cores busy with frames of the clip; one thread per network wastes least.
        options.intra_op_num_threads = 1
        model = self.model or assets.resolve("modnet")
        session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        return lambda picture: torch.from_numpy(session.run(None, {"input": picture.numpy()})[0])

    def _alpha(self, run: Run, frame: np.ndarray) -> Float[Tensor, "h w"]:
        size = (self.network_size, self.network_size)
        small = frame
        if frame.shape[:2] != size:
            small = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))
        # The network was trained on RGB in [-1, 1].
        inputs = (small.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)[None]
        alpha = run(torch.from_numpy(np.ascontiguousarray(inputs)))
        if alpha.shape[-2:] != frame.shape[:2]:
            alpha = F.interpolate(alpha, frame.shape[:2], mode="bilinear", align_corners=False)
        return alpha[0, 0].clamp(0, 1)


@functools.cache
def _network() -> MatteNetwork:
    return MatteNetwork(read_onnx(assets.resolve("modnet")))


def _with_bytes(picture: Float[Tensor, "1 3 s s"]) -> Float[Tensor, "1 1 s s"]:
    alpha: Tensor = _network()(picture)
    return alpha


def bounded_matte(alpha: Float[Tensor, "n h w"], person: Float[Tensor, "n h w"]) -> Float[Tensor, "n h w"]:
    """Trust the matting network only near the outline of the segmenter's person.

    Well inside the person the matte becomes 1, far outside 0: holes in faces and dark clothes close,
    furniture and other people vanish, while hair at the outline stays as fine as the network's.

    Args:
        alpha: of the matting network, [0, 1].
        person: foreground probability of the segmenter, [0, 1].
    """
    height = alpha.shape[-2]
    inner, outer = max(1, round(height * 0.016)), max(1, round(height * 0.04))
    certain = _ramp(-_spread(-person.float(), inner), 0.6, 0.95)
    possible = _ramp(_spread(person.float(), outer), 0.1, 0.5)
    return torch.minimum(torch.maximum(alpha.float(), certain), possible).to(alpha.dtype)


def _spread(values: Float[Tensor, "n h w"], radius: int) -> Float[Tensor, "n h w"]:
    """Largest value within a square."""
    # OpenCV's dilation is twenty times as fast as pooling with a large window.
    kernel = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
    return torch.from_numpy(np.stack([cv2.dilate(frame.numpy(), kernel) for frame in values]))


def _ramp(values: Float[Tensor, "n h w"], low: float, high: float) -> Float[Tensor, "n h w"]:
    return ((values - low) / (high - low)).clamp(0, 1)
