import dataclasses
import json

import pytest
import torch

from rome_lightning import assets
from rome_lightning.baking import landmark_embedding as embedding
from rome_lightning.baking.head import EMBEDDING_FILE
from rome_lightning.baking.landmark_embedding import (
    Embedder,
    SurfacePoints,
    current_embedding,
    landmark_mirror,
)
from rome_lightning.baking.landmark_views import (
    FRONTAL,
    IMAGE_SIZE,
    View,
    iris_angle,
    mediapipe_detect,
    neutral_params,
    random_params,
    render,
)
from rome_lightning.geometry import project, vertex_normals
from rome_lightning.head import HeadModel
from rome_lightning.head.open_head import load_open_head, read_head
from rome_lightning.types.landmarks import LEFT_IRIS, NUM_LANDMARKS, NUM_SKIN, RIGHT_IRIS


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_open_head()


@pytest.fixture(scope="module")
def mirror(head: HeadModel) -> torch.Tensor:
    params = neutral_params(head)
    points = project(head.landmarks(head(params)), params.camera, (IMAGE_SIZE, IMAGE_SIZE))
    return landmark_mirror(points[0])


def perfect_views(head: HeadModel, count: int, noise: float) -> list[View]:
    """Output of a detector that knows the head's own embedding, in pixels plus noise."""
    generator = torch.Generator().manual_seed(0)
    params = random_params(head, count, generator)
    world = head.to_world(head(params), params)
    vertices_px = project(world, params.camera, (IMAGE_SIZE, IMAGE_SIZE))
    facing = vertex_normals(world, head.faces)[..., 2]
    landmarks = head.landmarks(vertices_px)[..., :2]
    landmarks = landmarks + noise * torch.randn(landmarks.shape, generator=generator)
    unit = (landmarks[:, LEFT_IRIS[0]] - landmarks[:, RIGHT_IRIS[0]]).norm(dim=-1)
    frontal = params.global_pose[:, 1].abs() < FRONTAL
    return [
        View(vertices_px[i], facing[i], landmarks[i], float(unit[i]), bool(frontal[i])) for i in range(count)
    ]


def test_known_embedding_is_found_again(head: HeadModel, mirror: torch.Tensor) -> None:
    embedder = Embedder(head, mirror)
    views = perfect_views(head, 8, noise=0.3)
    views += [embedder.mirrored(view) for view in views]
    found = embedder.symmetric(embedder.refine(views, embedder.coarse(views)))
    truth = current_embedding(head)[slice(0, NUM_SKIN)]
    distance = (found.at(embedder.rest) - truth.at(embedder.rest)).norm(dim=1) * 1e3
    # Vertices are 2 to 5 mm apart and candidates a quarter of that; the far side is visible in few views.
    assert distance.median() < 1.0
    assert distance.quantile(0.95) < 4.0


def test_result_is_mirror_symmetric(head: HeadModel, mirror: torch.Tensor) -> None:
    embedder = Embedder(head, mirror)
    generator = torch.Generator().manual_seed(1)
    chosen = torch.randint(len(embedder.skin_faces), (NUM_SKIN,), generator=generator)
    weights = torch.rand(NUM_SKIN, 3, generator=generator)
    points = SurfacePoints(embedder.skin_faces[chosen], weights / weights.sum(1, keepdim=True))
    middle = mirror[:NUM_SKIN] == torch.arange(NUM_SKIN)
    known = current_embedding(head)
    points.corners[middle], points.weights[middle] = known.corners[:NUM_SKIN][middle], 1 / 3
    positions = embedder.symmetric(points).at(embedder.rest)
    reflected = positions[mirror[:NUM_SKIN]] * torch.tensor([-1.0, 1, 1])
    # Midline points are only placed on the nearest of a fine grid of candidates.
    torch.testing.assert_close(reflected, positions, atol=2e-3, rtol=0)


def test_landmark_mirror(mirror: torch.Tensor) -> None:
    assert torch.equal(mirror[mirror], torch.arange(NUM_LANDMARKS))
    for right, left in ((33, 263), (133, 362), (61, 291), (234, 454), (70, 300), (145, 374), (468, 473)):
        assert mirror[right] == left
    for middle in (1, 4, 10, 13, 14, 152, 168):
        assert mirror[middle] == middle


def test_shipped_file(head: HeadModel) -> None:
    rows = json.loads(EMBEDDING_FILE.read_text())
    faces = {frozenset(face) for face in head.faces.tolist()}
    assert {name: len(points) for name, points in rows.items()} == {"mediapipe": 478, "ibug68": 68}
    for point in rows["mediapipe"] + rows["ibug68"]:
        assert frozenset(point[:3]) in faces
        assert sum(point[3:]) == pytest.approx(1)
        assert min(point[3:]) >= 0
    eyes = head.region("eyes")
    for index, point in enumerate(rows["mediapipe"]):
        assert bool(eyes[point[:3]].all()) == (index >= NUM_SKIN)


def test_irises_lie_on_a_ring_around_the_gaze(head: HeadModel, mirror: torch.Tensor) -> None:
    points = Embedder(head, mirror).irises().at(embedding.spread_rest(head))
    for start, side in ((0, -1), (5, 1)):
        centre, ring = points[start], points[start + 1 : start + 5]
        assert centre[0] * side > 0.02
        radius = (ring - centre)[:, :2].norm(dim=1)
        assert radius.max() < 1.25 * radius.min()
        assert ring[0, 0] > centre[0] > ring[2, 0]
        assert ring[1, 1] > centre[1] > ring[3, 1]
    assert 0.2 < iris_angle(head) < 0.6


def test_refinement_on_clips_corrects_a_bias(head: HeadModel, mirror: torch.Tensor) -> None:
    """A clip whose landmarks are away from the embedding pulls the embedding there."""
    truth = current_embedding(head)
    generator = torch.Generator().manual_seed(2)
    params = random_params(head, 12, generator)
    params = dataclasses.replace(params, shape=params.shape[:1].repeat(12, 1))
    landmarks = project(
        head.to_world(head.landmarks(head(params)), params), params.camera, (IMAGE_SIZE, IMAGE_SIZE)
    )
    clip = embedding.ClipLandmarks(landmarks, params.expression, IMAGE_SIZE)
    embedder = Embedder(head, mirror)
    displaced = current_embedding(head)
    moved = [50, 280, 101, 330, 205, 425]
    corners = displaced.corners.clone()
    for index in moved:
        here = truth.at(embedder.rest)[index] + torch.tensor([0.0, 0.003, 0.0])
        centroids = embedder.rest[embedder.skin_faces].mean(1)
        corners[index] = embedder.skin_faces[(centroids - here).norm(dim=1).argmin()]
    weights = displaced.weights.clone()
    weights[moved] = 1 / 3
    embedding.set_embedding(head, "mediapipe", SurfacePoints(corners, weights))
    try:
        before = (SurfacePoints(corners, weights).at(embedder.rest) - truth.at(embedder.rest)).norm(dim=1)
        views = perfect_views(head, 1, 0.0)
        views = [dataclasses.replace(view, weight=1e-3) for view in views]
        after = embedding.refine_on_clips(head, embedder, views, [clip, clip], rounds=1)
        after = (after.at(embedder.rest) - truth.at(embedder.rest)).norm(dim=1)
    finally:
        embedding.set_embedding(head, "mediapipe", truth)
    assert before[moved].mean() > 0.002
    assert after[moved].mean() < 0.6 * before[moved].mean()


def test_render_paints_irises_and_mouth(head: HeadModel) -> None:
    params = neutral_params(head)
    pictures, vertices_px, facing = render(head, params)
    picture = torch.from_numpy(pictures[0]).float()
    landmarks = head.landmarks(vertices_px)[0].round().long()
    pupil = picture[landmarks[LEFT_IRIS[0], 1], landmarks[LEFT_IRIS[0], 0]]
    cheek = picture[landmarks[280, 1], landmarks[280, 0]]
    assert pupil.mean() < 60 < cheek.mean()
    assert facing.shape == vertices_px.shape[:2]
    assert picture[2, 2].tolist() == pytest.approx([114.75, 127.5, 140.25], abs=1)


def test_save_round_trip(tmp_path, head: HeadModel) -> None:
    points = current_embedding(head)
    embedding.save(tmp_path / "e.json", points, points[slice(0, 68)])
    rows = json.loads((tmp_path / "e.json").read_text())
    restored = SurfacePoints(
        torch.tensor([r[:3] for r in rows["mediapipe"]]), torch.tensor([r[3:] for r in rows["mediapipe"]])
    )
    rest = embedding.spread_rest(head)
    torch.testing.assert_close(restored.at(rest), points.at(rest), atol=1e-5, rtol=0)
    assert len(rows["ibug68"]) == 68


def test_asymmetric_head_is_refused(mirror: torch.Tensor) -> None:
    data = read_head()
    template = data.template.clone()
    template[:100, 0] += 0.01
    with pytest.raises(ValueError, match="off by"):
        Embedder(HeadModel(dataclasses.replace(data, template=template)), mirror)


def test_clips_folder_must_exist(tmp_path, head: HeadModel) -> None:
    with pytest.raises(FileNotFoundError, match="give --clips a folder"):
        embedding.read_clips(head, tmp_path)


@pytest.mark.slow
def test_detector_agrees_with_the_shipped_embedding(head: HeadModel) -> None:
    pytest.importorskip("mediapipe")
    try:
        assets.resolve("face_landmarker", allow_download=False)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    points, _, views = embedding.embed(head, mediapipe_detect, num_views=24)
    assert len(views) == 48
    assert embedding.residual(points, views) < 0.045
    rest = embedding.spread_rest(head)
    distance = (points.at(rest) - current_embedding(head).at(rest)).norm(dim=1)
    assert distance.median() < 3e-3
