"""Kernels as operators: one node for ``torch.compile`` and ``torch.export``, a plain call elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor


class Operator:
    """A function on tensors that is also ``torch.ops.rome_lightning.<name>``.

    The custom operators of torch import its compiler at their first call, which takes two to three seconds
    and is of no use outside of it, and look their function up at each.
    """

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        self.function = function
        self.compiled = torch.library.custom_op(f"rome_lightning::{name}", function, mutates_args=())
        self.register_fake = self.compiled.register_fake
        self._eager: Callable[..., Any] = function

    def register_autograd(self, backward: Callable[..., Any], *, setup_context: Callable[..., Any]) -> None:
        """Give the operator a gradient; arguments as for ``torch.library.register_autograd``."""
        self.compiled.register_autograd(backward, setup_context=setup_context)
        methods = {"forward": self.function, "setup_context": setup_context, "backward": backward}
        body = {name: staticmethod(method) for name, method in methods.items()}
        function: Any = type(self.name, (torch.autograd.Function,), body)
        self._eager = function.apply

    def __call__(self, *args: Any) -> Any:
        """What the function returns."""
        traced = torch.compiler.is_compiling() or not all(map(_has_data, args))
        return self.compiled(*args) if traced else self._eager(*args)


def operator(name: str) -> Callable[[Callable[..., Any]], Operator]:
    """Decorate a function that changes no argument as the operator ``rome_lightning::<name>``."""
    return partial(Operator, name)


def _has_data(value: object) -> bool:
    """False for tensors that only stand for others: those of a tracer, and of the device "meta"."""
    if not isinstance(value, Tensor):
        return True
    return type(value) in (Tensor, torch.nn.Parameter) and not value.is_meta
