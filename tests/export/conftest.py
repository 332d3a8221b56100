"""The heads exported in these tests."""

from __future__ import annotations

import pytest
import torch

from rome_lightning.export.person import Person
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


@pytest.fixture(scope="session")
def person(head: HeadModel, shape: torch.Tensor, offsets: torch.Tensor) -> Person:
    """With a smooth texture: JPEG is made for photographs, not for noise."""
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 64), indexing="ij")
    return Person(head, shape, offsets, torch.stack([rows, columns, 1 - rows]))
