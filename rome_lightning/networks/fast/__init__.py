"""Inference without gradients in less time: folded filters, Winograd convolutions, oneDNN, fused kernels.

``InferenceNetwork`` is the only name that the rest of the project uses.
"""

from rome_lightning.networks.fast.inference import InferenceNetwork

__all__ = ["InferenceNetwork"]
