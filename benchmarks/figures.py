"""Shared code of the benchmarks: interleaved timing, the machine, a table of all figures, their history.

A figure is our time next to the times of peers and bounds, measured in the same process. Code that runs on
one CPU thread is timed in CPU time, which other programs disturb least; everything else in wall time.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
PACKAGES = ("torch", "warp-lang", "lightning", "pytorch3d", "drtk", "deodr", "smplx", "nvdiffrast")


@dataclass
class Figure:
    """One row of the table."""

    name: str
    setting: str
    """Sizes and threads: figures are compared over time only if name and setting agree."""
    ours: float
    """Milliseconds, median."""
    peers: dict[str, float] = field(default_factory=dict)
    """Milliseconds of other implementations, median, in the same process."""
    goals: dict[str, float] = field(default_factory=dict)
    """Target speed-up over each peer."""
    missing: dict[str, str] = field(default_factory=dict)
    """Peers that could not run, with the reason."""
    note: str = ""

    def ratio(self, peer: str) -> float:
        """Speed-up over a peer."""
        return self.peers[peer] / self.ours


def median_ms(
    functions: dict[str, Callable[[], object]],
    device: str = "cpu",
    budget_s: float = 3.0,
    most: int = 60,
    fewest: int = 3,
) -> dict[str, float]:
    """Median milliseconds of each function; runs are interleaved, so that drift affects all alike.

    Args:
        functions: by name.
        device: ``cpu`` or ``cuda``; on the latter a run ends when the device is idle.
        budget_s: a function stops after this total time.
        most: maximum number of runs.
        fewest: minimum number of runs, after one warm-up.
    """
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter

    def run(function: Callable[[], object]) -> float:
        start = clock()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        return clock() - start

    times: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        run(function)
    waiting = dict(functions)
    while waiting:
        for name, function in list(waiting.items()):
            taken = times[name]
            taken.append(run(function))
            if len(taken) >= fewest and (sum(taken) > budget_s or len(taken) >= most):
                del waiting[name]
    return {name: 1e3 * statistics.median(taken) for name, taken in times.items()}


def figure(
    name: str,
    setting: str,
    functions: dict[str, Callable[[], object]],
    goals: dict[str, float],
    missing: dict[str, str] | None = None,
    note: str = "",
    **timing: object,
) -> Figure:
    """Time ``ours`` and all peers in ``functions``, interleaved."""
    times = median_ms(functions, **timing)  # type: ignore[arg-type]
    ours = times.pop("ours")
    return Figure(name, setting, ours, times, goals, missing or {}, note)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options of every benchmark."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch, on the CPU")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--without", nargs="*", default=[], help="peers to skip, e.g. slow ones")
    parser.add_argument("--json", type=Path, help="write the figures there instead of printing them")
    return parser


def finish(figures: list[Figure], options: argparse.Namespace) -> int:
    """Print the figures, or write them to the requested file."""
    if options.json:
        options.json.write_text(json.dumps([asdict(item) for item in figures]))
    else:
        print(table(figures))
    return 0


def installed(package: str, how: str, options: argparse.Namespace) -> str | None:
    """Empty if a peer can be measured, else the reason why not."""
    if package in options.without:
        return "skipped"
    return None if importlib.util.find_spec(package) else how


def machine() -> dict[str, object]:
    """Everything besides the code that figures depend on."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    """The CPU's model name, if known."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def commit() -> str:
    """Commit of the measured code, with a plus if it has changes."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")


def table(figures: Iterable[Figure], before: dict[tuple[str, str], float] | None = None) -> str:
    """All figures as Markdown.

    Args:
        figures: the rows.
        before: our earlier milliseconds by name and setting, to show the change.
    """
    lines = [
        "| figure | setting | ours, ms | against | ms | times faster | goal |",
        "|---|---|---|---|---|---|---|",
    ]
    for item in figures:
        ours = f"{item.ours:.3g}"
        if before and (item.name, item.setting) in before:
            ours += f" ({item.ours / before[item.name, item.setting] - 1:+.0%})"
        head = f"| {item.name} | {item.setting} | {ours} |"
        for peer, duration in item.peers.items():
            goal = item.goals.get(peer)
            verdict = "" if goal is None else f"{'met' if item.ratio(peer) >= goal else 'MISSED'}: {goal:.3g}"
            lines.append(f"{head} {peer} | {duration:.3g} | {item.ratio(peer):.3g} | {verdict} |")
            head = "| | | |"
        for peer, why in item.missing.items():
            lines.append(f"{head} {peer} | - | - | {why} |")
            head = "| | | |"
        if not item.peers and not item.missing:
            lines.append(f"{head} | | | |")
        if item.note:
            lines.append(f"| | *{item.note}* | | | | | |")
    return "\n".join(lines)
