"""Mesh files whose headers promise missing data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rome_lightning.media.meshes import read_mesh


@pytest.mark.parametrize(
    "header",
    [
        "element vertex 99999999999\nelement face 1\nproperty list uchar int vertex_indices\n",
        "element vertex 99999999999\nproperty float x\nproperty float y\nproperty float z\n",
        "element vertex -1\nproperty float x\n",
        "element vertex 99999999999\n",
    ],
)
@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian"])
def test_headers_are_not_taken_at_their_word(tmp_path: Path, header: str, kind: str) -> None:
    path = tmp_path / "head.ply"
    path.write_bytes(f"ply\nformat {kind} 1.0\n{header}end_header\n".encode() + bytes(64))
    with pytest.raises(ValueError, match=r"head\.ply as a mesh: its header promises"):
        read_mesh(path)


def test_numbers_that_are_missing_are_said(tmp_path: Path) -> None:
    path = tmp_path / "head.ply"
    properties = "".join(f"property float {axis}\n" for axis in "xyz")
    path.write_text(f"ply\nformat ascii 1.0\nelement vertex 3\n{properties}end_header\n0 0 0\n1 0 0\n")
    with pytest.raises(ValueError, match=r"cannot read .*head\.ply as a mesh"):
        read_mesh(path)


@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian", "binary_big_endian"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_headers_of_every_system_are_read(tmp_path: Path, kind: str, end: bytes) -> None:
    lines = ["ply", f"format {kind} 1.0", "comment caf\u00e9", "element vertex 3"]
    lines += [f"property float {axis}" for axis in "xyz"]
    lines += ["element face 1", "property list uchar int vertex_indices", "end_header"]
    head = b"".join(line.encode() + end for line in lines)
    vertices, faces = np.eye(3), [[3, 0, 1, 2]]
    if kind == "ascii":
        body = b"".join(" ".join(f"{x:g}" for x in row).encode() + end for row in (*vertices, *faces))
    else:
        order = "<" if "little" in kind else ">"
        body = vertices.astype(f"{order}f4").tobytes() + b"\3" + np.arange(3).astype(f"{order}i4").tobytes()
    (tmp_path / "head.ply").write_bytes(head + body)
    mesh = read_mesh(tmp_path / "head.ply")
    assert np.array_equal(mesh.vertices, vertices)
    assert mesh.faces.tolist() == [[0, 1, 2]]


def test_lines_of_obj_continue_after_a_backslash(tmp_path: Path) -> None:
    (tmp_path / "head.obj").write_text("v 1 0 0\nv 0 1 0\nv 0 \\\n0 1\nf -3 \\\n -2 -1\n")
    mesh = read_mesh(tmp_path / "head.obj")
    assert np.array_equal(mesh.vertices, np.eye(3))
    assert mesh.faces.tolist() == [[0, 1, 2]]
