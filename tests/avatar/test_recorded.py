"""Recorded motion: files of other programs, and our own."""

from __future__ import annotations

import copy
import csv
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import random_params
from scipy.spatial.transform import Rotation

from rome_lightning.avatar.recorded import RecordedMotion, read_motion, write_motion
from rome_lightning.head import HeadModel, load_head


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return load_head("open")


@pytest.fixture(scope="module")
def motion(head: HeadModel) -> RecordedMotion:
    times = torch.tensor([0.0, 0.04, 0.08, 0.2])
    lost = torch.tensor([False, False, True, False])
    shift = torch.tensor([[0.01, 0.0, 0.0], [0.02, -0.01, 0.0], [0.0, 0.0, 0.0], [-0.02, 0.0, 0.01]])
    params = dataclasses.replace(random_params(head, 4, seed=2), torso_shift=shift)
    return RecordedMotion(params, times, True, lost)


def test_arrays_come_back_to_the_bit(motion: RecordedMotion, head: HeadModel, tmp_path: Path) -> None:
    again = read_motion(write_motion(motion, tmp_path / "a.npz", head), head)
    for name in ("expression", "global_pose", "neck_pose", "jaw_pose", "eye_pose", "camera", "torso_shift"):
        assert torch.equal(getattr(again.params, name), getattr(motion.params, name))
    assert torch.equal(again.lost, motion.lost)
    assert torch.equal(again.times_s, motion.times_s)
    assert again.framed


def test_heads_may_differ_in_their_layout_only(
    motion: RecordedMotion, head: HeadModel, tmp_path: Path
) -> None:
    computed, official, other = (copy.copy(head) for _ in range(3))
    computed.name, official.name, other.name = "flame-1-computed-uv", "flame-1", "flame-2"
    path = write_motion(motion, tmp_path / "a.npz", computed)
    assert torch.equal(read_motion(path, official).params.expression, motion.params.expression)
    with pytest.raises(ValueError, match="recorded with another head model than flame-2"):
        read_motion(path, other)


def test_csv_keeps_expression_head_and_eyes(motion: RecordedMotion, head: HeadModel, tmp_path: Path) -> None:
    again = read_motion(write_motion(motion, tmp_path / "a.csv", head), head)
    kept = ~motion.lost
    assert len(again.params) == 3
    assert not again.framed
    torch.testing.assert_close(again.params.expression, motion.params.expression[kept], atol=1e-6, rtol=0)
    torch.testing.assert_close(again.params.eye_pose, motion.params.eye_pose[kept], atol=1e-5, rtol=0)
    whole = Rotation.from_rotvec(motion.params.global_pose[kept]) * Rotation.from_rotvec(
        motion.params.neck_pose[kept]
    )
    turned = Rotation.from_rotvec(again.params.neck_pose)
    assert (whole.inv() * turned).magnitude().max() < 1e-5
    assert again.times_s == pytest.approx([0.0, 0.04, 0.2], abs=1e-4)


def test_csv_has_live_link_faces_columns_and_signs(head: HeadModel, tmp_path: Path) -> None:
    params = random_params(head, 1)
    zero = torch.zeros(1, 3)
    changes = {"global_pose": zero, "neck_pose": torch.tensor([[0.0, 0.3, 0.0]]), "jaw_pose": zero}
    eyes = torch.tensor([[0.2, 0.0, 0.0, 0.0, 0.0, 0.1]])
    params = type(params)(**vars(params) | changes | {"eye_pose": eyes})
    still = RecordedMotion(params, torch.tensor([3661.5]), True, torch.zeros(1, dtype=torch.bool))
    with write_motion(still, tmp_path / "a.csv", head).open() as file:
        (row,) = csv.DictReader(file)
    # Live Link Face: two columns, 52 shapes with a capital, then nine angles.
    assert len(row) == 63
    assert (row["Timecode"], row["BlendshapeCount"]) == ("01:01:01:30.000", "61")
    index = head.expression_names.index("jawOpen")
    assert float(row["JawOpen"]) == pytest.approx(float(params.expression[0, index]), abs=1e-6)
    angles = {name: float(row[name]) for name in row if name.endswith(("Yaw", "Pitch", "Roll"))}
    wanted = {"HeadYaw": 0.3, "LeftEyePitch": 0.2, "RightEyeRoll": 0.1}
    for name, angle in angles.items():
        assert angle == pytest.approx(wanted.get(name, 0.0), abs=1e-6), name


def test_turning_to_the_left_moves_the_nose_to_the_left(head: HeadModel, tmp_path: Path) -> None:
    names = ",".join([name[0].upper() + name[1:] for name in head.expression_names])
    zeros = ",".join(["0"] * len(head.expression_names))
    path = tmp_path / "app.csv"
    path.write_text(
        f"Timecode,BlendshapeCount,{names},HeadYaw,HeadPitch,HeadRoll\n"
        f"23:59:59:30.0,61,{zeros},0.4,0,0\n00:00:00:00.0,61,{zeros},0,0.4,0\n"
    )
    motion = read_motion(path, head)
    # Time continues past midnight.
    assert motion.times_s.tolist() == pytest.approx([0.0, 0.5])
    vertices = head(motion.params)
    rest = head(type(motion.params).neutral(1, head.num_shape, head.num_expression))[0]
    nose = int(rest[:, 2].argmax())
    # x is the person's left; pitch looks down.
    assert float(vertices[0, nose, 0]) > 0.03
    assert float(vertices[1, nose, 1]) < float(rest[nose, 1]) - 0.02


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a,b\n1,2\n", "no column"),
        ("", "has 0 frames"),
        ("{header}\n{zeros},nonsense\n", "unreadable line"),
        ("{header}\n{zeros},700\n", "must be in radians"),
        ("{header}\n{zeros},nan\n", "non-finite"),
    ],
)
def test_damaged_csv_is_refused(text: str, complaint: str, head: HeadModel, tmp_path: Path) -> None:
    header = ",".join(["Timecode", *head.expression_names, "HeadYaw"])
    zeros = ",".join(["00:00:00:00.0"] + ["0"] * len(head.expression_names))
    path = tmp_path / "a.csv"
    path.write_text(text.format(header=header, zeros=zeros))
    with pytest.raises(ValueError, match=complaint):
        read_motion(path, head)


def test_arrays_of_other_kinds_are_refused(motion: RecordedMotion, head: HeadModel, tmp_path: Path) -> None:
    path = write_motion(motion, tmp_path / "a.npz", head)
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(tmp_path / "head.npz", **arrays | {"head": np.str_("another")})
    with pytest.raises(ValueError, match="another head model"):
        read_motion(tmp_path / "head.npz", head)
    np.savez(tmp_path / "short.npz", **arrays | {"neck_pose": np.zeros((1, 3))})
    with pytest.raises(ValueError, match="neck_pose is float64 of shape"):
        read_motion(tmp_path / "short.npz", head)
    np.savez(tmp_path / "still.npz", **arrays | {"times_s": np.zeros(4)})
    with pytest.raises(ValueError, match="do not increase"):
        read_motion(tmp_path / "still.npz", head)
    for name, value in {"camera": np.array([["a"] * 3] * 4), "expression": np.float32(1)}.items():
        np.savez(tmp_path / "text.npz", **arrays | {name: value})
        with pytest.raises(ValueError, match="expected numbers"):
            read_motion(tmp_path / "text.npz", head)
    np.savez(tmp_path / "times.npz", **arrays | {"times_s": np.float32(1)})
    with pytest.raises(ValueError, match="must have 4 values"):
        read_motion(tmp_path / "times.npz", head)
    with (tmp_path / "one.npz").open("wb") as file:
        np.save(file, arrays["camera"])
    with pytest.raises(ValueError, match="not a recording of parameters"):
        read_motion(tmp_path / "one.npz", head)
    (tmp_path / "cut.npz").write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="cut"):
        read_motion(tmp_path / "cut.npz", head)
    with pytest.raises(FileNotFoundError, match="no motion at"):
        read_motion(tmp_path / "none.csv", head)
    assert math.isclose(motion.fps, 15.0, rel_tol=1e-5)


def test_damaged_arrays_are_refused(motion: RecordedMotion, head: HeadModel, tmp_path: Path) -> None:
    whole = write_motion(motion, tmp_path / "a.npz", head).read_bytes()
    path = tmp_path / "damaged.npz"
    rng = np.random.default_rng(0)
    reasons = []
    for _ in range(60):
        changed = np.frombuffer(whole, np.uint8).copy()
        start = rng.integers(len(changed) - 16)
        changed[start : start + 16] = rng.integers(0, 256, 16)
        path.write_bytes(changed.tobytes())
        # Undetected damage must be harmless; no other error may be raised.
        try:
            read_motion(path, head)
        except ValueError as error:
            reasons.append(str(error))
    assert len(reasons) > 30
    assert all(str(path) in reason for reason in reasons)
