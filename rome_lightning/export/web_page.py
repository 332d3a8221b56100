"""Avatars as a folder that any static host serves: a page with sliders, and an API for other pages."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from rome_lightning.assets.registry import REGISTRY
from rome_lightning.assets.resolver import resolve
from rome_lightning.avatar import Avatar
from rome_lightning.export.browser_networks import export_browser_networks
from rome_lightning.export.glb import Motion, export_glb
from rome_lightning.export.person import rigged_person
from rome_lightning.media.atomic import write_atomic

_FILES = ("index.html", "embed.html", "avatar.js")
_TRACKER = ("web_tracker", "web_tracker_loader", "web_tracker_wasm", "face_landmarker")
"""Assets with which the page follows a webcam."""
_RUNTIME = ("web_networks", "web_networks_loader", "web_networks_wasm")
"""Assets with which the page runs networks."""


def export_web(
    avatar: Avatar,
    folder: Path,
    motion: Motion | None = None,
    rights: str | None = None,
    webcam: bool = False,
    neural: bool = False,
) -> list[Path]:
    """Write the page, its script, which contains three.js, and the person's ``avatar.glb``.

    Args:
        avatar: the person.
        folder: to write into; it is made.
        motion: an animation clip that the page can play.
        rights: whose photograph it is; by default the photograph is named.
        webcam: add MediaPipe, with which the page follows a face, in the folder ``tracking``.
        neural: add the networks and onnxruntime, with which the page shows the neural render, in the folder
            ``neural``.

    Returns:
        The files written.
    """
    written = [export_glb(folder / "avatar.glb", rigged_person(avatar, rights=rights), motion=motion)]
    for name in _FILES:
        content = resources.files("rome_lightning.export").joinpath("web", name).read_bytes()
        write_atomic(folder / name, content)
        written.append(folder / name)
    if webcam:
        written += _copy_assets(_TRACKER, folder / "tracking")
    if neural:
        written += export_browser_networks(avatar, folder / "neural")
        written += _copy_assets(_RUNTIME, folder / "neural")
    return written


def _copy_assets(names: Sequence[str], folder: Path) -> list[Path]:
    written = []
    for name in names:
        source = resolve(name)
        written.append(folder / REGISTRY[name].file)
        write_atomic(written[-1], source.read_bytes())
    return written
