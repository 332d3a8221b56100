"""The repository's protocols, adapted to tests."""

from __future__ import annotations

from typing import Any

from tiny_run import ROOT

PROTOCOLS = ROOT / "experiments" / "protocols"


def pixels_only(content: dict[str, Any]) -> None:
    """Keep only metrics that need no network."""
    content["tasks"] = {
        "self": {
            **content["tasks"]["self"],
            "metrics": ["psnr/full", "ssim/masked", "mask_iou"],
            "examples_by": "psnr/full",
        }
    }
    content["networks"] = {}
