"""The parametric head model and the adapters that read its assets."""

from rome_lightning.head.data import JOINTS, REGIONS, HeadData, LandmarkEmbedding
from rome_lightning.head.model import HeadModel

__all__ = ["JOINTS", "REGIONS", "HeadData", "HeadModel", "LandmarkEmbedding"]
