"""The patch discriminator of the release."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rome_lightning.geometry import full_precision


class SpectralNormConv2d(nn.Conv2d):
    """Convolution whose weight matrix is divided by its largest singular value at every forward.

    The value is followed by one power iteration per training forward and kept in evaluation. The
    singular vectors are saved, so that a resumed run continues exactly. Checkpoints that name the weight
    ``weight_orig``, as ``torch.nn.utils.spectral_norm`` does, load too.

    Source: Miyato et al., Spectral normalization for generative adversarial networks, 2018, algorithm 1.
    """

    weight_u: Tensor
    weight_v: Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        matrix = self.weight.detach().flatten(1)
        self.register_buffer("weight_u", F.normalize(torch.randn(matrix.shape[0]), dim=0))
        self.register_buffer("weight_v", F.normalize(torch.randn(matrix.shape[1]), dim=0))
        # One iteration per step lags behind from a random start; these make the first forward right.
        for _ in range(15):
            self._iterate(matrix)

    @torch.no_grad()
    def _iterate(self, matrix: Float[Tensor, "o k"]) -> None:
        self.weight_v.copy_(F.normalize(matrix.T @ self.weight_u, dim=0))
        self.weight_u.copy_(F.normalize(matrix @ self.weight_v, dim=0))

    def forward(self, inputs: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        """Convolve with the normalized weight."""
        return self._conv_forward(inputs, self._normalized_weight(), self.bias)

    @full_precision
    def _normalized_weight(self) -> Float[Tensor, "o i kh kw"]:
        """The weight over its largest singular value, which half precision would get wrong by 1 %."""
        matrix = self.weight.flatten(1)
        if self.training:
            self._iterate(matrix)
        # Copies, because a second forward of the same step changes the vectors before the backward.
        scale = torch.dot(self.weight_u.clone(), matrix @ self.weight_v.clone())
        return self.weight / scale

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        original = state_dict.pop(prefix + "weight_orig", None)
        if original is not None:
            state_dict[prefix + "weight"] = original
        super()._load_from_state_dict(state_dict, prefix, *args)


class _Block(nn.Module):
    """3x3 convolution, affine InstanceNorm, LeakyReLU."""

    def __init__(self, conv: type[nn.Conv2d], in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            conv(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
            nn.InstanceNorm2d(out_channels, affine=True),
            nn.LeakyReLU(0.2, inplace=True),
        )

    def forward(self, inputs: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        """Run the block."""
        return self.main(inputs)


class PatchDiscriminator(nn.Module):
    """PatchGAN at one scale: a score per image patch, and the features of every block.

    Source: ROME sec. 3.4 and the release (after Isola et al., Image-to-image translation with
    conditional adversarial networks, 2017).

    Args:
        in_channels: channels of the image.
        base_width: channels of the first block; they double up to ``max_width``.
        num_blocks: all blocks but the last halve the resolution.
        max_width: upper bound of the channels.
        spectral_norm: normalize every convolution by its largest singular value. Without it, the state
            dict has exactly the keys of a release in which the normalization is folded.
    """

    def __init__(
        self,
        in_channels: int = 3,
        base_width: int = 64,
        num_blocks: int = 4,
        max_width: int = 512,
        spectral_norm: bool = True,
    ) -> None:
        super().__init__()
        if num_blocks < 1:
            raise ValueError(f"num_blocks must be at least 1, got {num_blocks}")
        conv = SpectralNormConv2d if spectral_norm else nn.Conv2d
        widths = [min(base_width * 2**index, max_width) for index in range(num_blocks)]
        # Pairs of neighbours: the list of inputs is one longer.
        self.blocks = nn.ModuleList(
            _Block(conv, inputs, outputs, stride=1 if index == num_blocks - 1 else 2)
            for index, (inputs, outputs) in enumerate(zip([in_channels, *widths], widths, strict=False))
        )
        self.to_scores = conv(widths[-1], 1, 1)

    def forward(self, image: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b 1 p q"], list[Tensor]]:
        """Scores, unbounded and larger for real, and the output of every block.

        Args:
            image: RGB in [0, 1].
        """
        features: list[Tensor] = []
        current = image
        for block in self.blocks:
            current = block(current)
            features.append(current)
        return self.to_scores(current), features
