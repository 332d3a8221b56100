"""Parameter files of other trackers as plain arrays, without running their code."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rome_lightning.pretrained.restricted_pickle import load_npy_object, load_pickle

FILE_SUFFIXES = (".npz", ".npy", ".pt", ".pth", ".pkl", ".mat", ".json")
"""Of the files that ``read_arrays`` reads; ``.json`` is VHAP's ``transforms.json``."""

Arrays = dict[str, NDArray[np.float64]]


def read_arrays(path: Path, wanted: Iterable[str]) -> Arrays:
    """The arrays of some names in a file, or in a folder with an ``.npy`` for each, as EMOCA writes.

    Args:
        path: file with one of ``FILE_SUFFIXES`` but ``.json``, or folder.
        wanted: names; others are not read, however large.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, of another kind, or contains more than data.
    """
    if not path.exists():
        raise FileNotFoundError(f"no FLAME parameters at {path}")
    names = set(wanted)
    with _reading(path):
        content = _content(path, names)
        arrays = {name: _numbers(content[name]) for name in names & set(content)}
    return {name: array for name, array in arrays.items() if array is not None}


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Name the file in whatever error a library raises for it."""
    try:
        yield
    # Damaged files make scipy, zlib, zipfile, numpy and torch raise their own errors, which share no base
    # class.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path} cannot be read as parameters: {reason}; save them with numpy.savez"
        ) from error


def _content(path: Path, names: set[str]) -> dict[str, Any]:
    if path.is_dir():
        files = (path / f"{name}.npy" for name in names)
        return {file.stem: np.load(file, allow_pickle=False) for file in files if file.is_file()}
    suffix = path.suffix.lower()
    if suffix == ".npz":
        with _archive(path) as file:
            return {name: file[name] for name in names & set(file.files)}
    if suffix == ".mat":
        from scipy.io import loadmat

        return dict(loadmat(path, variable_names=list(names)))
    if suffix in (".pt", ".pth"):
        content = torch.load(path, map_location="cpu", weights_only=True)
    elif suffix == ".npy":
        content = load_npy_object(path)
    elif suffix == ".pkl":
        content = load_pickle(path)
    else:
        raise ValueError(f"wanted {', '.join(FILE_SUFFIXES)} or a folder of .npy files")
    if not isinstance(content, dict):
        raise ValueError(f"wanted a dictionary of arrays, got {type(content).__name__}")
    return content


def _numbers(value: Any) -> NDArray[np.float64] | None:
    """An array of numbers; None for anything else, such as names or tensors in a pickle."""
    if isinstance(value, torch.Tensor):
        # NumPy lacks bfloat16.
        value = value.detach().double().numpy()
    try:
        array = np.asarray(value)
    except ValueError:
        return None
    return array.astype(np.float64) if array.dtype.kind in "biuf" else None


def _archive(path: Path) -> np.lib.npyio.NpzFile:
    content = np.load(path, allow_pickle=False)
    if not isinstance(content, np.lib.npyio.NpzFile):
        raise ValueError("it is a single array (.npy) by the name of an archive")
    return content


def read_names(path: Path, name: str) -> tuple[str, ...]:
    """The strings of an ``.npz`` under a name; none if it has none.

    Raises:
        ValueError: the file is damaged.
    """
    if path.suffix.lower() != ".npz":
        return ()
    with _reading(path), _archive(path) as file:
        if name not in file.files or file[name].dtype.kind not in "US":
            return ()
        return tuple(str(text) for text in np.atleast_1d(file[name]).ravel())


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: it is not JSON, or contains something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} should contain an object, but contains a {type(content).__name__}")
    return content
