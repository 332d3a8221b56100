"""The options of the training objective and the optimizers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class LossConfig:
    """Weights of the loss terms; a term of weight 0 is not computed."""

    photometric: float = 1.0
    """Weighted L1 of the composited images. Departure from ROME: not in the paper."""
    mesh_weight: float = 2.0
    """Extra weight of pixels on the mesh in the photometric term."""
    feature_weight: float = 6.0
    """Extra weight of pixels around eyes and mouth in the photometric term."""
    perceptual: float = 1.0
    """L1 of VGG features."""
    perceptual_network: Literal["vgg16", "vgg19"] = "vgg19"
    """``vgg19``: the paper's five layers; ``vgg16``: relu1_2 to relu3_3, half the cost."""
    perceptual_crop: int | None = None
    """Side of a crop around an eye, the mouth or another facial landmark on which the perceptual term is
    computed, pixels; ``null`` for the whole image."""
    adversarial: float = 0.0
    """Hinge loss against a patch discriminator (paper: 0.1). Without it there is no discriminator."""
    feature_matching: float = 0.0
    """L1 of the discriminator's features (release: 1); needs ``adversarial``."""
    segmentation: float = 10.0
    """Dice of the predicted mask (paper: 10)."""
    occupancy_hair: float = 10.0
    """Silhouette, neck fixed, against hair and face (paper: 10)."""
    occupancy_all: float = 1.0
    """Silhouette, hair fixed, against the whole person (release: 1)."""
    chamfer: float = 0.01
    """Projected visible vertices against points of the person's mask (paper: 0.01)."""
    chamfer_points: int = 1024
    """Points drawn from each side for the chamfer term."""
    laplacian: float = 10.0
    """Smoothness of the offsets (paper: 10)."""
    silhouette: Literal["antialiased", "soft", "official"] = "antialiased"
    """How the silhouette of the occupancy terms gets its gradient; ``official`` repeats the release's
    truncated sigmoid."""


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam and its schedule."""

    learning_rate: float = 1e-4
    """Peak learning rate (paper: 1e-4)."""
    beta1: float = 0.0
    """Decay of the first moment (paper: 0)."""
    beta2: float = 0.999
    """Decay of the second moment."""
    schedule: Literal["constant", "cosine"] = "constant"
    """``cosine`` falls to 2 % of the peak over the planned steps."""
    warmup_steps: int = 0
    """Steps of linear warm-up."""
    clip_norm: float = 0.0
    """Largest Euclidean norm of all gradients together; longer ones are scaled down. 0: no clipping."""


@dataclass(frozen=True)
class DiscriminatorConfig:
    """The adversary of ``losses.adversarial``; not built while that weight is 0."""

    width: int = 64
    """Channels of the first block; they double up to 512 (release: 64)."""
    num_blocks: int = 4
    """Blocks; all but the last halve the resolution (release: 4)."""
    spectral_norm: bool = True
    """Divide every convolution by its largest singular value (paper and release)."""
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(learning_rate=4e-4))
    """Its own Adam (paper: learning rate 4e-4)."""
