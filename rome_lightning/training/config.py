"""The options of the training objective and the optimizers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Ramp:
    """Schedule of a term's weight."""

    start: int = 0
    """Steps before which the term is not computed."""
    length: int = 0
    """Steps over which its weight then rises linearly to the full one."""

    def __post_init__(self) -> None:
        if self.start < 0 or self.length < 0:
            raise ValueError(
                f"a ramp's start and length are numbers of steps, got {self.start} and {self.length}"
            )

    def share(self, step: int) -> float:
        """Share of the weight at a step, [0, 1]; positive from ``start`` on."""
        if step < self.start:
            return 0.0
        return min(1.0, (step - self.start + 1) / self.length) if self.length else 1.0


@dataclass(frozen=True)
class LossConfig:
    """Weights of the loss terms and their variants; a term of weight 0 is not computed."""

    photometric: float = 1.0
    """Weighted L1 of the composited images. Departure from ROME: not in the paper."""
    mesh_weight: float = 2.0
    """Extra weight of pixels on the mesh in the photometric term."""
    feature_weight: float = 6.0
    """Extra weight of pixels around eyes and mouth in the photometric term."""
    perceptual: float = 1.0
    """L1 of VGG features (paper: 1)."""
    perceptual_network: Literal["vgg16", "vgg19", "lpips"] = "vgg19"
    """``vgg19``: the paper's five layers; ``vgg16``: relu1_2 to relu3_3, half the cost; ``lpips``: LPIPS with
    AlexNet, a tenth of it."""
    perceptual_crop: int | None = None
    """Side of a crop around an eye, the mouth or another facial landmark on which the perceptual term is
    computed, pixels; ``null`` for the whole image."""
    gaze: float = 0.0
    """L1 of VGG-16 features of both eyes (paper: part of the perceptual term). Needs weights that you supply:
    the asset ``gaze_vgg16``."""
    identity: float = 0.0
    """One minus the cosine of face-recognition embeddings (paper: 0.1)."""
    identity_network: Literal["sface", "arcface_mbf"] = "sface"
    """Asset that embeds faces; ``arcface_mbf`` is for non-commercial research only."""
    adversarial: float = 0.0
    """Hinge loss against a patch discriminator (paper: 0.1). Without it there is no discriminator."""
    feature_matching: float = 0.0
    """L1 of the discriminator's features (release: 1); needs ``adversarial``."""
    segmentation: float = 10.0
    """Dice of the predicted mask (paper: 10)."""
    matte: float = 0.0
    """Mean absolute error of the predicted matte. Departure from ROME: the overlap of ``segmentation`` is
    blind to half-covered pixels."""
    occupancy_hair: float = 10.0
    """Mean squared error of the silhouette, neck fixed, against hair, face and ears (paper: 10; the
    release's 10 times half of it is 5)."""
    occupancy_hair_region: Literal["beside_body", "everywhere"] = "beside_body"
    """Pixels that count: ``beside_body`` excludes neck, shoulders and clothes, where the mesh shows its own;
    ``everywhere`` includes them (paper)."""
    occupancy_all: float = 1.0
    """The same, hair fixed, against the whole person (the release's 1 times half of it is 0.5)."""
    silhouette: Literal["antialiased", "soft", "official"] = "antialiased"
    """Gradient of the silhouette in the occupancy terms; ``official`` repeats the release's truncated
    sigmoid."""
    chamfer: float = 0.01
    """Projected visible vertices against points of the person's mask (paper: 0.01)."""
    chamfer_points: int = 1024
    """Points drawn from each side for the chamfer term."""
    chamfer_squared: bool = False
    """Squared distances (release) instead of plain ones (paper)."""
    laplacian: float = 10.0
    """Smoothness of the offsets (paper: 10)."""
    laplacian_norm: Literal["l1", "l2"] = "l1"
    """Norm of each vertex's Laplacian: ``l1`` (paper) or ``l2`` (release)."""
    landmarks: float = 0.0
    """L1 of 68 projected points against the detected ones (release: 1). With parameters fitted before
    training, it moves only landmarks on vertices with offsets."""
    schedules: dict[str, Ramp] = field(default_factory=dict)
    """Ramps by term, such as ``{adversarial: {start: 2000, length: 1000}}``; the other terms apply from the
    first step."""

    def __post_init__(self) -> None:
        negative = [name for name in TERMS if getattr(self, name) < 0]
        unknown = sorted(set(self.schedules) - set(TERMS))
        if negative:
            raise ValueError(f"weights of losses must not be negative: {', '.join(negative)}")
        if unknown:
            raise ValueError(
                f"losses.schedules names unknown terms: {', '.join(unknown)}; terms: {', '.join(TERMS)}"
            )
        if self.feature_matching > 0 and self.adversarial == 0:
            raise ValueError(
                "losses.feature_matching compares features of the discriminator; set losses.adversarial too"
            )

    def weight(self, term: str, step: int) -> float:
        """Weight of a term at a step."""
        full: float = getattr(self, term)
        return full * self.schedules[term].share(step) if term in self.schedules else full


TERMS = (
    "photometric", "perceptual", "gaze", "identity", "adversarial", "feature_matching", "segmentation",
    "matte",     "occupancy_hair", "occupancy_all", "chamfer", "laplacian", "landmarks",
)  # fmt: skip
"""Options of ``LossConfig`` that are weights."""


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
    skip_budget: int = 20
    """Number of steps that may be skipped because of non-finite gradients; one more ends the run."""


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


@dataclass(frozen=True)
class ExecutionConfig:
    """Execution of the networks; changes speed and rounding, not results."""

    compile_networks: bool = False
    """Compile each network with ``torch.compile``; minutes at the start, faster steps on a GPU."""
    channels_last: bool = False
    """Use the channels-last memory format, which tensor cores prefer."""
