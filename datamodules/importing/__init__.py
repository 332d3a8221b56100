"""Import of existing datasets as shards."""

from datamodules.importing.pipeline import import_dataset, read_config
from datamodules.importing.sources import FrameClip, frame_folders, gagavatar_lmdb, rome_lmdb, webdataset_tars

__all__ = [
    "FrameClip",
    "frame_folders",
    "gagavatar_lmdb",
    "import_dataset",
    "read_config",
    "rome_lmdb",
    "webdataset_tars",
]
