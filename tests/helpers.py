"""Random inputs and helpers shared by the tests of several packages."""

import dataclasses

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from rome_lightning.head import HeadModel
from rome_lightning.models import (
    AvatarConfig,
    DeferredRendererConfig,
    FullAvatar,
    OffsetConfig,
    TextureConfig,
)
from rome_lightning.types import POSE_SIZE, Frames, HeadParams, Region

SIZE = 64


def small_config(**offsets: object) -> AvatarConfig:
    """Networks that run in milliseconds."""
    return AvatarConfig(
        rasterizer="torch",
        texture=TextureConfig(size=64, width=8, num_levels=3),
        offsets=OffsetConfig(uv_size=32, width=8, mlp_width=16, **offsets),
        decoder=DeferredRendererConfig(width=8, num_levels=3, normal_frequencies=1),
    )


def without_carry(config: AvatarConfig) -> AvatarConfig:
    """The same model rendering from its texture alone, as ROME does."""
    return dataclasses.replace(
        config,
        texture=dataclasses.replace(config.texture, mirror=False),
        decoder=dataclasses.replace(config.decoder, carry=False),
    )


def random_params(head: HeadModel, num: int, seed: int = 0) -> HeadParams:
    """Plausible heads that fill most of the image."""
    generator = torch.Generator().manual_seed(seed)
    pose = torch.randn(num, POSE_SIZE, generator=generator) * 0.1
    camera = torch.tensor([4.0, 0.0, 0.0]) + torch.randn(num, 3, generator=generator) * 0.02
    shape = torch.randn(num, head.num_shape, generator=generator) * 0.5
    expression = torch.rand(num, head.num_expression, generator=generator) * 0.2
    return HeadParams.from_packed(shape, expression, pose, camera)


def random_frames(head: HeadModel, num: int, seed: int = 0) -> Frames:
    """Noise images with plausible heads."""
    generator = torch.Generator().manual_seed(seed)
    return Frames(
        image=torch.rand(num, 3, SIZE, SIZE, generator=generator),
        foreground_mask=torch.rand(num, 1, SIZE, SIZE, generator=generator),
        regions=torch.randint(0, len(Region), (num, SIZE, SIZE), generator=generator).to(torch.uint8),
        landmarks=torch.rand(num, 478, 2, generator=generator) * SIZE,
        params=random_params(head, num, seed),
    )


def perturbed(model: FullAvatar, seed: int = 0) -> FullAvatar:
    """Perturb the zero initialization, for which outputs do not depend on most weights."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn(parameter.shape, generator=generator) * 0.05
    return model


def pieces(faces: np.ndarray) -> np.ndarray:
    """Label of each face's connected component."""
    pairs = np.concatenate([faces[:, [i, (i + 1) % 3]] for i in range(3)])
    size = faces.max() + 1
    graph = coo_matrix((np.ones(len(pairs)), pairs.T), shape=(size, size))
    return connected_components(graph)[1][faces[:, 0]]
