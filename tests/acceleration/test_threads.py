"""Parallel work on torch's threads."""

import threading

import pytest
import torch

from rome_lightning.acceleration import threads
from rome_lightning.acceleration.threads import share

pytestmark = [
    pytest.mark.usefixtures("torch_threads"),
    pytest.mark.parametrize("torch_threads", [3], indirect=True),
]


@pytest.fixture(params=["OpenMP", "none"])
def _parallel_region(request, monkeypatch):
    if request.param == "none":
        monkeypatch.setattr(threads, "_parallel_region", lambda: None)


@pytest.mark.usefixtures("_parallel_region")
@pytest.mark.parametrize("num_parts", [0, 1, 2, 3, 50])
def test_every_part_is_worked_on_once(num_parts):
    seen: list[int] = []
    share(seen.append, range(num_parts))
    assert sorted(seen) == list(range(num_parts))


@pytest.mark.skipif(threads._parallel_region() is None, reason="needs OpenMP's GOMP_parallel")
def test_threads_work_at_the_same_time():
    # Breaks, and raises, unless three wait together.
    meeting = threading.Barrier(3, timeout=60)
    share(lambda _: meeting.wait(), range(3))


@pytest.mark.usefixtures("_parallel_region")
def test_an_error_reaches_the_caller():
    def fail_at_four(part: int) -> None:
        if part == 4:
            raise ValueError("the fifth part")

    with pytest.raises(ValueError, match="the fifth part"):
        share(fail_at_four, range(9))


@pytest.mark.usefixtures("_parallel_region")
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_modes_of_the_caller_hold(mode):
    with mode():
        expected = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
        seen = []
        share(lambda _: seen.append((torch.is_inference_mode_enabled(), torch.is_grad_enabled())), range(9))
    assert set(seen) == {expected}


@pytest.mark.usefixtures("_parallel_region")
def test_operations_of_torch_within_the_work():
    left, right = torch.randn(2, 7, 40, 40)
    out = torch.empty_like(left)
    share(lambda part: torch.mm(left[part], right[part], out=out[part]), range(7))
    torch.testing.assert_close(out, left @ right)
    # Afterwards torch can use its threads again.
    torch.testing.assert_close(torch.ones(2_000_000).sum(), torch.tensor(2e6))
