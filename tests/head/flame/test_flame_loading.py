"""Imitations of FLAME's files load as a head model; wrong files are reported."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rome_lightning.head import REGIONS, HeadModel, load_head
from rome_lightning.head.flame import FlameFiles, load_flame, read_flame
from rome_lightning.head.topology import boundary_loops, close_loop, cut_along, face_components
from rome_lightning.types import HeadParams

NUM_FACES = 2320


@pytest.fixture
def head(flame_path: Path) -> HeadModel:
    return load_flame(flame_path, num_shape=10, num_expression=5)


def test_load_head_takes_a_path(flame_path: Path) -> None:
    model = load_head(flame_path)
    assert (model.num_shape, model.num_expression) == (100, 50)
    assert model.num_vertices == 1200
    assert "non-commercial" in model.licence


def test_missing_file_names_the_page_and_the_licence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"flame\.is\.tue\.mpg\.de.*licence"):
        load_head(tmp_path / "generic_model.pkl")


def test_bases_come_from_the_right_columns(flame_path: Path, flame_arrays: dict[str, np.ndarray]) -> None:
    data = read_flame(FlameFiles(flame_path), 10, 5)
    directions, regressor = flame_arrays["shapedirs"], flame_arrays["J_regressor"]
    np.testing.assert_allclose(data.shape_basis, directions[:, :, :10], atol=1e-9)
    np.testing.assert_allclose(data.expression_basis, directions[:, :, 300:305], atol=1e-9)
    np.testing.assert_allclose(data.joints, regressor @ flame_arrays["v_template"], atol=1e-7)
    for joint in range(5):
        expected = sum(regressor[joint, v] * directions[v] for v in range(1200))[
            :, [*range(10), *range(300, 305)]
        ]
        np.testing.assert_allclose(data.joint_basis[joint], expected, atol=1e-7)
    assert data.pose_basis is not None
    for k in (0, 17, 35):
        np.testing.assert_allclose(
            data.pose_basis[k].view(-1, 3), flame_arrays["posedirs"][:, :, k], atol=1e-9
        )


def test_python3_pickle_without_chumpy_is_the_same(
    flame_path: Path, flame_arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    path = tmp_path / "modern.pkl"
    path.write_bytes(pickle.dumps(flame_arrays, protocol=4))
    old, new = read_flame(FlameFiles(flame_path), 10, 5), read_flame(FlameFiles(path), 10, 5)
    for name in ("template", "shape_basis", "joints", "skinning_weights", "faces", "uvs"):
        torch.testing.assert_close(getattr(old, name), getattr(new, name))
    assert old.name != new.name


def test_the_mouth_is_closed(head: HeadModel) -> None:
    faces = head.faces.numpy()
    assert len(faces) == NUM_FACES + 30
    assert [len(loop) for loop in boundary_loops(faces)] == [40]
    # Manifold and consistently oriented: every directed edge once.
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    assert len(np.unique(edges, axis=0)) == len(edges)
    vertices = head(HeadParams.neutral(1, 10, 5))[0].numpy()
    a, b, c = (vertices[faces[NUM_FACES:, k]] for k in range(3))
    assert (np.cross(b - a, c - a)[:, 2] > 0).all(), "closing faces look out of the mouth"


def _signed_areas(uvs: np.ndarray, faces: np.ndarray) -> np.ndarray:
    a, b, c = (uvs[faces[:, k]] for k in range(3))
    return ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]) / 2


def test_the_computed_layout_has_no_folds_and_no_overlaps(head: HeadModel) -> None:
    uvs, faces = head.uvs.numpy().astype(np.float64), head.uv_faces.numpy()
    assert head.name.endswith("-computed-uv")
    assert uvs.min() > 0.005
    assert uvs.max() < 0.995
    # v points down, so triangles that are not mirrored have negative area in (u, v).
    areas = _signed_areas(uvs, faces)
    assert (areas < 0).all()
    # Overlap: of random points of the square none lies in two triangles.
    points = np.random.default_rng(0).random((4000, 2))
    a, b, c = (uvs[faces[:, k]][None] for k in range(3))

    def side(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        d, e = q - p, points[:, None] - p
        return d[..., 0] * e[..., 1] - d[..., 1] * e[..., 0]

    inside = (side(a, b) < 0) & (side(b, c) < 0) & (side(c, a) < 0)
    assert inside.sum(1).max() == 1
    assert abs(inside.any(1).mean() - -areas.sum()) < 0.03
    assert -areas.sum() > 0.6


def test_the_layout_keeps_the_face_upright(head: HeadModel) -> None:
    vertices = head(HeadParams.neutral(1, 10, 5))[0]
    front = head.region("face") & (vertices[:, 2] > 0.06)
    x, u = vertices[front, 0], head.vertex_uvs[front, 0]
    y, v = vertices[front, 1], head.vertex_uvs[front, 1]
    assert torch.corrcoef(torch.stack([x, u]))[0, 1] > 0.9
    assert torch.corrcoef(torch.stack([y, v]))[0, 1] < -0.9


def test_computed_regions_partition_the_head(head: HeadModel, flame_arrays: dict[str, np.ndarray]) -> None:
    masks = torch.stack([head.region(name) for name in REGIONS])
    assert (masks.sum(0) == 1).all()
    vertices = torch.from_numpy(flame_arrays["v_template"])
    assert int(head.region("eyes").sum()) == 2 * 86
    assert head.region("shoulders")[vertices[:, 1] < -0.199].all()
    assert head.region("neck")[(vertices[:, 1] - -0.12).abs() < 0.01].all()
    assert head.region("scalp")[vertices[:, 1] > 0.11].all()
    eyes = head.region("eyes")
    assert head.region("face")[~eyes & (vertices[:, 2] > 0.09) & (vertices[:, 1].abs() < 0.03)].all()


def test_official_masks_win(flame_path: Path) -> None:
    parts = {
        "face": range(100, 200), "scalp": range(150, 300), "neck": range(300, 350),
        "boundary": range(340, 360), "left_ear": [110], "right_ear": [111],
        "left_eyeball": [400], "right_eyeball": [401],
        "forehead": [], "left_eye_region": [100], "right_eye_region": [101], "nose": [102], "lips": [103],
    }  # fmt: skip
    content = {name: np.array(list(indices), dtype=np.int64) for name, indices in parts.items()}
    masks = flame_path.with_name("FLAME_masks.pkl")
    masks.write_bytes(pickle.dumps(content, 2))
    model = load_flame(flame_path, 2, 2)
    assert (torch.stack([model.region(name) for name in REGIONS]).sum(0) == 1).all()
    assert model.region("scalp")[200:300].all()
    assert model.region("face")[150:200].all()
    assert model.region("ears").nonzero().flatten()[:2].tolist() == [110, 111]
    assert model.region("shoulders")[340:360].all()
    content["scalp"] = np.array([5000])
    masks.write_bytes(pickle.dumps(content, 2))
    with pytest.raises(ValueError, match="does not fit the head: 'scalp'"):
        load_flame(flame_path, 2, 2)


def _write_obj(
    path: Path, faces: np.ndarray, uvs: np.ndarray, corners: np.ndarray, v_per_face: int = 3
) -> None:
    lines = [f"vt {u:.9f} {v:.9f}" for u, v in uvs]
    order = np.random.default_rng(0).permutation(len(faces))
    for face, corner in zip(np.roll(faces, 1, 1)[order], np.roll(corners, 1, 1)[order], strict=True):
        lines.append("f " + " ".join(f"{a + 1}/{b + 1}" for a, b in zip(face, corner, strict=True)))
    path.write_text("\n".join(lines))


def test_official_layout_is_used_with_v_flipped(
    flame_path: Path, flame_arrays: dict[str, np.ndarray]
) -> None:
    faces = flame_arrays["f"].astype(np.int64)
    computed = read_flame(FlameFiles(flame_path), 2, 2)
    corners = np.arange(3 * len(faces)).reshape(-1, 3)
    uvs = np.random.default_rng(1).random((3 * len(faces), 2))
    path = flame_path.with_name("head_template.obj")
    _write_obj(path, faces, uvs, corners)
    data = read_flame(FlameFiles.beside(flame_path), 2, 2)
    assert data.name == computed.name.removesuffix("-computed-uv")
    picked = data.uvs[data.uv_faces[: len(faces)]].numpy()
    np.testing.assert_allclose(picked, uvs[corners] * [1, -1] + [0, 1], atol=1e-6)
    # Closing faces reuse the coordinates of their vertices.
    for face, corner in zip(data.faces[len(faces) :], data.uv_faces[len(faces) :], strict=True):
        for vertex, uv in zip(face, corner, strict=True):
            assert uv in data.uv_faces[: len(faces)][data.faces[: len(faces)] == vertex]
    archive = flame_path.with_name("FLAME_texture.npz")
    np.savez(archive, vt=uvs, ft=corners)
    same = read_flame(FlameFiles(flame_path, layout=archive), 2, 2)
    torch.testing.assert_close(same.uvs[same.uv_faces], data.uvs[data.uv_faces])
    _write_obj(path, faces[:-1], uvs, corners[:-1])
    with pytest.raises(ValueError, match="1 of its 2320 faces"):
        load_flame(flame_path)


def test_landmark_files(flame_path: Path, head: HeadModel) -> None:
    vertices = head(HeadParams.neutral(2, 10, 5))
    with pytest.raises(ValueError, match="no landmarks 'ibug68', it has none"):
        head.landmarks(vertices, "ibug68")
    rng = np.random.default_rng(0)
    faces, weights = rng.integers(0, NUM_FACES, 68), rng.dirichlet(np.ones(3), 68)
    content: dict[str, Any] = {
        "full_lmk_faces_idx": faces[None], "full_lmk_bary_coords": weights[None],
        "dynamic_lmk_faces_idx": torch.arange(5),
    }  # fmt: skip
    np.save(
        flame_path.with_name("landmark_embedding.npy"), np.array(content, dtype=object), allow_pickle=True
    )
    parts = {"lmk_face_idx": faces[:7], "lmk_b_coords": weights[:7], "landmark_indices": np.arange(3, 10)}
    np.savez(flame_path.with_name("mediapipe_landmark_embedding.npz"), **parts)
    model = load_flame(flame_path, 10, 5)
    found = model.landmarks(vertices, "ibug68")
    for landmark in (0, 31, 67):
        corners = vertices[1, model.faces[faces[landmark]]].numpy()
        np.testing.assert_allclose(found[1, landmark], weights[landmark] @ corners, atol=1e-6)
    assert model.landmarks(vertices, "mediapipe105").shape == (2, 7, 3)
    indices = model.landmark_indices("mediapipe105")
    assert indices is not None
    assert indices.tolist() == list(range(3, 10))
    assert model.landmark_indices("ibug68") is None


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"weights": None}, "lacks weights"),
        (
            {"shapedirs": np.zeros((1200, 3, 10))},
            r"shapedirs must have shape \(1200, 3, 400\), got \(1200, 3, 10\)",
        ),
        ({"kintree_table": np.zeros((2, 5), dtype=np.int64)}, "a different skeleton"),
        ({"f": np.full((3, 3), 9999)}, "vertices below 1200"),
        ({"posedirs": np.full((1200, 3, 36), np.nan)}, "not finite"),
    ],
)
def test_damaged_models_are_refused(
    change: dict[str, Any], match: str, flame_arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    content = {name: value for name, value in (flame_arrays | change).items() if value is not None}
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(content, 2))
    with pytest.raises(ValueError, match=match):
        load_flame(path)


def test_files_that_are_no_data_are_refused_by_name(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    path = tmp_path / "model.pkl"
    for content, match in (
        (pickle.dumps(Hostile()), r"model\.pkl .* asks for"),
        (b"hello", r"model\.pkl .* damaged or not one of data"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=match):
            load_flame(path)
    assert not (tmp_path / "ran").exists()


def test_other_units_and_axes_are_refused(flame_arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    for matrix in (1000 * np.eye(3), np.diag([-1.0, 1, 1]), np.diag([1.0, -1, -1])):
        path.write_bytes(pickle.dumps(flame_arrays | {"v_template": flame_arrays["v_template"] @ matrix}, 2))
        with pytest.raises(ValueError, match="expected a head in metres"):
            load_flame(path)


def test_component_counts_are_checked(flame_path: Path) -> None:
    with pytest.raises(ValueError, match="num_shape must be between 1 and 300, got 301"):
        load_flame(flame_path, num_shape=301)
    with pytest.raises(FileNotFoundError, match="masks"):
        load_flame(flame_path, files=replace(FlameFiles(flame_path), masks=flame_path.with_name("masks.pkl")))


def test_close_loop_makes_a_strip() -> None:
    angles = np.arange(12) * 2 * np.pi / 12
    ring = np.stack([2 * np.cos(angles), 0.3 * np.sin(angles), np.zeros(12)], 1)
    faces = close_loop(np.arange(12)[::-1], ring)
    assert len(faces) == 10
    assert sorted(np.unique(faces)) == list(range(12))
    normals = np.cross(ring[faces[:, 1]] - ring[faces[:, 0]], ring[faces[:, 2]] - ring[faces[:, 0]])
    assert (normals[:, 2] > 0).all()
    area = 0.5 * np.abs(
        np.dot(ring[:, 0], np.roll(ring[:, 1], 1)) - np.dot(ring[:, 1], np.roll(ring[:, 0], 1))
    )
    assert normals[:, 2].sum() / 2 == pytest.approx(area)


def test_cut_opens_a_grid() -> None:
    quads = [(r * 4 + c, r * 4 + c + 1, r * 4 + c + 5, r * 4 + c + 4) for r in range(3) for c in range(3)]
    faces = np.array([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))])
    opened, doubles = cut_along(faces, np.array([1, 5, 9]), 16)
    assert doubles.tolist() == [1, 5]
    assert len(boundary_loops(opened)[0]) == 12 + 4
    assert face_components(opened).max() == 0
    # Going up from vertex 1, the right-hand side has larger x.
    assert all(17 not in face for face in opened[::6])
    assert 16 in opened[2]


def test_the_releases_lists_say_exactly_which_vertices_move(flame_path: Path) -> None:
    """Of the neck list only the vertices with support in the release's basis are kept."""
    count = load_flame(flame_path).num_vertices
    hair, neck = [3, 4, 5], [10, 11, 12, 13]
    flame_path.with_name("hair_list.pkl").write_bytes(pickle.dumps(hair, protocol=4))
    flame_path.with_name("neck_list.pkl").write_bytes(pickle.dumps(neck, protocol=4))
    head = load_flame(flame_path)
    assert head.region("scalp").nonzero().flatten().tolist() == hair
    assert head.region("neck", "shoulders").nonzero().flatten().tolist() == neck
    basis = torch.zeros(3 * count, 2)
    basis[3 * 11 + 2, 1] = basis[3 * 12, 0] = basis[3 * 100, 0] = 1.0
    torch.save(basis, flame_path.with_name("u_full.pt"))
    assert load_flame(flame_path).region("neck", "shoulders").nonzero().flatten().tolist() == [11, 12]
    total = sum(load_flame(flame_path).region(name).long() for name in REGIONS)
    assert bool((total == 1).all()), "every vertex belongs to one region"
    torch.save(basis[:-3], flame_path.with_name("u_full.pt"))
    with pytest.raises(ValueError, match="does not fit the head"):
        load_flame(flame_path)
