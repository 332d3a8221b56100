"""Mesh files whose headers promise what is not there."""

from __future__ import annotations

from pathlib import Path

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
