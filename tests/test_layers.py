"""Imports point down the layers only: contracts, parts, composed, training and evaluation, entry."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

_CONTRACTS = {"data"}
_PARTS = {"acceleration", "geometry", "head", "renderer", "networks", "losses", "metrics", "assets"}
_COMPOSED = {"models", "tracking", "export", "avatar", "viewer", "distillation"}
_TRAINING = {"training", "callbacks"}

# For each package: the packages of ours that it may import besides itself.
ALLOWED = {
    "data": set(),
    **{part: (_CONTRACTS | _PARTS) - {part} for part in _PARTS},
    **{part: (_CONTRACTS | _PARTS | _COMPOSED) - {part} for part in _COMPOSED},
    **{part: (_CONTRACTS | _PARTS | _COMPOSED | _TRAINING) - {part} for part in _TRAINING},
    "evaluation": _CONTRACTS | _PARTS | _COMPOSED,
    "cli": _CONTRACTS | _PARTS | _COMPOSED | _TRAINING | {"evaluation", "datamodules"},
    # Synthetic heads are drawn by the project's own renderer.
    "datamodules": {"data", "geometry", "head", "tracking", "assets", "renderer"},
}
# A callback may show what evaluation draws; evaluation knows nothing of training.
ALLOWED["callbacks"] |= {"evaluation"}
# Two measures of the same thing must not be one piece of code: a bug in a loss would hide in the metric.
ALLOWED["losses"] -= {"metrics"}
ALLOWED["metrics"] -= {"losses"}

_LIGHTNING = {"lightning", "pytorch_lightning", "lightning_fabric"}
_MAY_USE_LIGHTNING = {"training", "callbacks", "evaluation", "cli", "datamodules"}
# The base class of data modules is part of the contracts.
_LIGHTNING_EXCEPTIONS = {"rome_lightning/data/datamodule.py"}

_PARTS_THAT_OPEN_FILES = {"assets", "head"}
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
    """Absolute names of the modules that an import statement names."""
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
            allowed = (
                owner in _MAY_USE_LIGHTNING or path.relative_to(root).as_posix() in _LIGHTNING_EXCEPTIONS
            )
            if not allowed:
                yield f"{owner} must not import {module}: only training and what is above it use Lightning"
        elif top in ("rome_lightning", "datamodules") and target in ALLOWED.keys() - ALLOWED[owner] - {owner}:
            yield f"{owner} must not import {target}"


def _complaints_about_calls(node, owner):
    if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.argv" and owner != "cli":
        yield "only cli reads sys.argv"
    if isinstance(node, ast.Call) and owner in _PARTS - _PARTS_THAT_OPEN_FILES:
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        source = getattr(getattr(function, "value", None), "id", "")
        opens = name in _FILE_CALLS or (source, name) in _FILE_CALLS_OF_MODULE
        if opens and "devnull" not in ast.unparse(node):  # silencing is not reading
            yield f"{owner} must not open files ({name}): of the parts only assets and head do"


def find_violations(root):
    """Every breach of the layers below a folder, as ``file:line: what``."""
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


def test_imports_point_down():
    violations = find_violations(ROOT)
    assert not violations, "\n" + "\n".join(violations)


def test_every_package_has_a_layer():
    packages = {path.parent.name for path in (ROOT / "rome_lightning").glob("*/__init__.py")}
    assert packages <= set(ALLOWED), f"give {packages - set(ALLOWED)} a layer in this test"


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
            "rome_lightning/data/batch.py",
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
        ("rome_lightning/data/datamodule.py", "from lightning import LightningDataModule"),
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
