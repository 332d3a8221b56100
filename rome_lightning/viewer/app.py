"""``rome app``: a page that makes avatars of photographs, in Gradio."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rome_lightning.avatar import Avatar
from rome_lightning.export.person import BodyPart
from rome_lightning.media.image import to_uint8
from rome_lightning.report.backgrounds import PHOTO, TRANSPARENT, WHITE
from rome_lightning.viewer.studio import EXPORTS, WITH_BODY, Limits, Pose, Studio, VisitorFiles

HOST = "127.0.0.1"
BACKGROUNDS = (WHITE, PHOTO, TRANSPARENT, "colour", "picture")
_KEPT_S = 3600
"""Seconds after which a visitor's avatar and files are removed."""
_PAUSE_S = 600
"""Seconds between searches for files that are to be removed."""
_ONE = {"concurrency_id": "model", "concurrency_limit": 1}
"""All work shares one queue: Gradio's own limit would be one task per button."""
_BUTTONS = ["download", "fullscreen"]
"""Of pictures: Gradio's own offer would send them to another host."""
_WAITING = 20
"""Visitors who may wait in the queue."""
_TURN, _NOD, _NECK = 60, 25, 40
"""Ends of the sliders of the pose, degrees."""
_GROUPS = (
    ("Eyes", ("eye",)),
    ("Brows", ("brow",)),
    ("Mouth", ("mouth",)),
    ("Jaw, cheeks, nose, tongue", ("",)),
)
"""Folds of the sliders, by how the names begin; the first that fits."""


def load_gradio() -> Any:
    """The ``gradio`` package.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import gradio
    except ImportError as error:
        raise ImportError("`rome app` needs Gradio: `pip install rome-lightning[app]`") from error
    return gradio


def build_app(checkpoint: str | None = None, limits: Limits | None = None) -> Any:
    """The page, as Gradio's ``Blocks`` with a queue; one visitor's work runs at a time.

    Args:
        checkpoint: name of a shipped model, or a file made by ``rome fit``; by default the shipped model.
        limits: for each visitor.
    """
    gradio = load_gradio()
    return _Page(gradio, Studio(checkpoint, limits)).build()


def launch(app: Any, host: str = HOST, port: int = 7860, limits: Limits | None = None) -> str:
    """Serve the page in a thread of its own, which ``app.block_thread()`` waits for; returns the address.

    Args:
        app: of ``build_app``.
        host: address to listen on; this machine only unless told otherwise.
        port: 0 for any free one.
        limits: for each visitor.

    Raises:
        ValueError: the port is taken.
    """
    size = f"{(limits or Limits()).max_megabytes}mb"
    # Fonts of this machine: the default theme's come from another host.
    theme = load_gradio().themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    try:
        _, address, _ = app.launch(
            server_name=host,
            server_port=port or None,
            max_file_size=size,
            share=False,
            quiet=True,
            theme=theme,
            prevent_thread_lock=True,
        )
    except OSError as error:
        raise ValueError(f"port {port} is taken or not allowed; choose another with --port") from error
    return str(address)


class _Page:
    """Components and what happens when they are used."""

    def __init__(self, gradio: Any, studio: Studio) -> None:
        self.gradio, self.studio = gradio, studio
        self._files = VisitorFiles(_KEPT_S, _PAUSE_S)

    def build(self) -> Any:
        """Lay out the page."""
        gr = self.gradio
        with gr.Blocks(
            title="rome: avatars", analytics_enabled=False, delete_cache=(_PAUSE_S, _KEPT_S)
        ) as app:
            avatar = gr.State(None, time_to_live=_KEPT_S)
            gr.Markdown(
                "# Avatar from a photograph\nDrop one or several photographs of one person, or take one. "
                "Use your own face, or one that you have permission to use."
            )
            with gr.Row():
                with gr.Column():
                    made = self._creation(avatar)
                with gr.Column():
                    shown, look = self._view(avatar)
            self._animation(avatar, look)
            self._exports(avatar)
            self._batch()
            made.success(self._draw, [avatar, *look], shown, show_progress="hidden", **_ONE)
        return app.queue(max_size=_WAITING)

    def _creation(self, avatar: Any) -> Any:
        gr = self.gradio
        photos = gr.File(
            label="Photographs of one person, best first", file_count="multiple", file_types=["image"]
        )
        camera = gr.Image(label="or the camera", sources=["webcam"], type="filepath", height=220)
        face = gr.Number(0, label="Person, from the left (0: the largest face)", precision=0, minimum=0)
        button = gr.Button("Make the avatar", variant="primary", elem_id="make")
        crop = gr.Image(
            label="Crop and matte", interactive=False, height=220, buttons=_BUTTONS, elem_id="crop"
        )
        notes = gr.Markdown(elem_id="notes")

        return button.click(self._tracked(self._make), [photos, camera, face], [avatar, crop, notes], **_ONE)

    def _view(self, avatar: Any) -> tuple[Any, list[Any]]:
        gr = self.gradio
        shown = gr.Image(
            label="Avatar", interactive=False, format="png", height=420, buttons=_BUTTONS, elem_id="avatar"
        )
        yaw = gr.Slider(-_TURN, _TURN, 0, step=1, label="turn")
        pitch = gr.Slider(-_NOD, _NOD, 0, step=1, label="nod")
        neck = gr.Slider(-_NECK, _NECK, 0, step=1, label="head against shoulders")
        way = gr.Radio(["neural", "mesh"], value="neural", label="drawn by")
        background = gr.Radio(list(BACKGROUNDS), value=WHITE, label="background")
        colour = gr.ColorPicker("#80c0ff", label="colour")
        picture = gr.Image(label="picture", type="filepath", height=120)
        sliders = self._sliders()
        look = [way, background, colour, picture, yaw, pitch, neck, *sliders]
        for slider in (yaw, pitch, neck, *sliders):
            slider.release(self._draw, [avatar, *look], shown, show_progress="hidden", **_ONE)
        for choice in (way, background, colour, picture):
            choice.change(self._draw, [avatar, *look], shown, show_progress="hidden", **_ONE)
        return shown, look

    def _sliders(self) -> list[Any]:
        """One per expression, in the head's order."""
        gr, made = self.gradio, {}
        least, most = self.studio.model.head.expression_range
        rest = list(self.studio.expressions)
        for title, starts in _GROUPS:
            mine = [name for name in rest if name.startswith(starts)]
            rest = [name for name in rest if name not in mine]
            with gr.Accordion(title, open=False):
                for name in mine:
                    made[name] = gr.Slider(least, most, 0, step=0.01, label=name)
        return [made[name] for name in self.studio.expressions]

    def _animation(self, avatar: Any, look: list[Any]) -> None:
        gr, limits = self.gradio, self.studio.limits
        with gr.Accordion("Drive it with a video", open=False), gr.Row():
            with gr.Column():
                driver = gr.Video(label=f"Driving video; the first {limits.max_seconds:g} s are used")
                motion = gr.File(label="or recorded motion", file_types=[".csv", ".npz"])
                relative = gr.Checkbox(label="relative to the first frame, from the photograph's pose")
                button = gr.Button("Animate", elem_id="animate")
            with gr.Column():
                video = gr.Video(
                    label="Driven avatar", interactive=False, buttons=["download"], elem_id="driven"
                )
                notes = gr.Markdown()

        given = [avatar, driver, motion, relative, *look[:4]]
        button.click(self._tracked(self._animate), given, [video, notes], **_ONE)

    def _exports(self, avatar: Any) -> None:
        gr = self.gradio
        with gr.Accordion("Take it elsewhere", open=True):
            with gr.Row():
                name = gr.Textbox("avatar", label="File name", max_length=40)
                author = gr.Textbox(label="Author (VRM)", max_length=80)
                body = gr.Radio(
                    [("head and neck", "none"), ("bust", "bust"), ("whole body", "full")],
                    value="bust",
                    label=f"Show ({', '.join(WITH_BODY)})",
                    elem_id="body",
                )
            with gr.Row():
                buttons = {kind: gr.Button(kind.upper(), elem_id=f"export-{kind}") for kind in EXPORTS}
            with gr.Row():
                files = gr.File(label="Files", file_count="multiple", interactive=False, elem_id="files")
                shown = gr.Model3D(label="The GLB file", interactive=False, height=420, elem_id="model")
        for kind, button in buttons.items():
            found = [files, shown] if kind == "glb" else files
            button.click(self._exporter(kind), [avatar, name, author, body], found, **_ONE)

    def _batch(self) -> None:
        gr = self.gradio
        with gr.Accordion("One avatar per photograph", open=False):
            photos = gr.File(label="Photographs", file_count="multiple", file_types=["image"])
            button = gr.Button("Make them all", elem_id="each")
            gallery = gr.Gallery(label="Avatars", interactive=False, buttons=_BUTTONS)
            archive = gr.File(label="All as GLB", interactive=False)
            notes = gr.Markdown()

        button.click(self._tracked(self._make_each), [photos], [gallery, archive, notes], **_ONE)

    def _guarded(self, work: Callable[[], Any]) -> Any:
        """Run a visitor's request; errors become a sentence on the page."""
        try:
            return work()
        except (ValueError, OSError, ImportError) as error:
            raise self.gradio.Error(str(error), print_exception=False) from error

    def _with(self, avatar: Avatar | None) -> Avatar:
        if avatar is None:
            raise self.gradio.Error("create an avatar first", print_exception=False)
        return avatar

    def _tracked(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """Give work a progress bar, which Gradio looks for as the default of an argument."""
        progress = self.gradio.Progress()

        def run(bar: Any = progress, *given: Any) -> Any:
            return work(bar, *given)

        return run

    def _progress(self, bar: Any) -> Callable[[float, str], None]:
        return lambda share, text: bar(share, desc=text)

    def _make(
        self, bar: Any, photos: list[str] | None, camera: str | None, face: float
    ) -> tuple[Avatar, np.ndarray, str]:
        given = [*(photos or []), *([camera] if camera else [])]
        avatar, warnings = self._guarded(
            lambda: self.studio.create(given, int(face or 0) or None, self._progress(bar))
        )
        source = avatar.source
        matte = source.foreground_mask.expand(-1, 3, -1, -1)
        crop = to_uint8(torch.cat([source.image, matte], dim=3))[0]
        notes = "\n".join(f"- {text}" for text in warnings)
        return avatar, crop, notes or "No problems found in this photograph."

    def _behind(self, choice: str, colour: str, picture: str | None) -> str:
        if choice == "picture":
            if picture is None:
                raise ValueError("choose a picture for the background")
            return picture
        return _hexadecimal(colour) if choice == "colour" else choice

    def _draw(
        self,
        avatar: Avatar | None,
        way: str,
        background: str,
        colour: str,
        picture: str | None,
        yaw: float,
        pitch: float,
        neck: float,
        *weights: float,
    ) -> np.ndarray | None:
        if avatar is None or (background == "picture" and picture is None):
            return None
        pose = Pose(dict(zip(self.studio.expressions, weights, strict=True)), yaw, pitch, neck)
        drawn: np.ndarray = self._guarded(
            lambda: self.studio.picture(
                avatar, pose, self._behind(background, colour, picture), way == "mesh"
            )
        )
        return drawn

    def _animate(
        self,
        bar: Any,
        avatar: Avatar | None,
        driver: str | None,
        motion: str | None,
        relative: bool,
        way: str,
        background: str,
        colour: str,
        picture: str | None,
    ) -> tuple[str, str]:
        person, source = self._with(avatar), driver or motion
        if source is None:
            raise self.gradio.Error("choose a driving video first", print_exception=False)
        path, note = self._guarded(
            lambda: self.studio.animate(
                person,
                source,
                self._files.fresh(),
                self._behind(background, colour, picture),
                relative,
                way == "mesh",
                self._progress(bar),
            )
        )
        return str(path), note

    def _exporter(self, kind: Any) -> Callable[..., Any]:
        """Answers a button with files, and a GLB's also with the file to show."""

        def export(avatar: Avatar | None, name: str, author: str, body: BodyPart) -> Any:
            person = self._with(avatar)
            files: list[Path] = self._guarded(
                lambda: self.studio.export(person, kind, self._files.fresh(), name, author, body)
            )
            paths = [str(file) for file in files]
            return (paths, paths[0]) if kind == "glb" else paths

        return export

    def _make_each(self, bar: Any, photos: list[str] | None) -> tuple[list[tuple[np.ndarray, str]], str, str]:
        pictures, archive, problems = self._guarded(
            lambda: self.studio.create_each(photos or [], self._files.fresh(), self._progress(bar))
        )
        return pictures, str(archive), "\n".join(f"- {text}" for text in problems)


def _hexadecimal(colour: str) -> str:
    """A colour as the picker gives it, #rrggbb or rgba(r, g, b, a), as #rrggbb."""
    if colour.startswith("#"):
        return colour[:7]
    numbers = colour[colour.index("(") + 1 : colour.index(")")].split(",")[:3]
    return "#" + "".join(f"{round(float(number)):02x}" for number in numbers)
