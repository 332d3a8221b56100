"""Records that Weights & Biases kept on this machine (``offline-run-*``), read without a server."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_BLOCK = 32768
_HEAD = struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_HEADER_BYTES = 7
"""Of the file: ``:W&B``, a magic number, a version."""


@dataclass
class OfflineRun:
    """A record, with the names that runs of ``wandb.Api`` have."""

    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)

    def scan_history(self) -> list[dict[str, Any]]:
        """All rows."""
        return self.history


def find_record(folder: Path) -> Path | None:
    """The ``run-ID.wandb`` of a folder of W&B; None if it is not such a folder."""
    if not folder.name.startswith(("offline-run-", "run-")):
        return None
    return next(iter(sorted(folder.glob("run-*.wandb"))), None)


def read_record(path: Path) -> OfflineRun:
    """Read a record, ignoring an entry that a killed process left incomplete.

    Raises:
        ValueError: it is not a W&B record, or damaged.
    """
    from wandb.proto import wandb_internal_pb2

    run = OfflineRun()
    for data in _records(path):
        record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            _update(run.config, record.run.config.update)
        elif kind == "config":
            _update(run.config, record.config.update)
        elif kind == "summary":
            _update(run.summary, record.summary.update)
        elif kind == "history":
            row: dict[str, Any] = {}
            _update(row, record.history.item)
            run.history.append(row)
    run.config.pop("_wandb", None)
    if not run.summary:
        for row in run.history:
            run.summary |= row
    return run


def _update(values: dict[str, Any], items: Sequence[Any]) -> None:
    for item in items:
        keys = list(item.nested_key) or [item.key]
        inner = values
        for key in keys[:-1]:
            if not isinstance(inner.get(key), dict):
                # What had a value before has parts now.
                inner[key] = {}
            inner = inner[key]
        inner[keys[-1]] = json.loads(item.value_json)


def _records(path: Path) -> Iterator[bytes]:
    """Contents of a log in LevelDB's format: blocks of 32 KB, records cut where a block ends."""
    data = path.read_bytes()
    if not data.startswith(b":W&B"):
        raise ValueError(f"{path} is not a record of Weights & Biases")
    place, parts = _HEADER_BYTES, []
    while place + _HEAD.size <= len(data):
        left = _BLOCK - place % _BLOCK
        if left < _HEAD.size:
            place += left
            continue
        checksum, length, kind = _HEAD.unpack_from(data, place)
        content = data[place + _HEAD.size : place + _HEAD.size + length]
        if len(content) < length or not kind:
            return
        if kind > _LAST or zlib.crc32(bytes([kind]) + content) != checksum:
            raise ValueError(f"{path} is damaged at byte {place}")
        parts.append(content)
        if kind in (_FULL, _LAST):
            yield b"".join(parts)
            parts = []
        place += _HEAD.size + length
