"""A small head with FLAME's file structure, written the way FLAME's files were."""

from __future__ import annotations

import io
import pickle
import struct
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse

SEGMENTS, RINGS = 40, 26


class Python2Pickler(pickle._Pickler):
    """Pickle protocol 2 as written by Python 2: byte strings for str, old module names."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def save_bytes(self, value: bytes) -> None:
        self.write(b"T" + struct.pack("<i", len(value)) + value)

    def save_text(self, value: str) -> None:
        self.save_bytes(value.encode("latin1"))

    dispatch[bytes] = save_bytes
    dispatch[str] = save_text


def dump_like_python2(value: Any) -> bytes:
    """Pickle with the module names of NumPy and SciPy in 2017."""
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    data = file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    return data.replace(b"cscipy.sparse._csc\n", b"cscipy.sparse.csc\n")


@pytest.fixture
def chumpy(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """Classes that pickle under chumpy's names."""

    def make(name: str, module: str) -> type:
        return type(
            name, (), {"__module__": module, "__init__": lambda self, **state: self.__dict__.update(state)}
        )

    names = types.SimpleNamespace(Ch=make("Ch", "chumpy.ch"), Select=make("Select", "chumpy.reordering"))
    for module, cls in (("chumpy.ch", names.Ch), ("chumpy.reordering", names.Select)):
        fake = types.ModuleType(module)
        setattr(fake, cls.__name__, cls)
        monkeypatch.setitem(sys.modules, module, fake)
    monkeypatch.setitem(sys.modules, "chumpy", types.ModuleType("chumpy"))
    return names


def _sphere(centre: tuple[float, float, float], radius: float, rings: int = 8, segments: int = 12) -> Any:
    """A closed latitude-longitude sphere."""
    angles = np.linspace(0, np.pi, rings + 1)[1:-1]
    around = np.arange(segments) * 2 * np.pi / segments
    ring = [
        np.stack([np.sin(a) * np.sin(around), np.full(segments, np.cos(a)), np.sin(a) * np.cos(around)], 1)
        for a in angles
    ]
    points = np.concatenate([*ring, [[0, 1, 0], [0, -1, 0]]]) * radius + np.array(centre)
    faces, top, bottom = [], len(points) - 2, len(points) - 1
    for i in range(segments):
        j = (i + 1) % segments
        for r in range(rings - 2):
            a, b = r * segments, (r + 1) * segments
            faces += [[a + i, b + i, b + j], [a + i, b + j, a + j]]
        faces += [[top, i, j], [bottom, (rings - 2) * segments + j, (rings - 2) * segments + i]]
    return points, np.array(faces)


def _head() -> tuple[np.ndarray, np.ndarray]:
    """An egg with an open neck: a rim at the bottom, and a slit of 32 edges for the mouth."""
    rows = np.linspace(0, 1, RINGS)
    points = []
    for t in rows:
        y = -0.2 + 0.32 * t
        radius = 0.05 if y < -0.1 else 0.05 + 0.04 * np.sin(np.pi * (y + 0.1) / 0.25) ** 0.7
        radius *= np.sqrt(max(1 - max(t - 0.7, 0) ** 2 / 0.105, 0.02))
        around = np.arange(SEGMENTS) * 2 * np.pi / SEGMENTS
        ring = np.stack([radius * np.sin(around), np.full(SEGMENTS, y), 1.2 * radius * np.cos(around)], 1)
        points.append(ring)
    vertices = np.concatenate([*points, [[0, 0.125, 0]]])
    faces, hole_row = [], 11
    for r in range(RINGS - 1):
        for i in range(SEGMENTS):
            j = (i + 1) % SEGMENTS
            if r in (hole_row, hole_row + 1) and (i + 7) % SEGMENTS < 14:
                continue
            a, b = r * SEGMENTS, (r + 1) * SEGMENTS
            faces += [[a + i, a + j, b + j], [a + i, b + j, b + i]]
    top = (RINGS - 1) * SEGMENTS
    faces += [[top + i, top + (i + 1) % SEGMENTS, len(vertices) - 1] for i in range(SEGMENTS)]
    used, indices = np.unique(np.array(faces), return_inverse=True)
    return vertices[used], indices.reshape(-1, 3)


def make_arrays(seed: int = 0) -> dict[str, np.ndarray]:
    """Arrays with the names, shapes and units of a FLAME file, on our own mesh."""
    rng = np.random.default_rng(seed)
    head, head_faces = _head()
    parts, faces = [head], [head_faces]
    for x in (0.032, -0.032):
        eye, eye_faces = _sphere((x, 0.03, 0.065), 0.012)
        faces.append(eye_faces + sum(map(len, parts)))
        parts.append(eye)
    vertices = np.concatenate(parts)
    count = len(vertices)
    joints = np.array(
        [[0, -0.15, -0.02], [0, -0.09, -0.015], [0, -0.02, 0.01], [0.032, 0.03, 0.065], [-0.032, 0.03, 0.065]]
    )
    weights = np.zeros((count, 5))
    neck = np.clip((vertices[:, 1] + 0.2) / 0.1, 0, 1)
    jaw = np.clip(-(vertices[:, 1] + 0.045) / 0.02, 0, 1) * np.clip((vertices[:, 1] + 0.1) / 0.02, 0, 1)
    jaw *= vertices[:, 2] > 0.02
    weights[:, 0], weights[:, 1], weights[:, 2] = 1 - neck, neck * (1 - jaw), neck * jaw
    for k, part in enumerate(parts[1:]):
        start = sum(map(len, parts[: k + 1]))
        weights[start : start + len(part)] = np.eye(5)[3 + k]
    distances = np.linalg.norm(vertices[None] - joints[:, None], axis=-1)
    regressor = (distances <= np.sort(distances, axis=1)[:, 49:50]).astype(float)
    regressor /= regressor.sum(1, keepdims=True)
    return {
        "f": np.concatenate(faces).astype(np.uint32),
        "v_template": vertices,
        "shapedirs": 1e-3 * rng.standard_normal((count, 3, 400)),
        "posedirs": 1e-3 * rng.standard_normal((count, 3, 36)),
        "J_regressor": regressor,
        "J": regressor @ vertices,
        "weights": weights,
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], [0, 1, 2, 3, 4]], dtype=np.int64),
    }


@pytest.fixture
def flame_arrays() -> dict[str, np.ndarray]:
    return make_arrays()


@pytest.fixture
def flame_path(flame_arrays: dict[str, np.ndarray], chumpy: Any, tmp_path: Path) -> Path:
    """A ``generic_model.pkl`` with chumpy objects and a sparse regressor, in the style of Python 2."""
    content: dict[str, Any] = dict(flame_arrays)
    for name in ("v_template", "shapedirs", "posedirs", "weights"):
        content[name] = chumpy.Ch(x=flame_arrays[name], _dirty_vars={"x"}, _itr=None)
    content["J_regressor"] = scipy.sparse.csc_matrix(flame_arrays["J_regressor"])
    content |= {"bs_style": "lbs", "bs_type": "lrotmin"}
    path = tmp_path / "generic_model.pkl"
    path.write_bytes(dump_like_python2(content))
    return path
