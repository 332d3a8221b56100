"""FLAME with hair: a linear basis joined to the user's own FLAME, as a file that FLAME software loads."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rome_lightning.head.flame import read_arrays
from rome_lightning.media.atomic import write_atomic
from rome_lightning.models import LinearBasis

NUM_SHAPE, NUM_EXPRESSION = 300, 100
"""Identity and expression components of FLAME, in this order in ``shapedirs``."""


def join_flame(
    flame: Path, basis: LinearBasis, output: Path, place: Literal["end", "identity"] = "end"
) -> range:
    """Write FLAME with the basis among its shape directions and the mean offsets in its template.

    One unit of a joined coefficient is one standard deviation. FLAME's joints follow its skin, so those of
    the neck move a little with the neck components, where this project's stay.

    Source: ROME sec. 4.4, joining with parametric models.

    Args:
        flame: the user's ``generic_model.pkl``.
        basis: of a model whose head is that file.
        output: ``.pkl`` to write.
        place: ``end``: after FLAME's 400 directions, where smplx reaches them as further expression
            coefficients (``num_expression_coeffs=100 + k``); ``identity``: in place of the last identity
            components, which hardly do anything, for software that has room for FLAME's 300 only.

    Returns:
        Indices of the basis in ``shapedirs``.

    Raises:
        ValueError: the basis was made with another mesh.
    """
    arrays = read_arrays(flame)
    vertices = len(arrays["v_template"])
    if basis.components.shape[1] != vertices:
        raise ValueError(
            f"the basis was made with head {basis.head} of {basis.components.shape[1]} vertices, {flame} has "
            f"{vertices}; distil a model that was trained with this head"
        )
    directions = (basis.components * basis.std[:, None, None]).permute(1, 2, 0).double().numpy()
    count = directions.shape[-1]
    joined = arrays["shapedirs"]
    if place == "end":
        joined, first = np.concatenate([joined, directions], axis=2), joined.shape[-1]
    else:
        first = NUM_SHAPE - count
        if first < 0:
            raise ValueError(f"FLAME has {NUM_SHAPE} identity components, the basis {count}; use place='end'")
        joined = joined.copy()
        joined[:, :, first:NUM_SHAPE] = directions
    content: dict[str, Any] = {
        **arrays,
        "shapedirs": joined,
        "v_template": arrays["v_template"] + basis.mean.double().numpy(),
        "bs_style": "lbs",
        "bs_type": "lrotmin",
    }
    content["J"] = content["J_regressor"] @ content["v_template"]
    _write(content, output)
    return range(first, first + count)


def _write(content: dict[str, Any], path: Path) -> None:
    """A pickle of plain arrays, as FLAME's own files are, under names that any numpy knows."""
    data = pickle.dumps(content, protocol=2).replace(
        b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"
    )
    write_atomic(path, data)
