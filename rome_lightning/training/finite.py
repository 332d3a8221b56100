"""Find and name non-finite values in a batch, and keep them from the networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from rome_lightning.types import AvatarBatch
from rome_lightning.types.struct import TensorStruct


def is_finite(batch: TensorStruct) -> Bool[Tensor, ""]:
    """Whether all numbers of a batch are finite; on its device, so that the host does not wait."""
    return torch.stack([tensor.isfinite().all() for _, tensor in _numbers(batch)]).all()


def not_finite(batch: TensorStruct) -> list[str]:
    """Names of the tensors with NaN or infinity, such as ``target.image``."""
    return [name for name, tensor in _numbers(batch) if not bool(tensor.isfinite().all())]


def cleaned(batch: AvatarBatch) -> AvatarBatch:
    """The batch with 0 for every non-finite number; finite numbers are unchanged."""

    def clean(tensor: Tensor) -> Tensor:
        return tensor.nan_to_num(0.0, 0.0, 0.0) if tensor.is_floating_point() else tensor

    return batch.map(clean)


def finite_rows(batch: AvatarBatch) -> Bool[Tensor, " b"]:
    """Of each source: whether it and all its targets are finite."""
    source, target = (
        torch.stack([t.reshape(len(t), -1).isfinite().all(1) for _, t in _numbers(frames)]).all(0)
        for frames in (batch.source, batch.target)
    )
    return source & target.view(len(batch), -1).all(1)


def finite_part(batch: AvatarBatch) -> AvatarBatch:
    """The sources, with their targets, that are finite.

    Raises:
        ValueError: there is none.
    """
    if bool(is_finite(batch)):
        return batch
    rows = finite_rows(batch).to(batch.source.image.device)
    if not bool(rows.any()):
        raise ValueError(f"no pair of a batch is finite: {describe(batch)}; remove these clips from the data")
    # Synthetic pairs have no clips.
    clips = tuple(clip for clip, kept in zip(batch.clips, rows.tolist(), strict=False) if kept)
    return AvatarBatch(batch.source[rows], batch.target[rows.repeat_interleave(batch.num_driving)], clips)


def describe(batch: AvatarBatch) -> str:
    """Names of the non-finite tensors and their clips."""
    rows = finite_rows(batch).tolist()
    # Synthetic pairs have no clips.
    clips = [clip for clip, good in zip(batch.clips, rows, strict=False) if not good]
    return ", ".join(not_finite(batch)) + (f" of {', '.join(clips)}" if clips else "")


class RunningStatistics:
    """Running statistics of normalization layers in a forward pass, to restore if the step is skipped.

    Args:
        network: whose layers are watched; most networks here have none that note anything.
    """

    def __init__(self, network: nn.Module) -> None:
        layers = [layer for layer in network.modules() if isinstance(layer, _NormBase) and layer.training]
        self._now = [tensor for layer in layers for tensor in layer.buffers()]
        self._before = [tensor.clone() for tensor in self._now]

    def take_back(self, left_out: Tensor) -> None:
        """Restore them where ``left_out`` is not 0, without asking the device."""
        for now, before in zip(self._now, self._before, strict=True):
            now.copy_(torch.where(left_out > 0, before, now))


def _numbers(struct: TensorStruct, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Tensors of real numbers by name."""
    for field in dataclasses.fields(struct):  # type: ignore[arg-type]
        value = getattr(struct, field.name)
        if isinstance(value, TensorStruct):
            yield from _numbers(value, f"{prefix}{field.name}.")
        elif isinstance(value, Tensor) and value.is_floating_point():
            yield prefix + field.name, value
