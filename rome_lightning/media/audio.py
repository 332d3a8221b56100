"""The sound of a driver, carried over to the video that it drives."""

from __future__ import annotations

from pathlib import Path

import av

from rome_lightning.media.atomic import atomic_path
from rome_lightning.media.video import SAFE_CONTAINERS


def copy_audio(video: Path, source: Path) -> bool:
    """Add the sound of another video, from its beginning, to a video; nothing is encoded anew.

    Args:
        video: MP4 without sound; replaced.
        source: where the sound comes from.

    Returns:
        Whether ``source`` has sound that MP4 can hold.
    """
    try:
        with av.open(str(video)) as pictures, av.open(str(source), options=SAFE_CONTAINERS) as sounds:
            if not sounds.streams.audio:
                return False
            end = float(pictures.duration or 0) / av.time_base
            with (
                atomic_path(video) as temporary,
                av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as target,
            ):
                shown = target.add_stream_from_template(pictures.streams.video[0])
                heard = target.add_stream_from_template(sounds.streams.audio[0])
                temporary.chmod(video.stat().st_mode)
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
        return True
    except (av.FFmpegError, ValueError):
        # A codec that MP4 has no place for: the silent video stays.
        return False
