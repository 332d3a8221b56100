"""``rome evaluate``: a system's scores under a named protocol."""

from __future__ import annotations

import os
import subprocess
import sys

from rome_lightning.assets.experiments import find_experiment
from rome_lightning.cli.config_parsing import HintingParser, config_parser
from rome_lightning.cli.terminal import TerminalReporter
from rome_lightning.workflows.options import EvaluateConfig


def _parser() -> HintingParser:
    parser = config_parser(
        "rome evaluate",
        "Score a model, or any other system's frames, under a protocol: table, summary.json, "
        "pairs.parquet and report.html. Run it again to resume after an interruption. Example: rome evaluate "
        "--protocol demo --checkpoint runs/x/checkpoints/best.ckpt --data mine",
    )
    parser.add_class_arguments(EvaluateConfig, None)
    return parser


def main(argv: list[str]) -> int:
    """Run ``rome evaluate``.

    Args:
        argv: arguments after ``rome evaluate``.

    Returns:
        0 if everything was scored.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    config = EvaluateConfig(**{name: options[name] for name in EvaluateConfig.__dataclass_fields__})
    if config.protocol is None:
        parser.error("no protocol; give --protocol NAME; `rome experiments list protocols` shows them")
    systems = (config.checkpoint, config.untrained, config.predictions, config.baseline)
    if sum(given is not None for given in systems) != 1:
        parser.error(
            "nothing to evaluate; give one of --checkpoint, --untrained, --predictions and --baseline"
        )
    if config.targets is not None and (config.predictions is None or config.predictions.is_dir()):
        parser.error("--targets VIDEO needs --predictions VIDEO")
    if config.num_processes < 1:
        parser.error(f"--num-processes must be at least 1, got {config.num_processes}")
    config.protocol = find_experiment(config.protocol, "protocols")
    if config.num_processes > 1:
        return _spread(argv, config)
    return _evaluate(config, *_rank())


def _rank() -> tuple[int, int]:
    """Rank and world size as set by torchrun or srun."""
    for rank, size in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
        if rank in os.environ and size in os.environ:
            return int(os.environ[rank]), int(os.environ[size])
    return 0, 1


def _spread(argv: list[str], config: EvaluateConfig) -> int:
    """Run several copies of this command; if one fails, all end."""
    command = [sys.executable, "-m", "rome_lightning", "evaluate", *argv, "--num-processes", "1"]
    count = config.num_processes
    if config.restart:
        from rome_lightning.workflows.evaluation import clear_results

        clear_results(config)
        command += ["--restart", "false"]
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    ranks = [
        subprocess.Popen(command, env={**environment, "RANK": str(rank), "WORLD_SIZE": str(count)})
        for rank in range(count)
    ]
    try:
        codes = [process.wait() for process in ranks]
    except BaseException:
        for process in ranks:
            process.terminate()
        raise
    return max(codes, key=abs)


def _evaluate(config: EvaluateConfig, rank: int, world_size: int) -> int:
    # Heavy imports only here, so that --help and usage errors answer at once.
    from rome_lightning.evaluation.page import text_tables
    from rome_lightning.workflows.evaluation import evaluate, writes_submission

    if writes_submission(config):
        return _submit(config)
    scores = evaluate(config, rank, world_size, TerminalReporter())
    if scores is None:
        print(f"process {rank + 1} of {world_size} is done; the last one writes the summary", file=sys.stderr)
        return 0
    print(text_tables(scores.summary))
    print(f"{scores.folder / 'summary.json'}; look at {scores.folder / 'report.html'}")
    return 0


def _submit(config: EvaluateConfig) -> int:
    from rome_lightning.workflows.evaluation import submit

    reporter = TerminalReporter()
    written = submit(config, reporter)
    for key, reason in written.failed.items():
        reporter.warn(f"{key} has no mesh: {reason}")
    print(f"{written.path}: {written.num_images - len(written.failed)} of {written.num_images} images")
    return 1 if written.failed else 0
