"""Every written file appears under its name complete, and together with related files."""

from __future__ import annotations

import ast
import errno
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from rome_lightning.export.obj import export_obj, export_ply
from rome_lightning.media import atomic
from rome_lightning.media.atomic import write_together
from rome_lightning.media.image import write_png
from rome_lightning.media.tensors import write_tensors

ROOT = Path(__file__).parents[2]
IN_PLACE = {
    "rome_lightning/acceleration/launch.py": "the null device",
    "rome_lightning/assets/archives.py": "a folder of its own, renamed when its digest is right",
    "rome_lightning/comparison/wandb_runs.py": "copies in the folder that W&B uploads and forgets",
    "rome_lightning/export/usd.py": "a temporary folder",
    "rome_lightning/sweeps/engine.py": "locks, and logs that grow",
    "rome_lightning/export/onnx.py": "the temporary files of atomic_paths",
    "datamodules/fetching.py": "the temporary file of atomic_path",
    "datamodules/split_index.py": "the temporary file of temporary_for",
    "datamodules/shards.py": "the temporary file of atomic_path",
}
"""Modules that write other than through ``media.atomic``, and their targets."""


_SAVERS = ("copyfile", "savefig", "savez", "savez_compressed", "to_csv", "to_parquet", "tofile")
"""Other functions that write a file given its name."""
_OPEN_FILES = ("buffer", "file", "picture")
"""Names of open files."""


def _writes_in_place(source: str) -> Iterator[int]:
    """Lines that open a file for writing, or write one by a method of paths, images, figures or tables."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in ("write_text", "write_bytes"):
            yield node.lineno
        if name == "open":
            is_method = isinstance(node.func, ast.Attribute)
            mode = [*node.args[0 if is_method else 1 :], *(k.value for k in node.keywords if k.arg == "mode")]
            text = mode[0].value if mode and isinstance(mode[0], ast.Constant) else "r"
            if isinstance(text, str) and set(text) <= set("rwxab+t") and set(text) & set("wxa+"):
                yield node.lineno
        pictures = name == "save" and "Image.fromarray" in ast.unparse(node.func)
        # Without a file, some return text.
        is_named = bool(node.args) and ast.unparse(node.args[0]) not in _OPEN_FILES
        if (pictures or name in _SAVERS) and is_named:
            yield node.lineno


def test_no_module_writes_in_place():
    found = {}
    for package in ("rome_lightning", "datamodules"):
        for path in sorted((ROOT / package).rglob("*.py")):
            lines = list(_writes_in_place(path.read_text(encoding="utf-8")))
            if lines and path.name != "atomic.py":
                found[path.relative_to(ROOT).as_posix()] = lines
    assert set(found) == set(IN_PLACE), {name: found.get(name) for name in set(found) ^ set(IN_PLACE)}


def _triangle() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.eye(3), torch.tensor([[0, 1, 2]])


WRITERS: dict[str, tuple[tuple[str, ...], Callable[[Path], object]]] = {
    "obj": (
        ("a.obj", "a.mtl", "a.png"),
        lambda f: export_obj(
            f / "a.obj", *_triangle(), torch.rand(3, 2), _triangle()[1], torch.rand(3, 4, 4)
        ),
    ),
    "ply": (("a.ply",), lambda f: export_ply(f / "a.ply", *_triangle())),
    "png": (("a.png",), lambda f: write_png(f / "a.png", np.zeros((2, 2, 3), np.uint8))),
    "tensors": (
        ("a.safetensors",),
        lambda f: write_tensors(f / "a.safetensors", {"x": torch.ones(3)}, {"format": "a/1"}),
    ),
    "together": (("a", "b"), lambda f: write_together({f / "a": b"1", f / "b": "2"})),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_leaves_all_old_files_and_nothing_else(kind, tmp_path, monkeypatch):
    names, write = WRITERS[kind]
    for name in names:
        (tmp_path / name).write_bytes(b"old")
    failures = iter([False] * (len(names) - 1) + [True])

    def full(descriptor: int) -> None:
        if next(failures, True):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == dict.fromkeys(names, b"old")
    write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert all((tmp_path / name).read_bytes() != b"old" for name in names)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_disk_that_takes_no_more_is_named_with_the_file(kind, tmp_path):
    """A resource limit, which needs no privileges, stands for a quota and a full disk."""
    names, write = WRITERS[kind]
    for name in names:
        (tmp_path / name).write_bytes(b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as refused:
            write(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert Path(refused.value.filename) in [tmp_path / name for name in names]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == dict.fromkeys(names, b"old")


@pytest.mark.parametrize("kind", WRITERS)
def test_no_link_is_followed(kind, tmp_path):
    names, write = WRITERS[kind]
    (tmp_path / "out").mkdir()
    for name in names:
        (tmp_path / f"elsewhere {name}").write_bytes(b"kept")
        (tmp_path / "out" / name).symlink_to(tmp_path / f"elsewhere {name}")
    write(tmp_path / "out")
    assert all((tmp_path / f"elsewhere {name}").read_bytes() == b"kept" for name in names)
