"""The files under experiments/ and the configurations that ``rome fit`` makes of them."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from ablation_table import read_table
from tiny_run import BASE, ROOT

from rome_lightning.cli import fit

EXPERIMENTS = ROOT / "experiments"
ABLATIONS = {ablation.path: ablation for ablation in read_table()}
# Overlays of overlays: the files between the base and them.
BELOW = {EXPERIMENTS / "rome" / "release.yaml": [EXPERIMENTS / "rome" / "paper.yaml"]}


class _Parsed(Exception):
    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config


def resolve_configuration(*arguments: str) -> dict[str, Any]:
    """The configuration that ``rome fit`` would run; nothing is instantiated."""

    def stop(self: fit.RomeCLI) -> None:
        # Parsed just now: a second validation would take a quarter of the time.
        raise _Parsed(json.loads(self.parser.dump(self.config, format="json", skip_validation=True))["fit"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit.RomeCLI, "before_instantiate_classes", stop)
        with pytest.raises(_Parsed) as parsed:
            fit.main(["fit", *arguments])
    return parsed.value.config


@functools.cache
def resolve_files(*files: Path) -> dict[str, Any]:
    """The configuration of some files in order; not to be changed."""
    return resolve_configuration(*(argument for file in files for argument in ("--config", str(file))))


def files_of(path: Path) -> tuple[Path, ...]:
    """Arguments of ``rome fit``: the folder's base (or that of the full model), then the overlay."""
    if path.name == "base.yaml":
        return (path,)
    if path in ABLATIONS:
        return (*ABLATIONS[path].base_files, path)
    own = path.parent / "base.yaml"
    return (own if own.is_file() else BASE, *BELOW.get(path, []), path)


def name_of(path: Path) -> str:
    """The name of a file in the identifiers of tests."""
    return str(path.relative_to(EXPERIMENTS))


def leaves(config: Any, prefix: str = "") -> dict[str, Any]:
    """Values by dotted option."""
    if isinstance(config, dict) and config:
        return {key: value for k, v in config.items() for key, value in leaves(v, f"{prefix}.{k}").items()}
    return {prefix.lstrip("."): config}


def check_it_parses(path: Path) -> None:
    """It is accepted, and what the command links or chooses itself is not lost."""
    config = resolve_files(*files_of(path))
    assert config["seed_everything"] is not True
    assert isinstance(config["seed_everything"], int)
    # A linked value is not part of a dump; were the link lost, the default would show up here.
    assert "image_size" not in config["model"]["init_args"]
    assert "default_root_dir" not in config["trainer"]
    assert config["data"]["init_args"]["image_size"] > 0


def check_it_says_what_it_means(path: Path) -> None:
    """Everything in an overlay takes effect; nothing is dropped."""
    config = leaves(resolve_files(*files_of(path)))
    for key, value in leaves(yaml.safe_load(path.read_text())).items():
        if key.endswith("+"):
            assert _holds(config[key[:-1]][-len(value) :], value), key
        else:
            assert config[key] == value, key


def check_it_changes_its_base(path: Path) -> None:
    """An overlay without effect would compare a run with itself; another run folder is not an effect."""
    *below, _ = files_of(path)
    without, given = (resolve_files(*files) | {"run_dir": None} for files in (below, files_of(path)))
    assert given != without


def _holds(resolved: Any, written: Any) -> bool:
    """Whether everything written is in what it resolves to."""
    if isinstance(written, dict):
        return all(_holds(resolved[key], value) for key, value in written.items())
    if isinstance(written, list):
        return all(_holds(ours, theirs) for ours, theirs in zip(resolved, written, strict=True))
    return bool(resolved == written)
