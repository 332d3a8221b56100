"""An avatar's neural render as two ONNX files: the mesh, and its image.

Between them the caller rasterizes: it finds the triangle at each pixel, and the nearest mesh pixel for pixels
beside the mesh. Everything else is the model's own code, traced with the person as constants.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int32
from torch import Tensor, nn

from rome_lightning.acceleration import plain_torch
from rome_lightning.avatar import Avatar
from rome_lightning.export.onnx import OPSET, TOLERANCE, require_onnx, run_network
from rome_lightning.media.atomic import atomic_path, write_atomic
from rome_lightning.renderer import nearest_covered
from rome_lightning.types import HeadParams
from rome_lightning.types.params import at_rest


class MeshProgram(nn.Module):
    """From expression and pose to the person's mesh."""

    def __init__(self, avatar: Avatar, size: int) -> None:
        super().__init__()
        self.model, self.code, self.size = avatar.model, avatar.code, size

    def forward(
        self,
        expression: Float[Tensor, "1 e"],
        rotations: Float[Tensor, "1 15"],
        camera: Float[Tensor, "1 3"],
    ) -> Float[Tensor, "1 v 3"]:
        """Vertices in pixels.

        Args:
            expression: weights.
            rotations: of root, neck, jaw, left and right eye, axis-angle, radians.
            camera: scale and translation, as in ``HeadParams``.
        """
        root, neck, jaw, eyes = rotations.split([3, 3, 3, 6], dim=1)
        params = HeadParams(self.code.shape, expression, root, neck, jaw, eyes, camera)
        vertices = self.model.deform(self.code, params).vertices
        return self.model.project(vertices, params, (self.size, self.size))


class PictureProgram(nn.Module):
    """From the mesh to an image."""

    def __init__(self, avatar: Avatar) -> None:
        super().__init__()
        assert avatar.code.carried is not None
        self.renderer, self.carried = avatar.model.renderer, avatar.code.carried
        self.maps = avatar.code.maps

    def forward(
        self,
        vertices_px: Float[Tensor, "1 v 3"],
        face_ids: Int32[Tensor, "1 h w"],
        nearest: Int32[Tensor, "1 h w"],
    ) -> Float[Tensor, "1 4 h w"]:
        """Colour and opacity, [0, 1].

        Args:
            vertices_px: of ``MeshProgram``.
            face_ids: triangle that each pixel's centre shows, -1 beside the mesh.
            nearest: flat index of the nearest pixel that the mesh covers; of itself on the mesh.
        """
        # Models with carried photographs take their normals from the projected mesh.
        rgb, mask, _ = self.renderer.shade(
            self.maps, vertices_px, vertices_px, face_ids, self.carried, nearest
        )
        return torch.cat([rgb.clamp(0, 1), mask], dim=1)


FILES = ("mesh.onnx", "picture.onnx", "faces.bin", "neural.json")
"""Output of ``export_browser_networks``."""


def check_browser_networks(avatar: Avatar) -> None:
    """Refuse unsupported models before anything is computed.

    Raises:
        ValueError: a model without carried photographs, or too many vertices.
        ImportError: the packages that write and run ONNX are missing.
    """
    require_onnx()
    head = avatar.model.head
    if avatar.code.carried is None or avatar.model.config.decoder.normals != "camera":
        raise ValueError(
            "the neural render in a browser needs a model with avatar.decoder.carry and normals camera, as "
            "the shipped one is"
        )
    if head.num_vertices > np.iinfo(np.uint16).max + 1:
        raise ValueError(f"faces.bin has 16-bit corners; {head.name} has {head.num_vertices} vertices")


@torch.no_grad()
def export_browser_networks(avatar: Avatar, folder: Path) -> list[Path]:
    """Write the files that render the person without this package, at the networks' size.

    Args:
        avatar: of a model that carries photographs.
        folder: gets ``mesh.onnx``, ``picture.onnx``, ``faces.bin`` (three unsigned 16-bit corners per
            triangle) and ``neural.json`` (size, names of expressions, the photograph's camera).

    Returns:
        The files written.

    Raises:
        ValueError: a model without carried photographs, too many vertices, or a file's image differs from
            PyTorch's.
        ImportError: the packages that write and run ONNX are missing.
    """
    check_browser_networks(avatar)
    model, size = avatar.model, avatar.network_size
    params = at_rest(avatar.source.params)
    rotations = torch.zeros(1, 15)
    mesh, picture = MeshProgram(avatar, size), PictureProgram(avatar)
    with plain_torch():
        vertices_px = mesh(params.expression, rotations, params.camera)
        face_ids = model.rasterizer.face_ids(vertices_px, model.head.faces, (size, size))
        nearest, _ = nearest_covered(face_ids >= 0)
        posed = {"expression": params.expression, "rotations": rotations, "camera": params.camera}
        seen = {"vertices": vertices_px, "face_ids": face_ids, "nearest": nearest}
        _write(folder / "mesh.onnx", mesh, posed, "vertices")
        _write(folder / "picture.onnx", picture, seen, "picture")
    description = {
        "size": size,
        "expressions": list(model.head.expression_names),
        "camera": params.camera[0].tolist(),
    }
    write_atomic(folder / "faces.bin", model.head.faces.cpu().numpy().astype("<u2").tobytes())
    write_atomic(folder / "neural.json", json.dumps(description))
    return [folder / name for name in FILES]


def _write(path: Path, program: nn.Module, inputs: dict[str, Tensor], output: str) -> None:
    """Trace a program, and compare the file with it before giving it its final name."""
    expected = program(*inputs.values())
    with atomic_path(path) as temporary:
        with warnings.catch_warnings():
            # Sizes become constants, as intended.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                program.eval(),
                tuple(inputs.values()),
                str(temporary),
                input_names=list(inputs),
                output_names=[output],
                opset_version=OPSET,
                dynamo=False,
            )
        found = run_network(temporary, inputs)[output]
        worst = float((found - expected).abs().max())
        if not worst <= TOLERANCE * max(1.0, float(expected.abs().max())):
            raise ValueError(f"{path} differs from PyTorch by up to {worst:.2g}")
