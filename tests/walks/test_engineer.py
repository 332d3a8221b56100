"""From the wheel to a submitted job: on SLURM if available, else with a minimal scheduler."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from tiny_run import need

RESOURCES = "--gpus-per-node=0 --ntasks-per-node=1 --cpus-per-task=1"
OPTIONS = (
    "--config full/cpu --trainer.strategy auto --data.init_args.manifest data/mine "
    "--data.init_args.pairs_per_epoch 4 --wandb disabled --run-dir runs/job-0"
)
COMMANDS = (
    "rome doctor",
    "rome prepare clips --output data/mine --max-frames 24",
    f'sbatch {RESOURCES} "$(rome experiments copy slurm/single_node.sh)" {OPTIONS}',
)
# What the scheduler tells the job of its options, and the job in their place.
_SBATCH = """while [[ "$1" == --* ]]; do
    [[ "$1" == --ntasks-per-node=* ]] && export SLURM_NTASKS_PER_NODE="${1#*=}"
    shift
done
SLURM_NTASKS=1 exec bash "$@"
"""
_STAND_INS = {"srun": 'exec "$@"\n', "sbatch": _SBATCH}


def _has_scheduler() -> bool:
    """Whether a controller answers; the programs alone schedule nothing."""
    found = shutil.which("sinfo")
    return found is not None and subprocess.run([found], capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_engineer(rome, programs: Path, folder: Path, clips: Path) -> None:
    need("face_landmarker", "selfie_multiclass", "modnet", "lpips_alexnet", "lpips_vgg16", "sface", "yunet")
    is_queued = _has_scheduler()
    for name, lines in ({} if is_queued else _STAND_INS).items():
        (programs / name).write_text(f"#!/bin/bash\n{lines}")
        (programs / name).chmod(0o755)
    for command in COMMANDS:
        rome(command)
    summary = folder / "runs/job-0/summary.json"
    end = time.monotonic() + 1800
    while not (summary.is_file() and json.loads(summary.read_text())["finished"]):
        assert time.monotonic() < end, "the job did not end"
        time.sleep(2)
    assert (folder / "runs/job-0/checkpoints/last.ckpt").is_file()
    assert not is_queued or list(folder.glob("rome-*.log"))
