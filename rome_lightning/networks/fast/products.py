"""Many matrix products with fixed right sides, on the CPU and for inference."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

_PLAIN = ([0, 0], [1, 1], [1, 1])
"""Padding, stride and dilation of a convolution that is but a product."""


class Products:
    """Products of rows with one matrix per group, the matrices arranged in memory once.

    oneDNN computes them as a convolution with groups, a fifth faster than torch's batched product, which
    arranges the matrices every time; without oneDNN (macOS on ARM) it is that one. Neither has a gradient.

    Args:
        matrices: one per group.
        bias: is added to the results, by default nothing.
        num_rows: of the left side. How matrices lie best depends on it, and to arrange them anew can take a
            hundred times as long as the product.
    """

    def __init__(
        self, matrices: Float[Tensor, "g i o"], bias: Float[Tensor, "g o"] | None, num_rows: int
    ) -> None:
        self.num_rows = num_rows
        self.num_groups, num_inputs, self._num_outputs = matrices.shape
        self._packed = torch.backends.mkldnn.is_available()
        self._matrices, self._bias = matrices, bias
        if self._packed:
            filters = matrices.transpose(1, 2).reshape(-1, num_inputs, 1, 1)
            self._matrices = torch.ops.mkldnn._reorder_convolution_weight(
                filters, *_PLAIN, self.num_groups, [1, self.num_groups * num_inputs, 1, num_rows]
            )
            self._bias = None if bias is None else bias.flatten()

    def __call__(self, rows: Float[Tensor, "n g i"]) -> Float[Tensor, "n g o"]:
        """Multiply.

        Args:
            rows: contiguous, as many as the matrices are arranged for.
        """
        if self._packed:
            pixels = rows.view(1, 1, self.num_rows, -1).permute(0, 3, 1, 2)
            results: Tensor = torch.ops.mkldnn._convolution_pointwise(
                pixels, self._matrices, self._bias, *_PLAIN, self.num_groups, "none", [], ""
            )
            return results.permute(0, 2, 3, 1).reshape(self.num_rows, self.num_groups, self._num_outputs)
        results = torch.bmm(rows.transpose(0, 1), self._matrices).transpose(0, 1)
        return (results if self._bias is None else results + self._bias).contiguous()
