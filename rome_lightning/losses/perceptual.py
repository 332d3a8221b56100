"""Distance between features of a pretrained VGG network."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rome_lightning.pretrained.frozen import FrozenNetwork

PAPER_LAYERS = {"conv1_1": 1 / 32, "conv2_1": 1 / 16, "conv3_1": 1 / 8, "conv4_1": 1 / 4, "conv5_1": 1.0}
"""ROME's VGG-19 layers and their weights."""
SHALLOW_LAYERS = {"conv1_2": 1.0, "conv2_2": 1.0, "conv3_3": 1.0}
"""Layers of VGG-16 for small images and short training."""


class VGGFeatures(nn.Module):
    """The convolutional part of a VGG network up to the last requested layer.

    Args:
        weights: ``preprocess.weight`` (3, 3, 1, 1) and ``preprocess.bias``, which map RGB in [0, 1] to the
            range that the network was trained on; ``conv{block}_{index}.weight`` and ``.bias``, which also
            determine the depth.
        layers: convolutions whose outputs, after ReLU, are returned, in the order of the network.
    """

    def __init__(self, weights: Mapping[str, Tensor], layers: list[str]) -> None:
        super().__init__()
        names = sorted(
            name.removesuffix(".weight") for name in weights if re.fullmatch(r"conv\d_\d\.weight", name)
        )
        unknown = [layer for layer in layers if layer not in names]
        if unknown or not layers:
            raise ValueError(f"VGG layers to compare must be among {', '.join(names)}, got {layers}")
        self.layers = sorted(layers)
        self.names = names[: names.index(self.layers[-1]) + 1]
        self.tensors = nn.ParameterDict()
        for name in ["preprocess", *self.names]:
            for part in ("weight", "bias"):
                tensor = weights[f"{name}.{part}"].detach().clone()
                self.tensors[f"{name}-{part}"] = nn.Parameter(tensor, requires_grad=False)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Features of RGB images in [0, 1], one tensor per requested layer."""
        current = F.conv2d(image, self.tensors["preprocess-weight"], self.tensors["preprocess-bias"])
        features = []
        block = "1"
        for name in self.names:
            if name[4] != block:
                current = F.max_pool2d(current, 2)
                block = name[4]
            weight, bias = self.tensors[f"{name}-weight"], self.tensors[f"{name}-bias"]
            current = F.relu(F.conv2d(current, weight, bias, padding=1))
            if name in self.layers:
                features.append(current)
        return features


class PerceptualLoss(nn.Module):
    """Weighted sum over VGG layers of the mean absolute difference of features.

    ``sum_l w_l mean |phi_l(predicted) - phi_l(target)|``, features after ReLU. The network adds nothing to
    a state dict and is never trained.

    Source: ROME sec. 3.4, L_per (after Johnson et al., Perceptual losses for real-time style transfer,
    2016, eq. 2, with L1).

    Args:
        weights: of the network, see ``VGGFeatures`` and ``pretrained.weights``.
        layers: weight of each convolution to compare.
    """

    def __init__(self, weights: Mapping[str, Tensor], layers: Mapping[str, float]) -> None:
        super().__init__()
        self.features = FrozenNetwork(VGGFeatures(weights, list(layers)))
        self.layer_weights = [layers[name] for name in sorted(layers)]

    @classmethod
    def vgg19(cls, weights: Mapping[str, Tensor]) -> PerceptualLoss:
        """The paper's five layers of the normalised Caffe VGG-19."""
        return cls(weights, PAPER_LAYERS)

    @classmethod
    def vgg16_shallow(cls, weights: Mapping[str, Tensor]) -> PerceptualLoss:
        """Three shallow layers of VGG-16.

        Departure from ROME: a third of the cost, for small images.
        """
        return cls(weights, SHALLOW_LAYERS)

    def forward(
        self, predicted: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, ""]:
        """Compare images; gradients flow into ``predicted`` only.

        Args:
            predicted: RGB in [0, 1].
            target: RGB in [0, 1].
        """
        with torch.no_grad():
            wanted = self.features(target)
        terms = [
            weight * (ours - theirs).abs().mean()
            for weight, ours, theirs in zip(self.layer_weights, self.features(predicted), wanted, strict=True)
        ]
        return torch.stack(terms).sum()
