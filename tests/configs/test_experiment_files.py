"""The command accepts every file under experiments/."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from configurations import (
    ABLATIONS,
    EXPERIMENTS,
    check_it_changes_its_base,
    check_it_parses,
    check_it_says_what_it_means,
    files_of,
    leaves,
    name_of,
    resolve_configuration,
    resolve_files,
)
from released_files import Widths, released_weights
from tiny_run import BASE, ROOT

from datamodules.prepare.config import BuildOptions, PrepareConfig
from rome_lightning.cli import main as cli
from rome_lightning.models.checkpoint import config_from_dict
from rome_lightning.models.official import official_differences

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


def test_there_are_files_to_check():
    assert BASE in BASES
    assert OVERLAYS
    assert PREPARE
    known = {".yaml", ".md", ".sh", ".slurm"}
    assert {path.suffix for path in EXPERIMENTS.rglob("*") if path.is_file()} <= known


# Ablations are resolved where they take a step.
OTHERS = [path for path in TRAINING if path not in ABLATIONS]


@pytest.mark.parametrize("path", OTHERS, ids=name_of)
def test_training_files_parse(path):
    check_it_parses(path)


@pytest.mark.parametrize("path", [path for path in OTHERS if path in OVERLAYS], ids=name_of)
def test_overlays_say_what_they_mean(path):
    check_it_says_what_it_means(path)


@pytest.mark.parametrize("path", [path for path in OTHERS if path in OVERLAYS], ids=name_of)
def test_overlays_change_what_they_are_laid_over(path):
    check_it_changes_its_base(path)


@pytest.mark.parametrize("path", BASES, ids=name_of)
def test_base_files_resolve_to_the_golden_configuration(path):
    """A changed default changes every run: the golden file makes it a deliberate decision.

    To update it: ``python tests/configs/test_experiment_files.py``.
    """
    golden = GOLDEN / f"{path.parent.name}_base.json"
    config = resolve_files(path)
    assert config == json.loads(golden.read_text())
    # Complete: `rome fit` refuses a run that cannot be resumed.
    callbacks = [callback["class_path"] for callback in config["trainer"]["callbacks"]]
    assert "rome_lightning.callbacks.RunCheckpoint" in callbacks


def test_the_official_code_draws_what_the_releases_recipe_trains() -> None:
    config = resolve_files(*files_of(EXPERIMENTS / "rome" / "release.yaml"))
    avatar = config_from_dict(config["model"]["init_args"]["avatar"])
    differences = official_differences(avatar, released_weights(Widths(8, 8)))
    assert differences == ["head is the open head; the official code has FLAME"]


@pytest.mark.parametrize("path", OVERLAYS, ids=name_of)
def test_overlays_begin_with_their_question(path):
    first = path.read_text().splitlines()[0]
    assert first.startswith("# Question: ")
    assert "?" in first


@pytest.mark.parametrize("path", TRAINING, ids=name_of)
def test_linked_values_are_not_written_by_hand(path):
    """They would be silently ignored."""
    content = yaml.safe_load(path.read_text())
    assert "image_size" not in content.get("model", {}).get("init_args", {})
    assert "default_root_dir" not in content.get("trainer", {})


@pytest.mark.parametrize("path", [*TRAINING, *PREPARE], ids=name_of)
def test_files_hold_no_traps(path):
    """No interpolation (resolved per file), no Python None (a path of that name), no machine paths."""
    for key, value in leaves(yaml.safe_load(path.read_text())).items():
        assert "${" not in str(value), key
        assert value != "None", key
        assert not str(value).startswith(("/", "~")), key


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
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


@pytest.mark.parametrize("path", PREPARE, ids=name_of)
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
