"""Serve files from folders and open a page in the headless Chromium that takes the viewer's screenshots."""

from __future__ import annotations

import functools
import http.server
import json
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from rome_lightning.viewer.browser import find_browser, take_screenshot

FINISH = """
document.body.append(Object.assign(new Image(), { src: "drawn.png" }));
const finish = async (found) => {
  document.documentElement.dataset.found = encodeURIComponent(JSON.stringify(found));
  document.documentElement.dataset.state = "ready";
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  await fetch("drawn", { method: "POST", body: "" });
};
"""
"""Script for a page: ``finish(found)`` passes an object to the test and ends the page's loading."""

_VRM_PAGE = """<!doctype html><html><head><script type="importmap">{"imports": {
  "three": "/modules/three/build/three.module.js",
  "three/addons/": "/modules/three/examples/jsm/",
  "@pixiv/three-vrm": "/modules/@pixiv/three-vrm/lib/three-vrm.module.js"
}}</script></head><body style="margin:0"><canvas id="c" width="WIDTH" height="700"></canvas>
<script type="module">
FINISH
try {
  const THREE = await import("three");
  const { GLTFLoader } = await import("three/addons/loaders/GLTFLoader.js");
  const { VRMLoaderPlugin, VRMUtils } = await import("@pixiv/three-vrm");
  const loader = new GLTFLoader();
  loader.register((parser) => new VRMLoaderPlugin(parser));
  const vrm = (await loader.loadAsync("me.vrm")).userData.vrm;
  VRMUtils.rotateVRM0(vrm);
  const scene = new THREE.Scene();
  scene.add(vrm.scene);
SCRIPT
} catch (error) { finish({ error: String(error.stack ?? error) }); }
</script></body></html>"""


def vrm_page(script: str, width: int) -> str:
    """A page that loads ``me.vrm`` with three-vrm as ``vrm``, adds it to ``scene`` and runs a script.

    Args:
        script: ends with ``finish(found)``; draws on the canvas ``c``.
        width: of the canvas, pixels; its height is 700.
    """
    return _VRM_PAGE.replace("WIDTH", str(width)).replace("FINISH", FINISH).replace("SCRIPT", script)


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files by folder name; sends ``drawn.png`` once the page has posted ``drawn``."""

    def __init__(self, folders: Mapping[str, Path], drawn: threading.Event, *args: Any) -> None:
        self.folders, self.drawn = folders, drawn
        super().__init__(*args)

    def translate_path(self, path: str) -> str:
        top, _, rest = path.split("?")[0].strip("/").partition("/")
        return str(self.folders[top] / rest) if top in self.folders else "/nonexistent"

    def do_GET(self) -> None:
        if self.path.endswith("drawn.png"):
            self.drawn.wait(300)
            self.send_error(404)
        else:
            super().do_GET()

    def do_POST(self) -> None:
        self.drawn.set()
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        """Log nothing."""


def show(
    folders: Mapping[str, Path], page: str, picture: Path, state: str = "", options: Sequence[str] = ()
) -> Any:
    """Open a page and return the object it passes to ``finish``; skips the test without a browser.

    Args:
        folders: by the first part of the URL.
        page: URL of the page, relative to the server.
        picture: PNG file to write.
        state: fragment of the URL, after #.
        options: further options of the browser.
    """
    try:
        find_browser()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    handler = functools.partial(_Handler, folders, threading.Event())
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)  # type: ignore[arg-type]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        document = take_screenshot(
            f"http://127.0.0.1:{server.server_port}/{page}", picture, state, options=options
        )
    finally:
        server.shutdown()
        server.server_close()
    from urllib.parse import unquote

    match = re.search(r'data-found="([^"]*)"', document)
    assert match is not None
    return json.loads(unquote(match[1]))
