"""What ``rome fit --help`` shows: the options that runs are made of, nested ones with their whole names."""

from __future__ import annotations

from typing import Literal

from jsonargparse import ArgumentParser

from datamodules.talking_heads import TalkingHeadDataModule
from rome_lightning.cli.config_parsing import HintingParser
from rome_lightning.training import FullModule

_TRAINER = (
    ("accelerator", str, "auto, cpu or gpu."),
    ("devices", int, "GPUs, or processes on a CPU; -1 for all GPUs."),
    ("num_nodes", int, "Machines."),
    ("strategy", str, "auto, ddp, or a class of Lightning's."),
    ("precision", str, "32-true, bf16-mixed or 16-mixed."),
    ("max_epochs", int, "Epochs of data.init_args.pairs_per_epoch pairs each."),
    ("check_val_every_n_epoch", int, "Epochs between validations."),
    ("log_every_n_steps", int, "Steps between two rows of metrics.csv."),
)
"""Options of Lightning's trainer that runs differ in."""


def add_run_options(parser: ArgumentParser) -> None:
    """The options of a run that belong to neither trainer, model nor data."""
    parser.add_argument(
        "--run_dir",
        type=str,
        default="runs/full/default-0",
        help="Folder of the run: config.yaml, checkpoints/, images/, metrics.csv, summary.json.",
    )
    parser.add_argument(
        "--ablation",
        type=list[str],
        default=[],
        metavar="NAME",
        help="Change one thing, as experiments/ablations.yaml says, over the files before it. Repeatable. "
        "In config.yaml: a record of what was changed.",
    )
    parser.add_argument(
        "--wandb",
        type=Literal["offline", "online", "disabled"],
        default="offline",
        help="Weights & Biases: log into the run folder, to the server, or not at all.",
    )
    parser.add_argument(
        "--tensorboard",
        type=bool,
        default=True,
        help="Whether to log for TensorBoard too, into tensorboard/ of the run folder.",
    )
    parser.add_argument(
        "--memory_check",
        type=Literal["refuse", "warn"],
        default="refuse",
        help="What to do before the first step if its estimated memory is more than there is.",
    )


def fit_help() -> str:
    """The options of ``rome fit`` with the full model, for people."""
    parser = HintingParser(
        prog="rome fit",
        usage="rome fit --config full/base [--config OVERLAY ...] [OPTIONS]",
        description="Train a model. Options are those of the configuration, dotted; later ones win. "
        "`rome experiments list` shows configurations, `--print-config` what a command would run.",
        epilog="The linear model: rome fit --model.help LinearModule. Every option of Lightning's trainer, "
        "and the callbacks: rome fit --help all.",
    )
    parser.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        help="Configuration, a file or a name; repeatable.",
    )
    parser.add_argument("--ckpt_path", metavar="FILE", help="Go on from this checkpoint; auto: the newest.")
    parser.add_argument("--seed_everything", type=int, help="Seed of the run.")
    add_run_options(parser)
    for name, kind, text in _TRAINER:
        parser.add_argument(f"--trainer.{name}", type=kind, help=text)
    parser.add_class_arguments(FullModule, "model.init_args", skip={"image_size"})
    parser.add_class_arguments(TalkingHeadDataModule, "data.init_args")
    return str(parser.format_help())
