"""Real images as they are scored, and what networks see in images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rome_lightning.types import Frames


@dataclass(frozen=True)
class Perceived:
    """What networks see in images; rows without a face are 0."""

    landmarks: Float[Tensor, "b 478 2"]
    """Pixels."""
    expression: Float[Tensor, "b 52"]
    rotation: Float[Tensor, "b 3 3"]
    face: Bool[Tensor, " b"]
    """Whether the landmark network found a face."""
    embeddings: dict[str, Float[Tensor, "b d"]]
    """By metric."""
    embedded: dict[str, Bool[Tensor, " b"]]
    """By metric: whether the identity network found a face."""

    def rows(self, index: Tensor | slice) -> Perceived:
        """Some of the images."""
        return Perceived(
            self.landmarks[index],
            self.expression[index],
            self.rotation[index],
            self.face[index],
            {name: value[index] for name, value in self.embeddings.items()},
            {name: value[index] for name, value in self.embedded.items()},
        )

    @classmethod
    def cat(cls, items: Sequence[Perceived]) -> Perceived:
        """Concatenate."""

        def joined(name: str) -> Tensor:
            return torch.cat([getattr(item, name) for item in items])

        return cls(
            joined("landmarks"),
            joined("expression"),
            joined("rotation"),
            joined("face"),
            {k: torch.cat([item.embeddings[k] for item in items]) for k in items[0].embeddings},
            {k: torch.cat([item.embedded[k] for item in items]) for k in items[0].embedded},
        )


@dataclass(frozen=True)
class RealImages:
    """Ground truth as it is scored: on the protocol's background, unknown pixels covered by it."""

    image: Float[Tensor, "b 3 h w"]
    """RGB in [0, 1]."""
    frames: Frames
    keys: tuple[str, ...]
    """Names that tell images apart, for caches."""
    valid: Float[Tensor, "b 1 h w"]
    """0 where the video does not show what is there."""

    def __len__(self) -> int:
        return len(self.image)
