"""A small HTTP server for the page, reachable from this machine only.

The library ``waitress`` reads requests whole before a thread takes them, ends idle connections and limits
their number; this module decides which requests are answered, and how.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from importlib import resources
from types import FrameType
from typing import Any, NamedTuple

from waitress import create_server, wasyncore

from rome_lightning.media.escaping import printable
from rome_lightning.viewer.session import ViewerSession

HOST = "127.0.0.1"
LARGEST_REQUEST = 64 * 1024
"""Bytes; the state of all sliders has about 2 kB."""
PATIENCE_S = 60
"""Longest time that a page whose picture is taken may need to draw itself."""
IDLE_S = 20
"""A connection without a whole request for so long is ended."""
MOST_CONNECTIONS = 50
"""Further ones wait."""

_PAGES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/viewer.js": ("viewer.js", "text/javascript; charset=utf-8"),
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src 'self' blob: data:; "
    "connect-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_REASONS = {200: "OK", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed"}
_REASONS |= {413: "Content Too Large", 500: "Internal Server Error", 503: "Service Unavailable"}


class _Answer(NamedTuple):
    """Response to a request."""

    status: int
    content: bytes
    kind: str = "text/plain; charset=utf-8"
    duration_ms: float | None = None


def _refusal(status: int, reason: str) -> _Answer:
    return _Answer(status, reason.encode(errors="backslashreplace"))


class ViewerServer:
    """Serves the page of one avatar; a context manager that runs in threads of its own.

    Args:
        session: the avatar behind the page.
        port: 0 takes a free one.

    Raises:
        ValueError: the port is in use.
    """

    def __init__(self, session: ViewerSession, port: int = 0) -> None:
        self.session = session
        # torch uses the cores already: two renders at once would only slow each other down.
        self.lock = threading.Lock()
        self.drawn = threading.Event()
        self._picture = threading.Lock()
        self._closing = threading.Event()
        self._sockets: dict[int, Any] = {}
        try:
            self._server = create_server(
                self._answer,
                map=self._sockets,
                host=HOST,
                port=port,
                threads=4,
                connection_limit=MOST_CONNECTIONS,
                channel_timeout=IDLE_S,
                cleanup_interval=IDLE_S / 4,
                # The server's own refusal; smaller ones get ours, which says the limit.
                max_request_body_size=4 * LARGEST_REQUEST,
                max_request_header_size=16 * 1024,
                ident="rome",
            )
        except OSError as error:
            raise ValueError(
                f"port {port} cannot be used ({error.strerror}); choose another --port"
            ) from error
        # Full queues are the rule while a slider moves; the page waits.
        logging.getLogger("waitress").setLevel(logging.ERROR)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._handler: Any = None

    @property
    def port(self) -> int:
        """The port in use."""
        return int(self._server.effective_port)

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://{HOST}:{self.port}/"

    def __enter__(self) -> ViewerServer:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._handler = signal.signal(signal.SIGINT, _interrupt_once)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self.drawn.set()
        self._thread.join()
        # A thread inside of torch while the interpreter ends would abort the process: the last render ends.
        with self.lock:
            pass
        self._server.task_dispatcher.shutdown(cancel_pending=True)
        wasyncore.close_all(self._sockets)
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)

    def wait(self) -> None:
        """Serve until the process is interrupted."""
        while self._thread.is_alive():
            self._thread.join(1)

    def _serve(self) -> None:
        while not self._closing.is_set():
            wasyncore.loop(timeout=0.2, map=self._sockets, count=1)

    def _answer(self, request: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        """The WSGI application."""
        try:
            answer = self._dispatch(request)
        except Exception as error:
            print(f"rome: error: {request['REQUEST_METHOD']}: {printable(error)}", file=sys.stderr)
            answer = _refusal(500, f"{type(error).__name__}; see the terminal for details")
        headers = {**_HEADERS, "Content-Type": answer.kind, "Content-Length": str(len(answer.content))}
        if answer.duration_ms is not None:
            headers["X-Render-Ms"] = f"{answer.duration_ms:.1f}"
        start(f"{answer.status} {_REASONS[answer.status]}", list(headers.items()))
        return [answer.content]

    def _dispatch(self, request: dict[str, Any]) -> _Answer:
        if not self._is_ours(request):
            return _refusal(403, "only pages of this machine are served")
        path = request["PATH_INFO"]
        if request["REQUEST_METHOD"] == "GET":
            return self._get(path)
        if request["REQUEST_METHOD"] != "POST":
            return _refusal(405, "requests are GET or POST")
        state = _read_state(request)
        return state if isinstance(state, _Answer) else self._post(path, state)

    def _get(self, path: str) -> _Answer:
        """The page's files, the mesh, and what the page needs to know."""
        if path in _PAGES:
            file, kind = _PAGES[path]
            return _Answer(
                200, resources.files("rome_lightning.viewer").joinpath("page", file).read_bytes(), kind
            )
        if path == "/about.json":
            return _Answer(200, json.dumps(self.session.about()).encode(), "application/json")
        if path == "/avatar.glb":
            return self._compute(self.session.glb, "model/gltf-binary")
        if path == "/drawn.png":
            return self._wait_for_page()
        return _refusal(404, f"nothing at {path}")

    def _post(self, path: str, state: dict[str, Any]) -> _Answer:
        """A neural render of the state in the request, or a change of hair and shoulders."""
        if path == "/render":
            return self._compute(lambda: self.session.render(state), "image/png")
        if path == "/edit":
            return self._compute(lambda: self._edited(state), "text/plain")
        if path == "/drawn":
            self.drawn.set()
            return _Answer(200, b"")
        return _refusal(404, f"nothing at {path}")

    def _edited(self, state: dict[str, Any]) -> bytes:
        self.session.edit(state)
        return b""

    def _wait_for_page(self) -> _Answer:
        """Answer once the page reports that it is rendered; one page at a time, to keep threads free."""
        if not self._picture.acquire(blocking=False):
            return _refusal(503, "another page is being rendered for a screenshot")
        try:
            self.drawn.clear()
            if not self._closing.is_set():
                self.drawn.wait(PATIENCE_S)
        finally:
            self._picture.release()
        return _Answer(200, b"", "image/png")

    def _is_ours(self, request: dict[str, Any]) -> bool:
        """Refuse requests that another site's page makes, under its own name (DNS rebinding) or ours."""
        names = {f"{name}:{self.port}" for name in (HOST, "localhost")}
        origin = request.get("HTTP_ORIGIN")
        if request.get("HTTP_HOST") not in names or (
            origin is not None and origin not in {f"http://{name}" for name in names}
        ):
            return False
        if request.get("HTTP_SEC_FETCH_SITE", "none") in ("same-origin", "none"):
            return True
        # A link to the page, on whatever site, may be followed.
        destination = (request.get("HTTP_SEC_FETCH_MODE"), request.get("HTTP_SEC_FETCH_DEST"))
        followed = request["REQUEST_METHOD"] == "GET" and destination == ("navigate", "document")
        return followed and request["PATH_INFO"] == "/"

    def _compute(self, work: Callable[[], bytes], kind: str) -> _Answer:
        """Answer with what ``work`` makes and how long it took; bad input is a 400 with its reason."""
        start = time.perf_counter()
        try:
            with self.lock:
                if self._closing.is_set():
                    return _refusal(503, "the server is shutting down")
                content = work()
        except (ValueError, OverflowError) as error:
            return _refusal(400, str(error))
        return _Answer(200, content, kind, 1e3 * (time.perf_counter() - start))


def _interrupt_once(signum: int, frame: FrameType | None) -> None:
    """Ctrl-C ends the server in order; one more must not cut off the wait for the last render."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print("rome: stopping after the picture in progress", file=sys.stderr, flush=True)
    raise KeyboardInterrupt


def _read_state(request: dict[str, Any]) -> dict[str, Any] | _Answer:
    """The JSON object of a request, or what is wrong with it."""
    length = request.get("CONTENT_LENGTH") or "0"
    if not (length.isascii() and length.isdecimal()) or int(length) > LARGEST_REQUEST:
        return _refusal(413, f"a request has at most {LARGEST_REQUEST} bytes")
    try:
        state = json.loads(request["wsgi.input"].read(int(length)))
    except (ValueError, RecursionError):
        state = None
    return state if isinstance(state, dict) else _refusal(400, "a request is a JSON object")
