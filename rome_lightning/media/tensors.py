"""Tensors with a header in one safetensors file: it runs no code, and a changed byte is detected."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from rome_lightning.media.atomic import write_atomic
from rome_lightning.media.digest import note_missing

HEADER = "rome"
"""Name of the metadata that hold the header, as JSON."""
_DIGEST = "sha256"
_BLANK = "0" * 64
_MOST_HEADER_BYTES = 100_000_000
"""As the format has it."""


def pack_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file whose metadata hold the SHA-256 of the file, taken while its place held zeros.

    Args:
        tensors: on any device.
        metadata: further strings.
    """
    # Copies: safetensors refuses tensors that share memory.
    copies = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    data = _with_metadata(save(copies), {**metadata, _DIGEST: _BLANK})
    place = _place_of_digest(data, _BLANK)
    digest = hashlib.sha256(data).hexdigest().encode()
    return data[:place] + digest + data[place + len(digest) :]


def read_shipped(path: Path, sha256: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file that is part of this package.

    Args:
        path: of the file.
        sha256: of the file, compared before anything is parsed.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is damaged.
    """
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise ValueError(
            f"{path} is damaged: expected SHA-256 {sha256[:12]}..., got {found[:12]}...; "
            "reinstall rome-lightning"
        )
    return load(data), _metadata(data)


def unpack_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file from ``pack_tensors``, after verifying its digest.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is damaged.
    """
    data = bytearray(path.read_bytes())
    try:
        metadata = _metadata(data)
        stated = metadata.pop(_DIGEST, None)
        if stated is None and any(len(value) == len(_BLANK) for value in metadata.values()):
            raise ValueError("the name of its SHA-256 is damaged")
        if stated is not None:
            place = _place_of_digest(data, stated)
            data[place : place + len(_BLANK)] = _BLANK.encode()
            if hashlib.sha256(data).hexdigest() != stated:
                raise ValueError("its content does not match its SHA-256")
        tensors: dict[str, Tensor] = load(bytes(data))
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if stated is None:
        note_missing(path, "so damage to its numbers goes undetected; rewrite it to add one")
    return tensors, metadata


def _with_metadata(data: bytes, metadata: Mapping[str, str]) -> bytes:
    """The file with strings in its header, in an order that, unlike the library's, is always the same."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(data[8:end])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[end:]


def _metadata(data: bytes | bytearray) -> dict[str, str]:
    """The strings in a file's header."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(len(data) - 8, _MOST_HEADER_BYTES):
        raise ValueError("it is truncated, or not a safetensors file")
    header = json.loads(data[8 : 8 + size])
    metadata = header.get("__metadata__", {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its header is not that of a safetensors file")
    return metadata


def _place_of_digest(data: bytes | bytearray, digest: str) -> int:
    """Where the digits of the digest begin."""
    key = f'"{_DIGEST}":"'.encode()
    size = int.from_bytes(data[:8], "little")
    place = data.find(key + digest.encode(), 8, 8 + size)
    if place < 0 or len(digest) != len(_BLANK):
        raise ValueError("its SHA-256 is damaged")
    return place + len(key)


def write_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write a file that appears under its name only when it is complete.

    Args:
        path: its folder is made if needed.
        tensors: on any device.
        header: plain data; must have a ``format``.
    """
    write_atomic(path, pack_tensors(tensors, {HEADER: json.dumps(header)}))


def read_tensors(path: Path, file_format: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of what ``write_tensors`` wrote.

    Args:
        path: of the file.
        file_format: its header must have this ``format``.

    Raises:
        ValueError: the file is damaged or has another format.
    """
    try:
        tensors, metadata = unpack_tensors(path)
        header = json.loads(metadata.get(HEADER, "{}"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged or not a {file_format} file: {error}") from error
    found = header.get("format") if isinstance(header, dict) else None
    if found != file_format:
        raise ValueError(f"{path} has format {found!r}, this version reads {file_format!r}")
    return tensors, header
