"""One-shot, rigged, mesh-based head avatars: data, training, evaluation and export."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rome_lightning.api import Avatar

__version__ = "0.1.0"
__all__ = ["Avatar"]


def __getattr__(name: str) -> Any:
    # On first use: torch takes seconds to import, and not every part of the package needs it.
    if name == "Avatar":
        from rome_lightning.api import Avatar

        return Avatar
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
