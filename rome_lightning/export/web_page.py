"""Avatars as a folder that any static host serves: a page with sliders, and an API for other pages."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from rome_lightning.assets.registry import REGISTRY
from rome_lightning.assets.resolver import resolve
from rome_lightning.avatar import Avatar
from rome_lightning.avatar.example_motion import example_motion
from rome_lightning.export import browser_networks
from rome_lightning.export.animation import Motion
from rome_lightning.export.browser_networks import check_browser_networks, export_browser_networks
from rome_lightning.export.glb import export_glb
from rome_lightning.export.person import BodyPart, rigged_person
from rome_lightning.export.profiles import Profile
from rome_lightning.media.atomic import write_atomic

_PROFILE = Profile(texture="webp", compress="quantize")
"""Every browser reads both, and the file has less than half the size."""
_TRACKER = ("web_tracker", "web_tracker_loader", "web_tracker_wasm", "face_landmarker")
"""Assets with which the page follows a webcam."""
_RUNTIME = ("web_networks", "web_networks_loader", "web_networks_wasm")
"""Assets with which the page runs networks."""
_GPU_RUNTIME = ("web_networks_gpu", "web_networks_gpu_loader", "web_networks_gpu_wasm")
"""Assets with which the page runs them by WebGPU."""
_LICENCE = "LICENSE.txt"
"""Of the assets in a folder, beside them."""


def export_web(
    avatar: Avatar,
    folder: Path,
    motion: Motion | None = None,
    rights: str | None = None,
    webcam: bool = False,
    neural: bool = False,
    webgpu: bool = False,
    body: BodyPart = "bust",
) -> list[Path]:
    """Write the page, its script, which contains three.js, and the person's ``avatar.glb``.

    Args:
        avatar: the person.
        folder: to write into; it is made, and parts of an earlier export that are not wanted are removed.
        motion: an animation clip that the page can play; a short example if not given, on heads with ARKit's
            expressions.
        rights: whose photograph it is; by default the photograph is named.
        webcam: add MediaPipe, with which the page follows a face, in the folder ``tracking``.
        neural: add the networks and onnxruntime, with which the page shows the neural render, in the folder
            ``neural``.
        webgpu: add onnxruntime for WebGPU too, which the page uses where the viewer's browser has WebGPU.
        body: how much of the person the mesh shows; the neural render shows the bust.

    Returns:
        The files written.

    Raises:
        ValueError: the model has no neural render for browsers, ``webgpu`` without ``neural``, or a whole
            body on a head model that it does not fit.
        ImportError: ``neural`` needs packages that are missing.
        OSError: a file cannot be fetched or written.
    """
    if webgpu and not neural:
        raise ValueError("--webgpu is for the neural render; give --neural too")
    if neural:
        check_browser_networks(avatar)
    person = rigged_person(avatar, rights=rights, body=body)
    if motion is None and avatar.model.head.has_arkit:
        example = example_motion(avatar.model.head)
        motion = Motion(example.params, example.times_s, "example")
    # A failed download must not leave half a page.
    tracker = _resolved(_TRACKER) if webcam else []
    runtime = _resolved((*_RUNTIME, *_GPU_RUNTIME * webgpu)) if neural else []
    written = []
    if webcam:
        written += _copied(tracker, "mediapipe", folder / "tracking")
    else:
        _remove(folder / "tracking", _TRACKER)
    _remove(folder / "neural", _GPU_RUNTIME * (not webgpu))
    if neural:
        written += export_browser_networks(avatar, folder / "neural")
        written += _copied(runtime, "onnxruntime", folder / "neural")
    else:
        _remove(folder / "neural", _RUNTIME, browser_networks.FILES)
    written.append(export_glb(folder / "avatar.glb", person, profile=_PROFILE, motion=motion))
    parts = ["tracking"] * webcam + ["neural"] * neural + ["webgpu"] * webgpu
    index = _shipped("index.html").replace(b'data-parts=""', f'data-parts="{" ".join(parts)}"'.encode())
    pages = {"avatar.js": _shipped("avatar.js"), "embed.html": _shipped("embed.html"), "index.html": index}
    for name, content in pages.items():
        write_atomic(folder / name, content)
    return [*written, *(folder / name for name in pages)]


def _shipped(name: str) -> bytes:
    return resources.files("rome_lightning.export").joinpath("web", name).read_bytes()


def _resolved(assets: Sequence[str]) -> list[tuple[Path, str]]:
    """Where assets are, and the names that the page knows them by."""
    return [(resolve(name), REGISTRY[name].file) for name in assets]


def _copied(assets: Sequence[tuple[Path, str]], licence: str, folder: Path) -> list[Path]:
    for source, name in assets:
        write_atomic(folder / name, source.read_bytes())
    write_atomic(folder / _LICENCE, _shipped(f"{licence}_licence.txt"))
    return [folder / name for name in (*(name for _, name in assets), _LICENCE)]


def _remove(folder: Path, assets: Sequence[str], others: Sequence[str] = ()) -> None:
    """Remove the files of an earlier export, and their folder if nothing else is in it."""
    for name in (*(REGISTRY[asset].file for asset in assets), *others, _LICENCE):
        (folder / name).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
