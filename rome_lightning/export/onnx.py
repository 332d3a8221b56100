"""An avatar model's networks as ONNX files or PyTorch programs, to run without this package.

The other steps stay outside and are described in ``model.json``: the head model (arrays in ``head.npz``),
projection, rasterization, and the lookup of the photograph's colours in texture space.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import rome_lightning
from rome_lightning.media.atomic import atomic_paths
from rome_lightning.models import AvatarModel
from rome_lightning.models.basis import mesh_fingerprint
from rome_lightning.models.carrying import NUM_CARRIED
from rome_lightning.models.offsets import BasisOffsets, OffsetNetwork
from rome_lightning.models.texture import DirectTexture, UnprojectedTexture
from rome_lightning.renderer import UVLayout, interpolate
from rome_lightning.types import Frames, HeadParams, Region

OPSET = 18
TOLERANCE = 1e-3
"""Largest allowed difference between PyTorch and the file, for outputs of magnitude 1."""
ROUND_OFF = 2.0
"""Allowed deviation from the exact result where round-off grows, in multiples of PyTorch's deviation."""
FORMAT = "rome-networks/1"

OUTSIDE = {
    "head": "vertices = skin(template + shape_basis shape + expression_basis expression): linear blend "
    "skinning with the joints of head.npz; offsets are added after turning with the blended rotation",
    "offsets": "with config.offsets.kind fitted no network gives them: refine_offsets fits them",
    "camera": "x_px = (scale (x + t_x) + 1) width / 2 - 0.5; y_px = (1 - scale (y + t_y)) height / 2 - 0.5; "
    "after rotating by global_pose about the root joint; pixel centres are integers, y points down",
    "observe": "colour: the photograph sampled bilinearly at each texel's surface point; visibility: 1 where "
    "the point is seen from the front, falling to 0 at grazing angles, where hidden and beside the outline; "
    "hair: 1 where the photograph shows hair",
    "framing": "with config.framing ffhq, texture and offsets want image and foreground_mask rotated and "
    "scaled as FFHQ's, enlarged by 1.25, black outside",
    "carry": "with config.decoder.carry, layers hold what the photograph shows of the point at each pixel: "
    "RGB, matte, 1 within the photograph, distance from the source's mesh in image widths, 1 where hair "
    "hangs below the ears, and visibility (0 beside the mesh). The displacement between a point's places in "
    "both pictures is interpolated over the mesh and continued beyond it by pull-push",
    "rasterize": "uv, mesh_mask and normals per pixel by a z-buffer; normals have unit length in the space "
    "that config.decoder.normals names, 0 outside; with config.decoder.extend_outside, uv beyond the mesh "
    "is that of the nearest covered pixel and distance the way to it in image widths",
}
"""The steps that the files leave to the caller, in words."""


@dataclass(frozen=True)
class _Part:
    """One file: a module, example inputs and the names of its outputs."""

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]
    exact: nn.Module | None = None
    """The module in double precision, if float32 is too inexact to compare two programs."""


class _Function(nn.Module):
    """A method of a model as a separate module with the weights it uses."""

    def __init__(self, owner: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.owner = owner
        self.function = function

    def forward(self, *arguments: Tensor) -> Any:
        return self.function(*arguments)


class _ConstantLayout(nn.Module):
    """What ``UVLayout.gather`` does, with its weights as constants: ONNX has no rasterizer."""

    corners: Tensor
    weights: Tensor

    def __init__(self, layout: UVLayout) -> None:
        super().__init__()
        self.size = layout.size
        faces = layout.head_faces.long()
        own = torch.arange(3 * len(faces)).view(-1, 3)
        one_hot = torch.eye(3).repeat(len(faces), 1)[None]
        weights = interpolate(layout.texels, layout.uv_faces, layout.face_ids, one_hot, own)[0]
        self.register_buffer("weights", weights.flatten(1).T[..., None].contiguous())
        self.register_buffer("corners", faces[layout.face_ids.flatten().clamp_min(0).long()])

    def gather(self, attributes: Tensor) -> Tensor:
        values = (attributes[:, self.corners] * self.weights).sum(2)
        return values.transpose(1, 2).unflatten(2, (self.size, self.size))


def export_networks(
    model: AvatarModel, image_size: int, folder: Path, programs: bool = False
) -> dict[str, float]:
    """Write every network of a model, and a description of how to use them.

    Args:
        model: full or linear.
        image_size: side of the images that it was trained on, pixels; inputs have this fixed size, batch 1.
        folder: gets ``NAME.onnx`` for each network, ``head.npz`` and ``model.json``.
        programs: also write ``NAME.pt2``, each network exported by ``torch.export``.

    Returns:
        Largest absolute difference between PyTorch and onnxruntime for each network; for ROME's encoder, in
        which round-off grows, that between onnxruntime and PyTorch in double precision.

    Raises:
        ValueError: a network's results differ in onnxruntime.
        ImportError: the packages that write and run ONNX are missing.
    """
    require_onnx()
    model = model.cpu().eval().requires_grad_(False)
    folder.mkdir(parents=True, exist_ok=True)
    parts = _parts(model, image_size)
    endings = ("onnx", "pt2") if programs else ("onnx",)
    names = [f"{part.name}.{ending}" for part in parts for ending in endings]
    names += ["head.npz", "model.json"]
    with atomic_paths([folder / name for name in names]) as temporaries:
        files = dict(zip(names, temporaries, strict=True))
        differences = {part.name: _write_part(part, folder, files) for part in parts}
        _write_head(model, files["head.npz"])
        document = _description(model, image_size, parts)
        files["model.json"].write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return differences


def _write_part(part: _Part, folder: Path, files: dict[str, Path]) -> float:
    """Write a network into its files, by name, and compare it."""
    program = torch.export.export(part.module, tuple(part.inputs.values()))
    name = f"{part.name}.onnx"
    torch.onnx.export(
        program,
        f=str(files[name]),
        input_names=list(part.inputs),
        output_names=list(part.outputs),
        opset_version=OPSET,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    if program_file := files.get(f"{part.name}.pt2"):
        with program_file.open("wb") as file:
            torch.export.save(program, file)
    return _compare(files[name], part, folder / name)


def _description(model: AvatarModel, image_size: int, parts: list[_Part]) -> dict[str, Any]:
    """Content of ``model.json``."""
    described = {
        part.name: {
            "inputs": {name: list(value.shape) for name, value in part.inputs.items()},
            "outputs": list(part.outputs),
        }
        for part in parts
    }
    return {
        "format": FORMAT,
        "version": rome_lightning.__version__,
        "head": model.head.name,
        "head_fingerprint": mesh_fingerprint(model.head),
        "image_size": image_size,
        "networks": described,
        "config": dataclasses.asdict(model.config),
        "outside": OUTSIDE,
    }


def run_network(path: Path, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run one of the files with onnxruntime on the CPU.

    Args:
        path: ``NAME.onnx``.
        inputs: by name, of the shapes in ``model.json``.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    # The converter drops inputs that a network does not use.
    used = {entry.name for entry in session.get_inputs()}
    values = session.run(None, {name: value.numpy() for name, value in inputs.items() if name in used})
    names = [entry.name for entry in session.get_outputs()]
    return {name: torch.from_numpy(value) for name, value in zip(names, values, strict=True)}


def require_onnx() -> None:
    """Raise ImportError if the packages that write and run ONNX are missing."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise ImportError(
            f"export to ONNX needs {', '.join(missing)}: `pip install rome-lightning[onnx]` or "
            f"`pip install {' '.join(missing)}`"
        )


def _parts(model: AvatarModel, image_size: int) -> list[_Part]:
    """The networks of a model with inputs to trace them with."""
    generator = torch.Generator().manual_seed(0)

    def rand(*shape: int) -> Tensor:
        return torch.rand(1, *shape, generator=generator)

    config, size, exact = model.config, (image_size, image_size), None
    texture_model = model.texture_model
    if isinstance(texture_model, DirectTexture):
        texture_size = image_size
        inputs = {"image": rand(3, *size), "foreground_mask": rand(1, *size)}
        run = _direct(texture_model.encoder)
        # Round-off grows a thousandfold in this network (see ``standardize_weight``).
        exact = _direct(copy.deepcopy(texture_model.encoder).double())
    else:
        assert isinstance(texture_model, UnprojectedTexture)
        texture_size = config.texture.size
        inputs = {
            "colour": rand(3, texture_size, texture_size),
            "visibility": rand(1, texture_size, texture_size),
            "hair": rand(1, texture_size, texture_size),
        }
        run = _Function(texture_model, texture_model.complete)
    parts = [_Part("texture", run, inputs, ("texture",), exact)]
    texture = rand(config.texture.channels, texture_size, texture_size)
    # Offsets that are fitted to each person come from no network.
    if isinstance(model.offset_network, OffsetNetwork | BasisOffsets):
        parts.append(_offsets_part(model, texture, rand(3, *size), rand(1, *size)))
    normals = torch.nn.functional.normalize(rand(3, *size) - 0.5, dim=1)
    covered = (rand(1, *size) > 0.4).float()
    renderer = model.renderer
    rasterized = {
        "texture": texture,
        "uv": rand(2, *size),
        "normals": normals * covered,
        "mesh_mask": covered,
        "distance": 0.1 * (1 - covered),
    }
    if config.decoder.carry:
        rasterized["layers"] = rand(NUM_CARRIED, *size)
    decode = _Function(renderer, lambda t, uv, n, m, *others: renderer.decode(t, uv, n, m > 0.5, *others))
    parts.append(_Part("decoder", decode, rasterized, ("rgb", "mask")))
    if model.driver_network is not None:
        driver, shape = model.driver_network, torch.zeros(1, model.head.num_shape)

        def estimate(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            params: HeadParams = driver(image, shape)
            return params.expression, params.pose, params.camera

        parts.append(
            _Part(
                "driver",
                _Function(driver, estimate),
                {"image": rand(3, *size)},
                ("expression", "pose", "camera"),
            )
        )
    return parts


def _direct(encoder: nn.Module) -> nn.Module:
    """ROME's encoder with photograph and matte apart."""
    return _Function(encoder, lambda image, mask: encoder(torch.cat([image, mask], dim=1)))


def _offsets_part(model: AvatarModel, texture: Tensor, image: Tensor, mask: Tensor) -> _Part:
    """Offsets from the texture (full model) or from the photograph (linear model)."""
    network = model.offset_network
    params = HeadParams.neutral(1, model.head.num_shape, model.head.num_expression)
    vertices = model.head(params)
    if isinstance(network, OffsetNetwork):
        network = copy.deepcopy(network)
        network.layout = _ConstantLayout(network.layout)  # type: ignore[assignment]
        inputs = {"texture": texture, "vertices": vertices}
        return _Part("offsets", _Function(network, network.posed_offsets), inputs, ("offsets",))

    assert isinstance(network, BasisOffsets)

    def from_photo(image: Tensor, mask: Tensor) -> Tensor:
        size = image.shape[-2:]
        source = Frames(
            image,
            mask,
            torch.full((1, *size), int(Region.BACKGROUND), dtype=torch.uint8),
            torch.zeros(1, 478, 2),
            params,
        )
        return network.rest_offsets(source, None, vertices)

    return _Part(
        "offsets", _Function(network, from_photo), {"image": image, "foreground_mask": mask}, ("offsets",)
    )


def _compare(path: Path, part: _Part, name: Path) -> float:
    """Largest difference between the file and PyTorch on the example, in double precision if need be.

    Args:
        path: of the file.
        part: what it holds.
        name: that the file is going to have.
    """
    expected = _outputs(part, part.module)
    found = run_network(path, part.inputs)
    limit = TOLERANCE * max(1.0, *(float(value.abs().max()) for value in expected.values()))
    if part.exact is not None:
        exact = _outputs(part, part.exact)
        limit = max(limit, ROUND_OFF * _largest_difference(expected, exact))
        expected = exact
    worst = _largest_difference(found, expected)
    if not worst <= limit:
        raise ValueError(f"{name} differs from PyTorch by up to {worst:.2g}")
    return worst


def _outputs(part: _Part, module: nn.Module) -> dict[str, Tensor]:
    """Results of the example by name, in the precision of the module."""
    inputs = part.inputs.values()
    with torch.no_grad():
        given = module(*(value.double() if module is part.exact else value for value in inputs))
    return dict(zip(part.outputs, given if isinstance(given, tuple) else (given,), strict=True))


def _largest_difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    return max(float((first[name] - value).abs().max()) for name, value in second.items())


def _write_head(model: AvatarModel, path: Path) -> None:
    """The head model's arrays, by plain names."""
    head = model.head
    arrays: dict[str, Any] = {
        "template": head.template.view(-1, 3),
        "shape_basis": head.basis[: head.num_shape].unflatten(1, (-1, 3)),
        "expression_basis": head.basis[head.num_shape :].unflatten(1, (-1, 3)),
        "joints": head.joint_template.view(5, 3),
        "joint_basis": head.joint_basis.unflatten(1, (5, 3)),
        "skinning_weights": head.skinning_weights,
        "faces": head.faces,
        "uvs": head.uvs,
        "uv_faces": head.uv_faces,
    }
    if head.midpoints is not None:
        arrays["midpoints"] = head.midpoints
    if head.pose_basis is not None:
        arrays["pose_basis"] = head.pose_basis
    values = {name: tensor.detach().cpu().numpy() for name, tensor in arrays.items()}
    with path.open("wb") as file:
        np.savez_compressed(file, expression_names=np.array(head.expression_names), **values)
