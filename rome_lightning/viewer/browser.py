"""Pictures of the page by a headless Chromium."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_OPTIONS = (
    "--headless", "--no-sandbox", "--hide-scrollbars", "--no-first-run", "--disable-quic",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    # WebGL without a graphics card.
    "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist",
)  # fmt: skip
_PATIENCE_S = 120


def find_browser() -> str:
    """The browser's program: $ROME_BROWSER, or the first of ``PROGRAMS`` that is installed.

    Raises:
        FileNotFoundError: there is none.
    """
    wanted = os.environ.get("ROME_BROWSER")
    for name in (wanted,) if wanted else PROGRAMS:
        if found := shutil.which(name):
            return found
    raise FileNotFoundError(
        f"no browser: {wanted or ', '.join(PROGRAMS)} not found; install Chromium, or name a browser in "
        "the environment variable ROME_BROWSER"
    )


def take_screenshot(
    url: str,
    path: Path,
    state: str = "",
    size: tuple[int, int] = (1600, 900),
    options: Sequence[str] = (),
) -> str:
    """Show the page until it is complete and take a picture of it.

    Args:
        url: address of a ``ViewerServer``.
        path: PNG file to write.
        state: where the sliders stand, as in ``rome avatar view --state``.
        size: width and height of the window, pixels.
        options: further ones of the browser.

    Returns:
        The page's elements as HTML when the picture was taken.

    Raises:
        FileNotFoundError: no browser is installed.
        ValueError: the page could not be shown; the text says why.
    """
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        command = [
            find_browser(),
            *_OPTIONS,
            *options,
            f"--user-data-dir={profile}",
            f"--window-size={size[0]},{size[1]}",
            f"--screenshot={path}",
            "--dump-dom",
            f"{url}?picture#{state}",
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise ValueError(f"{command[0]} did not show {url} within {_PATIENCE_S} s") from error
    if done.returncode != 0 or not path.is_file():
        raise ValueError(f"{command[0]} took no screenshot of {url}: {' '.join(done.stderr.split())[-300:]}")
    if 'data-state="ready"' not in done.stdout:
        status = re.search(r'id="status"[^>]*>([^<]*)', done.stdout)
        raise ValueError(
            f"the page is not complete: {status[1] if status else 'it did not start'}; see {path}"
        )
    return done.stdout
