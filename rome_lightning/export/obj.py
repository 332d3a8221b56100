"""Meshes without a rig: Wavefront OBJ with a texture, and binary PLY."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from rome_lightning.media.atomic import write_atomic, write_together
from rome_lightning.media.image import encode_png, quantize


def export_obj(
    path: str | Path,
    vertices: Float[Tensor, "v 3"],
    faces: Int[Tensor, "f 3"],
    uvs: Float[Tensor, "u 2"],
    uv_faces: Int[Tensor, "f 3"],
    texture: Float[Tensor, "3 h w"] | None = None,
) -> Path:
    """Write ``NAME.obj`` and, with a texture, ``NAME.mtl`` and ``NAME.png`` beside it.

    Args:
        path: the ``.obj`` file; its folder is made.
        vertices: metres, head space; written with micrometres.
        faces: indices into vertices.
        uvs: in [0, 1], v down (written with v up, as OBJ has it).
        uv_faces: indices into uvs.
        texture: RGB in [0, 1].

    Returns:
        The path written.
    """
    path = Path(path)
    if faces.shape != uv_faces.shape:
        raise ValueError(f"uv_faces must have one row per face, {len(faces)}, got {tuple(uv_faces.shape)}")
    lines: list[str] = []
    files: dict[Path, bytes | str] = {}
    if texture is not None:
        files[path.with_suffix(".png")] = encode_png(texture)
        files[path.with_suffix(".mtl")] = (
            "newmtl skin\nKd 1 1 1\nKa 0 0 0\nKs 0 0 0\nillum 1\n" + f"map_Kd {path.stem}.png\n"
        )
        lines += [f"mtllib {path.stem}.mtl"]
    lines += [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in vertices.detach().tolist()]
    lines += [f"vt {u:.6f} {1 - v:.6f}" for u, v in uvs.tolist()]
    if texture is not None:
        lines += ["usemtl skin"]
    for face, corners in zip((faces + 1).tolist(), (uv_faces + 1).tolist(), strict=True):
        lines.append("f " + " ".join(f"{a}/{b}" for a, b in zip(face, corners, strict=True)))
    write_together({**files, path: "\n".join(lines) + "\n"})
    return path


def export_ply(
    path: str | Path,
    vertices: Float[Tensor, "v 3"],
    faces: Int[Tensor, "f 3"],
    colours: Float[Tensor, "v 3"] | None = None,
) -> Path:
    """Write a binary PLY, with colours in [0, 1] per vertex if given."""
    path = Path(path)
    fields: list[tuple[str, str]] = [(axis, "<f4") for axis in "xyz"]
    if colours is not None:
        fields += [(channel, "u1") for channel in ("red", "green", "blue")]
    points = np.zeros(len(vertices), dtype=fields)
    for axis, name in enumerate("xyz"):
        points[name] = vertices[:, axis].detach().cpu().numpy()
    if colours is not None:
        levels = quantize(colours).cpu().numpy()
        for channel, name in enumerate(("red", "green", "blue")):
            points[name] = levels[:, channel]
    triangles = np.zeros(len(faces), dtype=[("count", "u1"), ("corners", "<i4", 3)])
    triangles["count"], triangles["corners"] = 3, faces.cpu().numpy()
    properties = [f"property {'float' if kind == '<f4' else 'uchar'} {name}" for name, kind in fields]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertices)}", *properties]
    header += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header", ""]
    write_atomic(path, "\n".join(header).encode() + points.tobytes() + triangles.tobytes())
    return path
