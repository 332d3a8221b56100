"""Quality and cost of distillation: geometry against ground truth, and time per stage."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from rome_lightning.losses.mesh_chamfer import chamfer_3d
from rome_lightning.models import AvatarModel
from rome_lightning.types import Frames

STAGES = ("mesh of a photo", "avatar of a photo", "mesh of a frame", "whole frame")
"""What ``stage_times`` measures; the first two once per avatar, the others for every driver frame."""


@torch.no_grad()
def geometry_error_mm(
    model: AvatarModel, sources: Frames, truth: Float[Tensor, "b v 3"]
) -> Float[Tensor, " b"]:
    """Chamfer distance between the mesh that each source gives and the true one, millimetres.

    Args:
        model: in evaluation mode.
        sources: frames with exact parameters, such as those of ``datamodules.synthetic``.
        truth: posed vertices, metres, head space.
    """
    found = model.reconstruct(sources).vertices
    errors = [chamfer_3d(a[None], b[None]) for a, b in zip(found, truth, strict=True)]
    return 1e3 * torch.stack(errors)


@torch.no_grad()
def stage_times(model: AvatarModel, source: Frames, repeats: int = 10) -> dict[str, float]:
    """Milliseconds of every one of ``STAGES``, the median of single runs after a warm-up.

    Args:
        model: in evaluation mode.
        source: one frame; it is its own driver.
        repeats: runs of every stage.
    """
    code = model.encode(source)
    runs: dict[str, Callable[[], object]] = {
        "mesh of a photo": lambda: model.reconstruct(source),
        "avatar of a photo": lambda: model.encode(source),
        "mesh of a frame": lambda: model.deform(code, source.params),
        "whole frame": lambda: model.render(code, source.params, source.image_size),
    }
    if model.driver_network is not None:
        runs["parameters of a frame"] = lambda: model.estimate_driver(source.image)
    return {name: _median_ms(run, repeats, source.image.device) for name, run in runs.items()}


def _median_ms(run: Callable[[], object], repeats: int, device: torch.device) -> float:
    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    run()
    times = []
    for _ in range(repeats):
        wait()
        start = time.perf_counter()
        run()
        wait()
        times.append(time.perf_counter() - start)
    return 1e3 * sorted(times)[len(times) // 2]
