"""FLAME parameters of DECA, EMOCA, SMIRK and VHAP: read, and projected where their own code projects them.

The references are those projections written out point by point, after the formulas of the public code.
"""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flame_files import make_arrays
from scipy.spatial.transform import Rotation

from rome_lightning.geometry import project
from rome_lightning.head import HeadModel
from rome_lightning.head.flame import load_flame
from rome_lightning.head.flame.registration import add_mediapipe
from rome_lightning.head.open_head import load_open_head
from rome_lightning.tracking.crop import Crop
from rome_lightning.tracking.foreign import apply_to_photos, apply_track, describe, read_track, rows_of
from rome_lightning.tracking.problems import Problem
from rome_lightning.tracking.tracker import TrackedClip
from rome_lightning.types import HeadParams

SIZE = 128
"""Side of the tracked crops."""
CROP = Crop(left=40, top=-20, side=420, frame_size=(480, 640))


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> HeadModel:
    path = tmp_path_factory.mktemp("flame") / "generic_model.pkl"
    path.write_bytes(pickle.dumps(make_arrays(), protocol=2))
    return add_mediapipe(load_flame(path))


def clip_of(head: HeadModel, pixels: np.ndarray, crop: Crop = CROP) -> TrackedClip:
    """A tracked clip whose landmarks lie on given vertices, pixels of the whole picture."""
    vertices = torch.from_numpy(pixels).float()
    landmarks = crop.to_crop(head.landmarks(vertices), SIZE)
    count = len(vertices)
    return TrackedClip(
        images=torch.zeros(count, SIZE, SIZE, 3, dtype=torch.uint8),
        params=HeadParams.neutral(count, head.num_shape, head.num_expression),
        landmarks=landmarks[..., :2],
        regions=torch.zeros(count, SIZE, SIZE, dtype=torch.uint8),
        matte=torch.ones(count, SIZE, SIZE),
        residual=torch.zeros(count),
        covered=torch.zeros(count),
        problems=torch.zeros(count, dtype=torch.int16),
        crop=crop,
    )


def posed(head: HeadModel, codes: dict[str, np.ndarray], neck: Any = None, eyes: Any = None) -> np.ndarray:
    """FLAME's vertices with its global rotation; the head model itself is tested against the official one."""
    count = len(codes["exp"])
    zeros = np.zeros((count, 6), np.float32)
    shape = np.zeros((count, head.num_shape), np.float32)
    shape[:, : codes["shape"].shape[1]] = codes["shape"][:, : head.num_shape]
    params = HeadParams(
        *(
            torch.from_numpy(np.asarray(array, np.float32))
            for array in (
                shape, codes["exp"], codes["pose"][:, :3], zeros[:, :3] if neck is None else neck,
                codes["pose"][:, 3:], zeros if eyes is None else eyes, zeros[:, :3],
            )
        )
    )  # fmt: skip
    return head.to_world(head(params), params).double().numpy()


@pytest.fixture
def codes() -> dict[str, np.ndarray]:
    """DECA's codes of three frames; the person is the same."""
    rng = np.random.default_rng(0)
    pose = rng.normal(0, 0.2, (3, 6))
    return {
        "shape": np.repeat(rng.normal(0, 1, (1, 100)), 3, axis=0).astype(np.float32),
        "exp": rng.normal(0, 1, (3, 50)).astype(np.float32),
        "pose": pose.astype(np.float32),
        "cam": np.array([[8.0, 0.01, 0.02], [7.5, -0.02, 0.0], [8.2, 0.0, 0.03]], np.float32),
    }


def deca_pixels(points: np.ndarray, cam: np.ndarray, tform: np.ndarray | None) -> np.ndarray:
    """Where DECA draws the points of one frame: in its crop of 224 pixels, then in the picture."""
    result = []
    for x, y, _ in points:
        column, row = cam[0] * (x + cam[1]), -cam[0] * (y + cam[2])
        pixel = np.array([column * 112 + 112, row * 112 + 112, 1.0])
        result.append((np.linalg.inv(tform) @ pixel)[:2] if tform is not None else pixel[:2])
    return np.array(result)


def similarity(scale: float, angle: float, x: float, y: float) -> np.ndarray:
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[cosine, -sine, x], [sine, cosine, y], [0, 0, 1.0]])


def in_picture(head: HeadModel, clip: TrackedClip) -> np.ndarray:
    """Where our parameters put the vertices, pixels of the whole picture."""
    params = clip.params
    pixels = project(head.to_world(head(params), params), params.camera, (SIZE, SIZE))
    return clip.crop.to_frame(pixels[..., :2], SIZE).numpy()


@pytest.mark.parametrize("angle", [0.0, 0.3])
@pytest.mark.parametrize("suffix", ["npz", "npy", "pt", "pkl", "mat"])
def test_deca_is_exact(
    head: HeadModel, codes: dict[str, np.ndarray], tmp_path: Path, suffix: str, angle: float
) -> None:
    tforms = np.stack([similarity(0.6, angle, -40 + 5 * k, -30) for k in range(3)])
    path = tmp_path / f"codes.{suffix}"
    content = {**codes, "tform": tforms}
    if suffix == "npz":
        np.savez(path, images=np.zeros((3, 3, 224, 224)), **content)
    elif suffix == "npy":
        np.save(path, np.array(content, dtype=object), allow_pickle=True)
    elif suffix == "pt":
        torch.save({name: torch.from_numpy(array) for name, array in content.items()}, path)
    elif suffix == "pkl":
        path.write_bytes(pickle.dumps(content))
    else:
        from scipy.io import savemat

        savemat(path, content)
    track = read_track(path)
    assert track.kind == "deca"
    world = posed(head, codes)
    wanted = np.stack([deca_pixels(world[k], codes["cam"][k], tforms[k]) for k in range(3)])
    applied = apply_track(head, clip_of(head, wanted), track)
    # Single precision of pixels up to 500.
    np.testing.assert_allclose(in_picture(head, applied.clip), wanted, atol=2e-3)
    assert float(applied.camera_error.max()) < 1e-4
    assert float(applied.clip.residual.max()) < 1e-4
    assert not applied.clip.problems.any()
    assert describe(track, applied) == []


def test_without_tform_the_picture_is_the_crop(
    head: HeadModel, codes: dict[str, np.ndarray], tmp_path: Path
) -> None:
    np.savez(tmp_path / "codes.npz", **codes)
    world = posed(head, codes)
    inside = np.stack([deca_pixels(world[k], codes["cam"][k], None) for k in range(3)])
    # The picture is the crop of 224 pixels, twice as large.
    wanted = (inside + 0.5) * 2 - 0.5
    crop = Crop(left=30, top=10, side=400, frame_size=(448, 448))
    applied = apply_track(head, clip_of(head, wanted, crop), read_track(tmp_path / "codes.npz"))
    np.testing.assert_allclose(in_picture(head, applied.clip), wanted, atol=2e-3)


def test_emoca_has_no_camera_and_gets_that_of_the_landmarks(
    head: HeadModel, codes: dict[str, np.ndarray], tmp_path: Path
) -> None:
    for name in ("shape", "exp", "pose"):
        # A frame's code without the dimension of the batch, as EMOCA saves it.
        np.save(tmp_path / f"{name}.npy", codes[name][0])
    np.save(tmp_path / "detail.npy", np.zeros(128))
    track = read_track(tmp_path)
    assert (track.kind, track.camera, len(track)) == ("emoca", None, 1)
    wanted = deca_pixels(posed(head, codes)[0], codes["cam"][0], similarity(0.6, 0, -40, -30))[None]
    applied = apply_track(head, clip_of(head, wanted), track)
    assert applied.camera_error is None
    np.testing.assert_allclose(in_picture(head, applied.clip), wanted, atol=2e-3)


def test_smirk(head: HeadModel, codes: dict[str, np.ndarray], tmp_path: Path) -> None:
    wide = np.concatenate([codes["shape"], np.full((3, 200), 0.3, np.float32)], axis=1)
    lids = np.array([[0.0, 0.8]] * 3)
    np.savez(
        tmp_path / "codes.npz",
        shape_params=wide, expression_params=codes["exp"], pose_params=codes["pose"][:, :3],
        jaw_params=codes["pose"][:, 3:], eyelid_params=lids, cam=codes["cam"],
        tform=similarity(0.6, 0, -40, -30),
    )  # fmt: skip
    track = read_track(tmp_path / "codes.npz")
    assert track.kind == "smirk"
    world = posed(head, codes)
    wanted = np.stack(
        [deca_pixels(world[k], codes["cam"][k], similarity(0.6, 0, -40, -30)) for k in range(3)]
    )
    applied = apply_track(head, clip_of(head, wanted), track)
    np.testing.assert_allclose(in_picture(head, applied.clip), wanted, atol=2e-3)
    assert "eyelids, blendshapes of SMIRK's own, up to 0.80" in describe(track, applied)[0]


def vhap_file(path: Path, codes: dict[str, np.ndarray], focal: float, distance: float) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    content: dict[str, Any] = {
        "shape": np.concatenate([codes["shape"][0], np.zeros(200, np.float32)]),
        "expr": np.concatenate([codes["exp"], np.zeros((3, 50), np.float32)], axis=1),
        "rotation": codes["pose"][:, :3],
        "translation": np.array([[0.05, 0.06, 1], [0.0, 0.02, 1], [-0.06, 0, 1]]) - [0, 0, distance],
        "neck_pose": rng.normal(0, 0.1, (3, 3)).astype(np.float32),
        "jaw_pose": codes["pose"][:, 3:],
        "eyes_pose": rng.normal(0, 0.1, (3, 6)).astype(np.float32),
        "timestep_id": np.array(["000", "001", "002"]),
        "n_processed_frames": 3,
        "focal_length": np.array([focal]),
        "image_size": np.array([480, 640]),
    }
    np.savez(path, **content)
    return content


def vhap_pixels(points: np.ndarray, translation: np.ndarray, focal: float) -> np.ndarray:
    """Where VHAP sees the points of one frame: camera at (0, 0, 1), looking along -z."""
    result = []
    for point in points:
        x, y, z = point + translation - [0, 0, 1]
        result.append([focal * 640 * x / -z + 320 - 0.5, 240 - focal * 640 * y / -z - 0.5])
    return np.array(result)


def test_vhap_far_away_is_exact_and_near_within_its_perspective(
    head: HeadModel, codes: dict[str, np.ndarray], tmp_path: Path
) -> None:
    face = head.region("face").numpy()
    errors = []
    for distance in (100.0, 1.0):
        # The head is of one size in the picture whatever the distance.
        content = vhap_file(tmp_path / "tracked_flame_params_30.npz", codes, 1.6 * distance, distance)
        world = posed(head, codes, content["neck_pose"], content["eyes_pose"])
        wanted = np.stack(
            [vhap_pixels(world[k], content["translation"][k], 1.6 * distance) for k in range(3)]
        )
        track = read_track(tmp_path / "tracked_flame_params_30.npz")
        assert track.kind == "vhap"
        applied = apply_track(head, clip_of(head, wanted), track)
        distances = np.linalg.norm(in_picture(head, applied.clip) - wanted, axis=-1)[:, face].mean(1)
        errors.append(float(applied.camera_error.max()))
    # What is said of the camera is what is measured in the picture: 1 m away, 1 m has 1024 px.
    irises = head.landmarks(torch.from_numpy(world).float())[:, [468, 473]].diff(dim=1).norm(dim=-1)[:, 0]
    depth = 1 - content["translation"][:, 2] - world[:, face, 2].mean(1)
    unit = 1024 * irises.numpy() / depth
    np.testing.assert_allclose(applied.camera_error.numpy(), distances / unit, rtol=0.02)
    assert errors[0] < 1e-3 < errors[1] < 0.03
    assert "has perspective" in describe(track, applied)[-1]
    # The line of sight is turned away: without that the error is several times as large.
    plain = dataclasses.replace(applied.clip.params, global_pose=track.global_pose)
    turned = project(head.to_world(head(plain), plain), plain.camera, (SIZE, SIZE))[..., :2]
    turned = clip_of(head, wanted).crop.to_frame(turned, SIZE).numpy()
    assert np.linalg.norm(turned - wanted, axis=-1)[0, face].mean() > 2 * distances[0]


def vhap_export(folder: Path, codes: dict[str, np.ndarray]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """``transforms.json`` and a file per frame; what ``vhap_file`` has, and the frames of the JSON."""
    content = vhap_file(folder / "all.npz", codes, 1.6, 1.0)
    turn = Rotation.from_euler("y", 0.5).as_matrix()
    frames = []
    (folder / "flame_param").mkdir()
    for k in range(3):
        own = {
            name: content[name][[k]]
            for name in ("translation", "rotation", "neck_pose", "jaw_pose", "eyes_pose", "expr")
        }
        np.savez(folder / "flame_param" / f"{k:05d}.npz", shape=content["shape"], **own)
        world_from_cam = np.eye(4)
        world_from_cam[:3, :3], world_from_cam[:3, 3] = turn, turn @ [0.0, 0.0, 1.0]
        frames.append({
            "transform_matrix": world_from_cam.tolist(), "w": 640, "h": 480, "fl_x": 1000.0, "fl_y": 990.0,
            "cx": 330.0, "cy": 250.0, "file_path": f"images/{k:05d}_00.png",
            "flame_param_path": f"flame_param/{k:05d}.npz",
        })  # fmt: skip
    (folder / "transforms.json").write_text(json.dumps({"frames": frames}))
    return content, frames


def test_vhap_export_with_cameras(head: HeadModel, codes: dict[str, np.ndarray], tmp_path: Path) -> None:
    content, _ = vhap_export(tmp_path, codes)
    turn = Rotation.from_euler("y", 0.5).as_matrix()
    track = rows_of(read_track(tmp_path / "transforms.json"), ["00002_00", "00000_00"])
    found = track.camera.project(torch.from_numpy(posed(head, codes)[[2, 0]]).float(), (480, 640)).numpy()
    for row, k in enumerate((2, 0)):
        in_camera = (posed(head, codes)[k] + content["translation"][k]) @ turn - [0, 0, 1]
        x, y, z = in_camera.T
        wanted = np.stack([1000 * x / -z + 330 - 0.5, 250 - 990 * y / -z - 0.5], 1)
        np.testing.assert_allclose(found[row], wanted, atol=5e-3)


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
    with pytest.raises(ValueError, match="no parameter file of deca: only VHAP's export is JSON"):
        read_track(tmp_path / "transforms.json", "deca")


def test_pictures_choose_rows_by_time_step(codes: dict[str, np.ndarray], tmp_path: Path) -> None:
    vhap_file(tmp_path / "tracked_flame_params_30.npz", codes, 1.6, 1.0)
    track = read_track(tmp_path / "tracked_flame_params_30.npz")
    assert torch.equal(rows_of(track, ["cam_002", "000"]).expression, track.expression[[2, 0]])
    with pytest.raises(ValueError, match="no parameters for picture 007"):
        rows_of(track, ["000", "007"])
    np.savez(tmp_path / "codes.npz", **codes)
    with pytest.raises(ValueError, match="4 pictures, but parameters of 3 frames"):
        rows_of(read_track(tmp_path / "codes.npz"), ["a", "b", "c", "d"])
    # Without names nobody knows which rows are to spare.
    with pytest.raises(ValueError, match="2 pictures, but parameters of 3 frames"):
        rows_of(read_track(tmp_path / "codes.npz"), ["a", "b"])


def test_photographs_share_their_identity(
    head: HeadModel, codes: dict[str, np.ndarray], tmp_path: Path
) -> None:
    codes["shape"][1] += 0.2
    np.savez(tmp_path / "codes.npz", **codes, tform=similarity(0.6, 0, -40, -30))
    track = read_track(tmp_path / "codes.npz")
    world = posed(head, codes)
    tform = similarity(0.6, 0, -40, -30)
    clips = [clip_of(head, deca_pixels(world[k], codes["cam"][k], tform)[None]) for k in range(2)]
    warnings: list[str] = []
    made = apply_to_photos(head, clips, [track[:1], track[1:2]], ["a", "b"], warnings.append)
    mean = torch.from_numpy(codes["shape"][:2].mean(0))
    assert all(torch.allclose(clip.params.shape[0], mean) for clip in made)
    assert warnings == []
    with pytest.raises(ValueError, match=r"do not fit a: its landmarks are \d+%"):
        apply_to_photos(head, clips[:1], [track[2:]], ["a"], warnings.append)


def test_frames_that_contradict_the_picture_are_marked(
    head: HeadModel, codes: dict[str, np.ndarray], tmp_path: Path
) -> None:
    np.savez(tmp_path / "codes.npz", **codes, tform=similarity(0.6, 0, -40, -30))
    world, tform = posed(head, codes), similarity(0.6, 0, -40, -30)
    wanted = np.stack([deca_pixels(world[k], codes["cam"][k], tform) for k in range(3)])
    wanted[1] += 25
    clip = clip_of(head, wanted)
    clip.landmarks[2] = 0
    clip.problems[2] = int(Problem.NO_FACE)
    applied = apply_track(head, clip, read_track(tmp_path / "codes.npz"))
    assert applied.clip.reasons == ("", "head does not fit", "no face")
    assert applied.clip.params.camera.isfinite().all()


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
    with pytest.raises(ValueError, match="no parameter file of smirk: it lacks shape_params"):
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
    # Numbers that compress, so that damage hits the deflated stream itself.
    content = {name: np.round(array, 1) for name, array in codes.items()}
    if suffix == "npz":
        np.savez_compressed(path, **content)
    elif suffix == "npy":
        np.save(path, np.array(content, dtype=object), allow_pickle=True)
    elif suffix == "pt":
        torch.save({name: torch.from_numpy(array) for name, array in content.items()}, path)
    elif suffix == "pkl":
        path.write_bytes(pickle.dumps(content))
    else:
        from scipy.io import savemat

        savemat(path, content, do_compression=True)
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
        # Some damage does not matter, or makes other numbers: what must not come is another error.
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
