"""Links in README and docs point to existing files and headings; the site builds without warnings."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
GENERATED = {DOCS / name for name in ("models.md", "reference/commands.md", "reference/configurations.md")}
"""By docs/hooks.py, when the site is built."""
_CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def _anchor(heading: str) -> str:
    """The anchor of a heading on GitHub and in MkDocs."""
    kept = re.sub(r"[^\w\s-]", "", heading.replace("`", "").strip().lower())
    return re.sub(r"[-\s]+", "-", kept)


def _anchors(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return {_anchor(heading) for heading in _HEADING.findall(text)}


def _broken(page: Path) -> list[str]:
    found = []
    for link in _LINK.findall(_CODE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"\w+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        is_missing = not target.exists() and target not in GENERATED
        if is_missing or (anchor and target.suffix == ".md" and anchor not in _anchors(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    assert _broken(page) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A heading, here\n[a](page.md#a-heading-here) [b](page.md#none) [c](none.md)\n")
    assert _broken(page) == ["page.md#none", "none.md"]


def _navigation(items: list) -> list[str]:
    pages = []
    for item in items:
        for entry in item.values() if isinstance(item, dict) else [item]:
            pages += _navigation(entry) if isinstance(entry, list) else [entry]
    return pages


def test_every_page_is_in_the_navigation_once() -> None:
    named = _navigation(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    pages = {page for page in PAGES if page.is_relative_to(DOCS)} | GENERATED
    assert sorted(named) == sorted(page.relative_to(DOCS).as_posix() for page in pages)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="needs the extra docs")
def test_the_site_is_built(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    commands = (tmp_path / "reference/commands.html").read_text(encoding="utf-8")
    assert "rome avatar create --help" in commands
    assert "rome distill basis --help" in commands
    method = (tmp_path / "method.html").read_text(encoding="utf-8")
    assert "<math" in method
    assert 'class="arithmatex"' not in method
    assert "$$" not in method
