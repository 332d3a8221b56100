"""FLAME parameters of DECA, EMOCA, SMIRK and VHAP: read, and projected as in their own code.

The references are these projections written out point by point, following the formulas of the public code.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign_tracks import (
    SIZE,
    clip_of,
    deca_pixels,
    in_picture,
    posed,
    similarity,
    vhap_export,
    vhap_file,
    vhap_pixels,
    write_codes,
)
from scipy.spatial.transform import Rotation

from rome_lightning.geometry import project
from rome_lightning.head import HeadModel
from rome_lightning.tracking.crop import Crop
from rome_lightning.tracking.foreign import apply_to_photos, apply_track, describe, read_track, rows_of
from rome_lightning.tracking.problems import Problem


@pytest.mark.parametrize("angle", [0.0, 0.3])
@pytest.mark.parametrize("suffix", ["npz", "npy", "pt", "pkl", "mat"])
def test_deca_is_exact(
    head: HeadModel, codes: dict[str, np.ndarray], tmp_path: Path, suffix: str, angle: float
) -> None:
    tforms = np.stack([similarity(0.6, angle, -40 + 5 * k, -30) for k in range(3)])
    path = tmp_path / f"codes.{suffix}"
    content = {**codes, "tform": tforms}
    # EMOCA stores its images beside them.
    pictures = {"images": np.zeros((3, 3, 224, 224))} if suffix == "npz" else {}
    write_codes(path, content | pictures)
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
    # The image is the crop of 224 pixels at twice the size.
    wanted = (inside + 0.5) * 2 - 0.5
    crop = Crop(left=30, top=10, side=400, frame_size=(448, 448))
    applied = apply_track(head, clip_of(head, wanted, crop), read_track(tmp_path / "codes.npz"))
    np.testing.assert_allclose(in_picture(head, applied.clip), wanted, atol=2e-3)


def test_emoca_has_no_camera_and_gets_that_of_the_landmarks(
    head: HeadModel, codes: dict[str, np.ndarray], tmp_path: Path
) -> None:
    for name in ("shape", "exp", "pose"):
        # A frame's code without the batch dimension, as EMOCA saves it.
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


def test_vhap_far_away_is_exact_and_near_within_its_perspective(
    head: HeadModel, codes: dict[str, np.ndarray], tmp_path: Path
) -> None:
    face = head.region("face").numpy()
    errors = []
    for distance in (100.0, 1.0):
        # The head has the same size in the image whatever the distance.
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
    # The stated camera matches measurements in the image: at 1 m, 1 m has 1024 px.
    irises = head.landmarks(torch.from_numpy(world).float())[:, [468, 473]].diff(dim=1).norm(dim=-1)[:, 0]
    depth = 1 - content["translation"][:, 2] - world[:, face, 2].mean(1)
    unit = 1024 * irises.numpy() / depth
    np.testing.assert_allclose(applied.camera_error.numpy(), distances / unit, rtol=0.02)
    assert errors[0] < 1e-3 < errors[1] < 0.03
    assert "has perspective" in describe(track, applied)[-1]
    # Without rotating by the line of sight, the error is several times as large.
    plain = dataclasses.replace(applied.clip.params, global_pose=track.global_pose)
    turned = project(head.to_world(head(plain), plain), plain.camera, (SIZE, SIZE))[..., :2]
    turned = clip_of(head, wanted).crop.to_frame(turned, SIZE).numpy()
    assert np.linalg.norm(turned - wanted, axis=-1)[0, face].mean() > 2 * distances[0]


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


def test_pictures_choose_rows_by_time_step(codes: dict[str, np.ndarray], tmp_path: Path) -> None:
    vhap_file(tmp_path / "tracked_flame_params_30.npz", codes, 1.6, 1.0)
    track = read_track(tmp_path / "tracked_flame_params_30.npz")
    assert torch.equal(rows_of(track, ["cam_002", "000"]).expression, track.expression[[2, 0]])
    with pytest.raises(ValueError, match="no parameters for picture 007"):
        rows_of(track, ["000", "007"])
    np.savez(tmp_path / "codes.npz", **codes)
    with pytest.raises(ValueError, match="4 pictures, but parameters of 3 frames"):
        rows_of(read_track(tmp_path / "codes.npz"), ["a", "b", "c", "d"])
    # Without names it is unknown which rows are superfluous.
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
