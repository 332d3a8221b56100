"""Metrics: the formula as a function, its mean over a dataset as a torchmetrics class.

Functions give one value per image; classes keep sums and counts, so the result does not depend on how
images are split into batches and processes.
"""

from rome_lightning.metrics.csim import CSIM, SFaceEmbedder, csim
from rome_lightning.metrics.lpips import LPIPS, load_lpips, lpips
from rome_lightning.metrics.psnr import PSNR, psnr
from rome_lightning.metrics.ssim import SSIM, ssim

__all__ = [
    "CSIM",
    "LPIPS",
    "PSNR",
    "SSIM",
    "SFaceEmbedder",
    "csim",
    "load_lpips",
    "lpips",
    "psnr",
    "ssim",
]
