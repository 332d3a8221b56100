"""Lightning callbacks: checkpoints, pictures, summaries."""

from rome_lightning.callbacks.image_grid import ImageGrid
from rome_lightning.callbacks.learning_curves import LearningCurves
from rome_lightning.callbacks.memory_check import MemoryCheck
from rome_lightning.callbacks.progress_lines import ProgressLines
from rome_lightning.callbacks.run_checkpoint import RunCheckpoint
from rome_lightning.callbacks.run_summary import RunSummary
from rome_lightning.callbacks.seed_each_step import SeedEachStep
from rome_lightning.callbacks.throughput import Throughput
from rome_lightning.callbacks.validation_metrics import ValidationMetrics

__all__ = [
    "ImageGrid",
    "LearningCurves",
    "MemoryCheck",
    "ProgressLines",
    "RunCheckpoint",
    "RunSummary",
    "SeedEachStep",
    "Throughput",
    "ValidationMetrics",
]
