"""Code in README and docs: Python compiles and uses existing names and signatures; commands exist."""

from __future__ import annotations

import ast
import builtins
import contextlib
import importlib
import inspect
import io
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import yaml

from rome_lightning import Avatar
from rome_lightning.cli.main import COMMANDS
from rome_lightning.cli.main import main as rome

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_OURS = {"rome_lightning", "datamodules"}
_PATH = re.compile(r"[./]")


def _blocks(*languages):
    """(page, number, code) of every block in one of these languages."""
    found = []
    for page in PAGES:
        blocks = [code for language, code in _FENCE.findall(page.read_text()) if language in languages]
        found += [
            pytest.param(page, number, code, id=f"{page.name}-{number}") for number, code in enumerate(blocks)
        ]
    return found


PYTHON = _blocks("python")


def _names(tree):
    """Names that code reads, and names that it binds."""
    read, bound = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).split(".")[0])
    return read, bound


def _imports(tree):
    """(module, name) of all imports from our packages; no name for a plain import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module, alias.name) for alias in node.names)


def _check_calls_of_avatars(tree):
    """Every called method of an avatar exists and accepts the arguments."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        owner = node.func.value
        if not (isinstance(owner, ast.Name) and owner.id.lower() == "avatar"):
            continue
        method = inspect.getattr_static(Avatar, node.func.attr)
        bound = [] if isinstance(method, classmethod) else [None]
        keywords = {keyword.arg: None for keyword in node.keywords}
        inspect.signature(getattr(Avatar, node.func.attr)).bind(*bound, *node.args, **keywords)


def check(code, known=frozenset()):
    """Raise if code does not compile or uses missing names."""
    tree = ast.parse(code)
    for module, name in _imports(tree):
        if module.split(".")[0] in _OURS:
            owner = importlib.import_module(module)
            assert name is None or hasattr(owner, name), f"{module} has no {name}"
    read, bound = _names(tree)
    unknown = read - bound - known - set(vars(builtins))
    assert not unknown, f"defined nowhere on the page: {sorted(unknown)}"
    _check_calls_of_avatars(tree)


def _needs_data(code):
    """Whether it may contain the name of a file, URL or folder."""
    strings = (node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant))
    return any(isinstance(value, str) and _PATH.search(value) for value in strings)


@pytest.mark.parametrize(("page", "number", "code"), PYTHON)
def test_python_names_what_exists(page, number, code):
    earlier = [block for language, block in _FENCE.findall(page.read_text()) if language == "python"][:number]
    known = set().union(*(_names(ast.parse(block))[1] for block in earlier))
    check(code, known)


@pytest.mark.parametrize(
    ("page", "number", "code"), [block for block in PYTHON if not _needs_data(block.values[2])]
)
def test_python_that_needs_no_data_runs(page, number, code):
    exec(compile(code, f"{page.name}-{number}", "exec"), {})


@pytest.mark.parametrize(("page", "number", "code"), _blocks("yaml"))
def test_yaml_parses(page, number, code):
    assert isinstance(yaml.safe_load(code), dict)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page):
    blocks = "\n".join(code for language, code in _FENCE.findall(page.read_text()) if language in ("", "sh"))
    named = set(re.findall(r"^rome ([a-z-]+)", blocks, re.MULTILINE))
    assert named <= set(COMMANDS)


def _command_lines():
    """Words of every ``rome`` line of the pages, with its page."""
    for page in PAGES:
        for language, code in _FENCE.findall(page.read_text()):
            if language not in ("", "sh"):
                continue
            for line in code.replace("\\\n", " ").splitlines():
                if line.startswith("rome "):
                    yield page.name, shlex.split(line, comments=True)[1:]


@cache
def _options_of(*words):
    """Options in a command's help."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert rome([*words, "--help"]) == 0
    return frozenset(re.findall(r"(?<![\w-])--?[a-z][\w-]*", printed.getvalue()))


def _unknown(words):
    """Options of a line that its command does not have; nested ones belong to configurations."""
    command = words[:2] if len(words) > 1 and re.fullmatch(r"[a-z]+", words[1]) else words[:1]
    used = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word) and "." not in word}
    known = _options_of(*command) if words[0] in _NESTED else _options_of(words[0])
    return used - known - {"--debug"}


_NESTED = ("avatar", "models", "assets", "experiments", "shards", "distill")
"""Commands whose sub-commands have their own options."""


def test_commands_take_the_options_that_the_pages_give_them():
    unknown = [(page, words, _unknown(words)) for page, words in _command_lines()]
    assert len(unknown) > 50
    assert [found for found in unknown if found[2]] == []


def test_training_begins_with_a_complete_configuration():
    """An overlay alone lacks the trainer's settings, so such a run is refused."""
    first = {}
    for page in PAGES:
        for command in re.findall(r"rome fit [^`\n]*", page.read_text()):
            configs = re.findall(r"(?:-c|--config)[ =](\S+)", command)
            if configs:
                first[f"{page.name}: {command}"] = configs[0]
    assert len(first) > 10
    assert {line: name for line, name in first.items() if not re.search(r"\bbase(\.yaml)?$", name)} == {}


def test_an_option_that_a_command_lacks_is_found():
    assert _unknown(["avatar", "create", "a.jpg", "--out", "me", "--face=2"]) == {"--out"}


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("from rome_lightning.avatar import Avatars", "has no Avatars"),
        ("show(1)", "defined nowhere on the page: \\['show'\\]"),
        ("avatar = None\navatar.fly()", "fly"),
        ("avatar = None\navatar.save()", "missing a required argument: 'path'"),
        ("def f(:", "invalid syntax"),
    ],
)
def test_what_is_wrong_is_found(code, complaint):
    with pytest.raises((AssertionError, AttributeError, TypeError, SyntaxError), match=complaint):
        check(code)
