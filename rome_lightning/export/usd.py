"""Rigged avatars as USDZ, for Apple's tools, Omniverse, Blender and other readers of UsdSkel.

The file has the same content as the GLB: mesh at rest, skeleton, one blend shape per expression, the texture.

Source: Pixar, Universal Scene Description, schemas UsdGeom, UsdSkel and UsdPreviewSurface.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rome_lightning.export.glb import SMALLEST_MOVE, rest_and_joints, skin_weights, unit_normals
from rome_lightning.head import HeadModel
from rome_lightning.media.atomic import write_atomic
from rome_lightning.media.image import encode_png

_JOINT_PATHS = ("root", "root/neck", "root/neck/jaw", "root/neck/left_eye", "root/neck/right_eye")
_PARENTS = (None, 0, 1, 1, 1)


def load_usd() -> Any:
    """The ``pxr`` package.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import pxr
    except ImportError as error:
        raise ImportError(
            "USD files need Pixar's library: `pip install rome-lightning[usd]` or `pip install usd-core`"
        ) from error
    return pxr


@torch.no_grad()
def export_usd(
    path: str | Path,
    head: HeadModel,
    shape: Float[Tensor, " s"],
    offsets: Float[Tensor, "v 3"] | None,
    colour_texture: Float[Tensor, "3 t t"],
) -> Path:
    """Write one person as a rigged ``.usdz``; arguments as for ``export_glb``.

    Raises:
        OSError: the file, or its parts in the temporary folder, cannot be written.
    """
    load_usd()
    from pxr import Tf

    path = Path(path).absolute()
    with tempfile.TemporaryDirectory() as folder:
        try:
            packed = _packed(Path(folder), head, shape, offsets, colour_texture)
        except (OSError, Tf.ErrorException) as error:
            # USD reports "Error in 'function' at line 1 in file x : 'cause'", several at once.
            first = re.search(r" : '(.*?)'", str(error))
            cause = first[1] if first else str(error)
            raise OSError(
                f"{path} was not written: its parts do not fit into {folder} ({cause}); free space there, or "
                "set TMPDIR to another folder"
            ) from error
        write_atomic(path, packed)
    return path


def _packed(
    folder: Path, head: HeadModel, shape: Tensor, offsets: Tensor | None, colour_texture: Tensor
) -> bytes:
    """The package, made of files in a temporary folder: USD cannot write to memory."""
    from pxr import Sdf, UsdUtils

    texture, stage_file, package = (folder / name for name in ("colour.png", "avatar.usdc", "avatar.usdz"))
    texture.write_bytes(encode_png(colour_texture))
    _write_stage(stage_file, texture.name, head, shape, offsets)
    if not UsdUtils.CreateNewUsdzPackage(Sdf.AssetPath(str(stage_file)), str(package)):
        raise OSError("USD could not pack the files")
    return package.read_bytes()


def _write_stage(file: Path, texture: str, head: HeadModel, shape: Tensor, offsets: Tensor | None) -> None:
    from pxr import Sdf, Usd, UsdGeom, UsdSkel

    stage = Usd.Stage.CreateNew(str(file))
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    root = UsdSkel.Root.Define(stage, "/avatar")
    stage.SetDefaultPrim(root.GetPrim())
    stage.SetMetadata("comment", head.licence)
    rest, joints = rest_and_joints(head, shape, offsets)
    mesh = UsdGeom.Mesh.Define(stage, "/avatar/mesh")
    mesh.CreatePointsAttr(_vectors(rest))
    mesh.CreateExtentAttr(_vectors(torch.stack([rest.amin(0), rest.amax(0)])))
    mesh.CreateFaceVertexCountsAttr([3] * len(head.faces))
    mesh.CreateFaceVertexIndicesAttr(head.faces.cpu().flatten().tolist())
    mesh.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
    mesh.CreateDoubleSidedAttr(True)
    mesh.CreateNormalsAttr(_vectors(unit_normals(rest, head)))
    mesh.SetNormalsInterpolation(UsdGeom.Tokens.vertex)
    # USD has v up, we have v down.
    corners = head.uvs.cpu().float()[head.uv_faces.cpu().flatten()] * torch.tensor([1.0, -1.0])
    corners = corners + torch.tensor([0.0, 1.0])
    uvs = UsdGeom.PrimvarsAPI(mesh).CreatePrimvar(
        "st", Sdf.ValueTypeNames.TexCoord2fArray, UsdGeom.Tokens.faceVarying
    )
    uvs.Set(_pairs(corners))
    _bind_skeleton(stage, mesh, head, joints)
    _bind_shapes(stage, mesh, head)
    _bind_material(stage, mesh, texture)
    stage.GetRootLayer().Save()


def _bind_skeleton(stage: Any, mesh: Any, head: HeadModel, joints: Tensor) -> None:
    from pxr import Gf, UsdSkel

    skeleton = UsdSkel.Skeleton.Define(stage, "/avatar/skeleton")
    skeleton.CreateJointsAttr(_JOINT_PATHS)
    places = joints.double().tolist()

    def moved(vector: list[float]) -> Any:
        return Gf.Matrix4d().SetTranslate(Gf.Vec3d(*vector))

    origins = [places[parent] if parent is not None else [0.0, 0.0, 0.0] for parent in _PARENTS]
    steps = [[a - b for a, b in zip(p, o, strict=True)] for p, o in zip(places, origins, strict=True)]
    skeleton.CreateBindTransformsAttr([moved(place) for place in places])
    skeleton.CreateRestTransformsAttr([moved(step) for step in steps])
    binding = UsdSkel.BindingAPI.Apply(mesh.GetPrim())
    binding.CreateSkeletonRel().SetTargets([skeleton.GetPath()])
    indices, weights = skin_weights(head)
    binding.CreateJointIndicesPrimvar(False, 4).Set(indices.flatten().tolist())
    binding.CreateJointWeightsPrimvar(False, 4).Set(weights.flatten().tolist())


def _bind_shapes(stage: Any, mesh: Any, head: HeadModel) -> None:
    from pxr import UsdSkel

    paths = []
    for name, component in zip(head.expression_names, head.basis[head.num_shape :], strict=True):
        moves = head.to_vertices(component.view(-1, 3).float()).cpu()
        moved = (moves.norm(dim=-1) >= SMALLEST_MOVE).nonzero().flatten()
        shape = UsdSkel.BlendShape.Define(stage, f"/avatar/mesh/{name}")
        shape.CreateOffsetsAttr(_vectors(moves[moved]))
        shape.CreatePointIndicesAttr(moved.tolist())
        paths.append(shape.GetPath())
    binding = UsdSkel.BindingAPI(mesh.GetPrim())
    binding.CreateBlendShapesAttr(list(head.expression_names))
    binding.CreateBlendShapeTargetsRel().SetTargets(paths)


def _bind_material(stage: Any, mesh: Any, texture: str) -> None:
    from pxr import Sdf, UsdShade

    kinds = Sdf.ValueTypeNames
    material = UsdShade.Material.Define(stage, "/avatar/skin")
    surface = UsdShade.Shader.Define(stage, "/avatar/skin/surface")
    surface.CreateIdAttr("UsdPreviewSurface")
    surface.CreateInput("roughness", kinds.Float).Set(0.8)
    surface.CreateInput("metallic", kinds.Float).Set(0.0)
    reader = UsdShade.Shader.Define(stage, "/avatar/skin/uv")
    reader.CreateIdAttr("UsdPrimvarReader_float2")
    reader.CreateInput("varname", kinds.String).Set("st")
    image = UsdShade.Shader.Define(stage, "/avatar/skin/colour")
    image.CreateIdAttr("UsdUVTexture")
    image.CreateInput("file", kinds.Asset).Set(f"./{texture}")
    image.CreateInput("sourceColorSpace", kinds.Token).Set("sRGB")
    image.CreateInput("wrapS", kinds.Token).Set("clamp")
    image.CreateInput("wrapT", kinds.Token).Set("clamp")
    image.CreateInput("st", kinds.Float2).ConnectToSource(reader.ConnectableAPI(), "result")
    image.CreateOutput("rgb", kinds.Float3)
    reader.CreateOutput("result", kinds.Float2)
    surface.CreateInput("diffuseColor", kinds.Color3f).ConnectToSource(image.ConnectableAPI(), "rgb")
    surface.CreateOutput("surface", kinds.Token)
    material.CreateSurfaceOutput().ConnectToSource(surface.ConnectableAPI(), "surface")
    UsdShade.MaterialBindingAPI.Apply(mesh.GetPrim()).Bind(material)


def _vectors(values: Tensor) -> Any:
    from pxr import Vt

    return Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(values.cpu().float().numpy()))


def _pairs(values: Tensor) -> Any:
    from pxr import Vt

    return Vt.Vec2fArray.FromNumpy(np.ascontiguousarray(values.cpu().float().numpy()))
