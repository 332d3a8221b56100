"""Contracts between the layers: what a tracked frame, a training batch and a rendered image are."""

from rome_lightning.types.batch import AvatarBatch, Frames
from rome_lightning.types.params import POSE_SIZE, HeadParams
from rome_lightning.types.regions import Region
from rome_lightning.types.rendered import Rendered

__all__ = ["POSE_SIZE", "AvatarBatch", "Frames", "HeadParams", "Region", "Rendered"]
