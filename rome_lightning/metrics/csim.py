"""Identity similarity by SFace or ArcFace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

from rome_lightning.media.image import to_uint8
from rome_lightning.networks.portrait.identity import IdentityNetwork, has_packed_convolutions
from rome_lightning.pretrained.faces import load_arcface, load_face_detector, load_sface
from rome_lightning.pretrained.onnx_reader import read_onnx
from rome_lightning.types.landmarks import ALIGNED_FACE_SIZE, FIVE_POINT_TEMPLATE

DETECTION_THRESHOLD = 0.6
"""Lowest detection score of a face, [0, 1]; OpenCV's examples use 0.6 to 0.9."""
EMBEDDING_SIZE = 128
_ALIGNED = (ALIGNED_FACE_SIZE, ALIGNED_FACE_SIZE)

Embedder = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From RGB images in [0, 1] to embeddings (b d) and whether a face was found (b)."""


class Recognizer(Protocol):
    """A network of identity with the alignment that it was trained with."""

    def aligned(
        self, image_bgr: UInt8[np.ndarray, "h w 3"], face: Float[np.ndarray, " 15"]
    ) -> UInt8[np.ndarray, "s s 3"]:
        """The face as the network sees it, BGR.

        Args:
            image_bgr: any size.
            face: of YuNet: box, five points, score.
        """
        ...

    def embeddings(self, faces: Sequence[UInt8[np.ndarray, "s s 3"]]) -> Float[Tensor, "b d"]:
        """Embeddings of aligned faces, of any length."""
        ...


class SFaceEmbedder:
    """Face detection with YuNet, alignment by five points, identity embedding with SFace.

    Runs on the CPU, YuNet through OpenCV. Copies and other processes reload the networks on first use.

    Args:
        detector: the asset ``yunet``.
        recognizer: the asset ``sface``.

    Source: Zhong et al., SFace, 2021; Wu et al., YuNet, 2023; files and alignment of OpenCV's model zoo.
    """

    embedding_size = EMBEDDING_SIZE

    def __init__(self, detector: Path, recognizer: Path) -> None:
        for path in (detector, recognizer):
            if not Path(path).is_file():
                raise FileNotFoundError(f"no face network at {path}; fetch it with `rome assets fetch`")
        self.paths = (str(detector), str(recognizer))
        self._networks: tuple[Any, Recognizer] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths, "_networks": None}

    def _loaded(self) -> tuple[Any, Recognizer]:
        if self._networks is None:
            detector = load_face_detector(Path(self.paths[0]), DETECTION_THRESHOLD)
            self._networks = (detector, self._load_recognizer(Path(self.paths[1])))
        return self._networks

    def _load_recognizer(self, path: Path) -> Recognizer:
        return _SFace(path)

    def __call__(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b d"], Bool[Tensor, " b"]]:
        """Embed the largest face of each image.

        Args:
            images: RGB in [0, 1].

        Returns:
            Unit embeddings, 0 without a face, and whether a face was found.
        """
        detector, recognizer = self._loaded()
        found = torch.zeros(len(images), dtype=torch.bool)
        faces = []
        for index, image in enumerate(to_uint8(images)):
            image_bgr = np.ascontiguousarray(image[..., ::-1])
            face = _largest_face(detector, image_bgr)
            if face is not None:
                faces.append(recognizer.aligned(image_bgr, face))
                found[index] = True
        embeddings = torch.zeros(len(images), self.embedding_size)
        if faces:
            embeddings[found] = recognizer.embeddings(faces)
        return F.normalize(embeddings, dim=-1).to(images.device), found.to(images.device)


def _largest_face(detector: Any, image_bgr: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, " 15"] | None:
    """Box, five points and score; ``None`` without a face."""
    detector.setInputSize((image_bgr.shape[1], image_bgr.shape[0]))
    _, faces = detector.detect(image_bgr)
    if faces is None:
        return None
    face: np.ndarray = faces[np.argmax(faces[:, 2] * faces[:, 3])]
    return face


class _SFace:
    """OpenCV's alignment, and the network through oneDNN where torch has it."""

    def __init__(self, path: Path) -> None:
        self._opencv = load_sface(path)
        self._network = IdentityNetwork(read_onnx(path)) if has_packed_convolutions() else None

    def aligned(
        self, image_bgr: UInt8[np.ndarray, "h w 3"], face: Float[np.ndarray, " 15"]
    ) -> UInt8[np.ndarray, "s s 3"]:
        aligned: np.ndarray = self._opencv.alignCrop(image_bgr, face)
        return aligned

    def embeddings(self, faces: Sequence[UInt8[np.ndarray, "s s 3"]]) -> Float[Tensor, "b d"]:
        if self._network is None:
            return torch.from_numpy(np.concatenate([self._opencv.feature(face) for face in faces]))
        rgb = [torch.from_numpy(np.ascontiguousarray(face[..., ::-1])) for face in faces]
        embeddings: Tensor = self._network(rgb)
        return embeddings


class ArcFaceEmbedder(SFaceEmbedder):
    """Face detection with YuNet, alignment by five points, identity embedding with ArcFace.

    For non-commercial research only.

    Args:
        detector: the asset ``yunet``.
        recognizer: the asset ``arcface_mbf``.

    Source: Deng et al., ArcFace, 2019; the five points on 112 x 112 of InsightFace.
    """

    embedding_size = 512

    def _load_recognizer(self, path: Path) -> Recognizer:
        return _ArcFace(path)


class _ArcFace:
    """InsightFace's alignment, and the network in ONNX Runtime."""

    def __init__(self, path: Path) -> None:
        self._session = load_arcface(path)

    def aligned(
        self, image_bgr: UInt8[np.ndarray, "h w 3"], face: Float[np.ndarray, " 15"]
    ) -> UInt8[np.ndarray, "s s 3"]:
        points = np.asarray(face[4:14], np.float64).reshape(5, 2)
        return cv2.warpAffine(image_bgr, similarity_matrix(points, np.array(FIVE_POINT_TEMPLATE)), _ALIGNED)

    def embeddings(self, faces: Sequence[UInt8[np.ndarray, "s s 3"]]) -> Float[Tensor, "b d"]:
        name = self._session.get_inputs()[0].name
        rows = []
        for face in faces:
            blob = ((face[..., ::-1].astype(np.float32) - 127.5) / 127.5).transpose(2, 0, 1)[None]
            rows.append(self._session.run(None, {name: np.ascontiguousarray(blob)})[0])
        return torch.from_numpy(np.concatenate(rows))


def similarity_matrix(
    source: Float[np.ndarray, "n 2"], target: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, "2 3"]:
    """Least-squares similarity (rotation, scale and shift) from one set of points to another.

    Source: Umeyama, Least-squares estimation of transformation parameters, 1991, eqs. 39 to 42.
    """
    # In the plane, a rotation with a scale is multiplication by a complex number.
    a, b = source @ [1, 1j], target @ [1, 1j]
    factor = np.vdot(a - a.mean(), b - b.mean()) / np.vdot(a - a.mean(), a - a.mean())
    shift = b.mean() - factor * a.mean()
    return np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]])


def csim(a: Float[Tensor, "b d"], b: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    """Cosine similarity of identity embeddings, in [-1, 1]."""
    return F.cosine_similarity(a, b, dim=-1)


class CSIM(Metric):
    """Mean identity similarity of predictions to references, higher is better.

    Faces that are not found are counted, never guessed: ``csim_sface`` is the mean over pairs in which both
    faces were found; ``csim_sface_penalised`` counts a prediction without a face as 0; pairs whose reference
    shows no face are excluded from both.

    Args:
        embed: computes identity embeddings, such as ``SFaceEmbedder``.
        name: key of the result; names the network, because values of different networks are not comparable.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True

    total: Tensor
    num_scored: Tensor
    num_pairs: Tensor
    num_undetected_prediction: Tensor
    num_undetected_target: Tensor

    def __init__(self, embed: Embedder, name: str = "csim_sface", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.embed = embed
        self.name = name
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        for count in ("num_scored", "num_pairs", "num_undetected_prediction", "num_undetected_target"):
            self.add_state(count, torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    @torch.no_grad()
    def update(self, prediction: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b 3 h2 w2"]) -> None:
        """Add a batch of pairs.

        Args:
            prediction: RGB in [0, 1].
            target: RGB in [0, 1] of the same people: the source in cross-reenactment, else the target.
        """
        ours, found = self.embed(prediction)
        theirs, expected = self.embed(target)
        scored = found & expected
        self.total = self.total + csim(ours, theirs).double()[scored].sum()
        self.num_scored = self.num_scored + scored.sum()
        self.num_pairs = self.num_pairs + len(prediction)
        self.num_undetected_prediction = self.num_undetected_prediction + (~found).sum()
        self.num_undetected_target = self.num_undetected_target + (~expected).sum()

    def compute(self) -> dict[str, Tensor]:
        """Similarities (NaN without pairs) and counts."""
        return {
            self.name: (self.total / self.num_scored).float(),
            f"{self.name}_penalised": (self.total / (self.num_pairs - self.num_undetected_target)).float(),
            "num_pairs": self.num_pairs,
            "num_undetected_prediction": self.num_undetected_prediction,
            "num_undetected_target": self.num_undetected_target,
        }
