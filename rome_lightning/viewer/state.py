"""Where the sliders of the page stand at first, as ``rome avatar view --state`` writes it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from urllib.parse import parse_qsl

from rome_lightning.viewer.session import JOINT_SLIDERS

LOOKS = ("texture", "lit", "grey", "normals", "uv", "wire")
"""How the page can show the mesh."""


def check_state(text: str, expressions: Sequence[str], num_components: int = 0) -> None:
    """Refuse a state that the page would silently ignore in part.

    Args:
        text: ``NAME=VALUE`` joined by ``&``.
        expressions: names of the head's expressions.
        num_components: of the basis, 0 without one.

    Raises:
        ValueError: a name is unknown, with the nearest known one, or a value is none.
    """
    joints = [f"{joint}.{axis}" for joint, axis, _, _ in JOINT_SLIDERS]
    components = [f"component.{number}" for number in range(1, num_components + 1)]
    known = [*expressions, *joints, *components, "turn", "look"]
    for part in filter(None, text.split("&")):
        pair = parse_qsl(part)
        if len(pair) != 1:
            raise ValueError(f"--state is NAME=VALUE joined by &, got {part!r}")
        name, value = pair[0]
        if name not in known:
            raise ValueError(f"--state: the page has no {name!r}{_hint(name, known)}")
        if name == "look":
            if value not in LOOKS:
                raise ValueError(f"--state: look is one of {', '.join(LOOKS)}, got {value!r}")
        elif not all(map(_is_number, value.split(",") if name == "turn" else [value])):
            raise ValueError(f"--state: {name} must be a number, got {value!r}")


def _hint(name: str, known: Sequence[str]) -> str:
    if name.startswith("component."):
        return "; components are counted from 1 and need --basis"
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]}?)" if close else "; its sliders are named after expressions and joints"


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
