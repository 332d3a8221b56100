"""Compute geometry in float32, regardless of the precision of the networks around it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
Result = TypeVar("Result")


def full_precision(function: Callable[P, Result]) -> Callable[P, Result]:
    """Switch autocasting off inside a function: products in half precision move vertices by pixels."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Result:
        active = [device for device in ("cuda", "cpu") if torch.is_autocast_enabled(device)]
        # Outside of autocast nothing is changed, so that tracing and export see plain code.
        if not active:
            return function(*args, **kwargs)
        with torch.autocast(active[0], enabled=False):
            return function(*args, **kwargs)

    return wrapped
