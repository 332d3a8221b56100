"""Scoring pairs at 256 px: our evaluator against each metric's reference implementation, one pair at a time.

Both sides score the same pairs with PSNR, SSIM, LPIPS (alex), identity similarity and landmarks (distance,
expression, pose), in one process with the same number of threads. The references are called as their
documentation shows, one pair per call, with everything a call needs computed in that call: skimage for PSNR
and SSIM, the ``lpips`` package, OpenCV's own wrappers for YuNet and SFace, MediaPipe's landmarker once per
metric and image. A prediction is another frame of the same clip. As in ``rome evaluate``, each pair also gets
its floor: the clip's typical frame, copied, against the same target; for the references a second pair.

    python benchmarks/evaluation.py --data DIR --pairs 1000
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from datamodules.evaluation import StoredClips
from rome_lightning.assets import resolve
from rome_lightning.evaluation.evaluator import floor_scores
from rome_lightning.evaluation.protocol import DatasetRule, Protocol, Task
from rome_lightning.evaluation.scoring import Scorer
from rome_lightning.metrics import load_lpips
from rome_lightning.tracking.detector import BLENDSHAPE_NAMES, load_mediapipe

METRICS = [
    "psnr/full", "ssim/full", "lpips_alex/full", "csim_sface", "akd_mediapipe478", "aed_expression_mediapipe",
    "apd_rotation_deg",
]  # fmt: skip
UNIT = 16


class References:
    """The reference implementations, loaded once."""

    def __init__(self) -> None:
        mediapipe = load_mediapipe()
        vision = mediapipe.tasks.vision
        options = vision.FaceLandmarkerOptions(
            base_options=mediapipe.tasks.BaseOptions(model_asset_path=str(resolve("face_landmarker"))),
            output_face_blendshapes=True,
            output_facial_transformation_matrixes=True,
        )
        self.mediapipe = mediapipe
        self.landmarker = vision.FaceLandmarker.create_from_options(options)
        self.lpips = load_lpips("alex", resolve("lpips_alexnet"))
        self.yunet = cv2.FaceDetectorYN.create(str(resolve("yunet")), "", (320, 320), 0.6)
        self.sface = cv2.FaceRecognizerSF.create(str(resolve("sface")), "")

    def score(self, prediction: np.ndarray, target: np.ndarray) -> dict[str, float]:
        """All metrics of one pair of RGB images of bytes."""
        return {
            "psnr/full": float(peak_signal_noise_ratio(target, prediction)),
            "ssim/full": float(
                structural_similarity(
                    prediction,
                    target,
                    channel_axis=2,
                    gaussian_weights=True,
                    sigma=1.5,
                    use_sample_covariance=False,
                )
            ),
            "lpips_alex/full": self._lpips(prediction, target),
            "csim_sface": self._csim(prediction, target),
            "akd_mediapipe478": self._landmarks(prediction, target),
            "aed_expression_mediapipe": self._expression(prediction, target),
            "apd_rotation_deg": self._rotation(prediction, target),
        }

    def _lpips(self, *images: np.ndarray) -> float:
        a, b = (torch.from_numpy(x).permute(2, 0, 1)[None].float() / 127.5 - 1 for x in images)
        with torch.no_grad():
            return float(self.lpips(a, b))

    def _csim(self, *images: np.ndarray) -> float:
        rows = []
        for image in images:
            bgr = np.ascontiguousarray(image[..., ::-1])
            self.yunet.setInputSize((bgr.shape[1], bgr.shape[0]))
            faces = self.yunet.detect(bgr)[1]
            if faces is None:
                return float("nan")
            rows.append(self.sface.feature(self.sface.alignCrop(bgr, faces[0])))
        return float(self.sface.match(rows[0], rows[1], cv2.FaceRecognizerSF_FR_COSINE))

    def _detect(self, image: np.ndarray) -> object:
        return self.landmarker.detect(
            self.mediapipe.Image(
                image_format=self.mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(image)
            )
        )

    def _landmarks(self, *images: np.ndarray) -> float:
        points = []
        for image in images:
            found = self._detect(image).face_landmarks
            if not found:
                return float("nan")
            points.append(np.array([(p.x * image.shape[1], p.y * image.shape[0]) for p in found[0]]))
        return float(np.linalg.norm(points[0] - points[1], axis=1).mean())

    def _expression(self, *images: np.ndarray) -> float:
        rows = []
        for image in images:
            found = self._detect(image).face_blendshapes
            if not found:
                return float("nan")
            scores = {c.category_name: c.score for c in found[0]}
            rows.append(np.array([scores[name] for name in BLENDSHAPE_NAMES]))
        return float(np.abs(rows[0] - rows[1]).mean())

    def _rotation(self, *images: np.ndarray) -> float:
        turns = []
        for image in images:
            found = self._detect(image).facial_transformation_matrixes
            if not found:
                return float("nan")
            matrix = found[0][:3, :3]
            turns.append(matrix / np.linalg.norm(matrix, axis=0))
        cosine = (np.trace(turns[0].T @ turns[1]) - 1) / 2
        return float(np.rad2deg(np.arccos(np.clip(cosine, -1, 1))))


Pair = tuple[str, int, int, int]
"""Clip, and the numbers of source, target and prediction."""


def units_of(clips: StoredClips, count: int) -> list[list[Pair]]:
    """Pairs in units of one clip; in each further round every target gets a different prediction."""
    units: list[list[Pair]] = []
    shift = 0
    while sum(map(len, units)) < count:
        shift += 1
        for clip in clips.clips:
            frames = clip.frames
            pairs = [
                (clip.key, clip.typical, n, frames[(i + shift) % len(frames)])
                for i, n in enumerate(frames)
                if n != clip.typical
            ]
            units += [pairs[start : start + UNIT] for start in range(0, len(pairs), UNIT)]
    return units[: next(i for i in range(1, len(units) + 1) if sum(map(len, units[:i])) >= count)]


def scored_by_us(scorer: Scorer, clips: StoredClips, units: list[list[Pair]]) -> dict[str, list[float]]:
    """Our values, in batches of the size that ``rome evaluate`` uses."""
    values: dict[str, list[float]] = {}
    for unit in units:
        clip, source = unit[0][:2]
        copied = clips.frames(clip, [source]).repeat_interleave(len(unit))
        real = scorer.real(copied, [f"{clip}@{source}"] * len(unit))
        target = scorer.real(
            clips.frames(clip, [pair[2] for pair in unit]), [f"{clip}@{pair[2]}" for pair in unit]
        )
        image = clips.frames(clip, [pair[3] for pair in unit]).image
        present = torch.ones(len(unit), dtype=torch.bool)
        scores = scorer.score("self", image, present, real, target).values
        floor = floor_scores(scorer, "self", real, target)
        for name in scores:
            short = name.removesuffix(f"_{image.shape[-1]}")
            values.setdefault(short, []).extend(scores[name].tolist())
            values.setdefault(f"floor of {short}", []).extend(floor[name].tolist())
    return values


def main() -> None:
    """Measure both sides and print the ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="Dataset of at least 256 px.")
    parser.add_argument("--split", default="val", help="Split of the dataset.")
    parser.add_argument("--pairs", type=int, default=1000, help="Pairs that we score.")
    parser.add_argument("--reference-pairs", type=int, default=100, help="Pairs that the references score.")
    args = parser.parse_args()
    clips = StoredClips(args.data, args.split, 256)
    units = units_of(clips, args.pairs)
    pairs = [pair for unit in units for pair in unit]
    protocol = Protocol(
        "benchmark", 1, "", DatasetRule("", "", ""), {"self": Task(METRICS)}, background="dataset"
    )
    scorer, references = Scorer(protocol), References()
    scored_by_us(scorer, clips, units[:1])
    scorer.forget()

    # CPU time, so that other load on the machine matters less.
    start = time.process_time()
    half = scored_by_us(scorer, clips, units[: len(units) // 2])
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rest = scored_by_us(scorer, clips, units[len(units) // 2 :])
    ours_s = time.process_time() - start
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    ours = {name: half[name] + rest[name] for name in half}

    count = min(args.reference_pairs, len(pairs))
    theirs: dict[str, list[float]] = {}
    start = time.process_time()
    for clip, source, target, other in pairs[:count]:
        copied, wanted, image = (
            (clips.frames(clip, [n]).image[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
            for n in (source, target, other)
        )
        for prefix, prediction in (("", image), ("floor of ", copied)):
            for name, value in references.score(prediction, wanted).items():
                theirs.setdefault(f"{prefix}{name}", []).append(value)
    theirs_s = time.process_time() - start
    references.landmarker.close()

    per_pair = ours_s / len(pairs), theirs_s / count
    print(f"threads {torch.get_num_threads()}, pairs: ours {len(pairs)}, references {count}")
    print(f"ours        {per_pair[0] * 1000:8.1f} ms per pair, {ours_s:.1f} s in all")
    print(f"references  {per_pair[1] * 1000:8.1f} ms per pair")
    print(f"ratio       {per_pair[1] / per_pair[0]:8.2f}")
    print(f"growth of the largest memory over the second half: {growth / 1024:.1f} MB")
    for name in theirs:
        a, b = np.array(ours[name][:count]), np.array(theirs[name])
        print(
            f"  {name:35s} mean {np.nanmean(a):9.4f}, reference {np.nanmean(b):9.4f}, "
            f"largest difference {np.nanmax(np.abs(a - b)):.4f}"
        )


if __name__ == "__main__":
    main()
