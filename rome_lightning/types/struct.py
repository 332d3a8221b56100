"""The one base class of dataclasses that hold batched tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

Struct = TypeVar("Struct", bound="TensorStruct")


class TensorStruct:
    """Base of frozen dataclasses whose tensor fields share their first (batch) dimension.

    Fields may be tensors, other structs, ``None`` or plain values. Lightning moves an object to the
    device through ``to`` and a DataLoader pins it through ``pin_memory``.
    """

    def map(self: Struct, function: Callable[[Tensor], Tensor]) -> Struct:
        """Apply ``function`` to every tensor, nested structs included; other fields are kept."""

        def mapped(value: Any) -> Any:
            if isinstance(value, Tensor):
                return function(value)
            return value.map(function) if isinstance(value, TensorStruct) else value

        changes = {f.name: mapped(getattr(self, f.name)) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def to(self: Struct, *args: Any, **kwargs: Any) -> Struct:
        """Move every tensor; arguments as for ``Tensor.to``."""
        return self.map(lambda tensor: tensor.to(*args, **kwargs))

    def pin_memory(self: Struct) -> Struct:
        """Copy every tensor to page-locked memory."""
        return self.map(lambda tensor: tensor.pin_memory())

    def detach(self: Struct) -> Struct:
        """Cut every tensor from the graph."""
        return self.map(lambda tensor: tensor.detach())

    def expand(self: Struct, count: int) -> Struct:
        """Repeat a batch of one ``count`` times without copying; the result must not be written to."""
        return self.map(lambda tensor: tensor.expand(count, *(-1 for _ in tensor.shape[1:])))

    def repeat_interleave(self: Struct, repeats: int) -> Struct:
        """Repeat every batch item ``repeats`` times in place: (a, b) -> (a, a, b, b)."""
        return self.map(lambda tensor: tensor.repeat_interleave(repeats, dim=0))

    def __getitem__(self: Struct, index: slice | Tensor) -> Struct:
        """Select batch items by slice, index tensor or mask (never an int: the batch dimension stays)."""
        return self.map(lambda tensor: tensor[index])

    @classmethod
    def cat(cls: type[Struct], items: Sequence[Struct]) -> Struct:
        """Concatenate along the batch dimension; non-tensor fields are taken from the first item.

        A field that is ``None`` in one item is ``None`` in the result.
        """
        first = items[0]
        changes: dict[str, Any] = {}
        for field in dataclasses.fields(first):  # type: ignore[arg-type]
            values = [getattr(item, field.name) for item in items]
            if any(value is None for value in values):
                changes[field.name] = None
            elif isinstance(values[0], Tensor):
                changes[field.name] = torch.cat(values)
            elif isinstance(values[0], TensorStruct):
                changes[field.name] = type(values[0]).cat(values)
        return dataclasses.replace(first, **changes)  # type: ignore[type-var]
