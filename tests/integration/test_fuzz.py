"""Damaged files of every kind: each is refused in one line or reads as before, and none hangs."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers import perturbed, random_frames, small_config
from tiny_run import tiny_overlay, untrained_checkpoint, write_synthetic_dataset

from datamodules.manifest import Manifest
from datamodules.reading import ClipReader
from datamodules.verifying import verify
from rome_lightning.avatar import Avatar
from rome_lightning.cli import main as cli
from rome_lightning.head import load_head
from rome_lightning.models import AvatarModel, LinearBasis
from rome_lightning.models.basis import mesh_fingerprint
from rome_lightning.models.checkpoint import read_checkpoint
from rome_lightning.models.shipped import SHIPPED, open_model, write_model

SEED = 20
LIMIT_S = 60
"""Time limit for reading one file on a busy machine, seconds."""
SHARD = "train-000000"
MUTATIONS = {
    "avatar": 60,
    "checkpoint": 90,
    "basis": 60,
    "model": 60,
    "index": 75,
    "shard": 80,
    "manifest": 50,
    "config": 22,
}
"""Number of damaged files per kind."""


Original = tuple[Path, Callable[[Path], Any], Path]
"""The damaged file, its reader, and the path passed to the reader."""


def mutate(data: bytes, generator: np.random.Generator) -> bytes:
    """One random change: a bit, some bytes, zeros, a cut, inserted or removed bytes, swapped blocks."""
    out = bytearray(data)
    kind = generator.integers(7)
    place, length = int(generator.integers(len(out))), int(generator.integers(1, 200))
    if kind == 0:
        out[place] ^= 1 << int(generator.integers(8))
    elif kind == 1:
        out[place : place + length] = generator.bytes(len(out[place : place + length]))
    elif kind == 2:
        out[place : place + length] = bytes(len(out[place : place + length]))
    elif kind == 3:
        del out[place:]
    elif kind == 4:
        out += generator.bytes(length)
    elif kind == 5:
        del out[place : place + length]
    else:
        other = int(generator.integers(len(out)))
        a, b = out[place : place + 64], out[other : other + 64]
        out[place : place + len(b)], out[other : other + len(a)] = b, a
    return bytes(out)


def meaning(value: Any) -> str:
    """Hash of all numbers and texts in a value."""
    digest = hashlib.sha256()

    def add(item: Any) -> None:
        if isinstance(item, torch.Tensor):
            item = item.detach().cpu().numpy()
        if isinstance(item, np.ndarray):
            digest.update(f"{item.dtype}{item.shape}".encode() + item.tobytes())
        elif isinstance(item, dict):
            for key, inner in item.items():
                digest.update(str(key).encode())
                add(inner)
        elif dataclasses.is_dataclass(item):
            add(vars(item))
        elif isinstance(item, list | tuple):
            digest.update(str(len(item)).encode())
            for inner in item:
                add(inner)
        else:
            digest.update(repr(item).encode())

    add(value)
    return digest.hexdigest()


def _read_avatar(path: Path) -> Any:
    avatar = Avatar.load(path)
    return [avatar.model.state_dict(), avatar.code, avatar.photos, avatar.image_size]


def _read_model(path: Path) -> Any:
    model = open_model(path)
    return [model.state_dict(), model.config]


def _read_basis(path: Path) -> Any:
    basis = LinearBasis.load(path)
    return [vars(basis)]


def _read_dataset(folder: Path) -> Any:
    """Every frame and parameter of the training split, as training reads them."""
    manifest = Manifest.load(folder)
    reader = ClipReader(manifest, folder, "train")
    content: list[Any] = [dataclasses.asdict(manifest)]
    for number, clip in enumerate(reader.plan_clips()):
        content.append([reader.key(number), reader.meta(number)])
        content += [reader.frame(number, frame) for frame in clip.frames]
    return content


@pytest.fixture(scope="module")
def originals(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, tuple[Path, Callable[[Path], Any], Path]]:
    """By kind: the damaged file, its reader, and the reader's path."""
    folder = tmp_path_factory.mktemp("originals")
    head = load_head("open")
    model = perturbed(AvatarModel(small_config()))
    Avatar.create(model, random_frames(model.head, 1), refine_steps=0).save(folder / "a.safetensors")
    untrained_checkpoint(folder / "a.ckpt")
    write_model(folder / "a.ckpt", folder / "model.safetensors")
    components = torch.linalg.qr(torch.randn(3 * head.num_vertices, 3))[0].T.unflatten(1, (-1, 3))
    rest = (torch.zeros(head.num_vertices, 3), torch.ones(3), 2, head.name, mesh_fingerprint(head))
    LinearBasis(components.contiguous(), *rest).save(folder / "basis.safetensors")
    data = folder / "data"
    data.mkdir()
    write_synthetic_dataset(data)
    index = data / f"{SHARD}.frames.npy"
    return {
        "avatar": (folder / "a.safetensors", _read_avatar, folder / "a.safetensors"),
        "checkpoint": (folder / "a.ckpt", read_checkpoint, folder / "a.ckpt"),
        "model": (folder / "model.safetensors", _read_model, folder / "model.safetensors"),
        "basis": (folder / "basis.safetensors", _read_basis, folder / "basis.safetensors"),
        "index": (index, _read_dataset, data),
        "shard": (data / f"{SHARD}.tar", _read_dataset, data),
        "manifest": (data / "manifest.json", _read_dataset, data),
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["avatar", "checkpoint", "basis", "model", "index", "shard", "manifest"])
def test_a_damaged_file_is_refused_or_means_what_it_meant(kind, originals, tmp_path):
    original, read, given = originals[kind]
    if given.is_dir():
        given = shutil.copytree(given, tmp_path / "copy")
        target = given / original.name
    else:
        target = given = tmp_path / original.name
    whole = original.read_bytes()
    target.write_bytes(whole)
    wanted = meaning(read(given))
    generator = np.random.default_rng([SEED, len(kind)])
    silent = []
    for number in range(MUTATIONS[kind]):
        target.write_bytes(mutate(whole, generator))
        began = time.monotonic()
        # Any other error would be shown with a traceback.
        with contextlib.suppress(ValueError, OSError):
            if meaning(read(given)) != wanted:
                silent.append(number)
        assert time.monotonic() - began < LIMIT_S, number
    assert not silent


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SHIPPED))
def test_every_change_of_a_shipped_model_is_found(name, tmp_path, monkeypatch):
    whole = SHIPPED[name].path.read_bytes()
    monkeypatch.setattr("rome_lightning.models.shipped._FOLDER", tmp_path)
    generator = np.random.default_rng(SEED)
    for _ in range(20):
        changed = mutate(whole, generator)
        SHIPPED[name].path.write_bytes(changed)
        if changed != whole:
            with pytest.raises(ValueError, match="is damaged: expected SHA-256"):
                open_model(name)


@pytest.mark.slow
def test_verification_finds_every_change_of_a_data_set(originals, tmp_path):
    given = originals["shard"][2]
    copy = shutil.copytree(given, tmp_path / "copy")
    generator = np.random.default_rng(SEED)
    manifest = Manifest.load(copy, check_files=False)
    for suffix in (".tar", ".frames.npy", ".clips.npy", ".params.npy", ".json"):
        path = copy / f"{SHARD}{suffix}"
        whole = path.read_bytes()
        for _ in range(8):
            changed = mutate(whole, generator)
            path.write_bytes(changed)
            problems = [p for _, found in verify(copy, manifest) for p in found]
            assert problems or changed == whole, suffix
        path.write_bytes(whole)


@pytest.mark.slow
def test_a_damaged_configuration_is_read_or_refused_in_one_line(originals, tmp_path, capfd):
    overlay = tiny_overlay(originals["shard"][2], tmp_path / "run")
    whole = yaml.safe_dump(overlay).encode()
    generator = np.random.default_rng(SEED)
    base = Path(__file__).parents[2] / "experiments" / "full" / "base.yaml"
    for _ in range(MUTATIONS["config"]):
        (tmp_path / "config.yaml").write_bytes(mutate(whole, generator))
        code = cli.main(
            ["fit", "--config", str(base), "--config", str(tmp_path / "config.yaml"), "--print_config"]
        )
        shown = capfd.readouterr().err
        assert "Traceback" not in shown
        assert code == 0 or len([line for line in shown.splitlines() if line.startswith("rome: error")]) == 1
