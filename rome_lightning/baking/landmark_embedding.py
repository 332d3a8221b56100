"""Find the landmarks of MediaPipe on a head: ``python -m rome_lightning.baking.landmark_embedding OUT.json``.

The detector is run on shaded renders of many identities, expressions and views, in which the position of
every vertex is known. A landmark is embedded at the surface point whose projections agree best with
its detections. The result is mirror symmetric. Irises are not searched: they are painted on the
eyeballs, so their place is known.

With ``--clips FOLDER`` the points are then moved along the surface so that a fit of real footage leaves
no systematic error, because the detector places landmarks a little differently on renders and on people.
The shipped file was refined on 22 clips of talking people; only positions on the mesh came out of that,
nothing of the clips, and the same clips give the same result.

The file holds ``{"mediapipe": [[i, j, k, w0, w1, w2], ...], "ibug68": [...]}``: three vertex indices of
the head and their weights per landmark. The 68-point markup is made from the 478 points.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from rome_lightning.baking.landmark_views import (
    IMAGE_SIZE,
    Detect,
    View,
    eye_spheres,
    iris_angle,
    mediapipe_detect,
    neutral_params,
    observe,
    random_params,
    render,
)
from rome_lightning.geometry import project, vertex_normals
from rome_lightning.head import HeadModel
from rome_lightning.head.open_head import load_open_head
from rome_lightning.media.atomic import write_atomic
from rome_lightning.media.video import read_video
from rome_lightning.tracking.detector import BLENDSHAPE_NAMES, FaceDetector
from rome_lightning.tracking.fit import fit_clip, iris_distance, match_blendshapes
from rome_lightning.types import HeadParams
from rome_lightning.types.landmarks import IBUG68, LEFT_IRIS, NUM_LANDMARKS, NUM_SKIN, RIGHT_IRIS

SKIN_REGIONS = ("face", "ears", "neck", "scalp")
GRAZING = 0.25
"""Cosine between normal and view below which a landmark is on the far side."""
OUTLIER = 0.02
"""Error, in iris distances, from which an observation counts less."""
CLIP_SHARE = 0.5
"""Weight of one real clip relative to all renders."""


@dataclass(frozen=True)
class SurfacePoints:
    """Points of a mesh by vertex indices."""

    corners: Int[Tensor, "l 3"]
    weights: Float[Tensor, "l 3"]

    def at(self, values: Float[Tensor, "*b v c"]) -> Float[Tensor, "*b l c"]:
        """Interpolate values of the vertices."""
        return (values[..., self.corners, :] * self.weights[..., None]).sum(-2)

    def __getitem__(self, index: Tensor | slice) -> SurfacePoints:
        return SurfacePoints(self.corners[index], self.weights[index])

    def rows(self) -> list[list[float]]:
        """Rows of the file, weights rounded to 1e-5 and summing to 1."""
        rows = []
        for corners, weights in zip(self.corners.tolist(), self.weights.double().tolist(), strict=True):
            first, second = round(weights[0], 5), round(weights[1], 5)
            rows.append([*corners, first, second, round(1 - first - second, 5)])
        return rows


def subdivided(corners: Int[Tensor, "f 3"], steps: int) -> SurfacePoints:
    """Grid points of triangles, ``(steps + 1)(steps + 2) / 2`` each."""
    grid = [(i, j, steps - i - j) for i in range(steps + 1) for j in range(steps + 1 - i)]
    weights = torch.tensor(grid, dtype=torch.float32) / steps
    return SurfacePoints(corners.repeat_interleave(len(weights), dim=0), weights.repeat(len(corners), 1))


def vertex_mirror(head: HeadModel) -> Int[Tensor, " v"]:
    """Index of each vertex's mirror image.

    Raises:
        ValueError: the mesh is not mirror symmetric to 1 mm.
    """
    rest = spread_rest(head)
    distance, index = torch.cdist(rest * torch.tensor([-1.0, 1.0, 1.0]), rest).min(dim=1)
    if float(distance.max()) > 1e-3:
        raise ValueError(
            f"the embedding needs a symmetric head, {head.name} is off by {distance.max() * 1e3:.1f} mm"
        )
    return index


def landmark_mirror(landmarks_px: Float[Tensor, "478 3"]) -> Int[Tensor, " 478"]:
    """Index of each landmark's counterpart on the other side, from a symmetric face seen from the front."""
    mirror = torch.empty(NUM_LANDMARKS, dtype=torch.long)
    points = landmarks_px[:NUM_SKIN].double()
    points = points - points[:, :1].mean() * torch.tensor([1.0, 0, 0], dtype=torch.float64)
    cost = torch.cdist(points * torch.tensor([-1.0, 1, 1], dtype=torch.float64), points).square()
    rows, columns = linear_sum_assignment((cost + cost.T).numpy())
    mirror[torch.from_numpy(rows)] = torch.from_numpy(columns)
    # The rings run right, top, left, bottom in the image.
    mirror[list(RIGHT_IRIS)] = torch.tensor([473, 476, 475, 474, 477])
    mirror[list(LEFT_IRIS)] = torch.tensor([468, 471, 470, 469, 472])
    if not bool((mirror[mirror] == torch.arange(NUM_LANDMARKS)).all()):
        raise ValueError(
            "the detections on the mean head are too asymmetric to pair left and right landmarks"
        )
    return mirror


def spread_rest(head: HeadModel) -> Float[Tensor, "v 3"]:
    """Mean head with the mouth open, where nearness means nearness on the surface."""
    params = HeadParams.neutral(1, head.num_shape, head.num_expression)
    expression = params.expression.clone()
    expression[:, head.expression_names.index("jawOpen")] = 0.7
    return head(dataclasses.replace(params, expression=expression))[0]


class Embedder:
    """Searches the skin of one head for the points that explain views."""

    def __init__(self, head: HeadModel, mirror: Int[Tensor, " 478"]) -> None:
        self.head = head
        self.landmark_mirror = mirror
        self.vertex_mirror = vertex_mirror(head)
        self.rest = spread_rest(head)
        skin = head.region(*SKIN_REGIONS)
        front = vertex_normals(self.rest[None], head.faces)[0, :, 2] > -0.3
        self.candidates = (skin & front).nonzero().flatten()
        allowed = skin & front
        self.skin_faces = head.faces[allowed[head.faces].all(dim=1)]

    def mirrored(self, view: View) -> View:
        """The same view of the mirrored head: as good an observation, and it makes the result symmetric."""
        width = IMAGE_SIZE - 1
        vertices = view.vertices_px[self.vertex_mirror].clone()
        landmarks = view.landmarks_px[self.landmark_mirror].clone()
        vertices[:, 0], landmarks[:, 0] = width - vertices[:, 0], width - landmarks[:, 0]
        return dataclasses.replace(
            view, vertices_px=vertices, landmarks_px=landmarks, facing=view.facing[self.vertex_mirror]
        )

    def coarse(self, views: list[View]) -> SurfacePoints:
        """Best vertex of each landmark, first from frontal views, then from all that see it."""
        best = self._best_vertices([v for v in views if v.frontal], None)
        best = self._best_vertices(views, best)
        corners = best[:, None].expand(-1, 3)
        return SurfacePoints(corners, torch.tensor([1.0, 0, 0]).expand(NUM_SKIN, 3))

    def _best_vertices(self, views: list[View], previous: Tensor | None) -> Int[Tensor, " 468"]:
        cost = torch.zeros(NUM_SKIN, len(self.candidates))
        for view in views:
            distance = (
                torch.cdist(view.landmarks_px[:NUM_SKIN], view.vertices_px[self.candidates, :2]) / view.unit
            )
            seen = torch.ones(NUM_SKIN) if previous is None else (view.facing[previous] > GRAZING).float()
            cost += _robust(distance) * seen[:, None]
        return self.candidates[cost.argmin(dim=1)]

    def refine(self, views: list[View], start: SurfacePoints, radius: float = 0.006) -> SurfacePoints:
        """Best point of the surface near each start.

        Args:
            views: with the skin's landmarks.
            start: of the 468 skin landmarks.
            radius: metres, how far a point may move.
        """
        grid = subdivided(self.skin_faces, 4)
        positions = grid.at(self.rest)
        origin = start.at(self.rest)
        vertices = torch.stack([view.vertices_px[:, :2] for view in views])
        landmarks = torch.stack([view.landmarks_px[:NUM_SKIN] for view in views])
        unit = torch.tensor([view.unit for view in views])
        seen = (start.at(torch.stack([v.facing for v in views])[..., None]) > GRAZING).float().squeeze(-1)
        seen = seen * torch.tensor([view.weight for view in views])[:, None]
        chosen = torch.empty(NUM_SKIN, dtype=torch.long)
        for index in range(NUM_SKIN):
            near = ((positions - origin[index]).norm(dim=1) < radius).nonzero().flatten()
            near = near if len(near) else (positions - origin[index]).norm(dim=1).argmin()[None]
            distance = (grid[near].at(vertices) - landmarks[:, index, None]).norm(dim=-1) / unit[:, None]
            cost = (_robust(distance) * seen[:, index, None]).sum(0)
            chosen[index] = near[cost.argmin()]
        return grid[chosen]

    def symmetric(self, points: SurfacePoints) -> SurfacePoints:
        """Counterparts as exact mirror images, landmarks of the midline on it."""
        corners, weights = points.corners.clone(), points.weights.clone()
        mirror = self.landmark_mirror[:NUM_SKIN]
        index = torch.arange(NUM_SKIN)
        second = index > mirror
        corners[second] = self.vertex_mirror[corners[mirror[second]]]
        weights[second] = weights[mirror[second]]
        middle = index[index == mirror]
        grid = subdivided(self.skin_faces, 8)
        positions = grid.at(self.rest)
        goal = points[middle].at(self.rest) * torch.tensor([0.0, 1, 1])
        nearest = torch.cdist(goal, positions).argmin(dim=1)
        corners[middle], weights[middle] = grid.corners[nearest], grid.weights[nearest]
        return SurfacePoints(corners, weights)

    def irises(self) -> SurfacePoints:
        """Painted places of the ten iris landmarks, right eye first."""
        rest = self.head(HeadParams.neutral(1, self.head.num_shape, self.head.num_expression))[0]
        angle = iris_angle(self.head)
        side, front = float(np.sin(angle)), float(np.cos(angle))
        rays = torch.tensor(
            [[0, 0, 1], [side, 0, front], [0, side, front], [-side, 0, front], [0, -side, front]]
        )
        parts = []
        for centre, mask in reversed(eye_spheres(self.head)):
            grid = subdivided(self.head.faces[mask[self.head.faces].all(dim=1)], 10)
            directions = F.normalize(grid.at(rest) - centre, dim=1)
            parts.append(grid[(rays @ directions.T).argmax(dim=1)])
        return concatenated(parts)

    def ibug68(self, points: SurfacePoints) -> SurfacePoints:
        """The 68-point markup as surface points nearest to means of the 478 points."""
        positions = points.at(self.rest)
        goal = torch.stack([positions[list(group)].mean(0) for group in IBUG68])
        grid = subdivided(self.skin_faces, 4)
        return grid[torch.cdist(goal, grid.at(self.rest)).argmin(dim=1)]


def concatenated(parts: list[SurfacePoints]) -> SurfacePoints:
    """Join lists of points."""
    return SurfacePoints(torch.cat([p.corners for p in parts]), torch.cat([p.weights for p in parts]))


def _robust(distance: Tensor) -> Tensor:
    return (1 + (distance / OUTLIER).square()).sqrt() - 1


@torch.no_grad()
def embed(
    head: HeadModel, detect: Detect, num_views: int = 240, seed: int = 0
) -> tuple[SurfacePoints, Embedder, list[View]]:
    """Embedding of the 478 landmarks from renders.

    Args:
        head: mirror symmetric, with ARKit expressions.
        detect: landmarks of pictures.
        num_views: renders; each also counts as its mirror image.
        seed: of identities, expressions and views.

    Returns:
        The points, the search and the views, mirror images included.
    """
    pictures, *_ = render(head, neutral_params(head))
    landmarks, found = detect(pictures)
    if not bool(found[0]):
        raise ValueError(
            f"no face was detected on a render of {head.name}; its scale or orientation is wrong"
        )
    embedder = Embedder(head, landmark_mirror(landmarks[0]))
    generator = torch.Generator().manual_seed(seed)
    views = observe(head, random_params(head, num_views, generator), detect)
    views += [embedder.mirrored(view) for view in views]
    points = embedder.symmetric(embedder.refine(views, embedder.coarse(views)))
    return concatenated([points, embedder.irises()]), embedder, views


def residual(points: SurfacePoints, views: list[View]) -> float:
    """Median over views of the mean distance of the skin landmarks that face the viewer, iris distances."""
    means = []
    for view in views:
        skin = points[slice(0, NUM_SKIN)]
        distance = (skin.at(view.vertices_px[:, :2]) - view.landmarks_px[:NUM_SKIN]).norm(dim=1) / view.unit
        seen = skin.at(view.facing[:, None]).squeeze(1) > GRAZING
        means.append(distance[seen].mean())
    return float(torch.stack(means).median())


@dataclass(frozen=True)
class ClipLandmarks:
    """Detections in a clip of one person."""

    landmarks_px: Float[Tensor, "n 478 3"]
    blendshapes: Float[Tensor, "n e"]
    """In the order of the head's expressions."""
    side: int
    """Longer side of the frames, pixels; shorter frames are thought of as padded to a square."""


def read_clips(head: HeadModel, folder: Path, max_frames: int = 24) -> list[ClipLandmarks]:
    """Detect landmarks in frames spread over each video of a folder, in alphabetical order.

    Raises:
        FileNotFoundError: no file in the folder.
    """
    files = sorted(file for file in folder.iterdir() if file.is_file()) if folder.is_dir() else []
    if not files:
        raise FileNotFoundError(f"no videos in {folder}; give --clips a folder of talking-head clips")
    clips = []
    for file in files:
        frames = read_video(file, max_frames=300).frames
        frames = frames[np.linspace(0, len(frames) - 1, min(max_frames, len(frames))).round().astype(int)]
        found = FaceDetector(num_faces=1).detect(frames)
        landmarks = torch.cat([found.landmarks, found.depth[..., None]], dim=-1)[found.found]
        scores = match_blendshapes(found.blendshapes[found.found], BLENDSHAPE_NAMES, head.expression_names)
        clips.append(ClipLandmarks(landmarks, scores, max(frames.shape[1:3])))
    return clips


def fitted_views(head: HeadModel, clip: ClipLandmarks, weight: float) -> list[View]:
    """Views of a clip by the fit with the head's present embedding."""
    fit = fit_clip(head, clip.landmarks_px, (clip.side, clip.side), clip.blendshapes)
    world = head(fit.params, in_world=True)
    vertices_px = project(world, fit.params.camera, (clip.side, clip.side))
    facing = vertex_normals(world, head.faces)[..., 2]
    unit = iris_distance(clip.landmarks_px)
    return [
        View(vertices_px[i], facing[i], clip.landmarks_px[i, :, :2], float(unit[i]), False, weight)
        for i in range(len(unit))
    ]


@torch.no_grad()
def refine_on_clips(
    head: HeadModel, embedder: Embedder, views: list[View], clips: list[ClipLandmarks], rounds: int = 3
) -> SurfacePoints:
    """Move the head's embedded points so that fits of real clips leave less systematic error.

    Args:
        head: with the embedding to start from; changed in place.
        embedder: of the same head.
        views: renders, which keep lips and lids apart where the clips show them closed.
        clips: each counts as much as ``CLIP_SHARE`` of the renders.
        rounds: of fit and search.
    """
    points = current_embedding(head)
    for _ in range(rounds):
        real = []
        for clip in clips:
            weight = CLIP_SHARE * len(views) / len(clip.landmarks_px)
            real += fitted_views(head, clip, weight)
        real += [embedder.mirrored(view) for view in real]
        skin = embedder.symmetric(embedder.refine(views + real, points[slice(0, NUM_SKIN)], radius=0.003))
        points = concatenated([skin, points[slice(NUM_SKIN, None)]])
        set_embedding(head, "mediapipe", points)
    return points


def current_embedding(head: HeadModel, name: str = "mediapipe") -> SurfacePoints:
    """A head's own embedding."""
    return SurfacePoints(
        head.get_buffer(f"landmark_corners_{name}"), head.get_buffer(f"landmark_weights_{name}")
    )


def set_embedding(head: HeadModel, name: str, points: SurfacePoints) -> None:
    """Give a head an embedding, in place."""
    head.register_buffer(f"landmark_corners_{name}", points.corners.contiguous(), persistent=False)
    head.register_buffer(f"landmark_weights_{name}", points.weights.contiguous(), persistent=False)
    head.landmark_names = tuple(dict.fromkeys([*head.landmark_names, name]))


def save(path: Path, points: SurfacePoints, markup68: SurfacePoints) -> None:
    """Write the file that the bake reads, one landmark per line."""
    parts = []
    for name, rows in (("mediapipe", points.rows()), ("ibug68", markup68.rows())):
        lines = ",\n".join(f"    {json.dumps(row)}" for row in rows)
        parts.append(f'  "{name}": [\n{lines}\n  ]')
    write_atomic(path, "{\n" + ",\n".join(parts) + "\n}\n")


def main(arguments: list[str] | None = None) -> None:
    """Entry of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m rome_lightning.baking.landmark_embedding", description=__doc__
    )
    parser.add_argument("output", type=Path, help="JSON file to write")
    parser.add_argument("--head", default="open", help="'open' or the path of a head file")
    parser.add_argument("--clips", type=Path, help="folder of talking-head videos to refine on")
    parser.add_argument("--views", type=int, default=240, help="renders to detect on")
    parser.add_argument("--seed", type=int, default=0, help="of the renders")
    options = parser.parse_args(arguments)
    head = load_open_head() if options.head == "open" else load_open_head(Path(options.head))
    points, embedder, views = embed(head, mediapipe_detect, options.views, options.seed)
    print(f"{len(views) // 2} of {options.views} renders, residual {residual(points, views):.2%}")
    if options.clips is not None:
        clips = read_clips(head, options.clips)
        set_embedding(head, "mediapipe", points)
        points = refine_on_clips(head, embedder, views, clips)
        print(f"refined on {len(clips)} clips, residual on renders {residual(points, views):.2%}")
    save(options.output, points, embedder.ibug68(points))


if __name__ == "__main__":
    main()
