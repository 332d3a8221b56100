"""Pretrained networks of the losses, from their assets."""

from __future__ import annotations

from rome_lightning.assets import resolve
from rome_lightning.losses import GazeLoss, IdentityLoss, LPIPSLoss, PerceptualLoss
from rome_lightning.metrics import load_lpips
from rome_lightning.pretrained.onnx_network import OnnxNetwork
from rome_lightning.pretrained.onnx_reader import read_onnx
from rome_lightning.pretrained.weights import load_gaze_vgg16, load_vgg16_features, load_vgg19_normalized
from rome_lightning.training.config import LossConfig


def build_perceptual(config: LossConfig) -> PerceptualLoss | LPIPSLoss | None:
    """The perceptual term's network, ``None`` without the term."""
    if config.perceptual == 0:
        return None
    if config.perceptual_network == "lpips":
        return LPIPSLoss(load_lpips("alex", resolve("lpips_alexnet")))
    if config.perceptual_network == "vgg16":
        return PerceptualLoss.vgg16_shallow(load_vgg16_features(resolve("lpips_vgg16")))
    return PerceptualLoss.vgg19(load_vgg19_normalized(resolve("vgg19_normalized")))


def build_gaze(config: LossConfig) -> GazeLoss | None:
    """The gaze term's networks, ``None`` without the term.

    Raises:
        FileNotFoundError: the term is enabled but its weights, which users must download themselves, are
            missing.
    """
    return None if config.gaze == 0 else GazeLoss(*load_gaze_vgg16(resolve("gaze_vgg16")))


def build_identity(config: LossConfig) -> IdentityLoss | None:
    """The identity term's network, ``None`` without the term."""
    if config.identity == 0:
        return None
    network = OnnxNetwork(read_onnx(resolve(config.identity_network)))
    return (
        IdentityLoss.sface(network) if config.identity_network == "sface" else IdentityLoss.arcface(network)
    )
