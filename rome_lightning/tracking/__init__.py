"""From videos and photos to cropped frames with head parameters, regions and mattes."""

from rome_lightning.tracking.crop import Crop, CropRule, crop_clip
from rome_lightning.tracking.detector import BLENDSHAPE_NAMES, Detections, FaceDetector
from rome_lightning.tracking.fit import ClipFit, fit_clip, match_blendshapes
from rome_lightning.tracking.fit_settings import FitSettings
from rome_lightning.tracking.matting import Matter
from rome_lightning.tracking.photos import track_photos
from rome_lightning.tracking.problems import REASONS, Problem
from rome_lightning.tracking.quality import QualityRule
from rome_lightning.tracking.segmenter import Segmentation, Segmenter
from rome_lightning.tracking.tracked import TrackedClip
from rome_lightning.tracking.tracker import Tracker

__all__ = [
    "BLENDSHAPE_NAMES",
    "REASONS",
    "ClipFit",
    "Crop",
    "CropRule",
    "Detections",
    "FaceDetector",
    "FitSettings",
    "Matter",
    "Problem",
    "QualityRule",
    "Segmentation",
    "Segmenter",
    "TrackedClip",
    "Tracker",
    "crop_clip",
    "fit_clip",
    "match_blendshapes",
    "track_photos",
]
