"""Metrics: each formula as a function, its mean over a dataset as a torchmetrics class.

Functions return one value per image. Classes keep sums and counts, so the result does not depend on how the
images are split into batches and processes.
"""

from rome_lightning.metrics.alexnet import feature_extractor
from rome_lightning.metrics.brisque import Brisque, brisque
from rome_lightning.metrics.csim import CSIM, ArcFaceEmbedder, SFaceEmbedder, csim
from rome_lightning.metrics.dtssd import DtSSD, dtssd
from rome_lightning.metrics.expression_distance import ExpressionDistance, expression_distance
from rome_lightning.metrics.fid import FID, frechet_distance, inception_features
from rome_lightning.metrics.jitter import Jitter, acceleration, jitter
from rome_lightning.metrics.l1 import L1, l1
from rome_lightning.metrics.landmark_distance import LandmarkDistance, landmark_distance
from rome_lightning.metrics.lpips import LPIPS, load_lpips, lpips, lpips_distance, lpips_features
from rome_lightning.metrics.mask_iou import MaskIoU, mask_iou
from rome_lightning.metrics.mesh_distance import ChamferDistance
from rome_lightning.metrics.psnr import PSNR, psnr
from rome_lightning.metrics.rotation_distance import RotationDistance, rotation_distance
from rome_lightning.metrics.ssim import SSIM, mean_of_windows, ssim, ssim_map

__all__ = [
    "CSIM",
    "FID",
    "L1",
    "LPIPS",
    "PSNR",
    "SSIM",
    "ArcFaceEmbedder",
    "Brisque",
    "ChamferDistance",
    "DtSSD",
    "ExpressionDistance",
    "Jitter",
    "LandmarkDistance",
    "MaskIoU",
    "RotationDistance",
    "SFaceEmbedder",
    "acceleration",
    "brisque",
    "csim",
    "dtssd",
    "expression_distance",
    "feature_extractor",
    "frechet_distance",
    "inception_features",
    "jitter",
    "l1",
    "landmark_distance",
    "load_lpips",
    "lpips",
    "lpips_distance",
    "lpips_features",
    "mask_iou",
    "mean_of_windows",
    "psnr",
    "rotation_distance",
    "ssim",
    "ssim_map",
]
