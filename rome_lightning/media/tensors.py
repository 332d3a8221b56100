"""Tensors with a header in one safetensors file: nothing in it is executed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from rome_lightning.media.atomic import write_atomic

_HEADER = "rome"


def write_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write a file that appears under its name only when it is complete.

    Args:
        path: its folder is made if needed.
        tensors: on any device.
        header: plain data; must have a ``format``.
    """
    data = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_atomic(path, save(data, {_HEADER: json.dumps(header)}))


def read_tensors(path: Path, file_format: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of what ``write_tensors`` wrote.

    Raises:
        ValueError: the file is damaged or has another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(_HEADER, "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged or not a {file_format} file: {error}") from error
    if header.get("format") != file_format:
        raise ValueError(f"{path} has format {header.get('format')!r}, this version reads {file_format!r}")
    return tensors, header
