"""Whether the frames of a video show one person."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from rome_lightning import assets
from rome_lightning.metrics import SFaceEmbedder

Embedder = Callable[[Tensor], tuple[Tensor, Tensor]]
"""RGB images (b, 3, h, w) in [0, 1] to unit embeddings (b, d) and whether a face was found (b)."""

_BLOCK = 1024
"""Rows of a matrix of similarities that are in memory at a time."""


def default_embedder() -> SFaceEmbedder:
    """SFace with the assets of this package."""
    return SFaceEmbedder(assets.resolve("yunet"), assets.resolve("sface"))


def similarity_to_most(
    images: UInt8[np.ndarray, "n s s 3"], embed: Embedder, least: float, weights: Float[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " d"]]:
    """Similarity of each face to the most frequent person, and that person's face.

    Args:
        images: RGB.
        embed: network of identity.
        least: cosine similarity above which two faces belong to one person.
        weights: for how many frames each image stands.

    Returns:
        Cosine similarity to the most typical face of that person, NaN where no face was found, and the mean
        embedding of the faces of that person, unit length; empty if no face was found at all.
    """
    embeddings, found = embed(
        torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
    )
    result = torch.full((len(images),), torch.nan)
    if not bool(found.any()):
        return result, torch.zeros(0)
    faces = embeddings[found]
    similarities = faces @ faces.T
    alike_ratio = ((similarities >= least) * weights[found]).sum(1) / weights[found].sum()
    # Among the faces of one person the similarity decides, which is less than the share of any frame.
    typical = (alike_ratio + 1e-6 * similarities.mean(1)).argmax()
    result[found] = similarities[typical]
    mean = embeddings[result.nan_to_num(nan=-1.0) >= least].mean(0)
    return result, mean / mean.norm()


def alike(
    faces: Float[Tensor, "n d"], people: Sequence[str], least: float, most: int
) -> tuple[list[tuple[int, int, float]], int]:
    """Pairs of unit embeddings under different names with at least this similarity.

    Args:
        faces: an embedding of each video.
        people: name of the person in each; pairs with the same name are skipped.
        least: similarity, cosine.
        most: number of pairs to keep.

    Returns:
        The most similar pairs first, as (row, row, similarity), and the total number.
    """
    numbers = {name: number for number, name in enumerate(dict.fromkeys(people))}
    person = torch.tensor([numbers[name] for name in people])
    kept = [torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long), torch.zeros(0)]
    total = 0
    for start in range(0, len(faces), _BLOCK):
        # Each pair once: the later video of the two is a column.
        block = faces[start : start + _BLOCK] @ faces[start:].T
        found = (block >= least).triu_(1) & (person[start : start + _BLOCK, None] != person[None, start:])
        rows, columns = torch.nonzero(found, as_tuple=True)
        total += len(rows)
        fresh = [rows + start, columns + start, block[rows, columns]]
        kept = [torch.cat(both) for both in zip(kept, fresh, strict=True)]
        order = kept[2].argsort(descending=True, stable=True)[:most]
        kept = [values[order] for values in kept]
    return list(zip(*(values.tolist() for values in kept), strict=True)), total


def is_person(similarity: Float[Tensor, " n"], least: float) -> Bool[Tensor, " n"]:
    """Frames that show the person; unmeasured frames take the similarity of the nearest one."""
    known = torch.nonzero(~similarity.isnan()).flatten()
    if len(known) == 0:
        return torch.ones(len(similarity), dtype=torch.bool)
    places = torch.arange(len(similarity))
    nearest = known[(places[:, None] - known[None]).abs().argmin(1)]
    return similarity[nearest] >= least
