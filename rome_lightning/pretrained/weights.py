"""Reads weights of pretrained feature networks into plain dictionaries of tensors.

Nothing here executes code from a file: pickles of numpy arrays go through ``restricted_pickle``, and
PyTorch files are read with ``weights_only``.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rome_lightning.media.digest import check_archive
from rome_lightning.pretrained.pickled_data import to_array
from rome_lightning.pretrained.restricted_pickle import loads

VGG16_CONVS = (2, 2, 3, 3, 3)
"""Convolutions per block."""
VGG19_CONVS = (2, 2, 4, 4, 4)
"""Convolutions per block."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def read_tensors(path: Path, source: str) -> Any:
    """The content of a file saved by PyTorch, loaded to the CPU; no code in it runs.

    Args:
        path: an archive or a bare pickle.
        source: where the file comes from, for the message if there is none.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or holds more than tensors and plain values.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}; {source}")
    try:
        if zipfile.is_zipfile(path):
            check_archive(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors; it is not read, because that could run code"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged: {str(error).splitlines()[0] if str(error) else 'cut short'}"
        ) from error


def load_vgg16_features(path: Path) -> dict[str, Tensor]:
    """Convolutions of the ImageNet VGG-16, with the input normalization as a 1x1 convolution.

    Args:
        path: the asset ``lpips_vgg16``.

    Returns:
        ``preprocess.weight``, ``preprocess.bias``, ``conv1_1.weight``, ..., ``conv5_3.bias``, as
        ``losses.PerceptualLoss`` takes them.
    """
    convolutions = _read_numpy_convolutions(path, "VGG16_0", sum(VGG16_CONVS))
    return _normalization() | _named(convolutions, VGG16_CONVS)


def load_gaze_vgg16(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Convolutions of VGG-16 networks that were trained to tell gaze or blinks from eyes.

    Args:
        path: a state dict saved by PyTorch, with torchvision's layers under ``left_features`` and
            ``right_features`` (RT-GENE and RT-BENE), or under ``features`` for both eyes.

    Returns:
        For the subject's left and right eye, each with ImageNet's normalization, as
        ``losses.PerceptualLoss`` takes them.
    """
    state = torch.load(_existing(path), map_location="cpu", weights_only=True)
    state = state.get("state_dict", state)
    pattern = re.compile(r"(?:.*\.)?((?:left_|right_)?features)\.(\d+)\.weight")
    found: dict[str, dict[int, str]] = {}
    for name, tensor in state.items():
        match = pattern.fullmatch(name)
        if match is not None and tensor.ndim == 4:
            found.setdefault(match[1], {})[int(match[2])] = name
    sides = ("left_features", "right_features") if "left_features" in found else ("features", "features")
    networks = []
    for side in sides:
        names = [name for _, name in sorted(found.get(side, {}).items())]
        if len(names) != sum(VGG16_CONVS):
            raise ValueError(
                f"expected {sum(VGG16_CONVS)} convolutions of VGG-16 under {side} in {path}, got "
                f"{len(names)}; the gaze loss takes the state dict of a VGG-16 of RT-GENE or RT-BENE"
            )
        pairs = [(state[name], state[name.removesuffix("weight") + "bias"]) for name in names]
        networks.append(_normalization() | _named(pairs, VGG16_CONVS))
    return networks[0], networks[1]


def load_alexnet_features(path: Path) -> dict[str, Tensor]:
    """Convolutions of the ImageNet AlexNet.

    Args:
        path: the asset ``lpips_alexnet``.

    Returns:
        ``conv1.weight``, ``conv1.bias``, ..., ``conv5.bias``.
    """
    weights: dict[str, Tensor] = {}
    for index, (weight, bias) in enumerate(_read_numpy_convolutions(path, "AlexNet_0", 5)):
        weights |= {f"conv{index + 1}.weight": weight, f"conv{index + 1}.bias": bias}
    return weights


def load_vgg19_normalized(path: Path) -> dict[str, Tensor]:
    """Convolutions of the normalised Caffe VGG-19, with its input normalization as a 1x1 convolution.

    Args:
        path: the asset ``vgg19_normalized``.

    Returns:
        ``preprocess.weight``, ``preprocess.bias``, ``conv1_1.weight``, ..., ``conv5_4.bias``, as
        ``losses.PerceptualLoss`` takes them.
    """
    state = torch.load(_existing(path), map_location="cpu", weights_only=True)
    pairs = [
        (tensor, state[name.removesuffix("weight") + "bias"])
        for name, tensor in state.items()
        if name.endswith("weight")
    ]
    if len(pairs) != 1 + sum(VGG19_CONVS) or tuple(pairs[0][0].shape) != (3, 3, 1, 1):
        raise ValueError(
            f"expected a normalization and {sum(VGG19_CONVS)} convolutions of VGG-19 in {path}, "
            f"got {len(pairs)} layers; fetch the asset vgg19_normalized again"
        )
    preprocess = {"preprocess.weight": pairs[0][0], "preprocess.bias": pairs[0][1]}
    return preprocess | _named(pairs[1:], VGG19_CONVS)


def _normalization() -> dict[str, Tensor]:
    """ImageNet's mean and deviation as a 1x1 convolution of RGB in [0, 1]."""
    std = torch.tensor(IMAGENET_STD)
    return {
        "preprocess.weight": torch.diag(1 / std)[:, :, None, None],
        "preprocess.bias": -torch.tensor(IMAGENET_MEAN) / std,
    }


def _named(pairs: list[tuple[Tensor, Tensor]], per_block: tuple[int, ...]) -> dict[str, Tensor]:
    """Name convolutions in network order ``conv{block}_{index}``, both from 1."""
    names = [f"conv{b + 1}_{i + 1}" for b, count in enumerate(per_block) for i in range(count)]
    weights: dict[str, Tensor] = {}
    for name, (weight, bias) in zip(names, pairs, strict=True):
        weights |= {f"{name}.weight": weight.float(), f"{name}.bias": bias.float()}
    return weights


def _existing(path: Path) -> Path:
    if not Path(path).is_file():
        raise FileNotFoundError(f"no weights at {path}; fetch them with `rome assets fetch`")
    return Path(path)


def _read_numpy_convolutions(path: Path, network: str, count: int) -> list[tuple[Tensor, Tensor]]:
    """Kernels (out, in, kh, kw) and biases of ``count`` convolutions, in network order."""
    try:
        content = loads(_existing(path).read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not a pickle of numpy arrays ({error}); fetch it again") from error
    try:
        layers = [content[network][f"Conv_{index}"] for index in range(count)]
        arrays = [(_float32(layer["kernel"]), _float32(layer["bias"])) for layer in layers]
    except ValueError as error:
        raise ValueError(f"{path} is not a pickle of numpy arrays ({error}); fetch it again") from error
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"expected {count} convolutions of {network} in {path}, did not find {error}; fetch it again"
        ) from error
    return [
        (torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()), torch.from_numpy(bias.copy()))
        for kernel, bias in arrays
    ]


def _float32(value: Any) -> NDArray[np.float32]:
    return to_array(value).astype(np.float32)
