"""The heads that are exported in these tests."""

from __future__ import annotations

import pytest
import torch

from rome_lightning.head import HeadModel, load_head


@pytest.fixture(scope="session")
def head() -> HeadModel:
    return load_head("open")


@pytest.fixture(scope="session")
def shape(head: HeadModel) -> torch.Tensor:
    return 0.7 * torch.randn(head.num_shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def offsets(head: HeadModel) -> torch.Tensor:
    """Two centimetres of hair, upwards."""
    offsets = torch.zeros(head.num_vertices, 3)
    offsets[head.region("scalp"), 1] = 0.02
    return offsets
