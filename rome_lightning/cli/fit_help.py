"""The text of ``rome fit --help``: the options that matter for a run, nested ones with full names."""

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
    ("strategy", str, "auto, ddp, or a Lightning class."),
    ("precision", str, "32-true, bf16-mixed or 16-mixed."),
    ("max_epochs", int, "Epochs of data.init_args.pairs_per_epoch pairs each."),
    ("check_val_every_n_epoch", int, "Epochs between validations."),
    ("log_every_n_steps", int, "Steps between two rows of metrics.csv."),
)
"""Trainer options that commonly differ between runs."""


def add_run_options(parser: ArgumentParser) -> None:
    """The options of a run outside trainer, model and data."""
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
        help="Apply an ablation of experiments/ablations.yaml to the files before it. Repeatable. In "
        "config.yaml: a record of the ablations.",
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
        help="Also log for TensorBoard, into tensorboard/ in the run folder.",
    )
    parser.add_argument(
        "--memory_check",
        type=Literal["refuse", "warn"],
        default="refuse",
        help="What to do before the first step if it is estimated to need more memory than is free.",
    )


def fit_help() -> str:
    """A readable list of the options of ``rome fit`` with the full model."""
    return str(run_parser().format_help())


def run_parser() -> HintingParser:
    """A parser that knows these options; it serves the help and suggestions only."""
    parser = HintingParser(
        prog="rome fit",
        usage="rome fit --config full/base [--config OVERLAY ...] [OPTIONS]",
        description="Train a model. Options are dotted configuration keys; later ones win. "
        "`rome experiments list` shows the configurations, `--print-config` the resolved configuration of "
        "a command.",
        epilog="The linear model: rome fit --model.help LinearModule. Every trainer option and the "
        "callbacks: rome fit --help all.",
    )
    parser.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        help="Configuration, a file or a name; repeatable.",
    )
    parser.add_argument("--ckpt_path", metavar="FILE", help="Resume from this checkpoint; auto: the newest.")
    parser.add_argument("--seed_everything", type=int, help="Seed of the run.")
    add_run_options(parser)
    for name, kind, text in _TRAINER:
        parser.add_argument(f"--trainer.{name}", type=kind, help=text)
    parser.add_class_arguments(FullModule, "model.init_args", skip={"image_size"})
    parser.add_class_arguments(TalkingHeadDataModule, "data.init_args")
    return parser
