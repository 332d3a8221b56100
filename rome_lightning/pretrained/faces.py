"""Opens the networks that find and recognise faces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2


def load_face_detector(path: Path, threshold: float) -> Any:
    """OpenCV's YuNet.

    Args:
        path: the asset ``yunet``.
        threshold: lowest score of a face, [0, 1].
    """
    return _quietly(lambda: cv2.FaceDetectorYN.create(str(_existing(path)), "", (320, 320), threshold))


def load_sface(path: Path) -> Any:
    """OpenCV's SFace.

    Args:
        path: the asset ``sface``.
    """
    return _quietly(lambda: cv2.FaceRecognizerSF.create(str(_existing(path)), ""))


def load_arcface(path: Path) -> Any:
    """ArcFace as an ONNX Runtime session on one thread.

    Args:
        path: the asset ``arcface_mbf``.
    """
    # Slow to import, and only needed here.
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(_existing(path)), options, providers=["CPUExecutionProvider"])


def _existing(path: Path) -> Path:
    if not Path(path).is_file():
        raise FileNotFoundError(f"no face network at {path}; fetch it with `rome assets fetch`")
    return Path(path)


def _quietly(create: Any) -> Any:
    # OpenCV 5 warns at each load that it ignores a setting which its own wrapper makes.
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    try:
        return create()
    finally:
        cv2.utils.logging.setLogLevel(level)
