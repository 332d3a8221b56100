"""Training losses: pure functions, and modules with a pretrained network."""

from rome_lightning.losses.adversarial import feature_matching, hinge_discriminator, hinge_generator
from rome_lightning.losses.chamfer import chamfer_2d
from rome_lightning.losses.dice import dice
from rome_lightning.losses.gaze import GazeLoss
from rome_lightning.losses.identity import IdentityLoss
from rome_lightning.losses.landmarks import landmark_distance
from rome_lightning.losses.laplacian import laplacian
from rome_lightning.losses.lpips import LPIPSLoss
from rome_lightning.losses.occupancy import occupancy
from rome_lightning.losses.perceptual import PerceptualLoss
from rome_lightning.losses.photometric import photometric

__all__ = [
    "GazeLoss",
    "IdentityLoss",
    "LPIPSLoss",
    "PerceptualLoss",
    "chamfer_2d",
    "dice",
    "feature_matching",
    "hinge_discriminator",
    "hinge_generator",
    "landmark_distance",
    "laplacian",
    "occupancy",
    "photometric",
]
