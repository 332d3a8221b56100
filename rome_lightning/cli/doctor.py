"""``rome doctor``: shows what works on this machine, what does not, and what that prevents."""

from __future__ import annotations

import io
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Literal

from rome_lightning.cli.parsing import StrictParser
from rome_lightning.cli.progress import counted

State = Literal["ok", "note", "broken"]


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    group: str
    name: str
    state: State
    """``note``: something optional or downloadable is missing; ``broken`` must be repaired."""
    detail: str


def _parser() -> StrictParser:
    parser = StrictParser(
        prog="rome doctor",
        description="Checks versions, torch and torchvision, devices, renderer backends, assets, the video "
        "encoder and the package clients. Downloads nothing. Exit code 1 if something needed is broken.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def check_packages() -> Iterator[Check]:
    """Python, and each requirement of the package in its installed version."""
    from packaging.requirements import Requirement

    yield Check("versions", "python", "ok", f"{platform.python_version()} on {platform.platform()}")
    try:
        wanted = [Requirement(text) for text in requires("rome-lightning") or []]
        yield Check("versions", "rome-lightning", "ok", version("rome-lightning"))
    except PackageNotFoundError:
        yield Check("versions", "rome-lightning", "broken", "not installed; run `pip install -e .`")
        return
    for requirement in wanted:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        yield _check_package(requirement.name, str(requirement.specifier), requirement.specifier.contains)


def _check_package(name: str, wanted: str, accepts: Callable[..., bool]) -> Check:
    try:
        installed = version(name)
    except PackageNotFoundError:
        return Check("versions", name, "broken", f"missing, wanted {wanted or 'any'}; `pip install {name}`")
    if not accepts(installed, prereleases=True):
        return Check(
            "versions", name, "broken", f"{installed}, wanted {wanted}; `pip install '{name}{wanted}'`"
        )
    return Check("versions", name, "ok", installed)


def check_torch() -> Iterator[Check]:
    """Whether torch and torchvision match, and which devices they see."""
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Check("torch", "torch", "broken", f"does not import: {error}")
        return
    yield Check("torch", "torch", "ok", f"{torch.__version__}, CUDA build: {torch.version.cuda or 'no'}")
    try:
        import torchvision
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        # A CPU build beside a CUDA build fails at registration (torchvision::nms), and then lightning fails
        # too.
        reason = str(error).splitlines()[0]
        yield Check(
            "torch",
            "torchvision",
            "broken",
            f"{reason}; it does not match torch: `pip install --force-reinstall torch torchvision`",
        )
    else:
        yield Check("torch", "torchvision", "ok", f"{torchvision.__version__}, matches torch")
    yield Check(
        "devices", "cpu", "ok", f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads"
    )
    for index in range(torch.cuda.device_count()):
        memory_gib = torch.cuda.get_device_properties(index).total_memory / 2**30
        yield Check(
            "devices", f"cuda:{index}", "ok", f"{torch.cuda.get_device_name(index)}, {memory_gib:.0f} GiB"
        )
    if torch.cuda.device_count() == 0:
        yield Check("devices", "cuda", "note", "none; training runs on the CPU, in small configurations only")


def check_renderer() -> Iterator[Check]:
    """Each rasterizer backend; at least one must work."""
    try:
        from rome_lightning.renderer import available_rasterizers

        states = available_rasterizers()
    except ImportError as error:
        yield Check("renderer", "backends", "broken", f"does not import: {error}")
        return
    for name, state in states.items():
        yield Check("renderer", name, "ok" if state == "ok" else "note", state)
    if "ok" not in states.values():
        yield Check("renderer", "backends", "broken", "none works; nothing can be rendered")


def check_assets() -> Iterator[Check]:
    """Each asset, and what a missing one prevents."""
    from rome_lightning.assets import asset_status, cache_folder

    for status in asset_status():
        asset = status.asset
        if status.state == "damaged":
            yield Check(
                "assets", asset.name, "broken", f"{status.path} has the wrong content; delete the file"
            )
        elif status.path is not None:
            yield Check("assets", asset.name, "ok", str(status.path))
        elif asset.sources:
            detail = f"fetched when first needed, for {asset.needed_for}"
            remedy = f"to fetch it now: `rome assets fetch {asset.name}`"
            yield Check("assets", asset.name, "note", f"{detail}; {remedy}")
        else:
            detail = f"missing, prevents: {asset.needed_for}; get it from {asset.page}"
            yield Check("assets", asset.name, "note", detail)
    folder = cache_folder()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if os.access(existing, os.W_OK):
        free_gib = shutil.disk_usage(existing).free / 2**30
        yield Check("assets", "cache", "ok", f"{folder}, {free_gib:.0f} GiB free")
    else:
        yield Check("assets", "cache", "broken", f"{folder} cannot be written; set ROME_CACHE")


def check_video() -> Iterator[Check]:
    """Whether PyAV can write the H.264 that browsers play, by writing it."""
    try:
        import av
        import numpy as np

        buffer = io.BytesIO()
        with av.open(buffer, "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width = stream.height = 64
            stream.pix_fmt = "yuv420p"
            for _ in range(2):
                frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    except ImportError as error:
        yield Check("video", "pyav", "broken", f"does not import: {error}; `pip install av`")
    except (OSError, ValueError) as error:
        yield Check(
            "video", "h264", "broken", f"PyAV {av.__version__} cannot write H.264 ({error}); reinstall av"
        )
    else:
        yield Check("video", "h264", "ok", f"PyAV {av.__version__} writes H.264")


def check_clients() -> Iterator[Check]:
    """The package clients that can download assets."""
    from rome_lightning.assets.transport import find_npm, find_pip

    for name, command in (("pip", find_pip()), ("npm", find_npm())):
        if command is None:
            yield Check(
                "clients", name, "note", f"missing; assets from {name} packages must come from elsewhere"
            )
        else:
            yield Check("clients", name, "ok", " ".join(command))


CHECKS: tuple[Callable[[], Iterator[Check]], ...] = (
    check_packages,
    check_torch,
    check_renderer,
    check_assets,
    check_video,
    check_clients,
)


def _print_table(checks: list[Check]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("", "check", "", "detail", box=None, pad_edge=False)
    colours = {"ok": "green", "note": "yellow", "broken": "red"}
    group = ""
    for check in checks:
        colour = colours[check.state]
        shown = "" if check.group == group else check.group
        table.add_row(f"[bold]{shown}[/]", check.name, f"[{colour}]{check.state}[/]", Text(check.detail))
        group = check.group
    console = Console(width=None if sys.stdout.isatty() else 240)
    with console.capture() as captured:
        console.print(table, highlight=False)
    # The table fills its last column with spaces.
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def main(argv: list[str]) -> int:
    """Run ``rome doctor``.

    Args:
        argv: arguments after ``rome doctor``.

    Returns:
        1 if something needed is broken, else 0.
    """
    options = _parser().parse_args(argv)
    checks = [check for find in counted(CHECKS, "checking", len(CHECKS)) for check in find()]
    broken = [check for check in checks if check.state == "broken"]
    if options.json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        _print_table(checks)
        print(
            f"{len(broken)} broken: {', '.join(check.name for check in broken)}"
            if broken
            else "nothing broken"
        )
    return 1 if broken else 0
