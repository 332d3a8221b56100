"""Files in FLAME's format, as fixtures of these tests."""

from flame_files import chumpy, flame_arrays, flame_path

__all__ = ["chumpy", "flame_arrays", "flame_path"]
