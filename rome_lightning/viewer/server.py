"""A small HTTP server for the page, reachable from this machine only."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any

from rome_lightning.viewer.session import ViewerSession

HOST = "127.0.0.1"
LARGEST_REQUEST = 64 * 1024
"""Bytes; the state of all sliders has about 2 kB."""
PATIENCE_S = 60
"""Longest time that a page whose picture is taken may need to draw itself."""

_PAGES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/viewer.js": ("viewer.js", "text/javascript; charset=utf-8"),
}


class ViewerServer:
    """Serves the page of one avatar; a context manager that runs in a thread of its own.

    Args:
        session: the avatar behind the page.
        port: 0 takes a free one.
    """

    def __init__(self, session: ViewerSession, port: int = 0) -> None:
        self.session = session
        # torch uses the cores already: two renders at once would only slow each other down.
        self.lock = threading.Lock()
        self.drawn = threading.Event()
        owner = self

        class Handler(_Handler):
            server_state = owner

        try:
            self._server = ThreadingHTTPServer((HOST, port), Handler)
        except OSError as error:
            raise ValueError(
                f"port {port} cannot be used ({error.strerror}); choose another --port"
            ) from error
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def port(self) -> int:
        """The port in use."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://{HOST}:{self.port}/"

    def __enter__(self) -> ViewerServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def wait(self) -> None:
        """Serve until the process is interrupted."""
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    server_state: ViewerServer
    server_version = "rome"
    sys_version = ""

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a slider sends many requests a second."""

    def do_GET(self) -> None:
        """The page's files, the mesh, and what the page needs to know."""
        if not self._is_local():
            return
        path = self.path.split("?")[0]
        if path in _PAGES:
            file, kind = _PAGES[path]
            self._answer(resources.files("rome_lightning.viewer").joinpath("page", file).read_bytes(), kind)
        elif path == "/about.json":
            self._answer(json.dumps(self.server_state.session.about()).encode(), "application/json")
        elif path == "/drawn.png":
            self.server_state.drawn.clear()
            self.server_state.drawn.wait(PATIENCE_S)
            self._answer(b"", "image/png")
        elif path == "/avatar.glb":
            self._compute(lambda: self.server_state.session.glb(), "model/gltf-binary")
        else:
            self._refuse(404, f"nothing at {path}")

    def do_POST(self) -> None:
        """A neural render of the state in the request, or a change of hair and shoulders."""
        if not self._is_local():
            return
        state = self._read_state()
        if state is None:
            return
        if self.path == "/render":
            self._compute(lambda: self.server_state.session.render(state), "image/png")
        elif self.path == "/edit":
            self._compute(lambda: self._edited(state), "text/plain")
        elif self.path == "/drawn":
            self.server_state.drawn.set()
            self._answer(b"", "text/plain")
        else:
            self._refuse(404, f"nothing at {self.path}")

    def _edited(self, state: dict[str, Any]) -> bytes:
        self.server_state.session.edit(state)
        return b""

    def _is_local(self) -> bool:
        """Refuse requests that another site's page makes under its own name (DNS rebinding)."""
        names = {f"{name}:{self.server_state.port}" for name in (HOST, "localhost")}
        origin = self.headers.get("Origin")
        if self.headers.get("Host") in names and (origin is None or origin.removeprefix("http://") in names):
            return True
        self._refuse(403, "only pages of this machine are answered")
        return False

    def _read_state(self) -> dict[str, Any] | None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > LARGEST_REQUEST:
            self._refuse(413, f"a request has at most {LARGEST_REQUEST} bytes")
            return None
        try:
            state = json.loads(self.rfile.read(int(length)))
        except ValueError:
            state = None
        if isinstance(state, dict):
            return state
        self._refuse(400, "a request is a JSON object")
        return None

    def _compute(self, work: Any, kind: str) -> None:
        """Answer with what ``work`` makes and how long it took; bad input is a 400 with its reason."""
        start = time.perf_counter()
        try:
            with self.server_state.lock:
                content = work()
        except ValueError as error:
            self._refuse(400, str(error))
            return
        self._answer(content, kind, {"X-Render-Ms": f"{1e3 * (time.perf_counter() - start):.1f}"})

    def _answer(self, content: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(200)
        self._send(content, {"Content-Type": kind, "Cache-Control": "no-store", **(headers or {})})

    def _refuse(self, status: int, reason: str) -> None:
        self.send_response(status)
        self._send(reason.encode(), {"Content-Type": "text/plain; charset=utf-8"})

    def _send(self, content: bytes, headers: dict[str, str]) -> None:
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(content)
        except BrokenPipeError:
            # The page was closed before its picture came.
            self.close_connection = True
