from collections.abc import Iterator

import pytest
import torch

# The tests' tensors are small: a second thread costs more than it saves, especially on shared machines.
torch.set_num_threads(1)


@pytest.fixture(params=[1, 3], ids=["one thread", "three threads"])
def torch_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Number of torch threads during a test."""
    kept = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(kept)
