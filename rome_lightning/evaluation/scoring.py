"""Values of every metric for a batch of predictions, with the reason if there is none."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from rome_lightning.assets import resolve
from rome_lightning.evaluation.metric_table import SPECS, kind_of, result_name, spec_of
from rome_lightning.evaluation.pixels import PixelMetrics
from rome_lightning.evaluation.protocol import Protocol
from rome_lightning.evaluation.seen import Perceived, RealImages
from rome_lightning.media.image import to_uint8
from rome_lightning.metrics import (
    ArcFaceEmbedder,
    SFaceEmbedder,
    brisque,
    csim,
    expression_distance,
    inception_features,
    landmark_distance,
    load_lpips,
    mask_iou,
    rotation_distance,
)
from rome_lightning.metrics.lpips import LPIPSNet
from rome_lightning.pretrained.quality import load_brisque, load_inception
from rome_lightning.tracking import Detections, FaceDetector
from rome_lightning.tracking.detector import open_task
from rome_lightning.types import Frames, Region

_CACHED_FRAMES = 4096
"""Real frames whose landmarks and embeddings are kept, 5 kB each: other sources need them again."""


@dataclass(frozen=True)
class Scores:
    """Values of one batch by the metrics' names in results."""

    values: dict[str, Float[Tensor, " b"]]
    """NaN where there is none."""
    defined: dict[str, Bool[Tensor, " b"]]
    """Whether the ground truth lets the metric have a value; if so, NaN is the prediction's fault."""
    undetected_prediction: Bool[Tensor, " b"]
    """A network of the task's metrics finds no face in a prediction that is there."""
    undetected_target: Bool[Tensor, " b"]
    """The same for the frame that it is compared with."""
    landmarks: Float[Tensor, "b 478 2"] = field(default_factory=lambda: torch.zeros(0, 478, 2))
    """Of the prediction, pixels; NaN where no face was found."""
    driver_landmarks: Float[Tensor, "b 478 2"] = field(default_factory=lambda: torch.zeros(0, 478, 2))

    def extras(self, metrics: Sequence[str]) -> dict[str, Tensor]:
        """What metrics over several pairs need of each."""
        if "jitter_px" not in metrics:
            return {}
        return {"landmarks": self.landmarks, "driver_landmarks": self.driver_landmarks}


class Scorer:
    """Holds the networks of a protocol's metrics.

    Args:
        protocol: says which metrics, on which pixels and backgrounds.
        metrics: of all tasks together, as protocols name them.
        device: of the torch networks; detectors run on the CPU.
        weights: paths of assets; missing ones are resolved, and fetched if necessary.
    """

    def __init__(
        self,
        protocol: Protocol,
        device: str | torch.device = "cpu",
        weights: Mapping[str, Path] | None = None,
    ) -> None:
        self.protocol = protocol
        self.device = torch.device(device)
        self.metrics = sorted({name for task in protocol.tasks.values() for name in task.metrics})
        given = dict(weights or {})
        self._paths: dict[str, Path] = {name: given.get(name) or resolve(name) for name in self.networks}
        self._lpips: dict[str, nn.Module] = {}
        self._embedders: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {}
        for base in {name.partition("/")[0] for name in self.metrics}:
            self._load(base)
        self._detector = FaceDetector(self._paths.get("face_landmarker"))
        self._find: Callable[[np.ndarray], list[Any]] | None = None
        self._cache: OrderedDict[str, Perceived] = OrderedDict()
        self._pixels = PixelMetrics(protocol, self._lpips, self.colour, self.device)

    @property
    def networks(self) -> list[str]:
        """Assets that the metrics need."""
        return sorted({network for name in self.metrics for network in spec_of(name).networks})

    def _load(self, base: str) -> None:
        if base.startswith("lpips_"):
            network = load_lpips(_LPIPS[base], self._paths[SPECS[base].networks[0]])
            self._lpips[base] = network.to(self.device)
        elif base in _EMBEDDERS:
            kind, recognizer = _EMBEDDERS[base]
            self._embedders[base] = kind(self._paths["yunet"], self._paths[recognizer])
        elif base == "iqa_brisque":
            self._brisque = load_brisque(self._paths["brisque_svm"], self._paths["brisque_range"])
        elif base == "fid_inception":
            self._inception = load_inception(self._paths["fid_inception"]).to(self.device)

    def forget(self) -> None:
        """Clear the cache of real frames, for callers whose keys are not permanent."""
        self._cache.clear()
        self._pixels.forget()

    def features(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Inception features of images as they are scored."""
        return inception_features(self._inception, image.to(self.device)).cpu()

    def real(self, frames: Frames, keys: Sequence[str]) -> RealImages:
        """Ground truth on the protocol's background.

        Args:
            frames: at the protocol's resolution.
            keys: names that tell the frames apart.
        """
        valid = (frames.regions != int(Region.OUTSIDE)).unsqueeze(1).float()
        image = frames.image
        if self.protocol.background != "dataset":
            image = torch.lerp(torch.full_like(image, self.colour), image, frames.foreground_mask)
        return RealImages(self.covered(image, valid), frames, tuple(keys), valid)

    @property
    def colour(self) -> float:
        """Grey of the background; white also stands for pixels that nobody knows."""
        return 0.0 if self.protocol.background == "black" else 1.0

    def covered(self, image: Float[Tensor, "b 3 h w"], valid: Float[Tensor, "b 1 h w"]) -> Tensor:
        """The image with unknown pixels in the colour of the background."""
        if bool((valid > 0).all()):
            return image
        return torch.where(valid > 0, image, torch.full_like(image, self.colour))

    @torch.no_grad()
    def score(
        self,
        task: str,
        prediction: Float[Tensor, "b 3 h w"],
        present: Bool[Tensor, " b"],
        source: RealImages,
        driver: RealImages,
        mask: Float[Tensor, "b 1 h w"] | None = None,
        seen: Perceived | None = None,
        follows: Bool[Tensor, " b"] | None = None,
    ) -> Scores:
        """Score one batch.

        Args:
            task: name of the protocol's task.
            prediction: RGB in [0, 1] at the protocol's resolution; rows not present may hold anything.
            present: whether there is a prediction.
            source: the identity frames.
            driver: in self-reenactment the targets.
            mask: the prediction's foreground, where it has one.
            seen: what networks see in the predictions, if that is known already.
            follows: whether the frame of the row before is the one before in the same video; nowhere where
                missing.
        """
        names = self.protocol.tasks[task].metrics
        cross = kind_of(task) == "cross"
        image = prediction if cross else self.covered(prediction, driver.valid)
        seen = self._perceive(image, names, present) if seen is None else seen
        theirs = self.perceive_real(driver, names)
        person = self.perceive_real(source, names) if cross else theirs
        if follows is None:
            follows = torch.zeros_like(present)
        values, defined = {}, {}
        on_pixels = [name for name in names if SPECS[name.partition("/")[0]].pixels]
        pixels = self._pixels.values(on_pixels, image, driver, theirs, follows & present.roll(1))
        for name in names:
            base = name.partition("/")[0]
            if not SPECS[base].per_frame:
                continue
            if name in pixels:
                value, fine = pixels[name], ~pixels[name].isnan()
            elif base in seen.embeddings:
                fine = person.embedded[base]
                value = csim(seen.embeddings[base], person.embeddings[base])
                value = value.where(seen.embedded[base], torch.nan)
            elif base == "iqa_brisque":
                value, fine = brisque(self._brisque, image), torch.ones_like(present)
            elif base == "mask_iou":
                value, fine = self._overlap(mask, driver)
            else:
                fine = theirs.face
                value = _FACE_METRICS[base](seen, theirs).where(seen.face, torch.nan)
            label = result_name(name, self.protocol.resolution)
            values[label] = value.where(fine & present, torch.nan).float()
            defined[label] = fine
        return Scores(
            values,
            defined,
            self._unseen(seen, seen, names) & present,
            self._unseen(theirs, person, names),
            seen.landmarks.where(seen.face[:, None, None], torch.nan),
            theirs.landmarks.where(theirs.face[:, None, None], torch.nan),
        )

    @staticmethod
    def _overlap(mask: Tensor | None, driver: RealImages) -> tuple[Tensor, Tensor]:
        """Overlap of masks and whether there is one to compare."""
        if mask is None:
            return torch.full((len(driver),), torch.nan), torch.zeros(len(driver), dtype=torch.bool)
        fine = torch.ones(len(driver), dtype=torch.bool)
        return mask_iou(mask, driver.frames.foreground_mask, driver.valid), fine

    def perceive_real(self, real: RealImages, metrics: Sequence[str]) -> Perceived:
        """What networks see in ground truth; each frame is looked at once while it is remembered."""
        kinds = self._kinds(metrics)
        label = "+".join(sorted(kinds))
        keys = [f"{key}|{label}" for key in real.keys]
        unknown = [i for i, key in enumerate(keys) if key not in self._cache and key not in keys[:i]]
        if unknown:
            found = self._perceive(real.image[unknown], metrics, torch.ones(len(unknown), dtype=torch.bool))
            for place, index in enumerate(unknown):
                self._cache[keys[index]] = found.rows(slice(place, place + 1))
        rows = [self._cache[key] for key in keys]
        while len(self._cache) > _CACHED_FRAMES:
            self._cache.popitem(last=False)
        return Perceived.cat(rows)

    def _kinds(self, metrics: Sequence[str]) -> set[str]:
        """The network outputs that the metrics need."""
        kinds = {name for name in metrics if name in self._embedders}
        if any("face_landmarker" in spec_of(n).networks for n in metrics):
            kinds.add("face")
        return kinds

    def _perceive(self, image: Tensor, metrics: Sequence[str], present: Tensor) -> Perceived:
        kinds = self._kinds(metrics)
        seen = self._faces(image, present if "face" in kinds else torch.zeros_like(present))
        embeddings, embedded = {}, {}
        for name in sorted(kinds - {"face"}):
            embeddings[name], found = self._embedders[name](image)
            embedded[name] = found.cpu() & present
            embeddings[name] = embeddings[name].cpu()
        rotation = F.normalize(seen.pose[:, :3, :3], dim=1)
        return Perceived(seen.landmarks, seen.blendshapes, rotation, seen.found, embeddings, embedded)

    def _faces(self, image: Float[Tensor, "b 3 h w"], wanted: Bool[Tensor, " b"]) -> Detections:
        """Landmarks of the wanted images."""
        result = Detections(
            torch.zeros(len(image), 478, 2),
            torch.zeros(len(image), 478),
            torch.zeros(len(image), 52),
            torch.zeros(len(image), 4, 4),
            torch.zeros(len(image), dtype=torch.bool),
            torch.zeros(len(image), dtype=torch.int32),
        )
        index = wanted.nonzero()[:, 0]
        if len(index):
            pixels = to_uint8(image[index])
            found = self._detector.detect(pixels, find=self._landmarker())
            for name in ("landmarks", "depth", "blendshapes", "pose", "found", "num_faces"):
                getattr(result, name)[index] = getattr(found, name)
        return result

    def _landmarker(self) -> Callable[[np.ndarray], list[Any]]:
        """The landmark network, loaded once; closed with the scorer, or at the end of the process."""
        if self._find is None:
            stack = ExitStack()
            self._find = stack.enter_context(open_task(self._detector.create))
            weakref.finalize(self, stack.close)
        return self._find

    def _unseen(self, faces: Perceived, people: Perceived, metrics: Sequence[str]) -> Bool[Tensor, " b"]:
        """Whether any required network finds no face."""
        missing = torch.zeros_like(faces.face)
        if "face" in self._kinds(metrics):
            missing = missing | ~faces.face
        for found in people.embedded.values():
            missing = missing | ~found
        return missing


_LPIPS: dict[str, LPIPSNet] = {"lpips_alex": "alex", "lpips_vgg": "vgg", "lpips_squeeze": "squeeze"}
_EMBEDDERS: dict[str, tuple[type[SFaceEmbedder], str]] = {
    "csim_sface": (SFaceEmbedder, "sface"),
    "csim_arcface_mbf": (ArcFaceEmbedder, "arcface_mbf"),
}
_FACE_METRICS: dict[str, Callable[[Perceived, Perceived], Tensor]] = {
    "akd_mediapipe478": lambda a, b: landmark_distance(a.landmarks, b.landmarks),
    "aed_expression_mediapipe": lambda a, b: expression_distance(a.expression, b.expression),
    "apd_rotation_deg": lambda a, b: rotation_distance(a.rotation, b.rotation),
}
