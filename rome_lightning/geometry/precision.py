"""Geometry in float32, whatever the precision of the networks around it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
Result = TypeVar("Result")


def full_precision(function: Callable[P, Result]) -> Callable[P, Result]:
    """Disable autocast inside a function: half-precision products move vertices by whole pixels."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Result:
        active = [device for device in ("cuda", "cpu") if torch.is_autocast_enabled(device)]
        # Without autocast nothing is wrapped, so that tracing and export see plain code.
        if not active:
            return function(*args, **kwargs)
        with torch.autocast(active[0], enabled=False):
            return function(*args, **kwargs)

    return wrapped
