"""FLAME (2019, 2020, 2023) from the user's own files: the adapter, its regions and its texture layout."""

from rome_lightning.head.flame.loading import (
    FlameFiles,
    load_flame,
    read_arrays,
    read_flame,
)

__all__ = ["FlameFiles", "load_flame", "read_arrays", "read_flame"]
