"""Content of the page: the mesh file, and the neural render of a state of its sliders."""

from __future__ import annotations

import io
import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from rome_lightning.avatar import Avatar
from rome_lightning.export.person import export_avatar
from rome_lightning.geometry import matrix_to_axis_angle
from rome_lightning.media.image import to_uint8
from rome_lightning.models import LinearBasis
from rome_lightning.types import HeadParams
from rome_lightning.types.params import at_rest

JOINT_SLIDERS: tuple[tuple[str, str, str, float], ...] = (
    ("neck", "x", "neck nod", 0.6),
    ("neck", "y", "neck turn", 0.8),
    ("neck", "z", "neck tilt", 0.5),
    ("jaw", "x", "jaw open", 0.4),
    ("jaw", "y", "jaw sideways", 0.2),
    ("left_eye", "x", "left eye down", 0.5),
    ("left_eye", "y", "left eye turn", 0.6),
    ("right_eye", "x", "right eye down", 0.5),
    ("right_eye", "y", "right eye turn", 0.6),
)
"""Joint, component of its rotation vector, label, largest angle in radians."""

MAX_AMOUNT = 10.0
"""Standard deviations that a component may be moved by."""

_POSES = {"neck": "neck_pose", "jaw": "jaw_pose"}


class ViewerSession:
    """One avatar behind the page.

    Args:
        avatar: the person to show.
        name: heading of the page.
        basis: linear basis of hair and shoulders, for sliders that change them.

    Raises:
        ValueError: the basis belongs to another head, or the avatar cannot be edited.
    """

    def __init__(self, avatar: Avatar, name: str = "avatar", basis: LinearBasis | None = None) -> None:
        self.original, self.avatar, self.name, self.basis = avatar, avatar, name, basis
        if basis is not None:
            self.edit({})
        self.rest = at_rest(avatar.source.params)

    def edit(self, state: dict[str, Any]) -> None:
        """Change hair and shoulders; what the session shows from now on.

        Args:
            state: ``amounts``, standard deviations by the number of a component, from 0; others are 0.
        """
        amounts = state.get("amounts", {})
        if self.basis is None or not isinstance(amounts, dict):
            raise ValueError("no basis to edit with; start the page with --basis")
        try:
            wanted = {int(index): float(amount) for index, amount in amounts.items()}
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"amounts of components must be numbers: {error}") from error
        if any(not abs(amount) <= MAX_AMOUNT for amount in wanted.values()):
            raise ValueError(f"amounts of components must be within {MAX_AMOUNT} standard deviations")
        self.avatar = self.original.edited(self.basis, wanted)

    def about(self) -> dict[str, Any]:
        """What the page needs to build its controls and to look at the mesh as the photograph does."""
        scale, shift_x, shift_y = self.rest.camera[0].tolist()
        neck = self.avatar.model.head.joint_template.view(5, 3)[1].tolist()
        return {
            "name": self.name,
            "expressions": list(self.avatar.model.head.expression_names),
            "expression_range": list(self.avatar.model.head.expression_range),
            "joints": ["neck", "jaw", "left_eye", "right_eye"],
            "joint_sliders": [
                {"joint": joint, "axis": axis, "label": label, "limit": limit}
                for joint, axis, label, limit in JOINT_SLIDERS
            ],
            "components": [] if self.basis is None else self.basis.names,
            # The centre of the photograph, at the depth of the neck.
            "view": {"half_width": 1 / scale, "centre": [-shift_x, -shift_y, neck[2]]},
        }

    def glb(self) -> bytes:
        """The exported file."""
        with tempfile.TemporaryDirectory() as folder:
            return export_avatar(self.avatar, Path(folder) / "avatar.glb", "glb").read_bytes()

    def params(self, state: dict[str, Any]) -> HeadParams:
        """Parameters of a state of the page.

        Args:
            state: ``expression`` weights in the order of ``about``; ``joints`` with a rotation vector each;
                ``view``, three rows of rotation and shift from head space to the page's camera; ``scale``,
                half image widths per metre.

        Raises:
            ValueError: a part is missing, has another length, or is not finite.
        """
        head, rest = self.avatar.model.head, self.rest
        expression = _numbers(state, "expression", (head.num_expression,))
        view = _numbers(state, "view", (3, 4))
        scale = _numbers(state, "scale", ())
        joints = state.get("joints")
        if not isinstance(joints, dict):
            raise ValueError("the page's state has no joints")
        turned = {name: _numbers(joints, name, (3,))[None] for name in (*_POSES, "left_eye", "right_eye")}
        params = HeadParams(
            shape=rest.shape,
            expression=expression.clamp(*head.expression_range)[None],
            global_pose=matrix_to_axis_angle(view[None, :, :3]),
            neck_pose=turned["neck"],
            jaw_pose=turned["jaw"],
            eye_pose=torch.cat([turned["left_eye"], turned["right_eye"]], dim=-1),
            camera=rest.camera,
        )
        # The model turns the bust about its root, the page about the origin.
        root = head.root(params)[0]
        shift = view[:, 3] + view[:, :3] @ root - root
        camera = torch.stack([scale, shift[0], shift[1]])[None]
        return HeadParams(**vars(params) | {"camera": camera})

    def render(self, state: dict[str, Any]) -> bytes:
        """PNG of the neural render of a state of the page, on white."""
        rendered = next(self.avatar.draw(self.params(state)))
        file = io.BytesIO()
        Image.fromarray(to_uint8(rendered.image[0])).save(file, format="PNG", compress_level=1)
        return file.getvalue()


def _numbers(state: dict[str, Any], key: str, shape: tuple[int, ...]) -> Tensor:
    """An array of the page's state, checked."""
    try:
        values = torch.tensor(state[key], dtype=torch.float32)
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"the page's state has no numbers {key!r}") from error
    if values.shape != shape or not bool(values.isfinite().all()):
        wanted = "x".join(map(str, shape)) or "one number"
        raise ValueError(
            f"{key!r} of the page's state must be {wanted} and finite, got {tuple(values.shape)}"
        )
    if float(values.abs().max()) > 1e3 * math.pi:
        raise ValueError(f"{key!r} of the page's state is out of range")
    return values
