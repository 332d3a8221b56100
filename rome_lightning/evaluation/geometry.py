"""Meshes against ground truth: synthetic heads with exactly known geometry, and scans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from typing import Protocol as Interface

import torch
from jaxtyping import Float
from torch import Tensor

from rome_lightning.evaluation.evaluator import Evaluation, Unit
from rome_lightning.evaluation.pairs import ClipSource, PairItem
from rome_lightning.evaluation.protocol import MeshRule, Protocol, file_hash, text_hash
from rome_lightning.evaluation.scoring import Scorer
from rome_lightning.evaluation.systems import AvatarSystem, Predictions
from rome_lightning.head import HeadModel
from rome_lightning.media.meshes import Mesh, read_landmarks, read_mesh
from rome_lightning.media.pictures import read_image
from rome_lightning.metrics.mesh_distance import (
    SurfacePoints,
    distances_to_mesh,
    f_score,
    icp,
    procrustes,
    sample_surface,
    transform,
)
from rome_lightning.tracking import Tracker
from rome_lightning.types import Frames
from rome_lightning.types.clip import ClipInfo
from rome_lightning.types.landmarks import NOW_POINTS


@dataclass(frozen=True)
class TrueMesh:
    """The ground truth of a prediction."""

    mesh: Mesh
    """Millimetres."""
    landmarks: Float[Tensor, "n 3"] | None
    """Millimetres; None where no alignment is needed."""
    floor: Mesh | None
    """The head model's mesh without offsets, millimetres; shares the triangles of a prediction."""
    region_of_vertex: dict[str, Tensor]
    """Vertex masks of ``mesh`` for regions with separate scores."""


class MeshSource(ClipSource, Interface):
    """Real or synthetic people with ground-truth meshes."""

    def truth(self, pair: PairItem) -> TrueMesh:
        """The ground-truth mesh of a pair's driver frame."""
        ...


@dataclass(frozen=True)
class PredictedMesh:
    """A system's answer."""

    mesh: Mesh
    """Millimetres for our systems, any unit for others."""
    landmarks: Float[Tensor, "n 3"] | None


class MeshSystem(Interface):
    """Answers a pair with a mesh."""

    name: str

    def describe(self) -> dict[str, Any]:
        """What identifies it."""
        ...

    def mesh(self, pair: PairItem, source: Frames, driver: Frames) -> PredictedMesh:
        """The source person's mesh under the driver's expression and pose.

        Raises:
            ValueError: there is none; the message says why.
        """
        ...


class AvatarMeshes:
    """Meshes of an avatar model.

    Args:
        system: holds the model.
    """

    def __init__(self, system: AvatarSystem) -> None:
        self.system, self.name = system, system.name

    def describe(self) -> dict[str, Any]:
        """As the model."""
        return self.system.describe()

    @torch.no_grad()
    def mesh(self, pair: PairItem, source: Frames, driver: Frames) -> PredictedMesh:
        """Create the avatar and deform it."""
        model = self.system.model
        code = self.system.code((pair.clip, pair.source), source)
        vertices = model.deform(code, driver.params.to(self.system.device)).vertices
        return PredictedMesh(*in_millimetres(vertices.cpu(), model.head))


def in_millimetres(vertices: Float[Tensor, "1 v 3"], head: HeadModel) -> tuple[Mesh, Tensor | None]:
    """A head model's mesh with its seven facial landmarks."""
    points = None
    if "ibug68" in head.landmark_names:
        points = head.landmarks(vertices.to(head.faces.device), "ibug68")[0, list(NOW_POINTS)].cpu() * 1000
    return Mesh(vertices[0].cpu() * 1000, head.faces.cpu()), points


class FolderMeshes:
    """Meshes of another system: ``geometry/CLIP/SOURCE__FRAME.ply`` or ``.obj``, in millimetres.

    Where the protocol aligns, ``geometry/CLIP/SOURCE__FRAME.txt`` holds the seven landmarks of the NoW
    benchmark.

    Args:
        folder: of the predictions.
        pairs: that are asked for.
    """

    def __init__(self, folder: Path, pairs: Sequence[PairItem]) -> None:
        self.folder, self.name = folder, folder.name
        if not any(self._path(pair) for pair in pairs):
            raise FileNotFoundError(
                f"{folder} has no mesh for any of {len(pairs)} pairs; expected {pairs[0].path}.ply"
            )

    def _path(self, pair: PairItem) -> Path | None:
        base = self.folder / pair.path
        return next((p for s in (".ply", ".obj") if (p := base.with_name(base.name + s)).is_file()), None)

    def describe(self) -> dict[str, Any]:
        """A hash over names and contents."""
        files = sorted(p for p in (self.folder / "geometry").rglob("*") if p.is_file())
        lines = "\n".join(f"{p.relative_to(self.folder)} {file_hash(p)}" for p in files)
        return {"predictions": str(self.folder), "sha256": text_hash(lines), "kind": "folder"}

    def mesh(self, pair: PairItem, source: Frames, driver: Frames) -> PredictedMesh:
        """Read a mesh."""
        path = self._path(pair)
        if path is None:
            raise ValueError("no mesh")
        points = path.with_name(pair.path.rsplit("/", 1)[1] + ".txt")
        return PredictedMesh(read_mesh(path), read_landmarks(points) if points.is_file() else None)


class SyntheticFrames(ClipSource, Interface):
    """Synthetic people, see ``datamodules.evaluation.SyntheticPeople``."""

    def vertices(self, clip: str, number: int) -> tuple[Tensor, Tensor]:
        """True vertices of a frame with and without hair and clothes, metres, (v, 3)."""
        ...


class SyntheticTruth:
    """Synthetic people with exact meshes.

    Args:
        people: that are drawn.
        head: whose topology they have.
        regions: that are scored apart.
    """

    def __init__(self, people: SyntheticFrames, head: HeadModel, regions: Sequence[str]) -> None:
        self.people, self.name, self.hash, self.clips = people, people.name, people.hash, people.clips
        self.faces = head.faces.cpu()
        self.regions = {name: head.region(name).cpu() for name in regions}

    def frames(self, clip: str, numbers: Sequence[int]) -> Frames:
        """Rendered frames with ground-truth parameters."""
        return self.people.frames(clip, numbers)

    def truth(self, pair: PairItem) -> TrueMesh:
        """What was drawn."""
        full, bare = (vertices.cpu() * 1000 for vertices in self.people.vertices(pair.clip, pair.frame))
        return TrueMesh(Mesh(full, self.faces), None, Mesh(bare, self.faces), self.regions)


class ScannedPeople:
    """A folder of scans: ``photo.png`` (or jpg), ``mesh.ply`` (or obj) and ``landmarks.txt`` of each person.

    The photograph is tracked; the landmarks are the seven of the NoW benchmark, in the units of the mesh.

    Args:
        folder: of the scans.
        head: that is fitted to the photographs; None if systems bring meshes of their own.
        image_size: side of the frames, pixels.
        unit_mm: millimetres per unit of the scans.
    """

    def __init__(self, folder: Path, head: HeadModel | None, image_size: int, unit_mm: float) -> None:
        people = sorted(path.parent for path in folder.glob("*/landmarks.txt"))
        if not people:
            raise FileNotFoundError(
                f"{folder} has no scans; expected PERSON/photo.png, PERSON/mesh.ply and PERSON/landmarks.txt "
                "(docs/evaluation.md)"
            )
        self.folder, self.name, self.unit_mm = folder, folder.name, unit_mm
        self.clips = [ClipInfo(path.name, path.name, (0,), 0) for path in people]
        lines = [f"{p.relative_to(folder)} {file_hash(p)}" for p in sorted(folder.glob("*/*")) if p.is_file()]
        self.hash = text_hash("\n".join(lines))
        self._tracker = None if head is None else Tracker(head, image_size=image_size)

    def frames(self, clip: str, numbers: Sequence[int]) -> Frames:
        """The tracked photograph.

        Raises:
            ValueError: no face is found in it, or it cannot be trusted.
        """
        if self._tracker is None:
            raise ValueError("no head model was given to track photographs with")
        paths = [p for s in ("png", "jpg", "jpeg") if (p := self.folder / clip / f"photo.{s}").is_file()]
        if not paths:
            raise ValueError(f"no photograph: {self.folder / clip}")
        tracked = self._tracker.track(read_image(paths[0])[None])
        if not bool(tracked.valid.all()):
            raise ValueError(f"photograph not usable: {tracked.reasons[0]}")
        return tracked.to_frames()

    def truth(self, pair: PairItem) -> TrueMesh:
        """The scan."""
        folder = self.folder / pair.clip
        path = next((p for s in ("ply", "obj") if (p := folder / f"mesh.{s}").is_file()), folder / "mesh.ply")
        mesh = read_mesh(path)
        points = read_landmarks(folder / "landmarks.txt") * self.unit_mm
        return TrueMesh(Mesh(mesh.vertices * self.unit_mm, mesh.faces), points, None, {})


class GeometryEvaluation(Evaluation):
    """Scores meshes instead of images; everything else works as for images."""

    clips: MeshSource
    system: Any

    def __init__(
        self,
        protocol: Protocol,
        pairs: Sequence[PairItem],
        clips: MeshSource,
        system: MeshSystem,
        folder: Path,
    ) -> None:
        answers: Any = system
        super().__init__(protocol, pairs, clips, answers, folder)

    def _score(self, unit: Unit, scorer: Scorer) -> tuple[dict[str, Tensor], Predictions]:
        rows, floors, reasons = [], [], []
        rule = self.protocol.mesh
        assert rule is not None
        names = self.protocol.tasks[unit.pairs[0].task].metrics
        for pair in unit.pairs:
            truth = self.clips.truth(pair)
            try:
                predicted = self._predict(pair)
                rows.append(mesh_scores(predicted, truth, rule, names))
                reasons.append("")
            except (ValueError, FileNotFoundError) as error:
                rows.append({})
                reasons.append(" ".join(str(error).split()))
            floors.append(
                {}
                if truth.floor is None
                else mesh_scores(PredictedMesh(truth.floor, truth.landmarks), truth, rule, names)
            )
        self._check(unit.pairs, reasons)
        tensors = {f"values/{name}": _column(rows, name) for name in names}
        tensors |= {f"floor/{name}": _column(floors, name) for name in names}
        known = torch.ones(len(rows), dtype=torch.bool)
        tensors |= {f"defined/{name}": known for name in names}
        tensors |= {"undetected_prediction": ~known, "undetected_target": ~known}
        return tensors, Predictions(torch.zeros(len(rows), 3, 1, 1, dtype=torch.uint8), tuple(reasons))

    def _predict(self, pair: PairItem) -> PredictedMesh:
        if isinstance(self.system, FolderMeshes):
            empty: Any = None
            return self.system.mesh(pair, empty, empty)
        source = self.clips.frames(pair.clip, [pair.source])
        return self.system.mesh(pair, source, self.clips.frames(pair.driver_clip, [pair.frame]))

    def _keep_frames(self, unit: Unit, predictions: Predictions) -> None:
        """Meshes have no frames."""


def _column(rows: Sequence[dict[str, float]], name: str) -> Float[Tensor, " n"]:
    return torch.tensor([row.get(name, torch.nan) for row in rows])


def mesh_scores(
    predicted: PredictedMesh, truth: TrueMesh, rule: MeshRule, metrics: Sequence[str]
) -> dict[str, float]:
    """Values of one mesh.

    Args:
        predicted: in millimetres, or in any unit if the rule fits the scale.
        truth: what it is compared with.
        rule: alignment, direction and thresholds.
        metrics: ``vertex_mm``, ``chamfer_mm``, ``normal_deg``, ``f_score``; ``/region`` for a part.

    Raises:
        ValueError: landmarks are missing, or the meshes do not share what a metric needs.
    """
    ours = _aligned(predicted, truth, rule)
    theirs = truth.mesh
    points = sample_surface(theirs.vertices, theirs.faces, rule.num_points)
    away = distances_to_mesh(points, ours.vertices, ours.faces)
    back = None
    if rule.direction == "both" or any(name.startswith("f_score") for name in metrics):
        own = sample_surface(ours.vertices, ours.faces, rule.num_points)
        back = (own, distances_to_mesh(own, theirs.vertices, theirs.faces))
    result = {}
    for name in metrics:
        base, _, region = name.partition("/")
        chosen = _within(points.points, points.faces, theirs, truth, rule, region)
        if base == "vertex_mm":
            result[name] = _vertex_error(ours, truth, region)
            continue
        forward = away.distance if base != "normal_deg" else away.normal_deg
        parts = [forward[chosen]]
        if back is not None:
            own, other = back
            ours_too = _within(own.points, own.faces, ours, truth, rule, region)
            parts.append((other.distance if base != "normal_deg" else other.normal_deg)[ours_too])
        if base == "f_score":
            result[name] = f_score(parts[0], parts[1], rule.f_score_mm)
        else:
            used = parts if rule.direction == "both" else parts[:1]
            result[name] = float(torch.stack([part.mean() for part in used]).mean())
    return result


def _aligned(predicted: PredictedMesh, truth: TrueMesh, rule: MeshRule) -> Mesh:
    """The prediction aligned to the ground truth by the rule."""
    if rule.alignment == "none":
        return predicted.mesh
    if predicted.landmarks is None or truth.landmarks is None:
        raise ValueError("no landmarks to align by")
    if predicted.landmarks.shape != truth.landmarks.shape:
        raise ValueError(
            f"different landmarks: the prediction has {len(predicted.landmarks)}, the ground truth "
            f"{len(truth.landmarks)}"
        )
    scale = rule.alignment == "similarity"
    first = procrustes(predicted.landmarks, truth.landmarks, scale)
    vertices = transform(first, predicted.mesh.vertices)
    centre = truth.landmarks.mean(0)
    radius = rule.radius_mm or float("inf")
    target = sample_surface(truth.mesh.vertices, truth.mesh.faces, 5000)
    chosen = (target.points - centre).norm(dim=-1) < radius
    face = SurfacePoints(target.points[chosen], target.normals[chosen], target.faces[chosen])
    return Mesh(transform(icp(vertices, predicted.mesh.faces, face, scale), vertices), predicted.mesh.faces)


def _within(
    points: Tensor, faces: Tensor, mesh: Mesh, truth: TrueMesh, rule: MeshRule, region: str
) -> Tensor:
    """Which sampled points count."""
    chosen = torch.ones(len(points), dtype=torch.bool)
    if rule.radius_mm is not None and truth.landmarks is not None:
        chosen = (points - truth.landmarks.mean(0)).norm(dim=-1) < rule.radius_mm
    if region:
        mask = truth.region_of_vertex.get(region)
        if mask is None or len(mask) != len(mesh.vertices):
            raise ValueError(
                f"no region {region!r} on this mesh: it has another topology than the head model"
            )
        chosen = chosen & mask[mesh.faces[faces]].all(-1)
    return chosen


def _vertex_error(ours: Mesh, truth: TrueMesh, region: str) -> float:
    """Mean distance of corresponding vertices."""
    if ours.vertices.shape != truth.mesh.vertices.shape:
        raise ValueError(
            f"different topology: the prediction has {len(ours.vertices)} vertices, the ground truth "
            f"{len(truth.mesh.vertices)}"
        )
    error = (ours.vertices - truth.mesh.vertices).norm(dim=-1)
    return float(error[truth.region_of_vertex[region]].mean() if region else error.mean())
