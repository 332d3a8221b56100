"""All figures of the performance page in one table, stored as JSON with earlier ones.

    make bench                    (minutes, on a CPU)
    make bench-gpu                (on a machine with a GPU)
    python benchmarks/run.py [--device cuda] [--only NAME...] [--release CHECKOUT] [--without PEER...]

Each script runs in its own process and measures our code and its peers alternately. The result is written
to `benchmarks/history/` and compared with the newest earlier one of the same processor or GPU: a figure that
lost more than a fifth of its lead over its peers is named at the end.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from figures import ROOT, Figure, commit, machine, table

HISTORY = ROOT / "benchmarks" / "history"
LOSS = 0.8
"""A lead below this share of the earlier one counts as a regression."""

CPU = {
    "renderer": [
        ["--threads", "1", "--size", "256"],
        ["--threads", "2", "--size", "256"],
        # PyTorch3D's CPU rasterizer would take an hour here.
        ["--threads", "1", "--size", "512", "--without", "pytorch3d"],
        ["--threads", "2", "--size", "512", "--without", "pytorch3d"],
    ],
    "head": [["--threads", "1"], ["--threads", "2"]],
    "inference": [["--threads", "1"], ["--threads", "2", "--without", "pytorch3d"]],
    "driving": [["--threads", "1"]],
    "imports": [[]],
}
CUDA = {
    "renderer": [["--batch", "16", "--size", "512"], ["--batch", "1", "--size", "256"]],
    "head": [["--batch", "32"]],
}


def measure(script: str, settings: list[str], options: argparse.Namespace) -> list[Figure]:
    """Run one script; its other output is shown immediately."""
    given = list(options.without)
    if "--without" in settings:
        at = settings.index("--without")
        settings, given = settings[:at], given + settings[at + 1 :]
    command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), *settings]
    command += ["--device", options.device, *(["--without", *given] if given else [])]
    if script == "inference" and options.release:
        command += ["--release", str(options.release)]
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "figures.json")
        print("==", script, *settings, flush=True)
        subprocess.run([*command, "--json", str(result)], check=True)
        return [Figure(**item) for item in json.loads(result.read_text())]


def earlier(where: Path, device: str, this: dict[str, object]) -> dict[tuple[str, str], Figure]:
    """The newest figures in a folder for the same kind of machine, by name and setting."""
    found: dict[tuple[str, str], Figure] = {}
    key = "gpu" if device == "cuda" else "processor"
    for path in sorted(where.glob("*.json")):
        record = json.loads(path.read_text())
        if record["device"] == device and record["machine"][key] == this[key]:
            # Later files replace figures that they measured again.
            found |= {
                (item.name, item.setting): item for item in (Figure(**row) for row in record["figures"])
            }
    return found


def regressions(figures: list[Figure], before: dict[tuple[str, str], Figure]) -> list[str]:
    """Figures whose lead over a peer has shrunk; on a busy machine leads are more stable than times."""
    lines = []
    for item in figures:
        old = before.get((item.name, item.setting))
        for peer in item.peers if old else ():
            if peer in old.peers and item.ratio(peer) < LOSS * old.ratio(peer):
                change = f"{old.ratio(peer):.3g} to {item.ratio(peer):.3g} times {peer}"
                lines.append(f"{item.name} ({item.setting}): {change}, {old.ours:.3g} to {item.ours:.3g} ms")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", nargs="*", help="scripts to run")
    parser.add_argument("--without", nargs="*", default=[], help="peers to skip")
    parser.add_argument("--release", type=Path, help="checkout of the public ROME release")
    parser.add_argument("--history", type=Path, default=HISTORY, help="folder of the results")
    options = parser.parse_args()
    scripts = CUDA if options.device == "cuda" else CPU
    unknown = sorted(set(options.only or ()) - scripts.keys())
    if unknown:
        parser.error(f"no script {', '.join(unknown)} for this device; known: {', '.join(scripts)}")
    figures = [
        item
        for script, runs in scripts.items()
        if not options.only or script in options.only
        for settings in runs
        for item in measure(script, settings, options)
    ]
    this = machine()
    before = earlier(options.history, options.device, this)
    now = datetime.datetime.now(datetime.UTC)
    print(
        f"\n{this['gpu'] if options.device == 'cuda' else this['processor']}, {this['cores']} cores, "
        f"Python {this['python']}, " + ", ".join(f"{k} {v}" for k, v in this["versions"].items())
    )
    print(f"commit {commit()}, {now:%Y-%m-%d %H:%M} UTC\n")
    print(table(figures, {key: item.ours for key, item in before.items()}))
    lost = regressions(figures, before)
    if lost:
        print("\nslower against their peers than in the last run of this machine:")
        print("\n".join(f"- {line}" for line in lost))
    options.history.mkdir(parents=True, exist_ok=True)
    slug = re.sub(r"[^a-z0-9]+", "-", f"{options.device} {commit()}".lower()).strip("-")
    path = options.history / f"{now:%Y%m%d-%H%M}-{slug}.json"
    record = {
        "date": now.isoformat(timespec="seconds"),
        "commit": commit(),
        "device": options.device,
        "machine": this,
        "figures": [asdict(item) for item in figures],
    }
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\nwritten to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
