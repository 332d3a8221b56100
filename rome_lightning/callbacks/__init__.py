"""What happens beside training: checkpoints, pictures, summaries."""

from rome_lightning.callbacks.image_grid import ImageGrid
from rome_lightning.callbacks.run_checkpoint import RunCheckpoint
from rome_lightning.callbacks.run_summary import RunSummary, code_and_versions
from rome_lightning.callbacks.seed_each_step import SeedEachStep

__all__ = ["ImageGrid", "RunCheckpoint", "RunSummary", "SeedEachStep", "code_and_versions"]
