"""``rome fit | validate | test``: LightningCLI with a run folder."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import lightning
import yaml
from jsonargparse import Namespace, set_parsing_settings
from lightning import LightningModule, Trainer
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only, rank_zero_warn
from lightning_utilities.core import rank_zero

from datamodules.base import RomeDataModule
from rome_lightning.callbacks import MemoryCheck, ProgressLines, SeedEachStep
from rome_lightning.callbacks.run_logger import RunCSVLogger, record_settings, run_loggers
from rome_lightning.cli.ablations import check_ablations, expand_ablations
from rome_lightning.cli.config_parsing import HintingParser, NamedConfigFile
from rome_lightning.cli.fit_help import add_run_options, fit_help, run_parser
from rome_lightning.cli.parsing import long_options
from rome_lightning.media.escaping import file_name
from rome_lightning.media.locks import owned
from rome_lightning.media.provenance import code_and_versions
from rome_lightning.media.stopping import RunStopped
from rome_lightning.models.checkpoint import read_checkpoint
from rome_lightning.training import RomeModule
from rome_lightning.training.checking import check_class, check_continuation, check_run
from rome_lightning.training.checkpointing import LAST, RunCheckpointIO, newest_valid, verify_checkpoint

AUTO = "auto"
_LOST_PEER = (
    "by peer",
    "Broken pipe",
    "Timed out waiting",
    "ProcessGroupNCCL",
    "NCCL error",
    "Socket closed",
)
"""Messages of the distributed backends when another process is gone."""


class SaveRunConfig(SaveConfigCallback):
    """Write ``config.yaml`` without the checkpoint that this part of the run resumed from."""

    def __init__(self, parser: LightningArgumentParser, config: Namespace, **options: Any) -> None:
        config = config.clone()
        config["ckpt_path"] = None
        super().__init__(parser, config, **options)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Pass the configuration to the loggers, with the versions of data and code."""
        if stage != "fit":
            return
        text = self.parser.dump(self.config, skip_none=False)
        facts = {
            "dataset_hash": getattr(trainer.datamodule, "dataset_hash", None),  # type: ignore[attr-defined]
            "seed": int(os.environ.get("PL_GLOBAL_SEED", -1)),
            "num_processes": trainer.world_size,
            **code_and_versions(),
        }
        record_settings(trainer.loggers, yaml.safe_load(text), facts)


class RomeArgumentParser(HintingParser, LightningArgumentParser):
    """Lightning's parser, but refusing abbreviations and suggesting corrections."""

    def nested_options(self) -> list[str]:
        """Those of the full model and of datasets."""
        return list(long_options(run_parser()))


class RomeCLI(LightningCLI):
    """One parser for all models and datasets; everything that a run writes goes to ``--run-dir``."""

    held: ClassVar = contextlib.ExitStack()
    """Lock of the run folder while ``main`` runs."""
    wanted: ClassVar = "fit"
    """The sub-command that ``main`` was given."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Only the given sub-command: the parsers of all four take a second to build."""
        return {RomeCLI.wanted: LightningCLI.subcommands()[RomeCLI.wanted]}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """A parser whose ``--config`` takes names of shipped configurations too."""
        kwargs.setdefault("dump_header", [f"lightning.pytorch=={lightning.__version__}"])
        parser = self.parser_class(**kwargs)
        parser.add_argument(
            "-c",
            "--config",
            action=NamedConfigFile,
            help="Configuration: a YAML file, or the name of a shipped one such as full/base "
            "(`rome experiments list`). May be given several times; later files win.",
        )
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run folder and loggers, and link options that both model and data need."""
        add_run_options(parser)
        parser.link_arguments("data.init_args.image_size", "model.init_args.image_size")
        parser.link_arguments("run_dir", "trainer.default_root_dir")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and refuse ablations that other options override."""
        super().parse_arguments(parser, args)
        check_ablations(self._options().as_dict())

    def _parse_ckpt_path(self) -> None:
        """Resolve ``--ckpt-path`` and take the model's options from that file; they override all others."""
        config = self._options()
        config["ckpt_path"] = path = self._resolve_checkpoint(config.get("ckpt_path"), config["run_dir"])
        self._steps_before = 0
        if path is None:
            return
        checkpoint = read_checkpoint(Path(path))
        if self.config["subcommand"] == "fit":
            self._steps_before = check_continuation(checkpoint, config, path)
        options = dict(checkpoint.get("hyper_parameters", {}))
        options.pop("_instantiator", None)
        class_path = options.pop("_class_path", None)
        if class_path is None:
            return
        check_class(class_path, options, config["model"]["class_path"], path)
        # The weights come from the checkpoint; their original source may no longer exist.
        options["init_from"] = None
        model = {"class_path": class_path, "init_args": options}
        wanted = config["model"].clone()
        self.config = self.parser.parse_object({self.config["subcommand"]: {"model": model}}, self.config)
        self._say_what_is_ignored(wanted, self._options()["model"])

    @staticmethod
    def _resolve_checkpoint(path: str | Path | None, run_dir: str) -> str | None:
        """The requested checkpoint, verified."""
        folder = Path(run_dir) / "checkpoints"
        if path is None:
            return None
        if str(path) == AUTO:
            found = newest_valid(folder)
            return None if found is None else str(found)
        path = Path(path)
        if path.name == LAST and path.is_file():
            # A request for the last checkpoint means the newest intact state.
            return str(newest_valid(path.parent))
        verify_checkpoint(path)
        return str(path)

    def _say_what_is_ignored(self, wanted: Namespace, used: Namespace) -> None:
        before, after = wanted.as_flat().__dict__, used.as_flat().__dict__
        for key in sorted(before.keys() & after.keys()):
            if before[key] != after[key] and not key.endswith("init_from"):
                rank_zero_warn(
                    f"model.{key} = {before[key]} is ignored: --ckpt-path resumes with {after[key]}; "
                    "for a new run from these weights use model.init_args.init_from"
                )

    def _options(self) -> Namespace:
        """The options of the sub-command."""
        return self.config[self.config["subcommand"]]

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A trainer whose loggers, and therefore checkpoints, are in the run folder."""
        config = self._options()
        run_dir = Path(config["run_dir"])
        if self.config["subcommand"] == "fit" and getattr(rank_zero_only, "rank", 0) == 0:
            self.held.enter_context(owned(run_dir, "rome fit"))
        if config["trainer"].get("logger") in (None, True):
            kwargs["logger"] = self._loggers(run_dir, config)
        plugins = self._get(self.config_init, "trainer").get("plugins") or []
        plugins = [*plugins] if isinstance(plugins, list) else [plugins]
        plugins.append(RunCheckpointIO())
        if SLURMEnvironment.detect() and not any(isinstance(p, SLURMEnvironment) for p in plugins):
            # RunCheckpoint asks for the requeue, between two steps.
            plugins.append(SLURMEnvironment(auto_requeue=False))
        # The order matters: the check's random numbers must not become those of the first step.
        check = MemoryCheck(refuse=config["memory_check"] == "refuse")
        callbacks: list[Callback] = [check, SeedEachStep()]
        if _lines_for_bar(self._get(self.config_init, "trainer")):
            callbacks.append(ProgressLines())
        self.trainer_defaults = {**self.trainer_defaults, "callbacks": callbacks}
        return super().instantiate_trainer(plugins=plugins, **kwargs)

    def before_fit(self) -> None:
        """Refuse settings that would fail later.

        Raises:
            ValueError: the run folder has checkpoints but the run does not resume from one, or the settings
                conflict.
        """
        config = self._options()
        checkpoints = sorted((Path(config["run_dir"]) / "checkpoints").glob("*.ckpt"))
        if checkpoints and not config.get("ckpt_path"):
            raise ValueError(
                f"{config['run_dir']} already holds a run; resume it with --ckpt-path {AUTO}, set "
                "another --run-dir, or delete the folder"
            )
        check_run(self.trainer, self.model, self.datamodule)
        if not getattr(self.datamodule, "validates", True):
            rank_zero_warn(
                "the dataset has no validation split: there will be no validation and no best.ckpt, and "
                "last.ckpt is the result. To validate, prepare the videos with --val-identities, or set "
                "data.init_args.holdout_ratio to 0.2 and data.init_args.val_split to seen"
            )

    def _loggers(self, run_dir: Path, config: Namespace) -> list[Logger]:
        if self.subcommand not in (None, "fit"):
            # Scores of a finished run must not mix with its training rows.
            return [RunCSVLogger(run_dir / self.subcommand)]
        return run_loggers(run_dir, config["wandb"], config["tensorboard"], self._steps_before)


def _folder_of_agent(argv: list[str]) -> list[str]:
    """Under ``wandb agent`` every trial has the same command, so each gets its own run folder."""
    sweep, run = os.environ.get("WANDB_SWEEP_ID"), os.environ.get("WANDB_RUN_ID")
    if not (sweep and run) or any(word.split("=")[0] in ("--run_dir", "--run-dir") for word in argv):
        return []
    return [f"--run_dir=runs/sweeps/{file_name(sweep)}/{file_name(run)}"]


def _lines_for_bar(options: Namespace) -> bool:
    """Whether to print lines because there is no terminal; removes a progress bar that the options name."""
    if options.get("enable_progress_bar") is False or sys.stderr.isatty():
        return False
    named = options.get("callbacks") or []
    named = named if isinstance(named, list) else [named]
    options["callbacks"] = [callback for callback in named if not isinstance(callback, ProgressBar)]
    return True


_NOT_ABOUT_THE_RUN = ("Tip: For seamless cloud", "TPU available: False", "`weights_only` was not set")
"""Lines of Lightning: an advertisement, a device that this project does not use, an argument of its code."""


def _is_about_the_run(record: logging.LogRecord) -> bool:
    """Whether a log line of Lightning is of use to a user."""
    return not any(text in record.getMessage() for text in _NOT_ABOUT_THE_RUN)


def train(
    configs: Sequence[str | Path], run_dir: Path, options: Mapping[str, Any], more: Sequence[str] = ()
) -> Path:
    """Train or resume as ``rome fit`` does; a finished run stays unchanged.

    Args:
        configs: configuration files or names of shipped ones; later ones win.
        run_dir: folder of the run.
        options: values by dotted name.
        more: further words of the command line.

    Returns:
        The last checkpoint.

    Raises:
        ValueError: the training stopped before its end.
    """
    last, summary = run_dir / "checkpoints" / LAST, run_dir / "summary.json"
    facts = json.loads(summary.read_text(encoding="utf-8")) if summary.is_file() else {}
    if last.is_file() and facts.get("finished"):
        print(f"{last}: already trained", file=sys.stderr)
        return last
    words = [f"--config={config}" for config in configs]
    words += [f"--{name}={value}" for name, value in options.items()]
    if main(["fit", *words, *more, f"--run_dir={run_dir}", f"--ckpt_path={AUTO}"]) != 0:
        raise ValueError("the training did not finish; run the command again to resume it")
    return last


def main(argv: list[str]) -> int:
    """Run a training sub-command.

    Args:
        argv: arguments after ``rome``, starting with the sub-command.
    """
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    if argv in (["fit", "--help"], ["fit", "-h"]):
        print(fit_help())
        return 0
    if argv[1:] in (["--help", "all"], ["-h", "all"]):
        argv = argv[:-1]
    argv = expand_ablations([*argv, *_folder_of_agent(argv)])
    RomeCLI.wanted = argv[0]
    # `rome` passes on the command line without its own options.
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter is intended")
    # Warnings about Lightning's own code, and about how rarely a short run logs.
    warnings.filterwarnings("ignore", message="`isinstance.treespec, LeafSpec.` is deprecated")
    warnings.filterwarnings("ignore", message="The number of training batches")
    # Not every run on a machine with SLURM is a job.
    warnings.filterwarnings("ignore", message="The `srun` command is available on your system")
    # Of a dataset without a validation split, which gets a warning of ours.
    warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")
    of_checkpoints = logging.getLogger("lightning.pytorch.trainer.connectors.checkpoint_connector")
    for log in (rank_zero.log, of_checkpoints):
        log.addFilter(_is_about_the_run)
    try:
        with RomeCLI.held:
            RomeCLI(
                RomeModule,
                RomeDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                auto_configure_optimizers=False,
                save_config_callback=SaveRunConfig,
                save_config_kwargs={"overwrite": True},
                parser_kwargs={"default_env": True, "env_prefix": "ROME", "exit_on_error": False},
                parser_class=RomeArgumentParser,
                args=argv,
            )
    except RunStopped as stop:
        print(f"rome: {stop.message}", file=sys.stderr)
        return int(stop.code or 0)
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _LOST_PEER):
            raise
        raise ValueError(
            "another process of this run ended or does not respond; see its own message above, or in the "
            f"log of its machine. Fix that, then resume with --ckpt-path {AUTO}"
        ) from error
    return 0
