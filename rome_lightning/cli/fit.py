"""``rome fit | validate | test``: LightningCLI with a run folder."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

from jsonargparse import set_parsing_settings
from lightning import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import Logger, WandbLogger

from rome_lightning.callbacks.run_logger import RunCSVLogger
from rome_lightning.data.datamodule import RomeDataModule
from rome_lightning.training import RomeModule


class RomeCLI(LightningCLI):
    """One parser for every model and data set; everything a run writes goes to ``--run_dir``."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run folder and W&B, and link what two sides need."""
        parser.add_argument(
            "--run_dir",
            type=str,
            default="runs/full/default-0",
            help="Folder of the run: config.yaml, checkpoints/, images/, metrics.csv, summary.json.",
        )
        parser.add_argument(
            "--wandb",
            type=Literal["offline", "online", "disabled"],
            default="offline",
            help="Weights & Biases: log into the run folder, to the server, or not at all.",
        )
        parser.link_arguments("data.init_args.image_size", "model.init_args.image_size")
        parser.link_arguments("run_dir", "trainer.default_root_dir")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A trainer whose loggers, and so its checkpoints, live in the run folder."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        run_dir = Path(config["run_dir"])
        settings = config["trainer"]
        if settings.get("logger") in (None, True):
            kwargs["logger"] = self._loggers(run_dir, config["wandb"])
        return super().instantiate_trainer(**kwargs)

    def before_fit(self) -> None:
        """Refuse to mix a new run with one that is there already.

        Raises:
            ValueError: the run folder has checkpoints and none of them is to be resumed.
        """
        config = self.config[self.subcommand] if self.subcommand else self.config
        checkpoints = sorted((Path(config["run_dir"]) / "checkpoints").glob("*.ckpt"))
        if checkpoints and not config.get("ckpt_path"):
            raise ValueError(
                f"{config['run_dir']} holds a run already; go on with --ckpt_path {checkpoints[-1]}, set "
                "another --run_dir, or delete the folder"
            )

    def _loggers(self, run_dir: Path, wandb: str) -> list[Logger]:
        if self.subcommand not in (None, "fit"):
            # Scores of a finished run must not mix with the rows of its training.
            return [RunCSVLogger(run_dir / self.subcommand)]
        loggers: list[Logger] = [RunCSVLogger(run_dir)]
        if wandb != "disabled":
            loggers.append(
                WandbLogger(
                    save_dir=run_dir, project="rome_lightning", name=run_dir.name, offline=wandb == "offline"
                )
            )
        return loggers


def main(argv: list[str]) -> int:
    """Run a training sub-command.

    Args:
        argv: arguments after ``rome``, starting with the sub-command.
    """
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    # `rome` hands on exactly what the command line had, less its own options.
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter is intended")
    RomeCLI(
        RomeModule,
        RomeDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        save_config_callback=SaveConfigCallback,
        save_config_kwargs={"overwrite": True},
        parser_kwargs={"default_env": True, "env_prefix": "ROME", "exit_on_error": False},
        args=argv,
    )
    return 0
