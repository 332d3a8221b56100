"""An avatar's hair on a body with SMPL-X's layout, opened by smplx."""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flame_files import chumpy, flame_arrays, flame_path  # noqa: F401
from helpers import perturbed, random_frames, small_config

from rome_lightning.avatar import Avatar
from rome_lightning.cli.main import main
from rome_lightning.export.smplx import export_smplx
from rome_lightning.geometry import axis_angle_to_matrix
from rome_lightning.head import load_head
from rome_lightning.models import FullAvatar

NUM_OTHERS, NUM_JOINTS = 40, 55
SCALE, TURN, SHIFT = 1.1, torch.tensor([[0.1, 0.4, -0.2]]), torch.tensor([0.0, 0.3, 0.02])


@dataclasses.dataclass(frozen=True)
class Files:
    """A small body that contains the FLAME-like head, rotated and scaled, and the indices of its vertices."""

    flame: Path
    body: Path
    correspondence: Path
    ids: np.ndarray


@pytest.fixture
def files(flame_path: Path, flame_arrays: dict[str, Any], tmp_path: Path) -> Files:  # noqa: F811
    rng = np.random.default_rng(0)
    head = flame_arrays["v_template"]
    count = len(head) + NUM_OTHERS
    ids = rng.permutation(count)[: len(head)]
    template = rng.standard_normal((count, 3))
    template[ids] = SCALE * head @ axis_angle_to_matrix(TURN)[0].T.double().numpy() + SHIFT.double().numpy()
    regressor = np.zeros((NUM_JOINTS, count))
    regressor[np.arange(NUM_JOINTS), rng.permutation(count)[:NUM_JOINTS]] = 1
    arrays = {
        "v_template": template,
        "f": ids[flame_arrays["f"]].astype(np.uint32),
        "shapedirs": np.zeros((count, 3, 400), dtype=np.float32),
        "posedirs": np.zeros((count, 3, 9 * (NUM_JOINTS - 1)), dtype=np.float32),
        "J_regressor": regressor,
        "kintree_table": np.array([[2**32 - 1, *range(NUM_JOINTS - 1)], range(NUM_JOINTS)], dtype=np.int64),
        "weights": np.eye(NUM_JOINTS)[np.zeros(count, dtype=int)],
        "lmk_faces_idx": np.arange(51),
        "lmk_bary_coords": np.full((51, 3), 1 / 3),
        "joint2num": np.array({"Pelvis": 0}, dtype=object),
    }
    for side in "lr":
        arrays[f"hands_components{side}"] = np.eye(45)
        arrays[f"hands_mean{side}"] = np.zeros(45)
    np.savez(tmp_path / "SMPLX_NEUTRAL.npz", **arrays)
    np.save(tmp_path / "ids.npy", ids)
    return Files(flame_path, tmp_path / "SMPLX_NEUTRAL.npz", tmp_path / "ids.npy", ids)


def make_avatar(head: str) -> Avatar:
    model = perturbed(FullAvatar(dataclasses.replace(small_config(), head=head))).eval()
    return Avatar.create(model, random_frames(model.head, 1), refine_steps=0)


@pytest.fixture
def vertices_in_smplx(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], torch.Tensor]:
    """A body's vertices at rest, by smplx's code."""
    bodies = pytest.importorskip("smplx.body_models")
    # Fingertips and similar vertices, whose indices a small body does not have.
    monkeypatch.setitem(bodies.VERTEX_IDS, "smplx", dict.fromkeys(bodies.VERTEX_IDS["smplx"], 0))

    def load(path: Path) -> torch.Tensor:
        model = bodies.SMPLX(
            str(path), flat_hand_mean=True, use_pca=False, use_face_contour=False, dtype=torch.float64
        )
        return model().vertices[0].detach()

    return load


def test_smplx_shows_the_hair_where_the_head_is(
    files: Files, tmp_path: Path, vertices_in_smplx: Callable[[Path], torch.Tensor]
) -> None:
    avatar = make_avatar(str(files.flame))
    written = export_smplx(
        avatar, tmp_path / "out" / "body.npz", files.body, files.correspondence, avatar.model.head
    )
    moved = (vertices_in_smplx(written) - vertices_in_smplx(files.body)).float()
    offsets = avatar.rest_mesh().offsets[0]
    assert offsets.norm(dim=-1).max() > 1e-3
    expected = torch.zeros_like(moved)
    expected[files.ids] = SCALE * offsets @ axis_angle_to_matrix(TURN)[0].T
    torch.testing.assert_close(moved, expected, atol=1e-6, rtol=0)


def test_everything_else_is_copied_unread(files: Files, tmp_path: Path) -> None:
    avatar = make_avatar(str(files.flame))
    written = export_smplx(avatar, tmp_path / "b.npz", files.body, files.correspondence, avatar.model.head)
    with zipfile.ZipFile(files.body) as before, zipfile.ZipFile(written) as after:
        assert sorted(before.namelist()) == sorted(after.namelist())
        changed = [name for name in before.namelist() if before.read(name) != after.read(name)]
    assert changed == ["v_template.npy"]


def test_command(files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_avatar(str(files.flame)).save(tmp_path / "me" / "avatar.safetensors")
    arguments = ["avatar", "export", str(tmp_path / "me"), "--format=smplx"]
    both = [f"--body={files.body}", f"--correspondence={files.correspondence}"]
    assert main([*arguments, *both]) == 0
    assert (tmp_path / "me" / "avatar_smplx.npz").is_file()
    assert "non-commercial" in capsys.readouterr().err
    for options, complaint in (
        (both[:1], "needs --body SMPLX_NEUTRAL.npz and --correspondence"),
        ([*both, "--driver=a.mp4"], "contains every pose"),
        ([*both, f"--output={tmp_path / 'a.glb'}"], "writes a .npz file"),
        ([*both, f"--output={files.body}"], "is the body itself"),
        ([*both, "--format=glb"], "--correspondence is for --format smplx"),
        ([both[0], "--format=glb"], "--body of --format glb must be none, bust, full"),
        ([*both, "--body=no.npz"], "no SMPL-X body at no.npz; register at https://smpl-x.is.tue.mpg.de"),
        ([*both, "--correspondence=no.npy"], "SMPL-X__FLAME_vertex_ids.npy of `MANO and FLAME vertex"),
    ):
        assert main([*arguments, *options]) == 1
        assert complaint in capsys.readouterr().err


def test_files_of_another_layout_are_named(files: Files, tmp_path: Path) -> None:
    avatar = make_avatar(str(files.flame))
    head, output = avatar.model.head, tmp_path / "out.npz"

    def refused(message: str, body: Path = files.body, ids: Path = files.correspondence) -> None:
        with pytest.raises(ValueError, match=message):
            export_smplx(avatar, output, body, ids, head)

    for name, value in (("short", files.ids[:-1]), ("real", files.ids.astype(float))):
        np.save(tmp_path / f"{name}.npy", value)
        refused("wanted one index for each", ids=tmp_path / f"{name}.npy")
    for name, value in (("twice", np.zeros_like(files.ids)), ("beyond", files.ids + NUM_OTHERS + 1)):
        np.save(tmp_path / f"{name}.npy", value)
        refused("belongs to another body model", ids=tmp_path / f"{name}.npy")
    np.save(tmp_path / "pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
    refused("is not an .npy file of numbers", ids=tmp_path / "pickle.npy")
    np.savez(tmp_path / "object.npz", v_template=np.array([{}], dtype=object))
    np.savez(tmp_path / "flat.npz", v_template=np.zeros(5))
    np.savez(tmp_path / "other.npz", vertices=np.zeros((5, 3)))
    (tmp_path / "cut.npz").write_bytes(files.body.read_bytes()[:1000])
    refused(r"is not an SMPL-X body.*allow_pickle", body=tmp_path / "object.npz")
    refused(r"wanted floats \(n, 3\)", body=tmp_path / "flat.npz")
    for name in ("other", "cut"):
        refused("is not an SMPL-X body", body=tmp_path / f"{name}.npz")
    assert not output.exists()


def test_an_avatar_on_the_open_head_wants_flame(files: Files, tmp_path: Path) -> None:
    avatar, output = make_avatar("open"), tmp_path / "out.npz"
    with pytest.raises(ValueError, match=r"head 'open.*--flame generic_model\.pkl"):
        export_smplx(avatar, output, files.body, files.correspondence, avatar.model.head)
    with pytest.raises(ValueError, match="registered by their 68 landmarks"):
        export_smplx(avatar, output, files.body, files.correspondence, load_head(files.flame))
