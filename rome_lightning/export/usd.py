"""Rigged avatars as USDZ, for Apple's tools, Omniverse, Blender and other readers of UsdSkel.

The file has the same content as the GLB: mesh at rest, skeleton, one blend shape per expression, the texture.

Source: Pixar, Universal Scene Description, schemas UsdGeom, UsdSkel and UsdPreviewSurface.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from rome_lightning.export.body import body_surface, with_body
from rome_lightning.export.glb import (
    SMALLEST_MOVE,
    Person,
    asset,
    body_geometry,
    head_geometry,
    rest_and_joints,
    unit_normals,
)
from rome_lightning.export.packing import Geometry
from rome_lightning.export.skeleton import Bone, head_bones, mixamo_figure
from rome_lightning.export.surface import Surface, whole_surface
from rome_lightning.head import HeadModel
from rome_lightning.media.atomic import write_atomic
from rome_lightning.media.image import encode_png


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
def export_usd(path: str | Path, person: Person) -> Path:
    """Write one person as a rigged ``.usdz``; with a body, a second mesh and Mixamo's skeleton.

    Raises:
        ValueError: sizes do not fit, or a body on a head model that it does not fit.
        OSError: the file, or its parts in the temporary folder, cannot be written.
    """
    load_usd()
    from pxr import Tf

    person.check()
    path = Path(path).absolute()
    with tempfile.TemporaryDirectory() as folder:
        try:
            packed = _packed(Path(folder), person)
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


def _packed(folder: Path, person: Person) -> bytes:
    """The package, made of files in a temporary folder: USD cannot write to memory."""
    from pxr import Sdf, UsdUtils

    for name, colours in (("colour", person.colour_texture), ("garment", person.body_texture)):
        if colours is not None:
            (folder / f"{name}.png").write_bytes(encode_png(colours))
    stage_file, package = folder / "avatar.usdc", folder / "avatar.usdz"
    _write_stage(stage_file, person)
    if not UsdUtils.CreateNewUsdzPackage(Sdf.AssetPath(str(stage_file)), str(package)):
        raise OSError("USD could not pack the files")
    return package.read_bytes()


def _write_stage(file: Path, person: Person) -> None:
    from pxr import Usd, UsdGeom, UsdSkel

    stage = Usd.Stage.CreateNew(str(file))
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    root = UsdSkel.Root.Define(stage, "/avatar")
    stage.SetDefaultPrim(root.GetPrim())
    stage.SetMetadata("comment", asset(person)["copyright"])
    head, surface = person.head, person.surface or whole_surface(person.head)
    rest, joints = rest_and_joints(head, person.shape, person.offsets)
    if person.body_texture is None:
        rig = _Rig(stage, head_bones(joints))
        geometry = head_geometry(head, rest, surface, unit_normals(rest, head), None)
    else:
        figure = with_body(head, person.shape, rest, joints).moved()
        rig = _Rig(stage, mixamo_figure(figure.bones))
        vertices, normals, weights = figure.head_vertices, figure.head_normals, figure.head_weights
        geometry = head_geometry(head, vertices, surface, normals, weights)
        garment = body_geometry(figure, person.body_surface or body_surface())
        _bind_material(stage, _mesh(stage, "/avatar/body", garment, rig), "garment")
    mesh = _mesh(stage, "/avatar/mesh", geometry, rig)
    _bind_shapes(stage, mesh, head, surface)
    _bind_material(stage, mesh, "colour")
    stage.GetRootLayer().Save()


class _Rig:
    """The skeleton, in which parents come before their children, as USD demands.

    Args:
        stage: takes it.
        bones: in the order in which meshes count them.
    """

    def __init__(self, stage: Any, bones: Sequence[Bone]) -> None:
        from pxr import Gf, UsdSkel

        paths: dict[str, str] = {}
        while len(paths) < len(bones):
            for bone in bones:
                if bone.parent is None or bone.parent in paths:
                    above = "" if bone.parent is None else f"{paths[bone.parent]}/"
                    paths.setdefault(bone.name, f"{above}{bone.name}")
        order = list(paths)
        self.numbers = np.array([order.index(bone.name) for bone in bones])
        """Place of each bone in the skeleton."""
        parents = {bone.name: bone.parent for bone in bones}
        world = {None: np.eye(4)} | {bone.name: _matrix(bone) for bone in bones}
        rest = [np.linalg.inv(world[parents[name]]) @ world[name] for name in order]
        skeleton = UsdSkel.Skeleton.Define(stage, "/avatar/skeleton")
        skeleton.CreateJointsAttr(list(paths.values()))
        # USD multiplies rows by matrices.
        skeleton.CreateBindTransformsAttr([Gf.Matrix4d(world[name].T.tolist()) for name in order])
        skeleton.CreateRestTransformsAttr([Gf.Matrix4d(matrix.T.tolist()) for matrix in rest])
        self.path = skeleton.GetPath()


def _matrix(bone: Bone) -> Float[np.ndarray, "4 4"]:
    matrix = np.eye(4)
    if bone.axes is not None:
        matrix[:3, :3] = bone.axes.as_matrix()
    matrix[:3, 3] = bone.place
    return matrix


def _mesh(stage: Any, path: str, geometry: Geometry, rig: _Rig) -> Any:
    """A mesh that the rig moves."""
    from pxr import Sdf, UsdGeom, UsdSkel

    attributes, triangles = geometry.attributes, geometry.triangles
    points = attributes["POSITION"]
    mesh = UsdGeom.Mesh.Define(stage, path)
    mesh.CreatePointsAttr(_vectors(points))
    mesh.CreateExtentAttr(_vectors(np.stack([points.min(0), points.max(0)])))
    mesh.CreateFaceVertexCountsAttr([3] * len(triangles))
    mesh.CreateFaceVertexIndicesAttr(triangles.flatten().tolist())
    mesh.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
    mesh.CreateDoubleSidedAttr(True)
    mesh.CreateNormalsAttr(_vectors(attributes["NORMAL"]))
    mesh.SetNormalsInterpolation(UsdGeom.Tokens.vertex)
    uvs = UsdGeom.PrimvarsAPI(mesh).CreatePrimvar(
        "st", Sdf.ValueTypeNames.TexCoord2fArray, UsdGeom.Tokens.vertex
    )
    # USD has v up, we have v down.
    uvs.Set(_pairs(attributes["TEXCOORD_0"] * (1, -1) + (0, 1)))
    binding = UsdSkel.BindingAPI.Apply(mesh.GetPrim())
    binding.CreateSkeletonRel().SetTargets([rig.path])
    joints = rig.numbers[attributes["JOINTS_0"]]
    binding.CreateJointIndicesPrimvar(False, 4).Set(joints.flatten().tolist())
    binding.CreateJointWeightsPrimvar(False, 4).Set(attributes["WEIGHTS_0"].flatten().tolist())
    return mesh


def _bind_shapes(stage: Any, mesh: Any, head: HeadModel, surface: Surface) -> None:
    from pxr import UsdSkel

    paths = []
    for name, component in zip(head.expression_names, head.basis[head.num_shape :], strict=True):
        moves = surface.carry(head.to_vertices(component.view(-1, 3).float()).cpu())
        moved = (moves.norm(dim=-1) >= SMALLEST_MOVE).nonzero().flatten()
        shape = UsdSkel.BlendShape.Define(stage, f"/avatar/mesh/{name}")
        shape.CreateOffsetsAttr(_vectors(moves[moved].numpy()))
        shape.CreatePointIndicesAttr(moved.tolist())
        paths.append(shape.GetPath())
    binding = UsdSkel.BindingAPI(mesh.GetPrim())
    binding.CreateBlendShapesAttr(list(head.expression_names))
    binding.CreateBlendShapeTargetsRel().SetTargets(paths)


def _bind_material(stage: Any, mesh: Any, name: str) -> None:
    """Show the texture of this name."""
    from pxr import Sdf, UsdShade

    kinds = Sdf.ValueTypeNames
    material = UsdShade.Material.Define(stage, f"/avatar/{name}")
    surface = UsdShade.Shader.Define(stage, f"/avatar/{name}/surface")
    surface.CreateIdAttr("UsdPreviewSurface")
    surface.CreateInput("roughness", kinds.Float).Set(0.8)
    surface.CreateInput("metallic", kinds.Float).Set(0.0)
    reader = UsdShade.Shader.Define(stage, f"/avatar/{name}/uv")
    reader.CreateIdAttr("UsdPrimvarReader_float2")
    reader.CreateInput("varname", kinds.String).Set("st")
    image = UsdShade.Shader.Define(stage, f"/avatar/{name}/image")
    image.CreateIdAttr("UsdUVTexture")
    image.CreateInput("file", kinds.Asset).Set(f"./{name}.png")
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


def _vectors(values: NDArray[Any]) -> Any:
    from pxr import Vt

    return Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(values, np.float32))


def _pairs(values: NDArray[Any]) -> Any:
    from pxr import Vt

    return Vt.Vec2fArray.FromNumpy(np.ascontiguousarray(values, np.float32))
