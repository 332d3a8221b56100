"""A page state that would partly be ignored is refused before the page is shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rome_lightning.viewer.state import LOOKS, check_state

EXPRESSIONS = ("jawOpen", "mouthSmileLeft")
PAGE = Path(__file__).parents[2] / "viewer" / "viewer.mjs"


@pytest.mark.parametrize(
    "text", ["", "jawOpen=0.8&neck.y=-0.4", "turn=30,10&look=uv", "turn=20", "component.2=1.5", "jaw.x=1e-1"]
)
def test_what_the_page_knows_passes(text):
    check_state(text, EXPRESSIONS, 2)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("jawOpne=1", "did you mean jawOpen"),
        ("neck.w=1", "did you mean neck"),
        ("qqq=1", "named after expressions and joints"),
        ("component.3=1", "counted from 1"),
        ("component.0=1", "counted from 1"),
        ("look=shiny", "look is one of texture"),
        ("jawOpen=wide", "must be a number"),
        ("turn=1,b", "must be a number"),
        ("jawOpen=nan", "must be a number"),
        ("jawOpen", "NAME=VALUE"),
    ],
)
def test_what_it_does_not_know_is_refused(text, complaint):
    with pytest.raises(ValueError, match=r"--state") as error:
        check_state(text, EXPRESSIONS, 2)
    assert complaint in str(error.value)


def test_the_looks_are_those_of_the_page():
    page = PAGE.read_text()
    (block,) = re.findall(r"page\.materials = \{\n(.*?)\n  \};", page, re.DOTALL)
    assert tuple(re.findall(r"^    (\w+):", block, re.MULTILINE)) == LOOKS
