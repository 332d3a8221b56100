"""Objects of chumpy, as a fixture of these tests."""

from flame_files import chumpy

__all__ = ["chumpy"]
