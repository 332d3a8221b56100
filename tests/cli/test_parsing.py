"""Options count in full only; unknown ones are answered with the nearest known one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from rome_lightning.cli import main as cli
from rome_lightning.cli.config_parsing import config_parser


@dataclasses.dataclass
class Inner:
    dice: float = 1.0
    """A term."""


@dataclasses.dataclass
class Options:
    max_frames: int = 3
    """A number."""
    losses: Inner = dataclasses.field(default_factory=Inner)
    """Weights."""


def _error(capsys, *arguments):
    assert cli.main(list(arguments)) == cli.EXIT_USAGE
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["prepare", "x.mp4", "--output", "y", "--max_frame", "3"], "--max_frames"),
        (["prepare", "x.mp4", "--outptu", "y"], "--output"),
        (["evaluate", "--protocl", "demo"], "--protocol"),
        (["compare", "a", "b", "--base", "a"], "--baseline"),
        (["sweep", "loss_weights", "--proceses", "2"], "--processes"),
        (["distill", "all", "--geometri", "x"], "--geometry"),
        (["avatar", "create", "x.png", "-o", "y", "--refine_steps", "3"], "--refine-steps"),
        (["avatar", "create", "x.png", "-o", "y", "--check", "3"], "--checkpoint"),
        (["experiments", "copy", "--out", "y"], "--output"),
        (["assets", "fetch", "--dem"], "--demo"),
        (["demo", "--step", "8"], "--steps"),
    ],
)
def test_options_in_part_or_with_a_slip_are_refused_with_the_right_one(capsys, arguments, meant):
    shown = _error(capsys, *arguments)
    assert "unrecognized arguments" in shown
    assert f"(did you mean {meant}?)" in shown


def test_keys_of_files_are_answered_too():
    parser = config_parser("x", "y")
    parser.add_class_arguments(Options, None)
    with pytest.raises(Exception, match=r"max_farmes.*did you mean max_frames\?"):
        parser.parse_args(["--config", "{max_farmes: 3}"])
    with pytest.raises(Exception, match=r"dise.*did you mean dice\?"):
        parser.parse_args(["--config", "{losses: {dise: 3}}"])
    assert parser.parse_args(["--config", "{losses: {dice: 3}}"]).losses.dice == 3


def test_a_configuration_is_found_by_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from rome_lightning.cli.prepare import _parser

    shipped = Path(__file__).parents[2] / "experiments" / "data" / "prepare.yaml"
    by_name = _parser().parse_args(["x.mp4", "--config", "data/prepare"])
    by_path = _parser().parse_args(["x.mp4", "--config", str(shipped)])
    by_name.config = by_path.config = None
    assert by_name == by_path


def test_an_unknown_configuration_is_one_line(capsys):
    shown = _error(capsys, "prepare", "x.mp4", "--config", "data/prepaer")
    assert "did you mean data/prepare" in shown
    assert shown.count("\n") == 1


def test_experiments_are_listed_shown_and_copied(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["experiments", "list", "protocols"]) == 0
    listed = capsys.readouterr().out
    assert "protocols/demo" in listed
    assert "full/base" not in listed
    assert cli.main(["experiments", "show", "full/cpu"]) == 0
    shown = capsys.readouterr().out
    assert cli.main(["experiments", "copy", "full/cpu"]) == 0
    assert Path("experiments/full/cpu.yaml").read_text() == shown
    assert cli.main(["experiments", "list", "nothing"]) == cli.EXIT_FAILURE


@pytest.mark.slow
def test_the_help_of_training_shows_nested_options_where_one_looks(capsys):
    assert cli.main(["fit", "--help"]) == 0
    shown = capsys.readouterr().out
    for option in ("losses.perceptual", "optimizer.learning_rate", "avatar.texture.channels"):
        assert f"--model.init_args.{option}" in shown
    for option in ("--data.init_args.batch_size", "--trainer.max_epochs", "--run_dir", "--memory_check"):
        assert option in shown
    assert cli.main(["fit", "--help", "all"]) == 0
    assert "--trainer.overfit_batches" in capsys.readouterr().out
