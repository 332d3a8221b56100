"""Learned perceptual image patch similarity."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rome_lightning.metrics.per_image import MeanOverImages
from rome_lightning.pretrained.frozen import FrozenNetwork
from rome_lightning.pretrained.quality import load_squeezenet_features
from rome_lightning.pretrained.weights import load_alexnet_features, load_vgg16_features

LPIPSNet = Literal["alex", "vgg", "squeeze"]
_BACKBONES = {
    "alex": load_alexnet_features,
    "vgg": load_vgg16_features,
    "squeeze": load_squeezenet_features,
}


def load_lpips(net: LPIPSNet, weights: Path) -> nn.Module:
    """Load the network of the ``lpips`` package, version 0.1, with ImageNet backbone and learned weights.

    The package would download its backbone from torchvision's server; here it is read from a verified file.

    Args:
        net: ``alex``, ``vgg`` or ``squeeze``; values of different networks are not comparable.
        weights: the asset ``lpips_alexnet``, ``lpips_vgg16`` or ``lpips_squeezenet``.
    """
    if net not in get_args(LPIPSNet):
        raise ValueError(f"the network of LPIPS is alex, vgg or squeeze, got {net!r}")
    backbone = _BACKBONES[net](weights)
    # Slow to import, and only needed here.
    import lpips as package

    # The package uses a deprecated argument of torchvision, and first draws random weights, which must not
    # advance the caller's random numbers.
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        network = package.LPIPS(net=net, pnet_rand=True, verbose=False)
    convolutions = [module for module in network.net.modules() if isinstance(module, nn.Conv2d)]
    names = [
        name.removesuffix(".weight")
        for name in backbone
        if not name.startswith("preprocess") and name.endswith("weight")
    ]
    for convolution, name in zip(convolutions, names, strict=True):
        convolution.load_state_dict({"weight": backbone[f"{name}.weight"], "bias": backbone[f"{name}.bias"]})
    return network.eval().requires_grad_(False)


def lpips(
    network: nn.Module, prediction: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b 3 h w"]
) -> Float[Tensor, " b"]:
    """LPIPS of each image, 0 for equal images.

    Args:
        network: from ``load_lpips``.
        prediction: RGB in [0, 1]; the value depends on the resolution.
        target: RGB in [0, 1].

    Source: Zhang et al., The unreasonable effectiveness of deep features as a perceptual metric, 2018,
    eq. 1.
    """
    with torch.autocast(prediction.device.type, enabled=False):
        return network(prediction.float(), target.float(), normalize=True).flatten()


def lpips_features(network: nn.Module, image: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b c h2 w2"]]:
    """The features that ``lpips`` compares, layer by layer, for images that are compared more than once.

    Args:
        network: from ``load_lpips``.
        image: RGB in [0, 1].
    """
    # Slow to import, and only needed here.
    import lpips as package

    with torch.autocast(image.device.type, enabled=False):
        parts = cast(Any, network)
        layers = parts.net(parts.scaling_layer(2 * image.float() - 1))
        return [package.normalize_tensor(layer) for layer in layers]


def lpips_distance(
    network: nn.Module,
    prediction: Sequence[Float[Tensor, "b c h w"]],
    target: Sequence[Float[Tensor, "b c h w"]],
    mask: Float[Tensor, "b 1 h w"] | None = None,
) -> Float[Tensor, " b"]:
    """``lpips`` from precomputed features.

    Args:
        network: from ``load_lpips``.
        prediction: from ``lpips_features``; a single row is compared with all rows of the target.
        target: from ``lpips_features``.
        mask: weight of each pixel, [0, 1], in the mean of the package's ``spatial`` map: the layers' maps
            upsampled to pixels and added; NaN if it is empty. The network still sees the whole images.
    """
    with torch.autocast(target[0].device.type, enabled=False):
        layers = zip(cast(Any, network).lins, prediction, target, strict=True)
        maps = [_weighted_differences(lin, a, b) for lin, a, b in layers]
        if mask is None:
            return torch.stack([layer.flatten(1).mean(1) for layer in maps]).sum(0)
        size = mask.shape[-2:]
        enlarged = [F.interpolate(m, size, mode="bilinear", align_corners=False) for m in maps]
        total = torch.stack(enlarged).sum(0)
    return (total * mask).flatten(1).sum(1) / mask.flatten(1).sum(1)


def _weighted_differences(
    weights: nn.Module, prediction: Float[Tensor, "b c h w"], target: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b 1 h w"]:
    """Weighted sum of squared differences over channels, of one layer."""
    rows = prediction.expand(len(target), -1, -1, -1)
    # One image at a time stays in the processor's cache.
    parts = zip(rows.split(1), target.split(1), strict=True)
    return torch.cat([weights((a - b).square_()) for a, b in parts])


class LPIPS(MeanOverImages):
    """Mean of ``lpips`` over images, lower is better.

    The network adds nothing to checkpoints.

    Args:
        net: ``alex``, ``vgg`` or ``squeeze``.
        weights: the asset ``lpips_alexnet``, ``lpips_vgg16`` or ``lpips_squeezenet``.
    """

    higher_is_better = False

    def __init__(self, net: LPIPSNet, weights: Path, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.net = net
        self.network = FrozenNetwork(load_lpips(net, weights))

    @torch.no_grad()
    def update(self, prediction: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b 3 h w"]) -> None:
        """Add a batch; arguments as for ``lpips``."""
        self.add(lpips(self.network, prediction, target))
