"""Reading and writing plain triangle meshes and landmarks: OBJ, PLY and text."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

_PLY_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh."""

    vertices: Float[Tensor, "v 3"]
    """Units and axes as in the file."""
    faces: Int[Tensor, "f 3"]


def read_mesh(path: Path) -> Mesh:
    """Read an OBJ or PLY file; polygons become triangle fans, colours and normals are ignored.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, of another kind, has no faces or numbers that are not finite.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no mesh at {path}")
    try:
        if path.suffix.lower() == ".obj":
            vertices, polygons = _read_obj(path.read_text(encoding="utf-8", errors="replace"))
        elif path.suffix.lower() == ".ply":
            vertices, polygons = _read_ply(path.read_bytes())
        else:
            raise ValueError(f"{path.suffix} files are not supported; pass .obj or .ply")
        faces = [(p[0], p[i], p[i + 1]) for p in polygons for i in range(1, len(p) - 1)]
        mesh = Mesh(
            torch.tensor(np.asarray(vertices), dtype=torch.float32), torch.tensor(faces, dtype=torch.long)
        )
    except (ValueError, IndexError, KeyError, UnicodeDecodeError, StopIteration, OverflowError) as error:
        raise ValueError(f"cannot read {path} as a mesh: {error}") from error
    if not faces or mesh.vertices.ndim != 2 or not bool(mesh.vertices.isfinite().all()):
        raise ValueError(f"{path} has no faces, or vertices that are not finite")
    if int(mesh.faces.max()) >= len(mesh.vertices) or int(mesh.faces.min()) < 0:
        raise ValueError(f"{path} has faces whose vertices are not in the file")
    return mesh


def _read_obj(text: str) -> tuple[list[list[float]], list[list[int]]]:
    vertices: list[list[float]] = []
    polygons: list[list[int]] = []
    # A backslash continues a line.
    for line in text.replace("\\\n", " ").splitlines():
        cells = line.split()
        if cells[:1] == ["v"]:
            vertices.append([float(x) for x in cells[1:4]])
        elif cells[:1] == ["f"]:
            index = [int(cell.split("/")[0]) for cell in cells[1:]]
            polygons.append([i - 1 if i > 0 else len(vertices) + i for i in index])
    return vertices, polygons


def _read_ply(data: bytes) -> tuple[list[list[float]], list[list[int]]]:
    # Windows programs end the lines of the header by two bytes, before binary numbers too.
    parts = re.split(rb"\nend_header *\r?\n", data, maxsplit=1)
    if len(parts) != 2 or data.split(maxsplit=1)[:1] != [b"ply"]:
        raise ValueError("no PLY header")
    body = parts[1]
    lines = [line.split() for line in parts[0].decode("utf-8", errors="replace").splitlines() if line.strip()]
    kind = next(line[1] for line in lines if line[0] == "format")
    elements: list[tuple[str, int, list[list[str]]]] = []
    for line in lines:
        if line[0] == "element":
            elements.append((line[1], int(line[2]), []))
        elif line[0] == "property":
            elements[-1][2].append(line[1:])
    for name, count, properties in elements:
        # Every number takes a byte at least; without the check, a header of 100 bytes would keep us busy
        # forever.
        if not 0 <= count * max(1, len(properties)) <= len(body):
            raise ValueError(f"its header promises {count} of {name}, more than the file contains")
    tokens = iter(body.split()) if kind == "ascii" else None
    order = ">" if kind == "binary_big_endian" else "<"
    stream = io.BytesIO(body)

    def take(code: str, count: int) -> list[float]:
        if tokens is not None:
            return [float(next(tokens)) for _ in range(count)]
        dtype = np.dtype(order + _PLY_TYPES[code])
        return np.frombuffer(stream.read(dtype.itemsize * count), dtype, count).tolist()

    vertices, polygons = [], []
    for name, count, properties in elements:
        for _ in range(count):
            row: dict[str, list[float]] = {}
            for prop in properties:
                if prop[0] == "list":
                    row[prop[-1]] = take(prop[2], int(take(prop[1], 1)[0]))
                else:
                    row[prop[-1]] = take(prop[0], 1)
            if name == "vertex":
                vertices.append([row["x"][0], row["y"][0], row["z"][0]])
            elif name == "face":
                index = row.get("vertex_indices") or row["vertex_index"]
                polygons.append([int(i) for i in index])
    return vertices, polygons


def ply_bytes(mesh: Mesh) -> bytes:
    """A mesh as a binary PLY file."""
    header = (
        "ply\nformat binary_little_endian 1.0\n"
        f"element vertex {len(mesh.vertices)}\nproperty float x\nproperty float y\nproperty float z\n"
        f"element face {len(mesh.faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    faces = np.zeros(len(mesh.faces), dtype=[("count", "u1"), ("index", "<i4", 3)])
    faces["count"], faces["index"] = 3, mesh.faces.numpy()
    return header.encode() + mesh.vertices.numpy().astype("<f4").tobytes() + faces.tobytes()


def read_landmarks(path: Path) -> Float[Tensor, "n 3"]:
    """Points from a text file, three numbers per line.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it contains something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no landmarks at {path}")
    try:
        points = np.loadtxt(path, ndmin=2)
    except ValueError as error:
        raise ValueError(f"{path} is not a list of points: {error}") from error
    if points.shape[1:] != (3,) or not np.isfinite(points).all():
        raise ValueError(f"{path} must have three finite numbers per line, got shape {points.shape}")
    return torch.from_numpy(points).float()
