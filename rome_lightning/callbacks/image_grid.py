"""Pictures of the validation set while training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from rome_lightning.media.image import to_uint8, write_png
from rome_lightning.report.pictures import mesh_overlay, shaded
from rome_lightning.training.base import RomeModule
from rome_lightning.training.finite import finite_part
from rome_lightning.types import AvatarBatch, Frames, Rendered

GRID_COLUMNS = ("source", "driver", "render", "error", "mesh", "normals", "mask", "texture")
"""What a row shows, from left to right."""
_HEADER_PX = 16


class ImageGrid(Callback):
    """Save a grid after each validation: one clip per row, ``GRID_COLUMNS`` from left to right.

    ``error`` is white where render and driver agree and red where they differ by a third or more;
    ``texture`` has a tile per channel of the neural texture, each from its least to its largest value.
    Files go to ``<run folder>/images/``; TensorBoard and W&B get them as ``val/images``.

    Args:
        num_rows: clips shown.
    """

    def __init__(self, num_rows: int = 6) -> None:
        super().__init__()
        self.num_rows = num_rows
        self._rows: dict[str, Tensor] = {}

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Clear the rows of the previous epoch."""
        self._rows = {}

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: AvatarBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the first pair of each clip, until there are enough rows."""
        batch = finite_part(batch)
        new = [i for i, clip in enumerate(batch.clips) if clip not in self._rows]
        if not new or len(self._rows) >= self.num_rows or not trainer.is_global_zero:
            return
        pick = torch.tensor(new, device=batch.source.image.device)
        source, target = batch.source[pick], batch.target[pick * batch.num_driving]
        avatar = cast(RomeModule, pl_module).avatar
        with torch.no_grad():
            code = avatar.encode(source)
            rendered = avatar.render(code, target.params, target.image_size, 1.0)
        for index, row in zip(new, grid_rows(source, target, rendered, code.texture).cpu(), strict=True):
            if len(self._rows) < self.num_rows:
                self._rows[batch.clips[index]] = row

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the grid."""
        if not self._rows or trainer.sanity_checking:
            return
        picture = _with_header(to_uint8(torch.cat(list(self._rows.values()), dim=1)))
        folder = Path(trainer.default_root_dir) / "images"
        write_png(folder / f"step_{trainer.global_step:07d}.png", picture)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("val/images", [picture], step=trainer.global_step)
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("val/images", picture, trainer.global_step, dataformats="HWC")


def grid_rows(
    source: Frames, target: Frames, rendered: Rendered, texture: Float[Tensor, "b c s s"]
) -> Float[Tensor, "b 3 h w8"]:
    """``GRID_COLUMNS`` side by side, RGB in [0, 1].

    Args:
        source: identity frames.
        target: frames to reproduce.
        rendered: on white.
        texture: neural textures of the sources.
    """
    size = target.image_size
    columns = [
        source.image,
        target.image,
        rendered.image,
        error_map(rendered, target),
        mesh_overlay(target.image, rendered),
        shaded(rendered),
        rendered.mask.expand_as(rendered.image),
        channel_tiles(texture, size),
    ]
    return torch.cat([column.detach().float().clamp(0, 1) for column in columns], dim=-1)


def error_map(rendered: Rendered, target: Frames) -> Float[Tensor, "b 3 h w"]:
    """Mean difference of the colours on a white background, from white (none) to red (a third or more)."""
    wanted = torch.lerp(torch.ones_like(target.image), target.image, target.foreground_mask)
    error = (3 * (rendered.image - wanted).abs().mean(1, keepdim=True)).clamp(0, 1)
    return torch.cat([torch.ones_like(error), 1 - error, 1 - error], dim=1)


def channel_tiles(texture: Float[Tensor, "b c s s"], size: tuple[int, int]) -> Float[Tensor, "b 3 h w"]:
    """Each channel as a grey tile from its least to its largest value, in a square of tiles.

    Args:
        texture: any range.
        size: (height, width) of the result, pixels.
    """
    batch, channels = texture.shape[:2]
    side = math.ceil(math.sqrt(channels))
    flat = texture.detach().float().flatten(2)
    low, high = flat.amin(2, keepdim=True), flat.amax(2, keepdim=True)
    grey = ((flat - low) / (high - low).clamp_min(1e-6)).view_as(texture)
    tile = (size[0] // side, size[1] // side)
    small = F.interpolate(grey, tile, mode="bilinear", antialias=True, align_corners=False)
    canvas = torch.ones(batch, 1, *size, device=texture.device)
    for channel in range(channels):
        row, column = divmod(channel, side)
        y, x = row * tile[0], column * tile[1]
        canvas[:, 0, y : y + tile[0], x : x + tile[1]] = small[:, channel]
    return canvas.expand(-1, 3, -1, -1)


def _with_header(picture: np.ndarray) -> np.ndarray:
    """Column names above the picture."""
    header = Image.new("RGB", (picture.shape[1], _HEADER_PX), "white")
    draw = ImageDraw.Draw(header)
    width = picture.shape[1] / len(GRID_COLUMNS)
    for index, name in enumerate(GRID_COLUMNS):
        draw.text((width * (index + 0.5), _HEADER_PX / 2), name, fill="black", anchor="mm")
    return np.concatenate([np.asarray(header), picture])
