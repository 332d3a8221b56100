"""Import time of the package, compared with Lightning alone.

    python benchmarks/imports.py [--runs 5]

Each run is a separate process; times are CPU time, after one run to warm the file cache.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys

from figures import Figure, arguments, finish

COMMANDS = {
    "import lightning": ["-c", "import lightning"],
    "import of the package": ["-c", "import rome_lightning"],
    "import of training": ["-c", "import rome_lightning.training"],
    "rome --help": ["-m", "rome_lightning", "--help"],
    "rome fit --help": ["-m", "rome_lightning", "fit", "--help"],
}
GOALS = {
    "import of the package": 1 / 1.3,
    "import of training": 1 / 1.3,
    "rome --help": 1 / 1.5,
    "rome fit --help": 1 / 1.5,
}
"""Targets: at most 1.3 and 1.5 times as long as `import lightning`."""


def processor_ms(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1e3 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for run in range(options.runs + 1):
        for name, command in COMMANDS.items():
            taken = processor_ms(command)
            if run:
                times[name].append(taken)
    medians = {name: statistics.median(values) for name, values in times.items()}
    anchor = medians.pop("import lightning")
    figures = [
        Figure(name, "a process", taken, {"import lightning": anchor}, {"import lightning": GOALS[name]})
        for name, taken in medians.items()
    ]
    return finish(figures, options)


if __name__ == "__main__":
    sys.exit(main())
