"""The sound of a driver, carried over to the video that it drives."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import av


def copy_audio(video: Path, source: Path) -> bool:
    """Add the sound of another video, from its beginning, to a video; nothing is encoded anew.

    Args:
        video: MP4 without sound; replaced.
        source: where the sound comes from.

    Returns:
        Whether ``source`` has sound that MP4 can hold.
    """
    handle, temporary = tempfile.mkstemp(prefix=f".{video.stem}-", suffix=".mp4", dir=video.parent)
    os.close(handle)
    try:
        with av.open(str(video)) as pictures, av.open(str(source)) as sounds:
            if not sounds.streams.audio:
                return False
            end = float(pictures.duration or 0) / av.time_base
            with av.open(temporary, "w", format="mp4", options={"movflags": "+faststart"}) as target:
                shown = target.add_stream_from_template(pictures.streams.video[0])
                heard = target.add_stream_from_template(sounds.streams.audio[0])
                for container, stream, copy in (
                    (pictures, pictures.streams.video[0], shown),
                    (sounds, sounds.streams.audio[0], heard),
                ):
                    for packet in container.demux(stream):
                        late = packet.pts is not None and float(packet.pts * packet.time_base) >= end
                        if packet.dts is None or (copy is heard and late):
                            continue
                        packet.stream = copy
                        target.mux(packet)
        Path(temporary).chmod(video.stat().st_mode)
        os.replace(temporary, video)
        return True
    except (av.FFmpegError, ValueError):
        # A codec that MP4 has no place for: the silent video stays.
        return False
    finally:
        Path(temporary).unlink(missing_ok=True)
