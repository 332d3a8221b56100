"""Regression of coefficients from an image: the encoders of the linear model."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rome_lightning.head import HeadModel
from rome_lightning.models.config import DriverConfig, EncoderName
from rome_lightning.types import POSE_SIZE, HeadParams

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_MOMENTUM = 0.1
"""Momentum of the running statistics in batch normalization."""
EXPRESSION_SCALE, POSE_SCALE = 0.25, 0.25
"""Units of the outputs: coefficients, radians."""
CAMERA_CENTRE, CAMERA_SCALE = (4.0, 0.0, 0.0), (1.0, 0.05, 0.05)
"""Camera for an output of 0, and the change for an output of 1: NDC per metre, then metres."""


class ImageRegressor(nn.Module):
    """A torchvision classifier turned into a regressor; its outputs start at 0.

    Its key names are torchvision's, so weights trained on ImageNet can be loaded (``load_backbone``).

    Args:
        encoder: name of the network.
        outputs: numbers per image.
        input_size: larger images are downsampled to this side, pixels.
        normalize: normalize images with the mean and deviation of ImageNet first.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, encoder: EncoderName, outputs: int, input_size: int = 256, normalize: bool = True
    ) -> None:
        # Imports torch's compiler, which takes seconds; models without encoders do not need it.
        from torchvision.models import get_model

        super().__init__()
        self.input_size = input_size
        self.network = get_model(encoder, weights=None, num_classes=outputs)
        for module in self.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                # MobileNetV3's 0.01 suits ImageNet: after a short training the initial values would persist.
                module.momentum = _MOMENTUM
        for parameter in self.last_layer.parameters():
            nn.init.zeros_(parameter)
        mean, std = (_IMAGENET_MEAN, _IMAGENET_STD) if normalize else ((0.0,) * 3, (1.0,) * 3)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    @property
    def last_layer(self) -> nn.Linear:
        """The output layer."""
        return [module for module in self.network.modules() if isinstance(module, nn.Linear)][-1]

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n"]:
        """Outputs for each image.

        Args:
            image: RGB in [0, 1].
        """
        if image.shape[-1] > self.input_size:
            size = (self.input_size, self.input_size)
            image = F.interpolate(image, size, mode="bilinear", antialias=True, align_corners=False)
        outputs: Tensor = self.network((image - self.mean) / self.std)
        return outputs

    def load_backbone(self, weights: dict[str, Tensor]) -> None:
        """Load a torchvision classifier's weights, except for the last layer.

        Raises:
            ValueError: the weights belong to another network.
        """
        last = {id(parameter) for parameter in self.last_layer.parameters()}
        own = {name for name, parameter in self.network.named_parameters() if id(parameter) in last}
        kept = {name: value for name, value in weights.items() if name not in own}
        wanted = {name for name in self.network.state_dict() if name not in own}
        if wanted != set(kept):
            missing = sorted(wanted ^ set(kept))
            raise ValueError(f"the encoder's weights belong to another network: {missing[0]} does not fit")
        # All other layers are present, as checked above.
        self.network.load_state_dict(kept, strict=False)


class DriverEncoder(nn.Module):
    """Estimate expression, pose and camera of a frame.

    Source: ROME sec. 3.5: a MobileNetV2 in place of the tracker.

    Args:
        config: see ``DriverConfig``.
        head: for the number of expression coefficients.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, config: DriverConfig, head: HeadModel) -> None:
        super().__init__()
        if config.encoder == "none":
            raise ValueError("a driver encoder needs a network; set avatar.driver.encoder")
        self.num_expression = head.num_expression
        zeros = [0.0] * (head.num_expression + POSE_SIZE)
        scale = [EXPRESSION_SCALE] * head.num_expression + [POSE_SCALE] * POSE_SIZE
        # Stored with the weights, because the release's network has other units.
        self.register_buffer("centre", torch.tensor([*zeros, *CAMERA_CENTRE]))
        self.register_buffer("scale", torch.tensor([*scale, *CAMERA_SCALE]))
        self.regressor = ImageRegressor(
            config.encoder, len(self.scale), config.input_size, config.image == "normalized"
        )

    def forward(self, image: Float[Tensor, "b 3 h w"], shape: Float[Tensor, "b k"]) -> HeadParams:
        """Parameters of each frame with the given shapes."""
        outputs = self.centre + self.scale * self.regressor(image)
        expression, pose, camera = outputs.split([self.num_expression, POSE_SIZE, 3], dim=-1)
        return HeadParams.from_packed(shape, expression, pose, camera)
