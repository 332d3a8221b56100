"""Making of datasets: videos to tracked, cropped, quality-checked shards."""

from typing import Any

from datamodules.prepare.config import PrepareConfig

__all__ = ["PrepareConfig", "expand_inputs", "prepare"]


def __getattr__(name: str) -> Any:
    # The tracker takes seconds to import: options and --help must not wait for it.
    if name in ("prepare", "expand_inputs"):
        from datamodules.prepare import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
