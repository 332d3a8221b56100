"""One-shot, rigged, mesh-based head avatars: data, training, evaluation and export."""

__version__ = "0.1.0"
