"""The command accepts every file under experiments/."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ablation_table import read_table
from released_files import Widths, released_weights
from tiny_run import BASE, ROOT

from datamodules.prepare.config import BuildOptions, PrepareConfig
from rome_lightning.cli import fit
from rome_lightning.cli import main as cli
from rome_lightning.models.checkpoint import config_from_dict
from rome_lightning.models.official import official_differences

EXPERIMENTS = ROOT / "experiments"
# The table of ablations is not an overlay itself.
FILES = sorted(set(EXPERIMENTS.rglob("*.yaml")) - {EXPERIMENTS / "ablations.yaml"})
PREPARE = [path for path in FILES if path.parent.name == "data"]
# Others have their own commands and tests.
TRAINING = [
    path for path in FILES if path.parts[len(EXPERIMENTS.parts)] not in ("data", "protocols", "sweeps")
]
BASES = [path for path in TRAINING if path.name == "base.yaml"]
OVERLAYS = [path for path in TRAINING if path not in BASES]
SCRIPTS = sorted((EXPERIMENTS / "slurm").glob("*.sh"))
GOLDEN = Path(__file__).parent / "golden"


def _name(path: Path) -> str:
    return str(path.relative_to(EXPERIMENTS))


# Overlays of overlays: the files between the base and them.
BELOW = {EXPERIMENTS / "rome" / "release.yaml": [EXPERIMENTS / "rome" / "paper.yaml"]}
ABLATIONS = {ablation.path: ablation for ablation in read_table()}


def _files(path: Path) -> list[Path]:
    """Arguments of ``rome fit``: the folder's base (or that of the full model), then the overlay."""
    if path in BASES:
        return [path]
    if path in ABLATIONS:
        return [*ABLATIONS[path].base_files, path]
    own = path.parent / "base.yaml"
    return [own if own.is_file() else BASE, *BELOW.get(path, []), path]


def test_there_are_files_to_check():
    assert BASE in BASES
    assert OVERLAYS
    assert PREPARE
    known = {".yaml", ".md", ".sh", ".slurm"}
    assert {path.suffix for path in EXPERIMENTS.rglob("*") if path.is_file()} <= known


class _Parsed(Exception):
    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config


def resolve_configuration(*arguments: str) -> dict[str, Any]:
    """The configuration that ``rome fit`` would run; nothing is instantiated."""

    def stop(self: fit.RomeCLI) -> None:
        raise _Parsed(json.loads(self.parser.dump(self.config, format="json"))["fit"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit.RomeCLI, "before_instantiate_classes", stop)
        with pytest.raises(_Parsed) as parsed:
            fit.main(["fit", *arguments])
    return parsed.value.config


@functools.cache
def _resolve_files(*files: Path) -> dict[str, Any]:
    """The configuration of some files in order; not to be changed."""
    return resolve_configuration(*(argument for file in files for argument in ("--config", str(file))))


@pytest.mark.parametrize("path", TRAINING, ids=_name)
def test_training_files_parse(path):
    config = _resolve_files(*_files(path))
    assert config["seed_everything"] is not True
    assert isinstance(config["seed_everything"], int)
    # A linked value is not part of a dump; were the link lost, the default would show up here.
    assert "image_size" not in config["model"]["init_args"]
    assert "default_root_dir" not in config["trainer"]
    assert config["data"]["init_args"]["image_size"] > 0


def _leaves(config: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(config, dict) and config:
        return {key: value for k, v in config.items() for key, value in _leaves(v, f"{prefix}.{k}").items()}
    return {prefix.lstrip("."): config}


@pytest.mark.parametrize("path", OVERLAYS, ids=_name)
def test_overlays_say_what_they_mean(path):
    """Everything in an overlay takes effect; nothing is dropped."""
    config = _leaves(_resolve_files(*_files(path)))
    for key, value in _leaves(yaml.safe_load(path.read_text())).items():
        if key.endswith("+"):
            assert _holds(config[key[:-1]][-len(value) :], value), key
        else:
            assert config[key] == value, key


def _holds(resolved: Any, written: Any) -> bool:
    """Whether everything written is in what it resolves to."""
    if isinstance(written, dict):
        return all(_holds(resolved[key], value) for key, value in written.items())
    if isinstance(written, list):
        return all(_holds(ours, theirs) for ours, theirs in zip(resolved, written, strict=True))
    return bool(resolved == written)


@pytest.mark.parametrize("path", OVERLAYS, ids=_name)
def test_overlays_change_what_they_are_laid_over(path):
    """An overlay without effect would compare a run with itself; another run folder is not an effect."""
    *below, _ = _files(path)
    without, given = (
        _resolve_files(*files) | {"run_dir": None} for files in (tuple(below), tuple(_files(path)))
    )
    assert given != without


@pytest.mark.parametrize("path", BASES, ids=_name)
def test_base_files_resolve_to_the_golden_configuration(path):
    """A changed default changes every run: the golden file makes it a deliberate decision.

    To update it: ``python tests/configs/test_experiment_files.py``.
    """
    golden = GOLDEN / f"{path.parent.name}_base.json"
    config = resolve_configuration("--config", str(path))
    assert config == json.loads(golden.read_text())
    # Complete: `rome fit` refuses a run that cannot be resumed.
    callbacks = [callback["class_path"] for callback in config["trainer"]["callbacks"]]
    assert "rome_lightning.callbacks.RunCheckpoint" in callbacks


def test_the_official_code_draws_what_the_releases_recipe_trains() -> None:
    config = _resolve_files(*_files(EXPERIMENTS / "rome" / "release.yaml"))
    avatar = config_from_dict(config["model"]["init_args"]["avatar"])
    differences = official_differences(avatar, released_weights(Widths(8, 8)))
    assert differences == ["head is the open head; the official code has FLAME"]


@pytest.mark.parametrize("path", OVERLAYS, ids=_name)
def test_overlays_begin_with_their_question(path):
    first = path.read_text().splitlines()[0]
    assert first.startswith("# Question: ")
    assert "?" in first


@pytest.mark.parametrize("path", TRAINING, ids=_name)
def test_linked_values_are_not_written_by_hand(path):
    """They would be silently ignored."""
    content = yaml.safe_load(path.read_text())
    assert "image_size" not in content.get("model", {}).get("init_args", {})
    assert "default_root_dir" not in content.get("trainer", {})


@pytest.mark.parametrize("path", [*TRAINING, *PREPARE], ids=_name)
def test_files_hold_no_traps(path):
    """No interpolation (resolved per file), no Python None (a path of that name), no machine paths."""
    for key, value in _leaves(yaml.safe_load(path.read_text())).items():
        assert "${" not in str(value), key
        assert value != "None", key
        assert not str(value).startswith(("/", "~")), key


@pytest.mark.parametrize("path", SCRIPTS, ids=_name)
def test_job_scripts_give_arguments_that_the_command_takes(path, tmp_path):
    """Bash and the command both accept them; ``srun`` and ``rome`` are stand-ins that note what they get."""
    given = tmp_path / "given"
    for name, body in (("srun", 'exec "$@"'), ("rome", f'printf "%s\\n" "$@" > {given}')):
        script = tmp_path / name
        script.write_text(f"#!/bin/sh\n{body}\n")
        script.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    extra = ["--run_dir", "runs/x/y-0", "--data.init_args.manifest", "data/other"]
    subprocess.run(["bash", str(path), *extra], cwd=ROOT, env=environment, check=True)
    command, *arguments = given.read_text().splitlines()
    config = resolve_configuration(*arguments)
    assert command == "fit"
    assert (config["run_dir"], config["data"]["init_args"]["manifest"]) == ("runs/x/y-0", "data/other")
    directives = re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", path.read_text(), re.MULTILINE)
    asked = dict(directives)
    # SLURM starts the processes; Lightning only joins those in the settings.
    devices = int(asked["ntasks-per-node"])
    assert int(config["trainer"]["devices"]) == devices
    assert config["trainer"]["num_nodes"] == int(asked["nodes"])
    assert asked["gpus-per-node"] == asked["ntasks-per-node"]
    assert asked["signal"].startswith("SIGUSR1@")
    assert "requeue" in asked


@pytest.mark.parametrize("path", PREPARE, ids=_name)
def test_prepare_files_parse(path):
    from rome_lightning.cli.prepare import _parser

    options = _parser().parse_args(["clip.mp4", "--output", "out", "--config", str(path)])
    PrepareConfig(**{name: options[name] for name in PrepareConfig.__dataclass_fields__})
    known = {*PrepareConfig.__dataclass_fields__, *BuildOptions.__dataclass_fields__}
    assert set(yaml.safe_load(path.read_text())) <= known


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        ({"modle": 1}, "does not accept option 'modle'"),
        ({"trainer": {"max_epoch": 3}}, "max_epoch"),
        (
            {
                "model": {
                    "class_path": "rome_lightning.training.FullModule",
                    "init_args": {"losses": {"dise": 1}},
                }
            },
            "Group 'losses' does not accept option 'dise'",
        ),
        ({"data": {"class_path": "datamodules.talking_heads.Nothing"}}, "datamodules.talking_heads.Nothing"),
    ],
)
def test_unknown_keys_are_usage_errors_of_one_line(written, complaint, tmp_path, capsys):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(yaml.safe_dump(written))
    assert cli.main(["fit", "--config", str(BASE), "--config", str(overlay)]) == cli.EXIT_USAGE
    shown = capsys.readouterr().err
    assert complaint in shown
    assert shown.startswith("rome: error: ")
    assert shown.count("\n") == 1
    assert "Union" not in shown


if __name__ == "__main__":
    for base in BASES:
        text = json.dumps(resolve_configuration("--config", str(base)), indent=1, sort_keys=True)
        (GOLDEN / f"{base.parent.name}_base.json").write_text(text + "\n")
