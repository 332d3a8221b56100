"""Readers of networks that score whole images: Inception for FID, the regression of BRISQUE, SqueezeNet."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from rome_lightning.media.digest import file_sha256
from rome_lightning.pretrained.restricted_pickle import loads

SQUEEZENET_HASH = "b8a52dc0"
"""First digits of the sha256 of torchvision's SqueezeNet 1.1, as its file name states them."""


@dataclass(frozen=True)
class SupportVectors:
    """A support vector regression with a Gaussian kernel, and the range that its inputs are scaled from."""

    coefficients: Tensor
    """(n,)"""
    vectors: Tensor
    """(n, d), inputs scaled to [-1, 1]."""
    gamma: float
    offset: float
    """Subtracted from the sum."""
    low: Tensor
    """(d,), becomes -1."""
    high: Tensor
    """(d,), becomes 1."""


def load_brisque(svm: Path, ranges: Path) -> SupportVectors:
    """The regression of BRISQUE in LIBSVM's text format and the ranges of its 36 features.

    Args:
        svm: the asset ``brisque_svm``.
        ranges: the asset ``brisque_range``, a pickle of two lists of numbers; nothing else is read.
    """
    header, _, body = _existing(svm).read_text().partition("SV\n")
    settings = dict(line.split(maxsplit=1) for line in header.splitlines())
    if settings.get("svm_type") != "epsilon_svr" or settings.get("kernel_type") != "rbf":
        raise ValueError(f"{svm} is not a support vector regression with a Gaussian kernel; fetch it again")
    rows = [line.split() for line in body.splitlines() if line.strip()]
    vectors = torch.zeros(len(rows), 36, dtype=torch.float64)
    for index, row in enumerate(rows):
        for cell in row[1:]:
            place, value = cell.split(":")
            vectors[index, int(place) - 1] = float(value)
    try:
        limits = loads(_existing(ranges).read_bytes())
        low, high = (torch.tensor(limits[name], dtype=torch.float64) for name in ("min_", "max_"))
    except (ValueError, KeyError, TypeError) as error:
        reason = f"{ranges} does not contain two lists of numbers ({error}); fetch it again"
        raise ValueError(reason) from error
    coefficients = torch.tensor([float(row[0]) for row in rows], dtype=torch.float64)
    return SupportVectors(coefficients, vectors, float(settings["gamma"]), float(settings["rho"]), low, high)


def load_inception(path: Path) -> nn.Module:
    """Inception of the original FID, converted to PyTorch by NVIDIA's rules; gives 2048 features.

    A TorchScript archive: its operations run in PyTorch's interpreter, which knows tensors only, and its hash
    is checked by the resolver.

    Args:
        path: the asset ``fid_inception``; takes RGB of 299 x 299 in [-1, 127/128].
    """
    with warnings.catch_warnings():
        # PyTorch deprecates TorchScript as a way to export, not its files.
        warnings.simplefilter("ignore")
        network: nn.Module = torch.jit.load(str(_existing(path)), map_location="cpu")
    for parameter in network.parameters():
        parameter.requires_grad = False
    return network.eval()


def load_squeezenet_features(path: Path) -> dict[str, Tensor]:
    """Convolutions of torchvision's SqueezeNet 1.1 by its names (``features.0.weight`` and so on).

    Args:
        path: the asset ``lpips_squeezenet``.
    """
    digest = file_sha256(_existing(path))
    if not digest.startswith(SQUEEZENET_HASH):
        raise ValueError(
            f"{path} has sha256 {digest[:8]}, SqueezeNet 1.1 of torchvision has {SQUEEZENET_HASH}"
        )
    state = torch.load(path, map_location="cpu", weights_only=True)
    return {name: value.float() for name, value in state.items() if name.startswith("features.")}


def _existing(path: Path) -> Path:
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file at {path}; fetch it with `rome assets fetch`")
    return Path(path)
