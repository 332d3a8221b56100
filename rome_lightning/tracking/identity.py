"""Whether the frames of a video show one person."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from rome_lightning import assets
from rome_lightning.metrics import SFaceEmbedder

Embedder = Callable[[Tensor], tuple[Tensor, Tensor]]
"""RGB images (b, 3, h, w) in [0, 1] to unit embeddings (b, d) and whether a face was found (b)."""


def default_embedder() -> SFaceEmbedder:
    """SFace with the assets of this package."""
    return SFaceEmbedder(assets.resolve("yunet"), assets.resolve("sface"))


def similarity_to_most(images: UInt8[np.ndarray, "n s s 3"], embed: Embedder) -> Float[Tensor, " n"]:
    """Cosine similarity of each face to the most typical one; NaN where no face was found.

    Args:
        images: RGB.
        embed: network of identity.
    """
    embeddings, found = embed(
        torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
    )
    result = torch.full((len(images),), torch.nan)
    if bool(found.any()):
        faces = embeddings[found]
        similarities = faces @ faces.T
        result[found] = similarities[similarities.median(1).values.argmax()]
    return result


def is_person(similarity: Float[Tensor, " n"], least: float) -> Bool[Tensor, " n"]:
    """Frames that show the person; those without a measured similarity take that of the nearest one."""
    known = torch.nonzero(~similarity.isnan()).flatten()
    if len(known) == 0:
        return torch.ones(len(similarity), dtype=torch.bool)
    places = torch.arange(len(similarity))
    nearest = known[(places[:, None] - known[None]).abs().argmin(1)]
    return similarity[nearest] >= least
