"""Checkpoint files of a run: written whole or not at all, verified when read, never executed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from rome_lightning.media.atomic import alias, atomic_file, commit
from rome_lightning.media.digest import seal_archive
from rome_lightning.models.checkpoint import verify_checkpoint

LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"
BEST = "best.ckpt"
RUN_KEY = "rome_run"
"""Entry of a checkpoint that identifies its run: code, configuration, data, steps."""

_NEWEST_FIRST = (LAST, PREVIOUS, BEST)


def newest_valid(folder: Path) -> Path | None:
    """The newest intact checkpoint of a run folder; None if there is none yet.

    Reports the damaged files that it skips.

    Raises:
        ValueError: there are checkpoints, and all of them are damaged.
    """
    present = [folder / name for name in _NEWEST_FIRST if (folder / name).is_file()]
    for index, path in enumerate(present):
        try:
            verify_checkpoint(path)
        except ValueError as error:
            if index + 1 == len(present):
                raise ValueError(
                    f"no checkpoint in {folder} can be read; the last reason: {error}"
                ) from error
            rank_zero_warn(f"{error}; falling back to {present[index + 1].name}")
        else:
            return path
    return None


def set_aside_damaged(path: Path) -> None:
    """Rename a damaged file, so that it does not replace an older intact one."""
    if not path.is_file():
        return
    try:
        verify_checkpoint(path)
    except ValueError:
        os.replace(path, path.with_name(f"{path.name}.damaged"))


def rotate(new: Path) -> None:
    """Make a finished file ``last.ckpt`` of its folder, and the old one ``previous.ckpt``.

    At every moment one of the two names has an intact file.
    """
    last, previous = new.with_name(LAST), new.with_name(PREVIOUS)
    if last.is_file():
        alias(last, previous)
    commit(new, last)


def copy_as(source: Path, target: Path) -> None:
    """Give a file a second name, replacing what was there, at once and for no space where links exist."""
    alias(source, target)


class RunCheckpointIO(TorchCheckpointIO):
    """Files appear under their name only when every byte is on disk; loading checks them and runs no code."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None
    ) -> None:
        """Write beside the target, flush to disk, rename."""
        target = Path(path)
        try:
            with atomic_file(target) as file:
                torch.save(checkpoint, file)
                seal_archive(file)
        except RuntimeError as error:
            # torch reports a failed write of its archive as this; the caller waits for errors of files.
            raise OSError(f"cannot write {target}: {str(error).splitlines()[0]}") from error

    def load_checkpoint(
        self, path: _PATH, map_location: Any | None = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Verify and read plain data, regardless of the caller's options."""
        verify_checkpoint(Path(path))
        loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return loaded
