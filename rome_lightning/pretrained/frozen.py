"""A pretrained network that is used but never trained, saved or synchronized."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class FrozenNetwork(nn.Module):
    """Holds a network outside of the module tree, so that training machinery never meets it.

    The network stays in evaluation mode without gradients of its own (inputs still get theirs). Its
    tensors follow moves to another device or precision, but appear in no ``state_dict``,
    ``parameters`` or ``buffers``: checkpoints stay small, loading stays strict, optimizers, weight
    averaging and distributed training leave it alone.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        # A tuple, because an attribute that is a module would be registered as a child.
        self._held = (network.eval().requires_grad_(False),)

    @property
    def network(self) -> nn.Module:
        """The network itself."""
        return self._held[0]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the network."""
        return self.network(*args, **kwargs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenNetwork:
        self.network._apply(fn, recurse)
        return super()._apply(fn, recurse)
