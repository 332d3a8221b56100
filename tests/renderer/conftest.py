"""Fixtures for the implementations available on this machine."""

import pytest

from rome_lightning.renderer import Rasterizer, available_rasterizers, get_rasterizer


@pytest.fixture(params=["torch", "warp"])
def rasterizer(request: pytest.FixtureRequest) -> Rasterizer:
    """Each of our backends; Warp only if installed."""
    status = available_rasterizers()[request.param]
    if status != "ok":
        pytest.skip(status)
    return get_rasterizer(request.param)


@pytest.fixture
def fused(rasterizer: Rasterizer) -> bool:
    """Whether operations use the kernels, to match ``rasterizer``."""
    return rasterizer.name == "warp"
