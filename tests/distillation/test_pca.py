"""The streaming decomposition against a dense one of all rows at once."""

import numpy as np
import pytest
import torch

from rome_lightning.distillation.pca import StreamingPCA

ROWS, COLUMNS = 120, 21


@pytest.fixture(scope="module")
def rows() -> torch.Tensor:
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(ROWS, COLUMNS)) * 0.8 ** np.arange(COLUMNS)
    return torch.from_numpy(mixed @ np.linalg.qr(rng.normal(size=(COLUMNS, COLUMNS)))[0] + 3.0)


def stream(rows: torch.Tensor, blocks: list[torch.Tensor]) -> StreamingPCA:
    pca = StreamingPCA(rows.mean(0))
    for block in blocks:
        pca.add(block)
    return pca


@pytest.mark.parametrize("block", [1, 7, ROWS])
def test_equals_a_dense_svd(rows: torch.Tensor, block: int) -> None:
    directions, std = stream(rows, list(rows.split(block))).components()
    centred = rows.numpy() - rows.numpy().mean(0)
    _, singular, wanted = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(std, singular / np.sqrt(ROWS - 1), rtol=1e-9)
    # Signs of singular vectors are arbitrary; ours make the largest entry positive.
    np.testing.assert_allclose(np.abs((directions.numpy() * wanted).sum(1)), 1, atol=1e-9)
    assert (directions.gather(1, directions.abs().argmax(1, keepdim=True)) > 0).all()


def test_order_and_number_of_processes_do_not_matter(rows: torch.Tensor) -> None:
    directions, std = stream(rows, list(rows.split(10))).components()
    shuffled = rows[torch.randperm(ROWS, generator=torch.Generator().manual_seed(1))]
    parts = [StreamingPCA(rows.mean(0)) for _ in range(3)]
    for index, block in enumerate(shuffled.split(8)):
        parts[index % 3].add(block)
    for other in parts[1:]:
        parts[0].merge(other)
    merged, merged_std = parts[0].components()
    torch.testing.assert_close(merged_std, std, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(merged, directions, rtol=0, atol=1e-8)


def test_memory_does_not_grow_with_the_rows(rows: torch.Tensor) -> None:
    pca = StreamingPCA(rows.mean(0))
    for _ in range(20):
        pca.add(rows[:30])
        assert len(pca._kept) < 2 * COLUMNS + 30
    assert pca.num_rows == 600


def test_fewer_rows_than_columns(rows: torch.Tensor) -> None:
    few = rows[:6]
    directions, std = stream(few, [few]).components()
    rebuilt = (few - few.mean(0)) @ directions.T @ directions + few.mean(0)
    torch.testing.assert_close(rebuilt, few)
    assert std[-1] < 1e-12
