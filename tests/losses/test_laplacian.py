import math

import pytest
import torch
from torch.autograd import gradcheck

from rome_lightning.geometry import unique_edges
from rome_lightning.losses import laplacian

# Two triangles sharing an edge, a separate triangle, and a vertex without a face.
FACES = torch.tensor([[0, 1, 2], [2, 1, 3], [4, 5, 6]])
EDGES = unique_edges(FACES)
NUM_VERTICES = 8


def offsets(batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, NUM_VERTICES, 3, dtype=torch.float64, generator=generator)


def by_loops(values: torch.Tensor, norm: str) -> float:
    neighbours: dict[int, set[int]] = {v: set() for v in range(NUM_VERTICES)}
    for a, b, c in FACES.tolist():
        for i, j in ((a, b), (b, c), (c, a)):
            neighbours[i].add(j)
            neighbours[j].add(i)
    total = 0.0
    for sample in values.tolist():
        for v, around in neighbours.items():
            if not around:
                continue
            row = [sum(sample[j][k] for j in around) / len(around) - sample[v][k] for k in range(3)]
            total += sum(map(abs, row)) if norm == "l1" else math.sqrt(sum(x * x for x in row))
    return total / (len(values) * NUM_VERTICES)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_against_loops(norm: str) -> None:
    values = offsets()
    assert laplacian(values, EDGES, norm).item() == pytest.approx(by_loops(values, norm))  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_constant_offsets_cost_nothing_and_have_a_gradient(norm: str) -> None:
    values = torch.full((1, NUM_VERTICES, 3), 0.25, requires_grad=True)
    loss = laplacian(values, EDGES, norm)  # type: ignore[arg-type]
    loss.backward()
    assert loss.item() == 0
    assert values.grad is not None
    assert torch.isfinite(values.grad).all()


@pytest.mark.gradcheck
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_gradient(norm: str) -> None:
    assert gradcheck(lambda x: laplacian(x, EDGES, norm), (offsets(1).requires_grad_(),))  # type: ignore[arg-type]


def test_errors() -> None:
    with pytest.raises((ValueError, TypeError), match="edges"):
        laplacian(offsets(), FACES)
    with pytest.raises((ValueError, TypeError), match="l3"):
        laplacian(offsets(), EDGES, "l3")  # type: ignore[arg-type]
