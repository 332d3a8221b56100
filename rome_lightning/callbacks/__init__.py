"""What happens beside training: pictures, summaries, time limits."""

from rome_lightning.callbacks.image_grid import ImageGrid
from rome_lightning.callbacks.run_summary import RunSummary, code_and_versions

__all__ = ["ImageGrid", "RunSummary", "code_and_versions"]
