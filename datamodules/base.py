"""The base class that ``rome fit`` expects of ``--data``."""

from __future__ import annotations

from lightning import LightningDataModule


class RomeDataModule(LightningDataModule):
    """A source of ``AvatarBatch``.

    ``image_size`` is what the command line links to the model, so it exists before any data is read.
    """

    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.image_size = image_size
