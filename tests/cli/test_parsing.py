"""Options cannot be abbreviated; for unknown ones the closest known option is suggested."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from rome_lightning.cli import main as cli
from rome_lightning.cli.config_parsing import config_parser
from rome_lightning.cli.parsing import StrictParser, dashed


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
        (["prepare", "x.mp4", "--output", "y", "--max_frame", "3"], "--max-frames"),
        (["prepare", "x.mp4", "--outptu", "y"], "--output"),
        (["evaluate", "--protocl", "demo"], "--protocol"),
        (["compare", "a", "b", "--base", "a"], "--baseline"),
        (["sweep", "loss_weights", "--proceses", "2"], "--processes"),
        (["distill", "all", "--geometri", "x"], "--geometry"),
        (["avatar", "create", "x.png", "-o", "y", "--refine_step", "3"], "--refine-steps"),
        (["avatar", "create", "x.png", "-o", "y", "--check", "3"], "--checkpoint"),
        (["experiments", "copy", "--out", "y"], "--output"),
        (["assets", "fetch", "--dem"], "--demo"),
        (["demo", "--step", "8"], "--steps"),
        (["fit", "--config", "full/base", "--max_epoch", "3"], "--trainer.max_epochs"),
        (["fit", "--learning_rat", "3"], "--model.init_args.optimizer.learning_rate"),
        (["fit", "--manifes", "x"], "--data.init_args.manifest"),
    ],
)
def test_options_in_part_or_with_a_slip_are_refused_with_the_right_one(capsys, arguments, meant):
    shown = _error(capsys, *arguments)
    assert "unrecognized arguments" in shown
    assert f"(did you mean {meant}?)" in shown


@pytest.mark.parametrize("spelling", ["--max-frames", "--max_frames"])
def test_dashes_and_underscores_are_the_same(spelling):
    of_files = config_parser("x", "y")
    of_files.add_class_arguments(Options, None)
    plain = StrictParser("x")
    commands = plain.add_subparsers(dest="command")
    commands.add_parser("go").add_argument("--max-frames", type=int)
    for value in (["5"], None):
        words = [spelling, *value] if value else [f"{spelling}=5"]
        assert of_files.parse_args(words).max_frames == 5
        assert plain.parse_args(["go", *words]).max_frames == 5


def test_values_and_keys_of_configurations_keep_their_underscores():
    parser = config_parser("x", "y")
    parser.add_class_arguments(Options, None)
    parser.add_argument("--text")
    assert parser.parse_args(["--text", "a_b-c", "--losses.dice=2"]).text == "a_b-c"
    assert dashed("--run_dir x_y --data.init_args.batch_size") == "--run-dir x_y --data.init_args.batch_size"


def _commands():
    """Every command and sub-command, as docs/hooks.py lists them for the site."""
    for name in cli.COMMANDS:
        yield from ([name, inner] if inner else [name] for inner in SUBCOMMANDS.get(name, ("",)))


SUBCOMMANDS = {
    "shards": ("verify", "stats", "import"),
    "distill": ("basis", "all", "transfer", "join"),
    "avatar": ("create", "animate", "edit", "export", "view"),
    "assets": ("list", "fetch"),
    "models": ("list", "card", "export"),
    "experiments": ("list", "show", "copy"),
    "sweep": ("", "sync"),
}


@pytest.mark.parametrize("words", list(_commands()), ids=" ".join)
def test_every_command_shows_the_one_dialect(words, capsys):
    """Options other than configuration keys use dashes; the avatar is an argument, not an option."""
    assert cli.main([*words, "--help"]) == 0
    shown = capsys.readouterr().out
    # Usage lines wrap anywhere, but not within options.
    options = re.findall(r"(?<![\w-])--[a-z][\w.-]*", shown)
    assert [option for option in options if "_" in option and "." not in option] == []
    assert "--avatar" not in options


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
    assert cli.main(["experiments", "copy", "full/cpu", "mine.yaml"]) == cli.EXIT_FAILURE
    meant = "copies keep their names, in a folder: rome experiments copy full/cpu -o FOLDER"
    assert meant in capsys.readouterr().err
    assert cli.main(["experiments", "copy", "full/cpu"]) == 0
    assert Path("experiments/full/cpu.yaml").read_text() == shown
    assert cli.main(["experiments", "list", "nothing"]) == cli.EXIT_FAILURE


@pytest.mark.slow
def test_the_help_of_training_shows_nested_options_where_one_looks(capsys):
    assert cli.main(["fit", "--help"]) == 0
    shown = capsys.readouterr().out
    for option in ("losses.perceptual", "optimizer.learning_rate", "avatar.texture.channels"):
        assert f"--model.init_args.{option}" in shown
    for option in ("--data.init_args.batch_size", "--trainer.max_epochs", "--run-dir", "--memory-check"):
        assert option in shown
    assert cli.main(["fit", "--help", "all"]) == 0
    assert "--trainer.overfit_batches" in capsys.readouterr().out
