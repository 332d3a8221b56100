"""Pictures as a camera that other programs on this machine can choose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from jaxtyping import UInt8


@contextmanager
def virtual_camera(
    image_size: tuple[int, int], fps: float
) -> Iterator[tuple[str, Callable[[UInt8[np.ndarray, "h w 3"]], None]]]:
    """Open the system's virtual camera until the block ends.

    Args:
        image_size: height and width of the pictures, pixels.
        fps: about how many pictures per second will come.

    Yields:
        The camera's name among the system's cameras, and what shows a picture (RGB) in it.

    Raises:
        ImportError: the library that speaks to virtual cameras is not installed.
        ValueError: the system has no virtual camera, or it does not take pictures of this size.
    """
    try:
        import pyvirtualcam
    except ImportError as error:
        raise ImportError(
            "--virtual-camera needs pyvirtualcam: pip install rome-lightning[camera]"
        ) from error
    height, width = image_size
    try:
        camera = pyvirtualcam.Camera(width=width, height=height, fps=fps)
    except RuntimeError as error:
        said = " ".join(str(error).split())
        raise ValueError(
            f"no virtual camera can be opened ({said}); install OBS Studio on Windows or macOS, load "
            "v4l2loopback on Linux"
        ) from error
    with camera:
        yield camera.device, camera.send
