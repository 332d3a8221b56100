"""Results of our released configuration for the inputs of ``released_files``, under the official names."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from released_files import ReleasedFiles, ReleasedInputs
from torch import Tensor, nn

from rome_lightning.geometry import pixels_to_ndc
from rome_lightning.models import AvatarModel
from rome_lightning.models.checkpoint import load_avatar
from rome_lightning.models.official import import_official, write_checkpoint
from rome_lightning.models.official_linear import import_linear
from rome_lightning.renderer import (
    OFFICIAL,
    interpolate,
    released_share,
    soft_silhouette,
)
from rome_lightning.types import Frames

TOLERANCES = {
    # Up to 1.1, where float32 has a spacing of 1.2e-7. Sums in another order, on another processor, differ by
    # 1.01e-6 at most.
    "vertices_ndc": (2e-6, 1e-6),
    "offsets": (1e-6, 1e-6),
    "uv": (None, 1e-5),
    "logits": (1e-3, 3e-4),
    "soft_alpha": (None, 1e-2),
    "driver": (1e-6, 1e-6),
}
"""Largest difference from the official code of all values, and of 99.9 % of them; ``None`` where a pixel at
an edge may differ. Vertices in NDC, offsets in metres, texture coordinates in [-1, 1]."""


class InDouble(nn.Module):
    """A network in double precision between tensors in single precision.

    Round-off grows a thousandfold in the texture encoder with random weights, and differs between
    processors; both codes run it in this way when they are compared.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.double()

    def forward(self, image: Tensor) -> Tensor:
        """The network's output, rounded."""
        output: Tensor = self.network(image.double()).to(image.dtype)
        return output


@torch.no_grad()
def released_values(avatar: AvatarModel, inputs: ReleasedInputs) -> dict[str, Tensor]:
    """All compared quantities, for two drivers."""
    size = (inputs.source_image.shape[-2], inputs.source_image.shape[-1])
    source = Frames(
        image=inputs.source_image,
        foreground_mask=inputs.source_mask,
        regions=torch.zeros(1, *size, dtype=torch.uint8),
        landmarks=torch.zeros(1, 478, 2),
        params=inputs.source[:1],
    )
    drivers = inputs.drivers
    values = {}
    # The inputs are framed already; resampling them once more would change the last bits, which random
    # networks amplify.
    avatar.config = dataclasses.replace(avatar.config, framing="crop")
    avatar.texture_model.encoder = InDouble(avatar.texture_model.encoder)
    if avatar.driver_network is not None:
        drivers = avatar.estimate_driver(inputs.driver_images)
        pose = torch.cat([drivers.global_pose, drivers.jaw_pose], 1)
        values["driver"] = torch.cat([drivers.expression[:, :50], pose, drivers.camera], 1)
    seen: list[tuple[Tensor, Tensor]] = []
    hook = avatar.renderer.network.register_forward_hook(lambda _, given, out: seen.append((given[0], out)))
    try:
        code = avatar.encode(source).repeat_interleave(2)
        rendered = avatar.render(code, drivers, size)
    finally:
        hook.remove()
    features, logits = seen[-1]
    head = avatar.head
    mesh = (rendered.vertices_px, head.faces, rendered.face_ids)
    mask = rendered.mesh_mask.float()
    uv = interpolate(*mesh, 2 * head.uvs[None] - 1, head.uv_faces) * released_share(*mesh)
    channels = avatar.config.texture.channels
    return values | {
        "vertices_ndc": pixels_to_ndc(rendered.vertices_px, size)[..., :2],
        "offsets": rendered.offsets,
        "uv": uv,
        "normals": features[:, channels : channels + 3],
        "mask": mask,
        "soft_alpha": soft_silhouette(rendered.vertices_px, head.faces, size, **OFFICIAL),
        "logits": logits,
    }


def import_released(
    files: ReleasedFiles, weights: dict[str, Tensor], folder: Path, linear: bool
) -> AvatarModel:
    """The model of released files as users load it, through a checkpoint."""
    torch.save(weights, folder / "rome.pth")
    checkpoint, report = import_official(folder / "rome.pth", files.model, files.data)
    assert report.complete
    if linear:
        checkpoint = import_linear(checkpoint, files.data)
    write_checkpoint(checkpoint, folder / "official.ckpt")
    return load_avatar(folder / "official.ckpt")


def thinned(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """The subset stored in a fixture: every fifth pixel along both axes, every fourth vertex."""
    result = {}
    for name, value in values.items():
        if name.split("/")[-1] not in TOLERANCES:
            continue
        if value.ndim == 4:
            value = value[..., 1::5, 1::5]
        elif value.ndim == 3:
            value = value[:, 1::4]
        result[name] = value.contiguous().clone()
    return result
