"""Imports only go to lower floors and form no cycle, and modules stay small."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST_LINES = 450
"""Maximum length of a module."""

# From the ground up: a package may import packages of lower floors only, never its neighbours.
FLOORS = (
    {"types", "media", "acceleration"},
    {"geometry", "assets", "pretrained"},
    {"head", "renderer", "networks"},
    # On one floor, so that neither imports the other: a bug in a loss would hide in the metric.
    {"losses", "metrics"},
    {"models", "tracking"},
    {"avatar", "baking"},
    {"distillation", "report"},
    {"export", "training", "evaluation", "comparison", "datamodules"},
    {"viewer", "callbacks", "sweeps"},
    {"workflows"},
    {"cli"},
)
_ABOVE_MODELS = {"models", "avatar", "distillation"}
# Lower floors that a package must not use.
FORBIDDEN = {
    # Data are prepared and read without any avatar model.
    "datamodules": _ABOVE_MODELS,
    # Runs and trials are folders, whatever wrote them.
    "comparison": _ABOVE_MODELS | {"tracking"},
    "sweeps": _ABOVE_MODELS | {"tracking", "training", "export", "datamodules", "evaluation"},
    "viewer": {"training", "evaluation", "comparison", "datamodules"},
    "callbacks": {"datamodules", "comparison", "export"},
}
# Tools that produce the shipped files; nothing else may import them.
_BUILD_TIME = {"baking"}


def _allowed():
    """For each package: our packages that it may import besides itself."""
    allowed, below = {}, set()
    for floor in FLOORS:
        allowed |= {package: below - FORBIDDEN.get(package, set()) - _BUILD_TIME for package in floor}
        below = below | floor
    return allowed


ALLOWED = _allowed()

_LIGHTNING = {"lightning", "pytorch_lightning", "lightning_fabric"}
_MAY_USE_LIGHTNING = {"training", "callbacks", "evaluation", "cli", "datamodules"}

_OPENS_NO_FILES = {"types", "acceleration", "geometry", "renderer", "networks", "losses", "metrics"}
_FILE_CALLS = {
    "open",
    "read_text",
    "read_bytes",
    "write_text",
    "write_bytes",
    "imread",
    "safe_open",
    "load_file",
}
_FILE_CALLS_OF_MODULE = {
    ("np", "load"),
    ("numpy", "load"),
    ("torch", "load"),
    ("torch", "save"),
    ("np", "save"),
}


def _owner(path, root):
    """The package that a file belongs to; None for the top of the main package."""
    parts = path.relative_to(root).parts
    if parts[0] == "datamodules":
        return "datamodules"
    return parts[1] if len(parts) > 2 else None


def _imported_modules(node, path, root):
    """Absolute names of the modules in an import statement."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        package = path.relative_to(root).parent.parts
        package = package[: len(package) - node.level + 1]
        base = ".".join([*package, base] if base else package)
    # `from rome_lightning import head` names a package too.
    return [f"{base}.{alias.name}" for alias in node.names] if base == "rome_lightning" else [base]


def _complaints_about_imports(node, path, root, owner):
    for module in _imported_modules(node, path, root):
        top, _, rest = module.partition(".")
        target = rest.split(".")[0] if top == "rome_lightning" else top
        if top in _LIGHTNING:
            if owner not in _MAY_USE_LIGHTNING:
                yield f"{owner} must not import {module}: only training and what is above it use Lightning"
        elif top in ("rome_lightning", "datamodules") and target in ALLOWED.keys() - ALLOWED[owner] - {owner}:
            yield f"{owner} must not import {target}"


def _complaints_about_calls(node, owner):
    if (
        isinstance(node, ast.Attribute)
        and node.attr == "argv"
        and ast.unparse(node) == "sys.argv"
        and owner != "cli"
    ):
        yield "only cli reads sys.argv"
    if isinstance(node, ast.Call) and owner in _OPENS_NO_FILES:
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        source = getattr(getattr(function, "value", None), "id", "")
        opens = name in _FILE_CALLS or (source, name) in _FILE_CALLS_OF_MODULE
        if opens and "devnull" not in ast.unparse(node):  # silencing is not reading
            yield f"{owner} must not open files ({name}): media, assets, pretrained and head do"


def find_violations(root):
    """All violations of the layers below a folder, as ``file:line: what``."""
    found = []
    for path in sorted([*(root / "rome_lightning").rglob("*.py"), *(root / "datamodules").rglob("*.py")]):
        owner = _owner(path, root)
        if owner is None:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            complaints = [
                *_complaints_about_imports(node, path, root, owner),
                *_complaints_about_calls(node, owner),
            ]
            found += [f"{path.relative_to(root)}:{node.lineno}: {complaint}" for complaint in complaints]
    return found


def import_graph(root):
    """For each of our modules: the modules it imports, including inside functions."""
    files = {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for top in ("rome_lightning", "datamodules")
        for path in (root / top).rglob("*.py")
    }
    graph = {}
    for name, path in files.items():
        named = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                named |= inner & files.keys() if inner <= files.keys() else {node.module, *inner}
        graph[name] = (named & files.keys()) - {name}
    return graph


def find_circle(graph):
    """Modules of an import cycle, in order; empty if there is none."""
    finished, path = set(), []

    def visit(name):
        if name in path:
            return path[path.index(name) :]
        if name in finished:
            return []
        path.append(name)
        for other in sorted(graph[name]):
            if circle := visit(other):
                return circle
        path.pop()
        finished.add(name)
        return []

    return next((circle for name in sorted(graph) if (circle := visit(name))), [])


def test_imports_point_down():
    violations = find_violations(ROOT)
    assert not violations, "\n" + "\n".join(violations)


def test_no_module_imports_itself_through_others():
    graph = import_graph(ROOT)
    # The package itself only provides the names of ``api`` on first use.
    graph["rome_lightning"] -= {"rome_lightning.api"}
    assert not find_circle(graph)


def test_a_circle_is_found(tmp_path):
    folder = tmp_path / "rome_lightning" / "head"
    folder.mkdir(parents=True)
    (folder / "a.py").write_text("from rome_lightning.head.b import f\n")
    (folder / "b.py").write_text("def f():\n    from rome_lightning.head import a\n")
    assert find_circle(import_graph(tmp_path)) == ["rome_lightning.head.a", "rome_lightning.head.b"]


def test_modules_stay_small():
    folders = ("rome_lightning", "datamodules", "tests", "benchmarks")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    long = {name: number for name, number in lines.items() if number > MOST_LINES}
    assert not long, f"split these, they have more than {MOST_LINES} lines: {long}"


def test_every_package_has_a_layer():
    packages = {path.parent.name for path in (ROOT / "rome_lightning").glob("*/__init__.py")}
    assert packages | {"datamodules"} == set(ALLOWED)


@pytest.mark.parametrize(
    ("file", "code", "complaint"),
    [
        ("rome_lightning/head/x.py", "from rome_lightning.models import M", "head must not import models"),
        ("rome_lightning/head/x.py", "import rome_lightning.training.loop", "head must not import training"),
        ("rome_lightning/head/x.py", "from rome_lightning import cli", "head must not import cli"),
        ("rome_lightning/head/x.py", "from ..tracking import fit", "head must not import tracking"),
        (
            "rome_lightning/losses/x.py",
            "from rome_lightning.metrics import m",
            "losses must not import metrics",
        ),
        (
            "rome_lightning/metrics/x.py",
            "from rome_lightning.losses import m",
            "metrics must not import losses",
        ),
        ("rome_lightning/models/x.py", "import lightning", "models must not import lightning"),
        (
            "rome_lightning/types/batch.py",
            "from lightning import LightningDataModule",
            "must not import lightning",
        ),
        ("rome_lightning/training/x.py", "import datamodules.shards", "training must not import datamodules"),
        (
            "rome_lightning/training/x.py",
            "from rome_lightning.evaluation import e",
            "must not import evaluation",
        ),
        (
            "datamodules/prepare/x.py",
            "from rome_lightning.models import M",
            "datamodules must not import models",
        ),
        (
            "rome_lightning/cli/x.py",
            "from rome_lightning.baking import head",
            "cli must not import baking",
        ),
        ("rome_lightning/losses/x.py", "open('weights.bin')", "losses must not open files"),
        ("rome_lightning/metrics/x.py", "torch.load('weights.pt')", "metrics must not open files"),
        ("rome_lightning/avatar/x.py", "import sys; sys.argv", "only cli reads sys.argv"),
    ],
)
def test_a_breach_is_found_at_its_line_even_inside_a_function(tmp_path, file, code, complaint):
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(f"import math\n\ndef f():\n    {code}\n")
    (violation,) = find_violations(tmp_path)
    assert violation.startswith(f"{file}:4: ")
    assert complaint in violation


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("datamodules/base.py", "from lightning import LightningDataModule"),
        ("rome_lightning/renderer/x.py", "from rome_lightning.geometry import project"),
        ("rome_lightning/renderer/x.py", "from . import y"),
        ("rome_lightning/assets/x.py", "open('file')"),
        ("rome_lightning/cli/x.py", "import sys, datamodules; sys.argv"),
        ("datamodules/x.py", "from rome_lightning.tracking import fit"),
    ],
)
def test_what_is_allowed_passes(tmp_path, file, code):
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(code)
    assert find_violations(tmp_path) == []


def test_no_test_imports_a_test():
    """A test module may change or go without another one; what they share is a helper."""
    modules = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in (ROOT / "tests").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        and modules & set(_imported_modules(node, path, ROOT))
    ]
    assert found == []


def test_no_two_test_modules_have_one_name() -> None:
    """Pytest imports test modules by name: a second one of the same name would not be collected."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
