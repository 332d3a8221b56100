"""The parametric head model and the adapters that read its assets."""

from __future__ import annotations

from pathlib import Path

from rome_lightning.head.data import JOINTS, REGIONS, HeadData, LandmarkEmbedding, have_same_parameters
from rome_lightning.head.model import HeadModel

__all__ = [
    "JOINTS",
    "REGIONS",
    "HeadData",
    "HeadModel",
    "LandmarkEmbedding",
    "have_same_parameters",
    "load_head",
]


def load_head(name_or_path: str | Path = "open", release: str | Path = "") -> HeadModel:
    """A head model by name or file.

    Args:
        name_or_path: ``open`` for the head that comes with this package, ``flame`` for the asset of that
            name, which only you can get, or the path of a FLAME ``generic_model.pkl``; the official FLAME
            files beside it are used too (``FlameFiles``).
        release: folder of the ROME release's data, whose layout and moving vertices of FLAME are taken then.

    Example:
        >>> from rome_lightning.types import HeadParams
        >>> head = load_head()
        >>> params = HeadParams.neutral(2, head.num_shape, head.num_expression)
        >>> params.expression[:, head.expression_names.index("jawOpen")] = 1
        >>> head(params).shape == (2, head.num_vertices, 3)
        True
    """
    if str(name_or_path) == "open":
        from rome_lightning.head.open_head import load_open_head

        return load_open_head()
    # Both adapters are imported on use: FLAME's needs scipy, the open head reads megabytes.
    from rome_lightning.assets import resolve
    from rome_lightning.head.flame import FlameFiles, load_flame

    path = resolve("flame") if str(name_or_path) == "flame" else name_or_path
    return load_flame(path, files=FlameFiles.beside(path, release))
