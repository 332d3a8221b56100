"""Files of other trackers that are damaged, hostile or of another kind."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_tracks import clip_of, posed, similarity, vhap_export, vhap_file, write_codes

from rome_lightning.head import HeadModel
from rome_lightning.head.open_head import load_open_head
from rome_lightning.tracking.foreign import apply_track, read_track, rows_of


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"flame_param_path": "../secret.npz"}, "outside its folder"),
        ({"flame_param_path": "{absolute}"}, "outside its folder"),
        ({"flame_param_path": "flame_param/link.npz"}, "outside its folder"),
        ({"flame_param_path": 3}, "lacks its camera or flame_param_path"),
        ({"flame_param_path": "a\0.npz"}, "lacks its camera or flame_param_path"),
        ({"transform_matrix": np.zeros((4, 4)).tolist()}, "not a 4 x 4 matrix of a rotation"),
        ({"transform_matrix": np.full((4, 4), np.nan).tolist()}, "not a 4 x 4 matrix of a rotation"),
        ({"transform_matrix": np.diag([1, 1, 1, 0]).tolist()}, "not a 4 x 4 matrix of a rotation"),
        ({"transform_matrix": np.diag([-1, 1, 1, 1]).tolist()}, "not a 4 x 4 matrix of a rotation"),
        ({"transform_matrix": [[1, 2], [3]]}, "lacks its camera"),
        ({"transform_matrix": [[1, 0, 0, 1e60], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]}, "not finite"),
        ({"w": 10**400}, "lacks its camera"),
        ({"w": 0}, "not finite in its camera"),
        ({"fl_x": float("nan")}, "not finite in its camera"),
        ({"cx": None}, "lacks its camera"),
        ({"file_path": "images/00000_00.png"}, "00000_00 more than once"),
    ],
)
def test_hostile_transforms_are_refused(
    changes: dict[str, Any], complaint: str, codes: dict[str, np.ndarray], tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    _, frames = vhap_export(folder, codes)
    secret = tmp_path / "secret.npz"
    secret.write_bytes((folder / "flame_param" / "00001.npz").read_bytes())
    (folder / "flame_param" / "link.npz").symlink_to(secret)
    if changes.get("flame_param_path") == "{absolute}":
        changes = {"flame_param_path": str(secret)}
    frames[1] |= changes
    (folder / "transforms.json").write_text(json.dumps({"frames": frames}))
    with pytest.raises(ValueError, match=complaint):
        rows_of(read_track(folder / "transforms.json"), ["00002_00"])


@pytest.mark.parametrize("text", ["[" * 100_000, "7" * 5000, "{", "[]", '{"frames": [3]}'])
def test_damaged_json_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "transforms.json").write_text(text)
    with pytest.raises(ValueError, match=r"transforms\.json"):
        read_track(tmp_path / "transforms.json")


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("expr", np.full((1, 100), np.nan), "not finite in its expression"),
        ("expr", np.zeros((1, 50)), "from 50 to 100 coefficients of expression"),
        ("jaw_pose", np.zeros((2, 3)), "jaw_pose has 2 frames"),
        ("translation", np.zeros((2, 3)), "translation has 2 frames"),
    ],
)
def test_files_of_transforms_are_checked(
    name: str, value: np.ndarray, complaint: str, codes: dict[str, np.ndarray], tmp_path: Path
) -> None:
    vhap_export(tmp_path, codes)
    file = tmp_path / "flame_param" / "00001.npz"
    with np.load(file) as content:
        np.savez(file, **{**content, name: value})
    with pytest.raises(ValueError, match=complaint):
        read_track(tmp_path / "transforms.json")


def test_json_is_of_vhap_only(codes: dict[str, np.ndarray], tmp_path: Path) -> None:
    vhap_export(tmp_path, codes)
    assert read_track(tmp_path / "transforms.json", "vhap").kind == "vhap"
    with pytest.raises(ValueError, match="not a parameter file of deca: only VHAP's export is JSON"):
        read_track(tmp_path / "transforms.json", "deca")


class Exploit:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path, ("ran",))


def test_bad_files_are_refused_with_a_reason(
    head: HeadModel, codes: dict[str, np.ndarray], tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match="no FLAME parameters at"):
        read_track(tmp_path / "absent.npz")
    (tmp_path / "hostile.pkl").write_bytes(pickle.dumps({"shape": Exploit()}))
    with pytest.raises(ValueError, match="does not belong in a data file"):
        read_track(tmp_path / "hostile.pkl")
    torch.save({"shape": Exploit()}, tmp_path / "hostile.pt")
    with pytest.raises(ValueError, match="cannot be read as parameters"):
        read_track(tmp_path / "hostile.pt")
    np.savez(tmp_path / "vertices.npz", verts=np.zeros((5023, 3)), landmarks2d=np.zeros((68, 2)))
    with pytest.raises(ValueError, match="no known FLAME parameters"):
        read_track(tmp_path / "vertices.npz")
    np.savez(tmp_path / "codes.npz", **{**codes, "exp": codes["exp"][:2]})
    with pytest.raises(ValueError, match="pose has 3 frames, other arrays 2"):
        read_track(tmp_path / "codes.npz")
    np.savez(tmp_path / "codes.npz", **codes, tform=np.linalg.inv(similarity(0.6, 0, 5, 5)).T)
    with pytest.raises(ValueError, match="without inverse or transpose"):
        read_track(tmp_path / "codes.npz")
    np.savez(tmp_path / "codes.npz", **{**codes, "cam": np.full((3, 3), np.nan)})
    with pytest.raises(ValueError, match="not finite in its camera"):
        read_track(tmp_path / "codes.npz")
    np.savez(tmp_path / "codes.npz", **codes)
    with pytest.raises(ValueError, match="not a parameter file of smirk: it lacks shape_params"):
        read_track(tmp_path / "codes.npz", "smirk")
    content = vhap_file(tmp_path / "tracked.npz", codes, 1.6, 1.0)
    del content["focal_length"]
    np.savez(tmp_path / "tracked.npz", **content)
    with pytest.raises(ValueError, match=r"pass the transforms\.json"):
        read_track(tmp_path / "tracked.npz")
    np.savez(tmp_path / "codes.npz", **codes)
    world = posed(head, codes)
    clip = clip_of(head, world[..., :2] * 500 + 200)
    with pytest.raises(ValueError, match="are FLAME's, the head is"):
        apply_track(load_open_head(), clip, read_track(tmp_path / "codes.npz"))


@pytest.mark.parametrize("suffix", ["npz", "npy", "pt", "pkl", "mat"])
def test_damaged_files_are_refused(codes: dict[str, np.ndarray], tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"codes.{suffix}"
    # Compressible numbers, so that damage hits the deflated stream itself.
    content = {name: np.round(array, 1) for name, array in codes.items()}
    write_codes(path, content)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [b"", whole[:10], whole[: len(whole) // 2], rng.bytes(1000)]
    for _ in range(40):
        changed = np.frombuffer(whole, np.uint8).copy()
        start = rng.integers(len(changed))
        changed[start : start + 16] = rng.integers(0, 256, len(changed[start : start + 16]))
        damaged.append(changed.tobytes())
    reasons = []
    for data in damaged:
        path.write_bytes(data)
        # Some damage is harmless or changes numbers; no other error may be raised.
        try:
            read_track(path)
        except ValueError as error:
            reasons.append(str(error))
    assert len(reasons) >= 4
    assert all(str(path) in reason for reason in reasons)


def test_what_else_is_found_under_these_suffixes(codes: dict[str, np.ndarray], tmp_path: Path) -> None:
    with (tmp_path / "one.npz").open("wb") as file:
        np.save(file, codes["exp"])
    with pytest.raises(ValueError, match="single array"):
        read_track(tmp_path / "one.npz")
    (tmp_path / "bad.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF\r\n")
    with pytest.raises(ValueError, match="cannot be read as parameters"):
        read_track(tmp_path / "bad.mat")
    tensors = {name: torch.from_numpy(array).bfloat16() for name, array in codes.items()}
    torch.save(tensors, tmp_path / "half.pt")
    assert torch.equal(read_track(tmp_path / "half.pt").expression, tensors["exp"].float())
    vhap_file(tmp_path / "tracked.npz", codes, 1.6, 1.0)
    with np.load(tmp_path / "tracked.npz") as content:
        np.savez(tmp_path / "tracked.npz", **{**content, "timestep_id": np.array(["000", "001"])})
    with pytest.raises(ValueError, match="2 time steps, but parameters of 3 frames"):
        read_track(tmp_path / "tracked.npz")


@pytest.mark.parametrize("name", ["pose", "cam"])
def test_only_the_identity_is_that_of_all_frames(
    name: str, codes: dict[str, np.ndarray], tmp_path: Path
) -> None:
    np.savez(tmp_path / "codes.npz", **{**codes, "shape": codes["shape"][:1]})
    assert read_track(tmp_path / "codes.npz").shape.shape == (3, 100)
    np.savez(tmp_path / "codes.npz", **{**codes, name: codes[name][:1]})
    with pytest.raises(ValueError, match=f"{name} has 1 frames, other arrays 3"):
        read_track(tmp_path / "codes.npz")
