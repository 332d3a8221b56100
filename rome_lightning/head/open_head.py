"""The open head: the default head asset, shipped with the package and free of licence forms."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from rome_lightning.head.data import REGIONS, HeadData, LandmarkEmbedding
from rome_lightning.head.model import HeadModel
from rome_lightning.media.tensors import read_shipped

OPEN_HEAD_FILE = Path(__file__).with_name("open_head.safetensors")
OPEN_HEAD_SHA256 = "e137588a42053fa0caadfcf3e617f80da13df41edc1f7f6d0b70f517383b4f0e"
"""Hash of the shipped file; ``python -m rome_lightning.baking.head`` makes the same bytes."""

FORMAT = "rome-head/1"


def load_open_head(path: Path | None = None) -> HeadModel:
    """Read the open head.

    ``mouthClose`` is only meaningful together with ``jawOpen``: whoever sets expressions keeps
    ``mouthClose <= jawOpen``. ``jawOpen`` is the full opening of the mouth as a blendshape, so
    ``jaw_pose`` is extra and normally zero. ``eyeLook*`` move the lids; the eyeballs turn by
    ``eye_pose`` only.

    Args:
        path: a file written by ``python -m rome_lightning.baking.head``; default is the shipped one,
            whose hash is checked.

    Returns:
        The head with float32 buffers on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or of another format.
    """
    return HeadModel(read_head(path))


def read_head(path: Path | None = None) -> HeadData:
    """Read a baked head file; arguments and errors as for ``load_open_head``."""
    file = OPEN_HEAD_FILE if path is None else Path(path)
    if not file.is_file():
        raise FileNotFoundError(
            f"no head at {file}; `python -m rome_lightning.baking.head {file.name}` creates one (extra: bake)"
        )
    if path is None:
        return _unpack(*read_shipped(file, OPEN_HEAD_SHA256))
    with safe_open(file, framework="pt") as handle:
        metadata = handle.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise ValueError(
                f"{file} has format {metadata.get('format')!r}, expected {FORMAT!r}; bake it again"
            )
        tensors = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
    return _unpack(tensors, metadata)


def _unpack(tensors: dict[str, Tensor], metadata: dict[str, str]) -> HeadData:
    template = tensors["template"].float()
    num_carriers = len(template)
    names = tuple(metadata["expression_names"].split(","))
    expression_basis = torch.zeros(num_carriers, 3, len(names))
    start = 0
    for index, count in enumerate(tensors["expression_counts"].tolist()):
        rows = tensors["expression_vertices"][start : start + count].long()
        expression_basis[rows, :, index] = tensors["expression_displacements"][start : start + count].float()
        start += count
    expression_basis *= tensors["expression_scale"]
    shape_basis = tensors["shape_basis"].float() * tensors["shape_scale"]
    labels = tensors["region_labels"]
    landmarks = {
        name: LandmarkEmbedding(
            tensors[f"landmarks.{name}.faces"].long(), tensors[f"landmarks.{name}.barycentrics"].float()
        )
        for name in ("mediapipe", "ibug68")
        if f"landmarks.{name}.faces" in tensors
    }
    weights = tensors["skinning_weights"].float()
    return HeadData(
        name=metadata["name"],
        template=template,
        shape_basis=shape_basis,
        expression_basis=expression_basis,
        expression_names=names,
        joints=tensors["joints"].float(),
        joint_basis=tensors["joint_basis"].float(),
        skinning_weights=weights / weights.sum(1, keepdim=True),
        faces=tensors["faces"].long(),
        uvs=tensors["uvs"].float(),
        uv_faces=tensors["uv_faces"].long(),
        regions={name: labels == index for index, name in enumerate(REGIONS)},
        landmarks=landmarks,
        midpoints=tensors["midpoints"].long(),
        licence=metadata["licence"],
    )
