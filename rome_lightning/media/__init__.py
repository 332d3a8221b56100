"""Video, image, audio, mesh and tensor files: reading, and writing whole or not at all."""

from rome_lightning.media.image import encode_png
from rome_lightning.media.video import Video, VideoInfo, probe, read_image, read_video, write_video

__all__ = ["Video", "VideoInfo", "encode_png", "probe", "read_image", "read_video", "write_video"]
