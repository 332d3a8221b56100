"""The one entry point ``rome``: finds the sub-command's module and turns errors into one line.

Nothing heavy is imported here, so that ``rome --help`` answers at once.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import re
import sys
import traceback
from dataclasses import dataclass

import rome_lightning
from rome_lightning.media.escaping import make_messages_printable, printable
from rome_lightning.media.stopping import RunStopped, watch_from_start

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

_LONGEST_MESSAGE = 600
_UNKNOWN = re.compile(
    r"Parser key \"(model|data)\": Problem with given class_path '[^']+': "
    r"(?:unrecognized arguments: --([^\s=]+)\S*|Option '([^']+)' is not accepted)"
    r"(?: \(did you mean (?:--)?([^)]+)\?\))?"
)
"""How jsonargparse says that an option of a model or dataset does not exist."""
_WRONG_VALUE = re.compile(
    r"Parser key \"(model|data)\": Problem with given class_path '[^']+': Parser key \"([\w.]+)\": "
)
"""The same of a wrong value."""
_FILE_ORDER_IS_FREE = ("shards",)
"""Modules whose ``--config`` is a plain option."""


@dataclass(frozen=True)
class Command:
    """A sub-command: the module with its ``main(argv) -> int``, and what it does."""

    module: str
    summary: str
    passes_own_name: bool = False
    """Whether the module serves several commands and needs the command name as its first argument."""


COMMANDS: dict[str, Command] = {
    "prepare": Command("prepare", "turn videos into tracked, sharded training data"),
    "shards": Command("shards", "check, count and import datasets"),
    "fit": Command("fit", "train a model", passes_own_name=True),
    "validate": Command("fit", "evaluate a checkpoint on the validation split", passes_own_name=True),
    "test": Command("fit", "evaluate a checkpoint on the test split", passes_own_name=True),
    "evaluate": Command("evaluate", "score a model or any other system under a named protocol"),
    "import-checkpoint": Command(
        "checkpoint", "convert official ROME weights and account for every key", passes_own_name=True
    ),
    "export-checkpoint": Command(
        "checkpoint", "write a model of the released architecture for the official code", passes_own_name=True
    ),
    "sweep": Command("sweep", "try many settings, with or without a server, and rank them"),
    "compare": Command("compare", "compare runs pair by pair: differences, intervals, pictures"),
    "distill": Command(
        "distill", "distil a trained full model into a linear one: basis, training, comparison"
    ),
    "avatar": Command("avatar", "create, animate, edit, export and view an avatar from photographs"),
    "app": Command("app", "serve a page that creates, drives and exports avatars"),
    "models": Command("models", "list the models that ship with the package; export a checkpoint as one"),
    "live": Command("live", "drive an avatar in real time with a camera or a video"),
    "export-onnx": Command("export_onnx", "write a model's networks as ONNX files, checked with onnxruntime"),
    "demo": Command("demo", "run the whole pipeline on a few real clips, on a CPU, in minutes"),
    "experiments": Command("experiments", "list, show and copy the shipped configurations"),
    "assets": Command("assets", "list and download the models and clips that the project uses"),
    "doctor": Command("doctor", "check this machine: versions, devices, backends, assets"),
}


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: rome COMMAND [ARGUMENTS] [--debug]",
            "",
            "One-shot, rigged, mesh-based head avatars: data, training, evaluation and export.",
            "",
            "commands:",
            *lines,
            "",
            "options:",
            "  -h, --help  this text; rome COMMAND --help explains a command",
            "  --version   the version",
            "  --debug     show the traceback of an error (or set ROME_DEBUG=1)",
            "",
            "Start with `rome doctor`, then `rome demo`.",
        ]
    )


def _usage_error(message: str) -> int:
    print(f"rome: error: {message}", file=sys.stderr)
    return EXIT_USAGE


def _shorten(text: str) -> str:
    """Shorten a message to one line of readable length."""
    text = printable(" ".join(text.split()))
    # jsonargparse tries every type of an option; the first is the intended one.
    text = re.sub(
        r"Does not validate against any of the Union subtypes .*? Errors: - (.*?) - Expected a .*",
        r"\1",
        text,
    )
    text = _UNKNOWN.sub(_in_full, text)
    text = _WRONG_VALUE.sub(r"--\1.init_args.\2: ", text)
    text = re.sub(r"Expected an? <class '(\w+)'>", r"expected \1", text)
    if len(text) > _LONGEST_MESSAGE:
        # jsonargparse ends with a copy of the whole configuration.
        text = text.split(" Given value type: ")[0][:_LONGEST_MESSAGE]
        return f"{text}... (cut; --debug shows all)"
    return text


def _in_full(found: re.Match[str]) -> str:
    """Name an unknown option of a model or dataset as it is written on the command line."""
    group, option, key, meant = found.groups()
    hint = f" (did you mean --{group}.init_args.{meant}?)" if meant else ""
    return f"unrecognized option --{group}.init_args.{option or key}{hint}"


def _describe(error: BaseException) -> str:
    """The error in one line, with the class name if the text alone is unclear."""
    text = _shorten(str(error))
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("rome_lightning"):
        text = f"{text}; install it with `pip install {error.name.split('.')[0]}`, or run `rome doctor`"
    if "torchvision::nms" in text:
        return (
            "torch and torchvision do not match (one is a CPU build, the other is not); install both from "
            "the same index: `pip install --force-reinstall torch torchvision`"
        )
    if isinstance(error, ValueError | FileNotFoundError | ImportError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _overruled(arguments: list[str]) -> list[str]:
    """Options before a ``--config`` or ``--ablation`` that also sets them and would silently win."""
    import yaml

    from rome_lightning.assets.experiments import find_experiment

    found, options = [], []
    for index, word in enumerate(arguments):
        name, given, value = word.partition("=")
        if name not in ("--config", "-c", "--ablation"):
            options += [name] if name.startswith("--") else []
            continue
        path = value if given else "".join(arguments[index + 1 : index + 2])
        if name == "--ablation":
            path = f"ablations/{path}"
        try:
            content = yaml.safe_load(find_experiment(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue  # the command itself reports what is wrong with it
        keys = {option: option.removeprefix("--").replace("-", "_").split(".") for option in options}
        found += [option for option, path_of_key in keys.items() if _sets(content, path_of_key)]
    return found


def _sets(content: object, path: list[str]) -> bool:
    """Whether a configuration sets an option, directly or through its class."""
    for part in path:
        if not isinstance(content, dict):
            return content is not None
        if "class_path" in content:
            return True
        if part not in content:
            return False
        content = content[part]
    return True


def _run(command: Command, name: str, arguments: list[str]) -> int:
    make_messages_printable()
    if name == "fit":
        # Before heavy imports, because a time limit may be near.
        watch_from_start()
    module = importlib.import_module(f"rome_lightning.cli.{command.module}")
    code = module.main([name, *arguments] if command.passes_own_name else arguments)
    sys.stdout.flush()
    return int(code or EXIT_OK)


def _guarded(command: Command, name: str, arguments: list[str], debug: bool) -> int:
    """Run a command and turn its outcome into an exit code."""
    try:
        return _run(command, name, arguments)
    except SystemExit as stop:
        if isinstance(stop, RunStopped):
            print(f"rome: {stop.message}", file=sys.stderr)
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or EXIT_OK
        print(f"rome: error: {_shorten(str(stop.code))}", file=sys.stderr)
        return EXIT_FAILURE
    except argparse.ArgumentError as error:
        if debug:
            traceback.print_exc()
        return _usage_error(f"{_shorten(error.message)}; `rome {name} --help` lists the options")
    except KeyboardInterrupt:
        print("rome: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader has closed the pipe; redirecting the rest to /dev/null keeps the exit silent.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_BROKEN_PIPE
    except Exception as error:
        if debug:
            traceback.print_exc()
        print(f"rome: error: {_describe(error)}", file=sys.stderr)
        return EXIT_FAILURE


def main(argv: list[str] | None = None) -> int:
    """Run ``rome`` and return its exit code.

    Args:
        argv: arguments after the program's name; None reads ``sys.argv``.

    Returns:
        0 on success, 1 for a failure, 2 for a usage error, 130 when interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments or os.environ.get("ROME_DEBUG", "") not in ("", "0")
    arguments = [argument for argument in arguments if argument != "--debug"]
    if arguments and arguments[0] == "help":
        arguments = [*arguments[1:], "--help"]
    if not arguments:
        print(_help(), file=sys.stderr)
        return EXIT_USAGE
    name, *rest = arguments
    if name in ("-h", "--help"):
        print(_help())
        return EXIT_OK
    if name == "--version":
        print(f"rome {rome_lightning.__version__}")
        return EXIT_OK
    command = COMMANDS.get(name)
    if command is None:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        return _usage_error(f"unknown command {name!r}; {hint}`rome --help` lists them")
    overruled = [] if command.module in _FILE_ORDER_IS_FREE else _overruled(rest)
    if overruled:
        return _usage_error(
            f"{', '.join(overruled)} before --config or --ablation, which also sets it and would win; put "
            "options after the last --config"
        )
    return _guarded(command, name, rest, debug)
