"""Checks of this package on a GPU, most important first, so that an interrupted run is still useful.

    make gpu-check [GPU_CHECK_ARGS="--data SHARDS --seconds 480"]
    python benchmarks/gpu_check.py --device cpu     (the same steps on a CPU, to see that they run)

1. Kernels and losses give the CPU's results; a training step never waits for the device (tests marked
   ``gpu``).
2. Training steps per second and peak memory: shipped model, full model, the paper's; in single precision and
   bf16. Pictures per second of the shipped model, compiled too, and the share of finding visible faces.
3. The renderer compared with its peers (``benchmarks/run.py``).
4. Training of the shipped model for the time left, on ``--data`` or on synthetic heads.

Each step runs in a separate process and is stopped at its time limit. ``--output`` receives ``results.json``,
rewritten after every step, the log of each, and the run folder of the training with checkpoint and pictures.
Nothing is needed beyond ``pip install -e .[dev]``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from lightning.pytorch.callbacks import Callback

ROOT = Path(__file__).parents[1]
CONFIGS = ("open/base", "full/base", "full/base+rome/paper")
"""Names of experiments; later ones overlay earlier ones."""
VARIANTS = {"single": "32-true", "bf16": "bf16-mixed"}
STEPS, PICTURES, SIZE = 12, 50, 256


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


class Clock(Callback):
    """Times of the training steps, without their data."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.times: list[float] = []
        self.start = 0.0

    def on_train_batch_start(self, *_: object) -> None:
        """Record the start time."""
        synchronize(self.device)
        self.start = time.perf_counter()

    def on_train_batch_end(self, *_: object) -> None:
        """Record the duration of the step."""
        synchronize(self.device)
        self.times.append(time.perf_counter() - self.start)


def training_steps(config: str, precision: str, device: str) -> dict[str, float]:
    """Training steps per second of ``rome fit`` on synthetic heads, without their data, and peak memory."""
    from datamodules.base import RomeDataModule
    from rome_lightning.cli.fit import RomeCLI
    from rome_lightning.training import RomeModule

    clock_config = {"class_path": "gpu_check.Clock", "init_args": {"device": device}}
    with tempfile.TemporaryDirectory() as folder:
        cli = RomeCLI(
            RomeModule, RomeDataModule, subclass_mode_model=True, subclass_mode_data=True,
            auto_configure_optimizers=False, save_config_callback=None,
            parser_kwargs={"exit_on_error": False},
            args=[
                "fit", *(f"--config={name}" for name in config.split("+")),
                "--data=datamodules.synthetic.SyntheticDataModule", f"--data.init_args.image_size={SIZE}",
                "--data.init_args.batch_size=1", "--data.init_args.num_driving=1",
                f"--data.init_args.pairs_per_epoch={STEPS}", f"--run_dir={folder}/run", "--wandb=disabled",
                f"--trainer.accelerator={'gpu' if device == 'cuda' else 'cpu'}", "--trainer.devices=1",
                f"--trainer.precision={precision}", "--trainer.max_epochs=1",
                "--trainer.limit_val_batches=0",
                f"--trainer.callbacks={json.dumps([clock_config])}",
                "--trainer.enable_checkpointing=false", "--trainer.enable_progress_bar=false",
                "--trainer.enable_model_summary=false", "--memory_check=warn",
            ],
        )  # fmt: skip
    (clock,) = (each for each in cli.trainer.callbacks if type(each).__name__ == "Clock")
    result = {"steps_per_s": 1 / statistics.median(clock.times[2:])}
    if device == "cuda":
        result["peak_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return result


@torch.no_grad()
def pictures(compiled: bool, device: str) -> dict[str, float]:
    """Images per second of the shipped model, and the share of time for finding visible faces."""
    from rome_lightning.models.shipped import open_model
    from rome_lightning.types import Frames, HeadParams

    model = open_model().eval().to(device)
    params = HeadParams.neutral(1, model.head.num_shape, model.head.num_expression)
    photo = Frames(
        image=torch.rand(1, 3, SIZE, SIZE),
        foreground_mask=torch.ones(1, 1, SIZE, SIZE),
        regions=torch.zeros(1, SIZE, SIZE, dtype=torch.uint8),
        landmarks=torch.full((1, 478, 2), SIZE / 2),
        params=params,
    ).to(device)
    code = model.appearance(photo, torch.zeros(1, model.head.num_vertices, 3, device=device))
    render = torch.compile(model.render) if compiled else model.render
    vertices = model.render(code, photo.params, (SIZE, SIZE)).vertices_px

    def seconds(function: object, *arguments: object) -> float:
        assert callable(function)
        for _ in range(3):
            function(*arguments)
        synchronize(device)
        start = time.perf_counter()
        for _ in range(PICTURES):
            function(*arguments)
        synchronize(device)
        return (time.perf_counter() - start) / PICTURES

    whole = seconds(render, code, photo.params, (SIZE, SIZE))
    faces = seconds(model.rasterizer.face_ids, vertices, model.head.faces.int(), (SIZE, SIZE))
    return {"pictures_per_s": 1 / whole, "share_of_visibility": faces / whole}


def steps(options: argparse.Namespace) -> list[tuple[str, list[str]]]:
    """Name and command of each step except the last, in order."""
    python, here = sys.executable, str(Path(__file__))
    device = ["--device", options.device]
    mark = ["-m", "gpu"] if options.device == "cuda" else ["-m", "not slow"]
    tested = [
        "tests/renderer/test_visibility.py",
        "tests/losses/test_cuda.py",
        "tests/training/test_execution.py",
    ]
    commands = [("equal to the CPU, no waiting", [python, "-m", "pytest", "-q", *mark, *tested])]
    for config in CONFIGS:
        for name, precision in VARIANTS.items():
            measured = [python, here, *device, "--measure", "step", config, precision]
            commands.append((f"training step, {config}, {name}", measured))
    for name, value in (("plain", "0"), ("compiled", "1")):
        commands.append((f"pictures, {name}", [python, here, *device, "--measure", "pictures", value]))
    peers = [python, "benchmarks/run.py", *device, "--only", "renderer", "--history", str(options.output)]
    return [*commands, ("renderer beside its peers", peers)]


def training(options: argparse.Namespace, seconds: int) -> list[str]:
    """The command that trains the shipped model for the remaining time."""
    data = (
        ["--data.init_args.manifests=null", f"--data.init_args.manifest={options.data}"]
        if options.data
        else ["--data=datamodules.synthetic.SyntheticDataModule", f"--data.init_args.image_size={SIZE}"]
    )
    left = f"00:{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return [
        sys.executable, "-m", "rome_lightning", "fit", "--config", "open/base", *data,
        f"--run_dir={options.output / 'training'}", "--wandb=disabled", f"--trainer.max_time={left}",
        f"--trainer.accelerator={'gpu' if options.device == 'cuda' else 'cpu'}", "--trainer.devices=1",
    ]  # fmt: skip


def run(name: str, command: list[str], seconds: float, log: Path) -> dict[str, object]:
    """Run one step with its output in ``log``; its last line of JSON is its result."""
    started = time.monotonic()
    with log.open("w") as output:
        try:
            done = subprocess.run(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, timeout=seconds)
            state = "ok" if done.returncode == 0 else f"exit code {done.returncode}"
        except subprocess.TimeoutExpired:
            state = "stopped at its time limit"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    result: dict[str, object] = {"state": state, "seconds": round(time.monotonic() - started, 1)}
    if lines and lines[-1].startswith("{"):
        result |= json.loads(lines[-1])
    elif lines:
        result["last_line"] = lines[-1]
    print(f"{name}: {result}", flush=True)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=int, default=480, help="total time")
    parser.add_argument("--data", type=Path, help="shards to train on (default: synthetic heads)")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "gpu_check")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU is visible; --device cpu tries the same steps on a CPU")
    if options.measure:
        what, *rest = options.measure
        values = (
            training_steps(*rest, options.device)
            if what == "step"
            else pictures(rest[0] == "1", options.device)
        )
        print(json.dumps(values))
        return 0
    options.output = options.output.resolve()
    options.output.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + options.seconds
    results: dict[str, object] = {}

    def record(name: str, command: list[str], seconds: float) -> None:
        log = options.output / f"{len(results):02}.log"
        results[name] = run(name, command, max(1.0, seconds), log)
        (options.output / "results.json").write_text(json.dumps(results, indent=1))

    for name, command in steps(options):
        # No step takes more than a fifth of the time, so that enough is left for training.
        record(name, command, min(options.seconds / 5, end - time.monotonic()))
    left = int(end - time.monotonic())
    if left > 60:
        record("training", training(options, left - 30), left + 30)
    return 0


if __name__ == "__main__":
    sys.exit(main())
