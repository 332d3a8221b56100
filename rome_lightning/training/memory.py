"""Estimate of a training step's memory, before the first one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

_COPIES = 3
"""Of each trained weight besides itself: its gradient and the two moments of Adam."""
_BACKWARD = 1.3
"""Gradients of activations that live beside what was kept for the backward pass, as a factor of that."""


def kept_bytes(forward: Callable[[], object], already: nn.Module) -> int:
    """Bytes that autograd keeps for the backward pass of a computation, each memory counted once.

    Args:
        forward: computes the loss; its result is dropped.
        already: network whose weights are kept anyway, and not counted.
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in (*already.parameters(), *already.buffers())}
    sizes: dict[int, int] = {}
    # Holds the tensors: memory that were freed and used again would be counted once for two.
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        result = forward()
    del result
    return sum(sizes.values())


def optimizer_bytes(module: nn.Module) -> int:
    """Bytes that training adds to a module's weights: gradients and the moments of Adam."""
    trained = (weight for weight in module.parameters() if weight.requires_grad)
    return _COPIES * sum(weight.numel() * weight.element_size() for weight in trained)


def step_bytes(kept_of_one: int, num_pairs: int) -> int:
    """Peak of a step's activations and their gradients, from what one pair keeps."""
    return int(_BACKWARD * kept_of_one * num_pairs)


def free_bytes(device: torch.device) -> int | None:
    """Free memory of a device for this process; None if the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    limits = [_available(), _group_limit()]
    known = [limit for limit in limits if limit is not None]
    return min(known) if known else None


def _available() -> int | None:
    """``MemAvailable`` of Linux: memory available without swapping."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    values = {name: rest.split()[0] for name, _, rest in (line.partition(":") for line in lines)}
    return int(values["MemAvailable"]) * 1024 if "MemAvailable" in values else None


def _group_limit(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Memory that the control group of a container or job still allows."""
    for limit, usage in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            most, used = ((folder / name).read_text(encoding="ascii").strip() for name in (limit, usage))
        except OSError:
            continue
        return int(most) - int(used) if most.isdecimal() else None
    return None
