"""Lightning modules: how the models are trained."""

from rome_lightning.training.base import RomeModule
from rome_lightning.training.config import DiscriminatorConfig, LossConfig, OptimizerConfig
from rome_lightning.training.full_module import FullModule
from rome_lightning.training.linear_module import LinearModule

__all__ = [
    "DiscriminatorConfig",
    "FullModule",
    "LinearModule",
    "LossConfig",
    "OptimizerConfig",
    "RomeModule",
]
