from collections.abc import Iterator

import pytest
import torch

# The tests' tensors are small: a second thread costs more than it saves, especially on shared machines.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, so that no process is left with one of them at the end."""
    items.sort(key=lambda item: "integration" not in item.path.parts)


@pytest.fixture(params=[1, 3], ids=["one thread", "three threads"])
def torch_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Number of torch threads during a test."""
    kept = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(kept)
