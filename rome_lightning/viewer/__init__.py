"""A local page that shows an exported avatar beside its neural render, with sliders for both."""

from rome_lightning.viewer.server import ViewerServer
from rome_lightning.viewer.session import ViewerSession

__all__ = ["ViewerServer", "ViewerSession"]
