"""The mesh of the renderer's benchmarks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rome_lightning.geometry import project
from rome_lightning.head import HeadModel, load_head
from rome_lightning.types import HeadParams

NUM_ATTRIBUTES = 8
TEXTURE_SIZE = 256


@dataclass(frozen=True)
class Scene:
    """Heads that fill their images, slightly rotated."""

    head: HeadModel
    size: int
    vertices: Tensor
    """Pixels, (b, v, 3)."""
    faces: Tensor
    attributes: Tensor
    """One vector per vertex, (b, v, 8)."""
    texture: Tensor
    """(b, 8, s, s), channels-last."""
    value_gradient: Tensor
    """Gradient from a following network, (b, 8, h, w), channels-last as in its convolutions."""
    mask_gradient: Tensor
    """(b, 1, h, w)."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self.size, self.size

    def leaves(self) -> tuple[Tensor, Tensor]:
        """Vertices and attributes that require gradients."""
        return self.vertices.detach().requires_grad_(), self.attributes.detach().requires_grad_()


def make_scene(name: str, size: int, batch: int, device: str) -> Scene:
    """The mean head in ``batch`` poses."""
    head = load_head(name).to(device)
    params = HeadParams.neutral(1, head.num_shape, head.num_expression).to(device)
    world = head(params, in_world=True)
    angles = 0.35 + 0.02 * torch.arange(batch, device=device)
    zero, one = torch.zeros_like(angles), torch.ones_like(angles)
    turn = torch.stack(
        [angles.cos(), zero, -angles.sin(), zero, one, zero, angles.sin(), zero, angles.cos()], 1
    )
    rotated = world @ turn.view(-1, 3, 3)
    low, high = rotated.amin(1)[:, :2], rotated.amax(1)[:, :2]
    scale = 1.8 / (high - low).amax(1, keepdim=True)
    vertices = project(rotated, torch.cat([scale, -(low + high) / 2], dim=1), (size, size))
    draw = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=draw).to(device)

    layout = torch.channels_last
    return Scene(
        head,
        size,
        vertices,
        head.faces.int(),
        random(vertices.shape[1], NUM_ATTRIBUTES),
        random(NUM_ATTRIBUTES, TEXTURE_SIZE, TEXTURE_SIZE).contiguous(memory_format=layout),
        random(NUM_ATTRIBUTES, size, size).contiguous(memory_format=layout),
        random(1, size, size),
    )
