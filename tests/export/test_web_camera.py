"""The exported page follows a face in front of the camera, without requests to other hosts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from browser_page import FINISH, show
from helpers import perturbed, random_frames, small_config

from rome_lightning.assets.resolver import resolve
from rome_lightning.avatar import Avatar
from rome_lightning.export.web_page import export_web
from rome_lightning.geometry import axis_angle_to_matrix
from rome_lightning.head import load_head
from rome_lightning.media.video import Video, read_video
from rome_lightning.models import AvatarModel
from rome_lightning.tracking import Tracker

PAGE = """<!doctype html><html><body style="margin:0">
<iframe id="f" src="me/index.html" allow="camera" style="width:900px;height:700px;border:0"></iframe>
<script type="module">
FINISH
const frame = document.getElementById("f");
const wait = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));
const errors = [];
try {
  await new Promise((done) => addEventListener("message", (event) => event.data?.avatar?.ready && done()));
  const inner = frame.contentWindow;
  inner.addEventListener("error", (event) => errors.push(event.message));
  inner.document.addEventListener("securitypolicyviolation", (event) => errors.push(event.blockedURI));
  const seen = [];
  const now = () => performance.now() / 1000;
  inner.addEventListener("avatar-face", (event) => seen.push({ time: now(), ...event.detail }));
  const end = await inner.avatar.follow();
  await wait(SECONDS);
  end();
  const before = seen.length;
  await wait(0.5);
  const film = await inner.avatar.record(1);
  const start = new Uint8Array(await film.slice(0, 4).arrayBuffer());
  const hosts = inner.performance.getEntriesByType("resource").map((entry) => entry.name);
  const turned = inner.avatar.mesh.skeleton.bones.find((bone) => bone.name === "neck").quaternion.toArray();
  finish({ seen, stopped: seen.length === before, film: film.size, start: [...start], hosts, errors, turned,
           values: inner.avatar.get(), host: location.host });
} catch (error) { finish({ error: String(error.stack ?? error), errors }); }
</script></body></html>""".replace("FINISH", FINISH)


@pytest.fixture(scope="module")
def clip() -> Video:
    """A man who starts to smile, two seconds."""
    return read_video(resolve("clip_single_face"))


def write_y4m(path: Path, video: Video) -> None:
    """The clip in the uncompressed format of Chromium's fake camera."""
    height, width = video.frames.shape[1:3]
    header = f"YUV4MPEG2 W{width} H{height} F30:1 Ip A1:1 C420jpeg\n".encode()
    frames = (b"FRAME\n" + cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420).tobytes() for frame in video.frames)
    path.write_bytes(header + b"".join(frames))


@pytest.mark.slow
def test_the_page_follows_the_camera(clip: Video, tmp_path: Path) -> None:
    head = load_head("open")
    model = perturbed(AvatarModel(small_config(), head)).eval().requires_grad_(False)
    avatar = Avatar.create(model, random_frames(head, 1), refine_steps=0)
    export_web(avatar, tmp_path / "me", webcam=True)
    write_y4m(tmp_path / "camera.y4m", clip)
    (tmp_path / "index.html").write_text(PAGE.replace("SECONDS", "12"))
    options = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    options.append(f"--use-file-for-fake-video-capture={tmp_path / 'camera.y4m'}")
    folders = {"me": tmp_path / "me", "index.html": tmp_path / "index.html"}
    found = show(folders, "index.html", tmp_path / "camera.png", options=options)
    assert "error" not in found, found
    assert found["errors"] == []
    assert found["stopped"]
    assert all(
        address.split("/")[2] == found["host"] or address.startswith("blob:") for address in found["hosts"]
    )
    # A WebM file starts like every EBML file.
    assert found["start"] == [0x1A, 0x45, 0xDF, 0xA3]
    assert found["film"] > 1000
    assert abs(found["turned"][3]) < 1
    tracked = Tracker(head, 256).track(clip.frames, fps=clip.fps, masks=False)
    smile = tracked.params.expression[:, head.expression_names.index("mouthSmileLeft")].numpy()
    shown = np.array([(each["time"], each["weights"]["mouthSmileLeft"]) for each in found["seen"]])
    assert len(shown) > 20
    assert best_correlation(shown, smile, len(smile) / 30) > 0.9
    turn = axis_angle_to_matrix(tracked.params.global_pose) @ axis_angle_to_matrix(tracked.params.neck_pose)
    expected = np.degrees(np.arctan2(turn[:, 0, 2].numpy(), turn[:, 2, 2].numpy())).mean()
    yaw = np.degrees([each["neck"][1] for each in found["seen"]]).mean()
    assert abs(yaw - expected) < 6


def best_correlation(shown: np.ndarray, values: np.ndarray, period: float) -> Any:
    """Best correlation with the tracker's values, over all possible start times of the camera."""
    times = np.arange(len(values)) * period / len(values)
    return max(
        np.corrcoef(shown[:, 1], np.interp(shown[:, 0] + start, times, values, period=period))[0, 1]
        for start in np.arange(0, period, 1 / 60)
    )
