"""``rome app``: a page that makes avatars of photographs, in Gradio."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rome_lightning.avatar import Avatar
from rome_lightning.export.person import BodyPart
from rome_lightning.export.profiles import PROFILES
from rome_lightning.media.image import to_uint8
from rome_lightning.report.backgrounds import PHOTO, TRANSPARENT, WHITE
from rome_lightning.viewer.studio import (
    EXPORTS,
    FILE_KINDS,
    DrawnBy,
    Limits,
    Pose,
    Studio,
    VisitorFiles,
)

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
_HAIR = 3
"""Ends of the sliders of hair and shoulders, standard deviations."""
_UNSURE_S = 3
"""Seconds of a stage before the time left is said."""
_CSS = """
#look { max-height: 27rem; overflow-y: auto; flex-wrap: nowrap; }
#look > * { flex-shrink: 0; }
"""
"""The sliders scroll on their own, so that the avatar stays in sight."""
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


def build_app(checkpoint: str | None = None, limits: Limits | None = None, basis: Path | None = None) -> Any:
    """The page, as Gradio's ``Blocks`` with a queue; one visitor's work runs at a time.

    Args:
        checkpoint: name of a shipped model, or a file made by ``rome fit``; by default the shipped model.
        limits: for each visitor.
        basis: file of a linear basis: sliders for hair and shoulders.
    """
    gradio = load_gradio()
    return _Page(gradio, Studio(checkpoint, limits, basis)).build()


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
            css=_CSS,
            footer_links=[],
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
                "# Avatar from a photograph\n"
                "1. Give one or several photographs of one person and press *Make the avatar*. "
                "Use your own face, or one that you have permission to use.\n"
                "2. Move the sliders, or drive the avatar with a video.\n"
                "3. Download it for other programs."
            )
            with gr.Row():
                with gr.Column():
                    made = self._creation(avatar)
                with gr.Column():
                    shown, look, hair = self._view(avatar)
            self._animation(avatar, look, hair)
            self._exports(avatar, hair)
            self._batch()
            made.success(self._draw, [avatar, *look], shown, show_progress="hidden", **_ONE)
        return app.queue(max_size=_WAITING)

    def _creation(self, avatar: Any) -> Any:
        gr = self.gradio
        photos = gr.File(
            label="Photographs of one person, best first",
            file_count="multiple",
            file_types=["image"],
            height=190,
        )
        camera = gr.Image(label="or the camera", sources=["webcam"], type="filepath", height=190)
        with gr.Accordion("Several people in the photograph?", open=False):
            face = gr.Number(
                0, label="Whom to take, counted from the left (0: the largest face)", precision=0, minimum=0
            )
        button = gr.Button("Make the avatar", variant="primary", elem_id="make")
        crop = gr.Image(
            label="What it sees: the crop and the person's outline",
            interactive=False,
            height=260,
            buttons=_BUTTONS,
            elem_id="crop",
        )
        notes = gr.Markdown(elem_id="notes")

        return button.click(self._tracked(self._make), [photos, camera, face], [avatar, crop, notes], **_ONE)

    def _view(self, avatar: Any) -> tuple[Any, list[Any], list[Any]]:
        gr = self.gradio
        shown = gr.Image(
            label="Avatar", interactive=False, format="png", height=420, buttons=_BUTTONS, elem_id="avatar"
        )
        with gr.Column(elem_id="look"):
            yaw = gr.Slider(-_TURN, _TURN, 0, step=1, label="turn")
            pitch = gr.Slider(-_NOD, _NOD, 0, step=1, label="nod")
            neck = gr.Slider(-_NECK, _NECK, 0, step=1, label="head against shoulders")
            sliders = self._sliders()
            hair = self._hair()
            reset = gr.Button("All sliders to 0", size="sm", elem_id="reset")
            ways = [("neural", "neural"), ("neural, fast", "fast"), ("mesh", "mesh")]
            way = gr.Radio(ways, value="neural", label="drawn by")
            background = gr.Radio(list(BACKGROUNDS), value=WHITE, label="background", elem_id="background")
            colour = gr.ColorPicker("#80c0ff", label="colour", visible=False)
            picture = gr.Image(label="picture", type="filepath", height=160, visible=False, elem_id="picture")
        look = [way, background, colour, picture, yaw, pitch, neck, *hair, *sliders]
        moved = [yaw, pitch, neck, *hair, *sliders]
        given = [avatar, *look]
        for slider in moved:
            slider.release(self._draw, given, shown, show_progress="hidden", **_ONE)
        for choice in (way, background, colour, picture):
            choice.change(self._draw, given, shown, show_progress="hidden", **_ONE)
        background.change(
            lambda choice: [gr.update(visible=choice == "colour"), gr.update(visible=choice == "picture")],
            background,
            [colour, picture],
            show_progress="hidden",
        )
        reset.click(lambda: [0] * len(moved), None, moved, show_progress="hidden").then(
            self._draw, given, shown, show_progress="hidden", **_ONE
        )
        return shown, look, hair

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

    def _hair(self) -> list[Any]:
        """One slider per component of the basis, if there is one."""
        gr, basis = self.gradio, self.studio.basis
        if basis is None:
            return []
        with gr.Accordion("Hair and shoulders", open=False):
            return [gr.Slider(-_HAIR, _HAIR, 0, step=0.1, label=name) for name in basis.names]

    def _animation(self, avatar: Any, look: list[Any], hair: list[Any]) -> None:
        gr, limits = self.gradio, self.studio.limits
        with gr.Accordion("Drive it with a video", open=False), gr.Row():
            with gr.Column():
                driver = gr.Video(
                    label=f"Driving video; the first {limits.max_seconds:g} s are used", height=300
                )
                motion = gr.File(
                    label="or motion: .csv of Live Link Face, .npz of rome",
                    file_types=[".csv", ".npz"],
                    height=170,
                )
                relative = gr.Checkbox(label="relative to the first frame, from the photograph's pose")
                with gr.Row():
                    button = gr.Button("Animate", variant="primary", elem_id="animate")
                    example = gr.Button(
                        "Try the example",
                        elem_id="example",
                        visible=self.studio.model.head.has_arkit,
                    )
            with gr.Column():
                video = gr.Video(
                    label="Driven avatar",
                    interactive=False,
                    buttons=["download"],
                    elem_id="driven",
                    height=420,
                )
                notes = gr.Markdown()

        given = [avatar, driver, motion, relative, *look[:4], *hair]
        button.click(self._tracked(self._animate), given, [video, notes], **_ONE)
        given = [avatar, *look[:4], *hair]
        example.click(self._tracked(self._animate_example), given, [video, notes], **_ONE)

    def _exports(self, avatar: Any, hair: list[Any]) -> None:
        gr, half = self.gradio, (len(EXPORTS) + 1) // 2
        with gr.Accordion("Download it for other programs", open=True):
            with gr.Row():
                name = gr.Textbox("avatar", label="File name", max_length=40)
                author = gr.Textbox(label="Author, written into VRM files", max_length=80)
                body = gr.Radio(
                    [("head and neck", "none"), ("bust", "bust"), ("whole body", "full")],
                    value="bust",
                    label="How much (OBJ, PLY, parameters: the bust)",
                    elem_id="body",
                )
                program = gr.Dropdown(
                    [("any", ""), *((name, name) for name in PROFILES)],
                    value="",
                    label="Program that reads the GLB",
                    elem_id="program",
                )
            buttons = {}
            for row in (EXPORTS[:half], EXPORTS[half:]):
                with gr.Row():
                    for kind in row:
                        buttons[kind] = gr.Button(FILE_KINDS[kind], elem_id=f"export-{kind}", min_width=140)
            with gr.Row():
                files = gr.File(label="Files", file_count="multiple", interactive=False, elem_id="files")
                shown = gr.Model3D(
                    label="The GLB file: drag to turn it", interactive=False, height=360, elem_id="model"
                )
        for kind, button in buttons.items():
            found = [files, shown] if kind == "glb" else files
            button.click(self._exporter(kind), [avatar, name, author, body, program, *hair], found, **_ONE)

    def _batch(self) -> None:
        gr = self.gradio
        with gr.Accordion("One avatar for each of many photographs", open=False):
            photos = gr.File(label="Photographs", file_count="multiple", file_types=["image"], height=190)
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

    def _with(self, avatar: Avatar | None, hair: Sequence[float] = ()) -> Avatar:
        if avatar is None:
            raise self.gradio.Error("create an avatar first", print_exception=False)
        return avatar if not hair else self._guarded(lambda: self.studio.edited(avatar, hair))

    def _tracked(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """Give work a progress bar, which Gradio looks for as the default of an argument."""
        progress = self.gradio.Progress()

        def run(bar: Any = progress, *given: Any) -> Any:
            return work(bar, *given)

        return run

    def _progress(self, bar: Any) -> Callable[[float, str], None]:
        stage, since, at_first = "", 0.0, 0.0

        def report(share: float, text: str) -> None:
            nonlocal stage, since, at_first
            if text != stage:
                stage, since, at_first = text, time.monotonic(), share
            spent, won = time.monotonic() - since, share - at_first
            if spent > _UNSURE_S and won > 0 and share < 1:
                # As if the rest went like this stage.
                text += f", about {max(1, round(spent * (1 - share) / won))} s left"
            bar(share, desc=text)

        return report

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
        way: DrawnBy,
        background: str,
        colour: str,
        picture: str | None,
        yaw: float,
        pitch: float,
        neck: float,
        *amounts: float,
    ) -> np.ndarray | None:
        if avatar is None or (background == "picture" and picture is None):
            return None
        count = len(self.studio.expressions)
        hair, weights = amounts[:-count], amounts[-count:]
        pose = Pose(dict(zip(self.studio.expressions, weights, strict=True)), yaw, pitch, neck)
        person = self._with(avatar, hair)
        drawn: np.ndarray = self._guarded(
            lambda: self.studio.picture(person, pose, self._behind(background, colour, picture), way)
        )
        return drawn

    def _animate(
        self,
        bar: Any,
        avatar: Avatar | None,
        driver: str | None,
        motion: str | None,
        relative: bool,
        way: DrawnBy,
        background: str,
        colour: str,
        picture: str | None,
        *hair: float,
    ) -> tuple[str, str]:
        person, source = self._with(avatar, hair), driver or motion
        if source is None:
            raise self.gradio.Error("choose a driving video first", print_exception=False)
        path, note = self._guarded(
            lambda: self.studio.animate(
                person,
                source,
                self._files.fresh(),
                self._behind(background, colour, picture),
                relative,
                way,
                self._progress(bar),
            )
        )
        return str(path), note

    def _animate_example(self, bar: Any, avatar: Avatar | None, *look: Any) -> tuple[str, str]:
        self._with(avatar)
        motion = self.studio.write_example(self._files.fresh())
        return self._animate(bar, avatar, None, str(motion), False, *look)

    def _exporter(self, kind: Any) -> Callable[..., Any]:
        """Answers a button with files; a GLB is also shown."""

        def export(
            avatar: Avatar | None, name: str, author: str, body: BodyPart, program: str, *hair: float
        ) -> Any:
            person = self._with(avatar, hair)
            files: list[Path] = self._guarded(
                lambda: self.studio.export(person, kind, self._files.fresh(), name, author, body, program)
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
