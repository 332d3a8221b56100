"""The page of ``rome avatar view``: its server, its camera, and its rendering in a browser."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.client
import io
import json
import math
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import perturbed, random_frames, small_config
from PIL import Image
from waitress.task import ThreadedTaskDispatcher

from rome_lightning.avatar import Avatar
from rome_lightning.models import FullAvatar
from rome_lightning.types import Frames
from rome_lightning.viewer import ViewerServer, ViewerSession
from rome_lightning.viewer import server as server_module
from rome_lightning.viewer.browser import find_browser, take_screenshot

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def avatar() -> Avatar:
    model = perturbed(FullAvatar(small_config())).eval()
    photo = random_frames(model.head, 1)
    whole = Frames(**vars(photo) | {"foreground_mask": torch.ones_like(photo.foreground_mask)})
    return Avatar.create(model, whole, refine_steps=0)


@pytest.fixture(scope="module")
def session(avatar: Avatar) -> ViewerSession:
    return ViewerSession(avatar, "somebody")


@pytest.fixture(scope="module")
def server(session: ViewerSession) -> Iterator[ViewerServer]:
    with ViewerServer(session) as running:
        yield running


def front(session: ViewerSession, **changes: Any) -> dict[str, Any]:
    """The initial state of the page."""
    about = session.about()
    x, y, z = about["view"]["centre"]
    state = {
        "expression": [0.0] * len(about["expressions"]),
        "joints": {name: [0.0, 0.0, 0.0] for name in about["joints"]},
        "view": [[1, 0, 0, -x], [0, 1, 0, -y], [0, 0, 1, -z - 2]],
        "scale": 1 / about["view"]["half_width"],
    }
    return state | changes


def ask(server: ViewerServer, method: str, path: str, body: bytes | None = None, **headers: str) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


def test_the_first_view_is_the_photographs(session: ViewerSession) -> None:
    params = session.params(front(session))
    torch.testing.assert_close(params.camera, session.rest.camera, atol=1e-5, rtol=0)
    assert params.global_pose.abs().max() < 1e-6


def test_the_page_and_the_model_see_the_same(session: ViewerSession) -> None:
    """An explicit orthographic camera against the model's own projection."""
    yaw, pitch, scale = 0.7, 0.3, 5.0
    about_y = np.array([[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0], [-math.sin(yaw), 0, math.cos(yaw)]])
    about_x = np.array(
        [[1, 0, 0], [0, math.cos(pitch), -math.sin(pitch)], [0, math.sin(pitch), math.cos(pitch)]]
    )
    rotation, shift = about_x @ about_y, np.array([0.03, -0.05, -2.0])
    view = np.concatenate([rotation, shift[:, None]], axis=1)
    joints = front(session)["joints"] | {"neck": [0.1, 0.4, -0.2], "left_eye": [0.0, 0.3, 0.0]}
    params = session.params(front(session, view=view.tolist(), scale=scale, joints=joints))
    vertices = session.avatar.posed_mesh(params).vertices
    seen = vertices[0].double().numpy() @ rotation.T + shift
    height, width = session.avatar.image_size
    expected = (
        np.stack([(scale * seen[:, 0] + 1) * width / 2, (1 - scale * seen[:, 1]) * height / 2], 1) - 0.5
    )
    drawn = session.avatar.model.project(vertices, params, (height, width))[0, :, :2]
    np.testing.assert_allclose(drawn, expected, atol=2e-3)
    assert params.neck_pose[0].tolist() == pytest.approx([0.1, 0.4, -0.2])
    assert params.eye_pose[0].tolist() == pytest.approx([0, 0.3, 0, 0, 0, 0])


def test_server_hands_out_page_mesh_and_render(server: ViewerServer, session: ViewerSession) -> None:
    for path, kind in (("/", "text/html"), ("/viewer.js", "text/javascript")):
        status, headers, content = ask(server, "GET", path)
        assert (status, headers["Content-Type"].split(";")[0]) == (200, kind)
        assert len(content) > 1000
    about = json.loads(ask(server, "GET", "/about.json")[2])
    assert about["name"] == "somebody"
    assert len(about["expressions"]) == 52
    assert about["expression_range"] == [0.0, 1.0]
    assert ask(server, "GET", "/avatar.glb?edit=0")[2][:4] == b"glTF"
    state = front(session)
    status, headers, picture = ask(server, "POST", "/render", json.dumps(state).encode())
    assert status == 200
    assert float(headers["X-Render-Ms"]) > 0
    rendered = next(session.avatar.draw(session.params(state))).image[0]
    pixels = np.asarray(Image.open(io.BytesIO(picture)))
    np.testing.assert_array_equal(pixels, (rendered.clamp(0, 1) * 255).round().byte().permute(1, 2, 0))


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"{}", 400, "no numbers 'expression'"),
        (b"[1]", 400, "JSON object"),
        (b"\xff", 400, "JSON object"),
        (b"", 400, "JSON object"),
        (b"[" * 60_000, 400, "JSON object"),
        (b'{"expression": 1' + b"0" * 4000 + b"}", 400, "no numbers 'expression'"),
        (b'{"expression": [1e999]}', 400, "must be 52 and finite"),
        (b'{"amounts": {"0": 1' + b"0" * 400 + b"}}", 400, "no numbers"),
        (b" " * 70_000, 413, "at most 65536 bytes"),
    ],
)
def test_invalid_requests_are_refused(server: ViewerServer, body: bytes, status: int, reason: str) -> None:
    answer = ask(server, "POST", "/render", body)
    assert answer[0] == status
    assert reason in answer[2].decode()


@pytest.mark.parametrize(
    "change",
    [
        {"expression": [0.0]},
        {"view": "x"},
        {"scale": math.inf},
        {"scale": 1e9},
        {"joints": {}},
        {"joints": 3},
    ],
)
def test_invalid_states_are_refused(session: ViewerSession, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="the page's state"):
        session.params(front(session, **change))


def test_other_sites_are_not_answered(server: ViewerServer) -> None:
    assert ask(server, "GET", "/about.json", Host="example.org")[0] == 403
    assert ask(server, "GET", "/about.json", Origin="http://example.org")[0] == 403
    assert ask(server, "GET", "/about.json", Origin=f"http://localhost:{server.port}")[0] == 200
    for path in ("/../../setup.cfg", "/session.py", "/etc/passwd"):
        assert ask(server, "GET", path)[0] == 404


def test_a_foreign_page_gets_nothing_under_our_own_name(server: ViewerServer) -> None:
    for site in ("cross-site", "same-site"):
        fetched = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
        for method, path in (("GET", "/avatar.glb"), ("GET", "/"), ("POST", "/edit")):
            assert ask(server, method, path, b"{}" if method == "POST" else None, **fetched)[0] == 403
        followed = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
        assert ask(server, "GET", "/", **followed)[0] == 200
        assert ask(server, "GET", "/avatar.glb", **followed)[0] == 403
    assert ask(server, "GET", "/about.json", **{"Sec-Fetch-Site": "same-origin"})[0] == 200
    assert ask(server, "POST", "/drawn", b"{}", Origin=f"127.0.0.1:{server.port}")[0] == 403


def test_every_answer_says_what_the_page_may_do(server: ViewerServer) -> None:
    for method, path, body in (("GET", "/", None), ("GET", "/nothing", None), ("POST", "/render", b"{}")):
        headers = ask(server, method, path, body)[1]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'; script-src 'self';" in headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert ask(server, "PUT", "/")[0] == 405


def test_half_open_requests_hold_no_threads_and_keep_nobody_out(
    session: ViewerSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "IDLE_S", 1)
    monkeypatch.setattr(server_module, "MOST_CONNECTIONS", 8)
    threads = threading.active_count()
    with ViewerServer(session) as running, contextlib.ExitStack() as held:
        files = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(30):
            connection = held.enter_context(socket.create_connection(("127.0.0.1", running.port)))
            connection.sendall(b"POST /render HTTP/1.1\r\nHost: localhost\r\n")
        time.sleep(0.5)
        # Our own ends, and the server's of those that it has accepted.
        assert len(list(Path("/proc/self/fd").iterdir())) <= files + 30 + 8
        assert threading.active_count() < threads + 8
        # Connections beyond the limit wait until idle ones are closed.
        assert ask(running, "GET", "/about.json")[0] == 200
    assert threading.active_count() <= threads


def test_an_error_of_the_program_is_an_answer_and_one_line(
    server: ViewerServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(server.session, "render", lambda state: 1 / 0)
    assert ask(server, "POST", "/render", b"{}")[0] == 500
    assert capsys.readouterr().err == "rome: error: POST: division by zero\n"


def test_the_last_render_ends_before_the_server_does(
    session: ViewerSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, ended = threading.Event(), threading.Event()

    def slow(state: object) -> bytes:
        began.set()
        # Longer than the server library waits for its threads to end.
        time.sleep(1)
        ended.set()
        return b""

    shutdown = ThreadedTaskDispatcher.shutdown
    monkeypatch.setattr(ThreadedTaskDispatcher, "shutdown", functools.partialmethod(shutdown, timeout=0.2))
    monkeypatch.setattr(session, "render", slow)
    with ViewerServer(session) as running:
        asking = threading.Thread(target=lambda: ask(running, "POST", "/render", b"{}"))
        asking.start()
        assert began.wait(30)
    assert ended.is_set()
    asking.join()


_BUSY = """
import signal, sys, time, torch
from rome_lightning.viewer import ViewerServer

# Tests that run in the background of a shell inherit that it is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

class Session:
    def render(self, state):
        end_s = time.monotonic() + 2
        while time.monotonic() < end_s:
            torch.rand(64, 64) @ torch.rand(64, 64)
        return b"picture"

try:
    with ViewerServer(Session()) as server:
        print(server.port, flush=True)
        server.wait()
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("times", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_ctrl_c_under_load_ends_in_order(times: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _BUSY], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    port = int(process.stdout.readline())
    with process, contextlib.ExitStack() as held:
        for request in [b"POST /render HTTP/1.1\r\nHost: localhost\r\n"] * 30 + [
            b"POST /render HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 2\r\n\r\n{}" % port
        ] * 6:
            held.enter_context(socket.create_connection(("127.0.0.1", port))).sendall(request)
        # The first image is being rendered; the others wait.
        time.sleep(0.7)
        for _ in range(times):
            process.send_signal(signal.SIGINT)
            time.sleep(0.2)
        try:
            said = process.communicate(timeout=120)[1]
        finally:
            process.kill()
    assert (process.returncode, said) == (130, "rome: stopping after the picture in progress\n")


def test_a_port_in_use_is_named(server: ViewerServer, session: ViewerSession) -> None:
    with pytest.raises(ValueError, match=f"port {server.port} cannot be used"):
        ViewerServer(session, server.port)


def test_the_shipped_script_was_built_from_its_sources() -> None:
    digest = hashlib.sha256()
    for name in ("viewer.mjs", "package-lock.json"):
        digest.update((ROOT / "viewer" / name).read_bytes())
    head = (ROOT / "rome_lightning" / "viewer" / "page" / "viewer.js").read_text()[:2000]
    assert digest.hexdigest() in head, "run `make viewer`"
    assert "The MIT License" in head


def test_a_browser_shows_mesh_and_render_alike(server: ViewerServer, tmp_path: Path) -> None:
    try:
        find_browser()
    except FileNotFoundError as error:
        pytest.skip(f"needs a headless Chromium: {error}")
    size = (1600, 900)
    pictures = {}
    for name, state in {"rest": "look=wire", "turned": "look=wire&neck.y=0.6&jawOpen=1&turn=25,10"}.items():
        path = tmp_path / f"{name}.png"
        html = take_screenshot(server.url, path, state, size)
        assert "52 morph targets, 5 joints" in html
        pictures[name] = np.asarray(Image.open(path).convert("L"), dtype=float)
    # Both panels are squares of the same size; the mesh is dark lines on white.
    for picture in pictures.values():
        assert picture.shape == size[::-1]
        assert (picture[80:680, 20:620] < 200).mean() > 0.02
    assert np.abs(pictures["rest"] - pictures["turned"])[80:680, 20:1240].mean() > 2


def test_a_page_that_fails_is_no_picture(
    server: ViewerServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        find_browser()
    except FileNotFoundError as error:
        pytest.skip(f"needs a headless Chromium: {error}")

    def broken(state: object) -> bytes:
        raise ValueError("the model is ill")

    monkeypatch.setattr(server.session, "render", broken)
    with pytest.raises(ValueError, match="the page is not complete: no neural render: the model is ill"):
        take_screenshot(server.url, tmp_path / "ill.png", size=(320, 240))
