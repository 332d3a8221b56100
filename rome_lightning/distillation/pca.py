"""Principal components of a stream of rows."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


class StreamingPCA:
    """Exact principal components in memory that does not grow with the number of rows.

    Rows are kept, less the mean; once there are twice as many as columns they are folded into the
    triangular factor of their QR decomposition, which has the same right singular vectors. So the
    result is that of a dense SVD of all rows, up to rounding, in whatever order they come.

    Args:
        mean: of all rows, from a pass before.
    """

    def __init__(self, mean: Float[Tensor, " d"]) -> None:
        self.mean = mean.double()
        self.num_rows = 0
        self._kept = torch.zeros(0, len(mean), dtype=torch.float64)

    def add(self, rows: Float[Tensor, "n d"]) -> None:
        """Add rows."""
        self._kept = torch.cat([self._kept, rows.double() - self.mean])
        self.num_rows += len(rows)
        if len(self._kept) >= 2 * len(self.mean):
            self._kept = torch.linalg.qr(self._kept, mode="r").R

    def merge(self, other: StreamingPCA) -> None:
        """Add the rows of another instance with the same mean, for example from another process."""
        self._kept = torch.cat([self._kept, other._kept])
        self.num_rows += other.num_rows

    def components(self) -> tuple[Float[Tensor, "r d"], Float[Tensor, " r"]]:
        """Orthonormal directions and the standard deviation along each, largest first.

        The entry of largest magnitude of each direction is positive, so that signs are reproducible.
        """
        _, singular, directions = torch.linalg.svd(self._kept, full_matrices=False)
        largest = directions.abs().argmax(1, keepdim=True)
        directions = directions * directions.gather(1, largest).sign()
        return directions, singular / max(self.num_rows - 1, 1) ** 0.5
