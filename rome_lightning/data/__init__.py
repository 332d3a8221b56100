"""Contracts between the layers: what a tracked frame, a training batch and a rendered image are."""

from rome_lightning.data.batch import AvatarBatch, Frames
from rome_lightning.data.params import POSE_SIZE, HeadParams
from rome_lightning.data.regions import Region
from rome_lightning.data.rendered import Rendered

__all__ = ["POSE_SIZE", "AvatarBatch", "Frames", "HeadParams", "Region", "Rendered"]
