import argparse
import os
import subprocess
import sys
import time
import types

import pytest

import rome_lightning
from rome_lightning.cli import main as cli


@pytest.fixture
def command(monkeypatch):
    """Make ``rome probe`` run a function of the test."""

    def _command(function, passes_own_name=False):
        module = types.ModuleType("rome_lightning.cli.probe")
        module.main = function
        monkeypatch.setitem(sys.modules, "rome_lightning.cli.probe", module)
        monkeypatch.setitem(cli.COMMANDS, "probe", cli.Command("probe", "a test", passes_own_name))

    monkeypatch.delenv("ROME_DEBUG", raising=False)
    return _command


def _raise(error):
    def main(argv):
        raise error

    return main


def test_help_lists_every_command_and_ends_well(capsys):
    for arguments in (["--help"], ["-h"]):
        assert cli.main(arguments) == 0
        shown = capsys.readouterr().out
        assert all(name in shown for name in cli.COMMANDS)


def test_help_as_a_word_is_handed_to_the_command(command, capsys):
    command(lambda argv: print(argv))
    assert cli.main(["help", "probe"]) == 0
    assert capsys.readouterr().out == "['--help']\n"


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"rome {rome_lightning.__version__}\n"


def test_no_command_is_a_usage_error_with_help(capsys):
    assert cli.main([]) == 2
    assert "usage: rome" in capsys.readouterr().err


def test_an_unknown_command_is_a_usage_error_with_a_guess(capsys):
    assert cli.main(["fti"]) == 2
    assert capsys.readouterr().err == (
        "rome: error: unknown command 'fti'; did you mean fit? `rome --help` lists them\n"
    )


def test_arguments_reach_the_command_and_its_code_comes_back(command):
    seen = []
    command(lambda argv: seen.append(argv) or 3)
    assert cli.main(["probe", "a", "--b", "c"]) == 3
    assert seen == [["a", "--b", "c"]]


def test_shared_modules_get_the_commands_name_first(command):
    seen = []
    command(lambda argv: seen.append(argv), passes_own_name=True)
    assert cli.main(["probe", "a"]) == 0
    assert seen == [["probe", "a"]]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("image_size must be even,\n  got 3"), "image_size must be even, got 3"),
        (FileNotFoundError("x.pkl is missing"), "x.pkl is missing"),
        (ImportError("needs the extra `bake`"), "needs the extra `bake`"),
        (KeyError("colour"), "KeyError: 'colour'"),
        (RuntimeError("size mismatch for a:\n\tcopying"), "RuntimeError: size mismatch for a: copying"),
        (AssertionError(), "AssertionError"),
        (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device"),
    ],
)
def test_failures_are_one_line_and_code_1(command, capsys, error, line):
    command(_raise(error))
    assert cli.main(["probe"]) == 1
    assert capsys.readouterr().err == f"rome: error: {line}\n"


def test_long_messages_are_cut(command, capsys):
    command(_raise(RuntimeError("x" * 5000)))
    cli.main(["probe"])
    shown = capsys.readouterr().err
    assert len(shown) < 700
    assert "--debug shows all" in shown


def test_builds_of_torch_that_do_not_match_are_explained(command, capsys):
    command(_raise(RuntimeError("operator torchvision::nms does not exist")))
    assert cli.main(["probe"]) == 1
    assert "torch and torchvision do not match" in capsys.readouterr().err


def test_a_missing_package_is_named_with_the_remedy(command, capsys):
    command(_raise(ModuleNotFoundError("No module named 'av.video'", name="av.video")))
    assert cli.main(["probe"]) == 1
    assert "`pip install av`" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--debug", "probe"], ["probe", "--debug"], ["probe", "x", "--debug", "y"]]
)
def test_debug_anywhere_shows_the_traceback_and_is_not_handed_on(command, capsys, arguments):
    def main(argv):
        assert "--debug" not in argv
        raise ValueError("deep inside")

    command(main)
    assert cli.main(arguments) == 1
    shown = capsys.readouterr().err
    assert "Traceback (most recent call last)" in shown
    assert shown.endswith("rome: error: deep inside\n")


@pytest.mark.parametrize(("value", "shown"), [("1", True), ("0", False), ("", False)])
def test_debug_by_environment(command, capsys, monkeypatch, value, shown):
    monkeypatch.setenv("ROME_DEBUG", value)
    command(_raise(ValueError("x")))
    cli.main(["probe"])
    assert ("Traceback" in capsys.readouterr().err) is shown


@pytest.mark.parametrize(("code", "expected"), [(None, 0), (0, 0), (2, 2), ("a message", 1)])
def test_exits_of_parsers_keep_their_code(command, code, expected):
    command(_raise(SystemExit(code)))
    assert cli.main(["probe"]) == expected


def test_a_parsers_complaint_is_one_line_and_code_2(command, capsys):
    command(_raise(argparse.ArgumentError(None, "no option\n  --x")))
    assert cli.main(["probe"]) == 2
    assert capsys.readouterr().err == "rome: error: no option --x; `rome probe --help` lists the options\n"


def test_an_interrupt_is_quiet(command, capsys):
    command(_raise(KeyboardInterrupt()))
    assert cli.main(["probe"]) == 130
    assert capsys.readouterr().err == "rome: interrupted\n"


def test_every_command_has_a_module():
    folder = os.path.dirname(cli.__file__)
    missing = {c.module for c in cli.COMMANDS.values() if not os.path.exists(f"{folder}/{c.module}.py")}
    assert missing == set()


def _rome(*arguments, **options):
    command = [sys.executable, "-m", "rome_lightning", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def test_help_is_fast_because_it_imports_nothing_heavy():
    start_s = time.monotonic()
    done = _rome("--help")
    # Far above the 0.1 s it takes, far below the 3 s of importing torch.
    assert time.monotonic() - start_s < 1.5
    assert done.returncode == 0
    assert "usage: rome" in done.stdout


@pytest.mark.parametrize("name", ["assets", "doctor"])
def test_small_commands_explain_themselves_without_torch(name):
    code = (
        f"import sys; from rome_lightning.cli.main import main; main([{name!r}, '--help']); "
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert f"usage: rome {name}" in done.stdout


def test_a_reader_that_leaves_early_is_no_error():
    command = f"{sys.executable} -m rome_lightning assets list --json | head -c 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.returncode in (0, 141)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--config", "/nowhere.yaml"], "there is no file /nowhere.yaml"),
        (["--trainer.max_epoch", "3"], "did you mean --trainer.max_epochs?"),
        (
            ["--config", "full/base", "--model.init_args.optimizer.learning_rat", "3"],
            "rome: error: unrecognized option --model.init_args.optimizer.learning_rat "
            "(did you mean --model.init_args.optimizer.learning_rate?)",
        ),
        (
            ["--config", "full/base", "--data.init_args.batchsize", "3"],
            "(did you mean --data.init_args.batch_size?)",
        ),
        (
            ["--config", "full/base", "--data.init_args.batch_size", "lots"],
            "rome: error: --data.init_args.batch_size: expected int. Got value: lots",
        ),
    ],
)
def test_training_refuses_wrong_options_in_one_line(arguments, complaint):
    done = _rome("fit", *arguments)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1
