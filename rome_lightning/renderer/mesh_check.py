"""Mesh checks: bad vertices raise an error or, in training, are drawn at the origin and reported."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from rome_lightning.geometry.checks import check_batches, check_faces, check_indices

LARGEST_PX = 1e9
"""Larger coordinates overflow in products of four, and no image is that large."""
_verdicts: ContextVar[list[Tensor] | None] = ContextVar("verdicts", default=None)
_late: deque[tuple[torch.cuda.Event, Tensor]] = deque()
"""Verdicts of a GPU that the host has not read yet."""
_DIVERGED = "the networks or the head parameters have diverged"


@contextmanager
def bad_vertices_tolerated() -> Iterator[list[Tensor]]:
    """Draw vertices that are not finite or too far away at the origin instead of raising an error.

    Yields:
        A list that receives one scalar per check, on the mesh's device: whether all its vertices were good.
    """
    verdicts: list[Tensor] = []
    token = _verdicts.set(verdicts)
    try:
        yield verdicts
    finally:
        _verdicts.reset(token)


def check_mesh(vertices_px: Tensor, faces: Tensor) -> Tensor:
    """Raise an error for wrong shapes and indices, and for vertices that are not finite or too far away.

    On a GPU the host does not wait for the verdict: bad vertices are drawn at the origin, and a later call
    raises the error.

    Returns:
        The vertices, all of them finite.

    Raises:
        ValueError: says what is wrong.
    """
    if vertices_px.ndim != 3 or vertices_px.shape[-1] != 3:
        raise ValueError(f"vertices_px must have shape (batch, vertices, 3), got {tuple(vertices_px.shape)}")
    check_batches(vertices_px=(vertices_px, False))
    check_faces("faces", faces, vertices_px.shape[1])
    if not vertices_px.numel():
        return vertices_px
    good = vertices_px.detach().abs().amax() <= LARGEST_PX
    verdicts = _verdicts.get()
    if verdicts is not None:
        verdicts.append(good)
    elif vertices_px.is_cuda:
        _refuse_late(good)
    elif not good:
        count = int((~(vertices_px.abs() <= LARGEST_PX)).any(-1).sum())
        raise ValueError(
            f"vertices_px must be finite and near the image, got {count} vertices with NaN, infinity or more "
            f"than {LARGEST_PX:.0e} pixels; {_DIVERGED}"
        )
    return vertices_px if not vertices_px.is_cuda and good else bounded(vertices_px)


def bounded(vertices_px: Tensor) -> Tensor:
    """The vertices, with those that are not finite or too far away moved to the origin."""
    return torch.where(vertices_px.abs() <= LARGEST_PX, vertices_px, 0)


def check_face_ids(vertices_px: Tensor, faces: Tensor, face_ids: Tensor, shared: bool = False) -> None:
    """Raise an error for visible faces that do not belong to a mesh.

    Args:
        vertices_px: of the mesh.
        faces: corner indices.
        face_ids: visible face per pixel, -1 on the background.
        shared: whether a batch of 1 may be shared by all images.

    Raises:
        ValueError: says what is wrong.
    """
    if face_ids.ndim != 3:
        raise ValueError(f"face_ids must have shape (batch, height, width), got {tuple(face_ids.shape)}")
    check_batches(vertices_px=(vertices_px, shared), face_ids=(face_ids, shared))
    check_indices("face_ids", face_ids, len(faces), lowest=-1)


def check_image_size(height: int, width: int) -> None:
    """Raise an error for images without pixels.

    Raises:
        ValueError: says the size.
    """
    if min(height, width) < 1:
        raise ValueError(f"image_size must be at least 1 pixel each way, got {(height, width)}")


def _refuse_late(good: Tensor) -> None:
    """Raise the error of an earlier mesh whose verdict has arrived from the GPU, and queue this one's."""
    if torch.cuda.is_current_stream_capturing():
        return
    while _late and _late[0][0].query():
        if not _late.popleft()[1]:
            _late.clear()
            raise ValueError(f"vertices_px of an earlier mesh must be finite; {_DIVERGED}")
    verdict = torch.empty((), dtype=torch.bool, pin_memory=True).copy_(good, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    _late.append((event, verdict))
