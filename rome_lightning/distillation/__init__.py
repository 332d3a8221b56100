"""From a full model to a linear one: its offsets over a dataset, and the basis that spans them."""

from rome_lightning.distillation.collect import OffsetStore, collect
from rome_lightning.distillation.fitting import BasisFit, fit_basis

__all__ = ["BasisFit", "OffsetStore", "collect", "fit_basis"]
