"""Live driving through its commands."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import wave
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from tiny_run import IMAGE_SIZE, NUM_FRAMES

from rome_lightning.avatar import Avatar
from rome_lightning.cli import main as cli
from rome_lightning.cli.live import TRACKING
from rome_lightning.media.audio import copy_audio
from rome_lightning.media.child import Child
from rome_lightning.media.video import read_video, write_video
from rome_lightning.models import AvatarModel, BasisConfig, DriverConfig
from rome_lightning.tracking.live import LiveTracker
from rome_lightning.tracking.live_frames import TrackingJob, open_driver, tracked_frames
from rome_lightning.tracking.live_process import frames_of, start_tracking


def test_live_drives_frame_by_frame_and_reports(avatar, folder, tmp_path, rome, capfd):
    output = tmp_path / "live.mp4"
    assert rome("live", avatar, "--video", folder / "face.mp4", "-o", output) == (0, "")
    assert read_video(output).frames.shape == (NUM_FRAMES, IMAGE_SIZE, IMAGE_SIZE, 3)
    record = json.loads(output.with_suffix(".json").read_text())
    assert (record["frames"], record["lost"], record["skipped"]) == (NUM_FRAMES, 0, 0)
    stages = record["stages"]
    assert set(stages) == {"read", "track", "wait", "render", "out", "frame", "latency"}
    assert 0 < stages["track"]["median_ms"] < stages["latency"]["median_ms"] <= stages["latency"]["p95_ms"]
    for arguments, complaint in (
        (("--video", folder / "face.mp4"), "no output; pass --output"),
        (("--video", folder / "coffee.mp4", "-o", output), "no face found"),
        (("--video", tmp_path / "no.mp4", "-o", output), "no video at"),
        (("--camera", 97, "-o", output), "cannot read camera 97"),
        (("--video", folder / "face.mp4", "-o", output, "--driver-network"), "avatar.driver.encoder"),
    ):
        code, error = rome("live", avatar, *arguments)
        assert code == cli.EXIT_FAILURE
        assert complaint in error


def test_the_process_beside_finds_what_tracking_here_finds(avatar, folder):
    """The real tracker, on a real face."""
    head = Avatar.load(avatar).model.head
    job = TrackingJob(partial(open_driver, folder / "face.mp4"), partial(LiveTracker, head, IMAGE_SIZE))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    wanted = list(tracked_frames(job))
    torch.set_num_threads(threads)
    with Child(TRACKING, "the tracker") as child:
        start_tracking(child, job)
        fps, frames = frames_of(child)
        found = list(frames)
    assert fps == 25.0
    assert [frame.number for frame in found] == list(range(NUM_FRAMES))
    assert [frame.time_s for frame in found] == [frame.time_s for frame in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one.params.pose, other.params.pose)
        assert torch.equal(one.params.camera, other.params.camera)
        assert torch.equal(one.params.expression, other.params.expression)
    # The face moves through the picture.
    assert not torch.equal(found[0].params.camera, found[-1].params.camera)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_when_live_is_interrupted(avatar, folder, tmp_path, ending):
    """Ctrl-C goes to both processes; a killed one cannot end the other."""
    slow = write_video(tmp_path / "slow.mp4", read_video(folder / "face.mp4").frames, 0.2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(120)
        target = f"vmc://127.0.0.1:{listener.getsockname()[1]}"
        command = [sys.executable, "-m", "rome_lightning", "live", avatar, "--video", slow, "--send", target]
        # Tests that run in the background of a shell ignore Ctrl-C, and so would their children.
        live = subprocess.Popen(
            list(map(str, command)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        assert listener.recv(65536).startswith(b"#bundle")
    assert _processes(live.pid) >= 2
    if ending == signal.SIGINT:
        os.killpg(live.pid, signal.SIGINT)
    else:
        live.kill()
    out, err = live.communicate(timeout=60)
    if ending == signal.SIGINT:
        assert (live.returncode, out, err) == (cli.EXIT_INTERRUPTED, b"", b"rome: interrupted\n")
    else:
        assert b"Traceback" not in err
    end = time.monotonic() + 20
    while _processes(live.pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert _processes(live.pid) == 0


def _processes(session):
    """Running processes of a session."""
    found = 0
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        found += fields[3] == str(session) and fields[0] != "Z"
    return found


def test_live_keeps_the_sound_and_sends(avatar, folder, tmp_path, rome):
    sounding = Path(shutil.copy(folder / "face.mp4", tmp_path / "sounding.mp4"))
    with wave.open(str(tmp_path / "tone.wav"), "wb") as tone:
        tone.setparams((1, 2, 48000, 0, "NONE", ""))
        tone.writeframes((8000 * np.sin(np.arange(48000) / 20)).astype("<i2").tobytes())
    assert copy_audio(sounding, tmp_path / "tone.wav", [0.0]) == ""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(5)
        target = f"vmc://127.0.0.1:{listener.getsockname()[1]}"
        output = tmp_path / "live.mp4"
        assert rome("live", avatar, "--video", sounding, "-o", output, "--send", target) == (0, "")
        packets = [listener.recv(65536) for _ in range(NUM_FRAMES)]
        assert all(packet.startswith(b"#bundle") for packet in packets)
        # Sending alone renders nothing.
        assert rome("live", avatar, "--video", sounding, "--send", target) == (0, "")
        assert len([listener.recv(65536) for _ in range(NUM_FRAMES)]) == NUM_FRAMES
    with av.open(str(output)) as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) > 0


def test_live_is_a_camera_for_other_programs(avatar, folder, tmp_path, rome, monkeypatch):
    cameras = pytest.importorskip("pyvirtualcam")
    opened = []

    class InMemory:
        """A device of the library's own interface, in place of the system's driver."""

        def __init__(self, *, width, height, fps, fourcc, device, **_):
            self.shape, self.fps, self.frames, self.is_open = (height, width, 3), fps, [], True
            opened.append(self)

        def device(self):
            return "in memory"

        def native_fourcc(self):
            return None

        def send(self, frame):
            self.frames.append(np.array(frame).reshape(self.shape))

        def close(self):
            self.is_open = False

    monkeypatch.setattr(cameras.camera, "BACKENDS", {"memory": InMemory})
    output = tmp_path / "frames.mp4"
    arguments = ("live", avatar, "--video", folder / "face.mp4", "--virtual-camera")
    assert rome(*arguments, "-o", output) == (0, "")
    (camera,) = opened
    assert (camera.shape, camera.fps, camera.is_open) == ((IMAGE_SIZE, IMAGE_SIZE, 3), 25.0, False)
    written = read_video(output).frames
    assert len(camera.frames) == NUM_FRAMES
    assert np.abs(np.stack(camera.frames).astype(int) - written).mean() < 4
    # Alone it is an output too.
    assert rome(*arguments) == (0, "")
    assert len(opened[1].frames) == NUM_FRAMES
    monkeypatch.setattr(cameras.camera, "BACKENDS", {})
    code, error = rome(*arguments)
    assert (code, "load v4l2loopback on Linux" in error) == (cli.EXIT_FAILURE, True)
    monkeypatch.setitem(sys.modules, "pyvirtualcam", None)
    code, error = rome(*arguments)
    assert (code, "pip install rome-lightning[camera]" in error) == (cli.EXIT_FAILURE, True)


def test_live_is_driven_by_the_network_of_a_linear_model(avatar, folder, tmp_path, rome):
    """An avatar with random weights: only whether and how fast it renders matters."""
    made = Avatar.load(avatar / "avatar.safetensors")
    config = dataclasses.replace(
        made.model.config,
        offsets=dataclasses.replace(made.model.config.offsets, kind="basis"),
        basis=BasisConfig(2, 1, "mobilenet_v3_small", IMAGE_SIZE),
        driver=DriverConfig("mobilenet_v3_small", IMAGE_SIZE),
    )
    model = AvatarModel(config, made.model.head).eval()
    Avatar(model, made.code, made.photos, IMAGE_SIZE).save(tmp_path / "linear" / "avatar.safetensors")
    output = tmp_path / "live.mp4"
    arguments = (tmp_path / "linear", "--video", folder / "face.mp4", "-o", output)
    assert rome("live", *arguments, "--driver-network") == (0, "")
    assert read_video(output).frames.shape == (NUM_FRAMES, IMAGE_SIZE, IMAGE_SIZE, 3)
    record = json.loads(output.with_suffix(".json").read_text())
    assert (record["frames"], record["lost"]) == (NUM_FRAMES, None)
    assert record["stages"]["track"]["median_ms"] > 0
