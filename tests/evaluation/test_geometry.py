from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from scipy.spatial.transform import Rotation

from rome_lightning.cli.main import main
from rome_lightning.evaluation import submission
from rome_lightning.evaluation.geometry import PredictedMesh, TrueMesh, mesh_scores
from rome_lightning.evaluation.protocol import MeshRule
from rome_lightning.media.meshes import Mesh, ply_bytes, read_landmarks, read_mesh

Shrunk = Callable[..., Path]


def sphere(radius: float) -> Mesh:
    mesh = trimesh.creation.icosphere(subdivisions=3, radius=radius)
    return Mesh(
        torch.from_numpy(np.array(mesh.vertices)).float(), torch.from_numpy(np.array(mesh.faces)).long()
    )


def summary_of(output: Path, name: str) -> dict:
    return json.loads((output / "evaluation" / name / "summary.json").read_text())


def test_a_model_is_measured_against_the_exact_truth(
    shrunk: Shrunk, checkpoint: Path, tmp_path: Path
) -> None:
    protocol = shrunk("geometry_synthetic")
    arguments = ["evaluate", "--protocol", protocol, "--checkpoint", checkpoint, "--output", tmp_path]
    assert main([*map(str, arguments), "--refine_steps", "0"]) == 0
    summary = summary_of(tmp_path, "geometry_synthetic")
    cells = summary["metrics"]["geometry"]
    assert summary["failures"]["geometry"]["num_missing"] == 0
    # The bare head lacks hair and clothes; its face is exact.
    assert cells["vertex_mm/scalp"]["floor"] > 3
    assert cells["vertex_mm/face"]["floor"] == pytest.approx(0, abs=1e-3)
    # An untrained model has no offsets yet: it is the bare head.
    assert cells["vertex_mm/scalp"]["mean"] == pytest.approx(cells["vertex_mm/scalp"]["floor"], rel=0.05)
    assert cells["chamfer_mm/scalp"]["mean"] <= cells["vertex_mm/scalp"]["mean"] * 1.3
    assert {"vertex_mm/neck", "vertex_mm/shoulders", "normal_deg", "f_score"} <= set(cells)


def test_scores_of_a_known_offset() -> None:
    truth = TrueMesh(sphere(50.0), None, None, {})
    rule = MeshRule(num_points=3000, f_score_mm=2.0)
    names = ["vertex_mm", "chamfer_mm", "normal_deg", "f_score"]
    near = mesh_scores(PredictedMesh(sphere(51.0), None), truth, rule, names)
    assert near["vertex_mm"] == pytest.approx(1, abs=1e-4)
    assert near["chamfer_mm"] == pytest.approx(1, abs=0.05)
    assert near["normal_deg"] < 5
    assert near["f_score"] == 1
    assert mesh_scores(PredictedMesh(sphere(54.0), None), truth, rule, names)["f_score"] == 0
    with pytest.raises(ValueError, match="no region 'scalp' on this mesh"):
        mesh_scores(PredictedMesh(sphere(51.0), None), truth, rule, ["chamfer_mm/scalp"])


def bumpy_scan(folder: Path) -> tuple[Mesh, torch.Tensor]:
    """A scan with seven landmarks, and a photograph without people."""
    mesh = sphere(50.0)
    vertices = mesh.vertices * (1 + 0.1 * torch.sin(mesh.vertices[:, :1] / 9))
    mesh = Mesh(vertices, mesh.faces)
    points = vertices[[0, 5, 9, 14, 20, 33, 41]]
    folder.mkdir(parents=True)
    (folder / "mesh.ply").write_bytes(ply_bytes(mesh))
    np.savetxt(folder / "landmarks.txt", points.numpy())
    Image.new("RGB", (64, 64), "grey").save(folder / "photo.png")
    return mesh, points


def test_scans_are_reached_from_any_pose_and_size(shrunk: Shrunk, tmp_path: Path) -> None:
    """The whole protocol on another system's meshes."""
    turn = torch.from_numpy(Rotation.from_euler("xyz", [20, 40, -10], degrees=True).as_matrix()).float()
    for person in ("anna", "bob"):
        mesh, points = bumpy_scan(tmp_path / "scans" / person)
        folder = tmp_path / "theirs" / "geometry" / person
        folder.mkdir(parents=True)
        moved = [0.01 * x @ turn.T + 3 for x in (mesh.vertices, points)]
        (folder / "000000__000000.ply").write_bytes(ply_bytes(Mesh(moved[0], mesh.faces)))
        if person == "anna":
            np.savetxt(folder / "000000__000000.txt", moved[1].numpy())
    protocol = shrunk("geometry_h3ds")
    more = ["--predictions", tmp_path / "theirs", "--data", tmp_path / "scans", "--output", tmp_path]
    assert main(["evaluate", "--protocol", str(protocol), *map(str, more)]) == 0
    summary = summary_of(tmp_path, "geometry_h3ds")
    cell = summary["metrics"]["geometry"]["chamfer_mm"]
    assert cell["num"] == 1
    assert cell["mean"] == pytest.approx(0, abs=0.05)
    assert summary["failures"]["geometry"]["reasons"] == {"no landmarks to align by": 1}
    assert summary["as_published"] is False


@pytest.mark.slow
def test_photographs_without_a_face_are_counted(shrunk: Shrunk, checkpoint: Path, tmp_path: Path) -> None:
    bumpy_scan(tmp_path / "scans" / "anna")
    protocol = shrunk("geometry_h3ds")
    more = ["--checkpoint", checkpoint, "--data", tmp_path / "scans", "--output", tmp_path]
    assert main(["evaluate", "--protocol", str(protocol), *map(str, more)]) == 0
    failures = summary_of(tmp_path, "geometry_h3ds")["failures"]["geometry"]
    assert failures["num_missing"] == 1
    assert "no face found" in next(iter(failures["reasons"]))


def test_the_submission_has_what_the_benchmark_wants(
    shrunk: Shrunk,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    from datamodules.evaluation import SyntheticPeople
    from rome_lightning.head import load_head

    people = SyntheticPeople(load_head("open"), 1, 2, 7, 64)

    def tracker(system: object) -> Callable[[Path], object]:
        def track(path: Path) -> object:
            if "bad" in path.stem:
                raise ValueError("no face found in the photo")
            return people.frames("synthetic-00000", [0])

        return track

    monkeypatch.setattr(submission, "photo_tracker", tracker)
    for name in ("017/images/EMO-1_156_221501007.png", "018/FREE_786_222200038.png"):
        path = tmp_path / "svfr" / name
        path.parent.mkdir(parents=True)
        Image.new("RGB", (64, 64)).save(path)
    arguments = ["evaluate", "--protocol", str(shrunk("nersemble_svfr")), "--checkpoint", str(checkpoint)]
    arguments += ["--data", str(tmp_path / "svfr"), "--output", str(tmp_path), "--refine_steps", "0"]
    assert main(arguments) == 0
    folder = tmp_path / "evaluation" / "nersemble_svfr"
    with zipfile.ZipFile(folder / "svfr_submission.zip") as archive:
        names = archive.namelist()
    files = ("mesh_posed.ply", "mesh_neutral.ply", "landmarks_posed.npy", "landmarks_neutral.npy")
    assert set(names) == {
        f"{p}/{f}" for p in ("017/EMO-1_156_221501007", "018/FREE_786_222200038") for f in files
    }
    points = np.load(folder / "017/EMO-1_156_221501007/landmarks_posed.npy")
    assert points.shape == (7, 3)
    mesh = trimesh.load(folder / "017/EMO-1_156_221501007/mesh_posed.ply", process=False)
    # The landmarks lie on their own mesh.
    assert trimesh.proximity.closest_point_naive(mesh, points)[1].max() < 1e-2
    Image.new("RGB", (64, 64)).save(tmp_path / "svfr" / "018" / "bad.png")
    assert main(arguments) == 1
    assert "bad has no mesh: no face found" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".ply", ".obj"])
@pytest.mark.parametrize("binary", [True, False])
def test_meshes_of_other_programs_are_read(suffix: str, binary: bool, tmp_path: Path) -> None:
    mesh = trimesh.creation.box((1, 2, 3))
    path = tmp_path / f"mesh{suffix}"
    encoding = {"encoding": "binary" if binary else "ascii"} if suffix == ".ply" else {}
    path.write_bytes(
        mesh.export(file_type=suffix[1:], **encoding)
        if suffix == ".ply"
        else mesh.export(file_type="obj").encode()
    )
    found = read_mesh(path)
    np.testing.assert_allclose(found.vertices, mesh.vertices, atol=1e-6)
    assert np.array_equal(found.faces, mesh.faces)
    again = tmp_path / "again.ply"
    again.write_bytes(ply_bytes(found))
    assert torch.equal(read_mesh(again).faces, found.faces)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.obj", b"v 0 0 0\nv 1 0 0\nf 1 2 3\n", "whose vertices are not in the file"),
        ("a.obj", b"v 0 0 0\n", "no faces"),
        ("a.obj", b"v 0 0 nan\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "not finite"),
        ("a.ply", b"nonsense", "cannot read"),
        ("a.stl", b"solid", r"pass \.obj or \.ply"),
    ],
)
def test_damaged_meshes_are_refused(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_mesh(tmp_path / name)
    (tmp_path / "points.txt").write_text("1 2\n3 4\n")
    with pytest.raises(ValueError, match="three finite numbers per line"):
        read_landmarks(tmp_path / "points.txt")
