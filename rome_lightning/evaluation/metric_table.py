"""Every metric by name, with its direction, bounds and requirements."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rome_lightning.evaluation.regions import REGION_CHOICES
from rome_lightning.head import REGIONS


@dataclass(frozen=True)
class MetricSpec:
    """Direction, bounds and requirements of a metric."""

    higher_is_better: bool
    ceiling: float | None
    """Score of the ground truth against itself; None if it must be measured or does not exist."""
    worst: float | None
    """Value of an unscorable prediction in the penalised mean; None: excluded there too."""
    networks: tuple[str, ...] = ()
    """Assets."""
    tasks: tuple[str, ...] = ("self", "cross")
    """Kinds of task that it is defined for."""
    per_frame: bool = True
    """Whether each pair has a value; others are computed from all pairs together."""
    pixels: bool = False
    """Whether it compares pixels, and so takes ``/full``, ``/masked`` or ``/crop``."""
    mesh: bool = False
    """Whether it compares meshes, and so may take ``/region``."""
    unit: str = ""


_FACE = ("face_landmarker",)
SPECS: dict[str, MetricSpec] = {
    "psnr": MetricSpec(True, 100.0, 0.0, tasks=("self",), pixels=True, unit="dB"),
    "ssim": MetricSpec(True, 1.0, 0.0, tasks=("self",), pixels=True),
    "l1": MetricSpec(False, 0.0, 1.0, tasks=("self",), pixels=True),
    "lpips_alex": MetricSpec(False, 0.0, 1.0, ("lpips_alexnet",), ("self",), pixels=True),
    "lpips_vgg": MetricSpec(False, 0.0, 1.0, ("lpips_vgg16",), ("self",), pixels=True),
    "lpips_squeeze": MetricSpec(False, 0.0, 1.0, ("lpips_squeezenet",), ("self",), pixels=True),
    "csim_sface": MetricSpec(True, 1.0, 0.0, ("sface", "yunet")),
    "csim_arcface_mbf": MetricSpec(True, 1.0, 0.0, ("arcface_mbf", "yunet")),
    "akd_mediapipe478": MetricSpec(False, 0.0, None, _FACE, ("self",), unit="px"),
    "aed_expression_mediapipe": MetricSpec(False, 0.0, 1.0, _FACE),
    "apd_rotation_deg": MetricSpec(False, 0.0, 180.0, _FACE, unit="deg"),
    "dtssd": MetricSpec(False, 0.0, 1.0, tasks=("self",), pixels=True),
    "mask_iou": MetricSpec(True, 1.0, 0.0, tasks=("self",)),
    "iqa_brisque": MetricSpec(False, None, 100.0, ("brisque_svm", "brisque_range")),
    "fid_inception": MetricSpec(False, 0.0, None, ("fid_inception",), per_frame=False),
    "jitter_px": MetricSpec(False, 0.0, None, _FACE, per_frame=False, unit="px/frame^2"),
    "vertex_mm": MetricSpec(False, 0.0, None, tasks=("geometry",), mesh=True, unit="mm"),
    "chamfer_mm": MetricSpec(False, 0.0, None, tasks=("geometry",), mesh=True, unit="mm"),
    "normal_deg": MetricSpec(False, 0.0, 180.0, tasks=("geometry",), mesh=True, unit="deg"),
    "f_score": MetricSpec(True, 1.0, 0.0, tasks=("geometry",), mesh=True),
}
"""Every metric by the name that protocols use, without the choice of pixels."""
PIXEL_CHOICES = ("full", "masked", "crop", *REGION_CHOICES)
_NEED_A_FACE = ("crop", "mouth", "eyes", "shoulders")
"""Choices of pixels that follow the target's landmarks."""


def spec_of(metric: str) -> MetricSpec:
    """Facts of a metric.

    Raises:
        ValueError: there is no such metric, or its choice of pixels is missing or invalid.
    """
    base, _, choice = metric.partition("/")
    if base not in SPECS:
        raise ValueError(f"unknown metric {metric!r}; known: {', '.join(SPECS)}")
    spec = SPECS[base]
    if spec.mesh and (not choice or choice in REGIONS):
        return spec
    if spec.pixels != bool(choice) or (choice and choice not in PIXEL_CHOICES):
        wanted = f"one of {', '.join(f'{base}/{c}' for c in PIXEL_CHOICES)}" if spec.pixels else base
        raise ValueError(f"metric {metric!r} must be {wanted}")
    if base == "dtssd" and choice == "crop":
        raise ValueError(f"metric {metric!r} compares frames, whose crops differ; choose other pixels")
    if choice in _NEED_A_FACE:
        return replace(spec, networks=tuple(dict.fromkeys((*spec.networks, *_FACE))))
    return spec


def result_name(metric: str, resolution: int) -> str:
    """Name in results: distances in pixels state the size of the image."""
    return f"{metric}_{resolution}" if spec_of(metric).unit == "px" else metric


def kind_of(task: str) -> str:
    """``cross`` if another person drives, else ``self``: there is a target to compare with."""
    return "cross" if task.startswith("cross") else "self"
