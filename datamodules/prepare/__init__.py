"""Dataset preparation: videos to tracked, cropped and quality-checked shards."""

from typing import Any

from datamodules.prepare.config import BuildOptions, PrepareConfig

__all__ = ["BuildOptions", "PrepareConfig", "prepare"]


def __getattr__(name: str) -> Any:
    # The tracker takes seconds to import: options and --help must not wait for it.
    if name == "prepare":
        from datamodules.prepare import pipeline

        return pipeline.prepare
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
