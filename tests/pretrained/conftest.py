"""Objects of chumpy, as a fixture."""

from flame_files import chumpy

__all__ = ["chumpy"]
