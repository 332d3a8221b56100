"""Our code against equivalent functions of kornia, OpenCV and torchmetrics: CPU time and difference.

``python benchmarks/libraries.py``

CONTRIBUTING.md's table "Libraries and our own code" rests on these figures. Times are the least of some runs
on one thread, in milliseconds of CPU time. The difference is the largest one to the reference: the first line
of each block, or the exact result where there is one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import cv2
import numpy as np
import torch
from kornia import enhance, morphology
from kornia.color import lab_to_rgb, rgb_to_lab
from kornia.contrib import distance_transform
from kornia.filters import filter2d_separable
from kornia.geometry.conversions import axis_angle_to_rotation_matrix, rotation_matrix_to_axis_angle
from kornia.geometry.transform import pyrdown
from kornia.metrics import ssim as kornia_ssim
from scipy.ndimage import distance_transform_edt
from skimage.data import astronaut
from skimage.metrics import structural_similarity
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.image import structural_similarity_index_measure

from datamodules.augmentation import Augmentation, colour_matrix
from rome_lightning.geometry.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from rome_lightning.metrics.ssim import _blur, ssim
from rome_lightning.models.fusion import _gains
from rome_lightning.renderer import extend_outside
from rome_lightning.renderer.pooling import folded, halved

SIZE, BATCH = 256, 4


def row(name: str, work: Callable[[], Tensor], reference: Tensor | None) -> Tensor:
    """Time some work, compare its result, print a line and return the result."""
    result, best = work(), math.inf
    for _ in range(3):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    difference = "" if reference is None else f"{float((result - reference).abs().max()):10.2g}"
    print(f"  {name:44}{best * 1e3:10.2f} ms{difference}")
    return result


def colours(images: Tensor) -> None:
    print("colour jitter (HSV and YIQ turn hues differently: results are not meant to be equal)")
    jitter = torch.rand(BATCH, 4) * 2 - 1
    settings = Augmentation(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.02)
    change = jitter * torch.tensor([0.2, 0.2, 0.2, 0.02])

    def ours() -> Tensor:
        matrix, shift = colour_matrix(jitter, settings)
        return (torch.einsum("bij,bjhw->bihw", matrix, images) + shift[..., None, None]).clamp(0, 1)

    def theirs() -> Tensor:
        x = enhance.adjust_brightness_accumulative(images, 1 + change[:, 0])
        x = enhance.adjust_contrast_with_mean_subtraction(x, 1 + change[:, 1])
        x = enhance.adjust_saturation(x, 1 + change[:, 2])
        return enhance.adjust_hue(x, change[:, 3] * 2 * math.pi)

    reference = row("ours: one matrix", ours, None)
    row("kornia.enhance, four steps", theirs, reference)


def similarity(images: Tensor) -> None:
    print("SSIM (reference: scikit-image)")
    other = (images + 0.05 * torch.randn_like(images)).clamp(0, 1)
    pairs = zip(images.double().numpy(), other.double().numpy(), strict=True)
    options = {"channel_axis": 0, "data_range": 1.0, "gaussian_weights": True, "sigma": 1.5}
    exact = torch.tensor(
        [structural_similarity(a, b, use_sample_covariance=False, **options) for a, b in pairs]
    )
    row("ours", lambda: ssim(images, other), exact)
    row("kornia.metrics.ssim", lambda: kornia_ssim(images, other, 11, padding="valid").mean((1, 2, 3)), exact)
    options = {"data_range": 1.0, "reduction": "none"}
    row("torchmetrics", lambda: structural_similarity_index_measure(images, other, **options), exact)
    print("its Gaussian window")
    weights = torch.exp(-(torch.arange(-5.0, 6.0).square()) / (2 * 1.5**2))
    kernel = (weights / weights.sum())[None]
    reference = row("ours: sums of shifted images", lambda: _blur(images), None)
    row("kornia.filters", lambda: filter2d_separable(images, kernel, kernel, padding="valid"), reference)


def masks() -> None:
    spots = (torch.rand(BATCH, 1, SIZE, SIZE) > 0.999).float()
    for radius in (2, 10):
        side = 2 * radius + 1
        print(f"dilation of a matte, {side} pixels")
        reference = row("max_pool2d", lambda side=side: F.max_pool2d(spots, side, 1, side // 2), None)
        square = np.ones((side, side), np.uint8)
        row(
            "OpenCV",
            lambda square=square: torch.stack(
                [torch.from_numpy(cv2.dilate(s.numpy(), square))[None] for s in spots[:, 0]]
            ),
            reference,
        )
        row(
            "kornia.morphology",
            lambda side=side: morphology.dilation(spots, torch.ones(side, side)),
            reference,
        )
    print("distance to a mask, pixels (reference: SciPy)")
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    disc = ((y - 140) ** 2 + (x - 120) ** 2 < 60**2).expand(BATCH, 1, -1, -1)
    exact = torch.from_numpy(np.stack([distance_transform_edt(~mask.numpy()) for mask in disc]))
    row("ours, with the nearest pixel", lambda: extend_outside(disc.float(), disc)[1] * SIZE, exact)
    row("kornia.contrib", lambda: distance_transform(disc.float()), exact)


def rotations() -> None:
    print("axis-angle to matrix, 10,000")
    vectors = torch.randn(10_000, 3) * 0.5
    reference = row("ours", lambda: axis_angle_to_matrix(vectors), None)
    row("kornia", lambda: axis_angle_to_rotation_matrix(vectors), reference)
    print("matrix to axis-angle, 10,000")
    row("ours", lambda: matrix_to_axis_angle(reference), vectors)
    row("kornia", lambda: rotation_matrix_to_axis_angle(reference), vectors)


def exposure(images: Tensor) -> None:
    """Two photographs in different light; the second is matched to the first."""
    print("exposure and white balance of a photograph: mean error that is left, RGB, 40 random lights")
    linear = images[:1].clamp(1e-4, 1).pow(2.2)
    visible = torch.ones(2, 1, SIZE, SIZE)
    before, rgb, lab, lightness = [], [], [], []
    for _ in range(40):
        light = torch.exp(0.35 * torch.randn(1, 1, 1, 1) + 0.08 * torch.randn(1, 3, 1, 1))
        photo = (linear * light).clamp(0, 1).pow(1 / 2.2)
        pair = torch.cat([images[:1], photo])
        known = (photo < 0.99).all(1, keepdim=True).float()

        def left(result: Tensor, known: Tensor = known) -> float:
            return float(((result - images[:1]).abs() * known).mean() / known.mean())

        first, second = rgb_to_lab(images[:1]), rgb_to_lab(photo)
        shift = (first - second).mean((2, 3), keepdim=True)
        scale = first.mean((2, 3), keepdim=True)[:, :1] / second.mean((2, 3), keepdim=True)[:, :1]
        before.append(left(photo))
        rgb.append(left((pair * _gains(pair, visible))[1:].clamp(0, 1)))
        lab.append(left(lab_to_rgb(second + shift)))
        scaled = torch.cat([second[:, :1] * scale, second[:, 1:] + shift[:, 1:]], dim=1)
        lightness.append(left(lab_to_rgb(scaled)))
    for name, values in (
        ("as it is", before), ("ours: a gain per channel", rgb),
        ("Lab: means made equal", lab), ("Lab: lightness scaled, a and b shifted", lightness),
    ):  # fmt: skip
        print(f"  {name:44}{np.mean(values):10.4f}")
    row("time of ours", lambda: _gains(images, visible[:1].expand(BATCH, -1, -1, -1)), None)
    row("time of Lab there and back", lambda: lab_to_rgb(rgb_to_lab(images)), None)


def pyramids(images: Tensor) -> None:
    print("one step of a pyramid")
    reference = row("ours: sums of rows and columns", lambda: halved(images), None)
    row("avg_pool2d", lambda: F.avg_pool2d(images, 2), reference)
    row("kornia pyrdown", lambda: pyrdown(images), None)
    print("squares of 2 x 2 pixels as channels")
    reference = row("ours: one transposition", lambda: folded(images, 2), None)
    row("pixel_unshuffle", lambda: F.pixel_unshuffle(images, 2), reference)


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    image = torch.from_numpy(astronaut()[:SIZE, 100 : 100 + SIZE].copy()).permute(2, 0, 1).float() / 255
    images = torch.stack([image, image.flip(2), image.flip(1), 1 - image])
    colours(images)
    similarity(images)
    masks()
    rotations()
    exposure(images)
    pyramids(images)


if __name__ == "__main__":
    main()
