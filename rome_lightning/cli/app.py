"""``rome app``: a page that makes avatars."""

from __future__ import annotations

import sys
from pathlib import Path

from rome_lightning.cli.parsing import StrictParser


def build_parser() -> StrictParser:
    """Options of the command."""
    parser = StrictParser(
        prog="rome app",
        description="Serve a page on this machine that creates, drives and exports avatars. Needs `pip "
        "install rome-lightning[app]`.",
    )
    parser.add_argument("--port", type=int, default=7860, help="Port (default: 7860; 0: any free one).")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="Address to listen on (default: this machine only); 0.0.0.0 lets everyone on the network use "
        "it.",
    )
    parser.add_argument(
        "--checkpoint",
        help="Name of a shipped model, or a checkpoint of `rome fit` (default: the shipped model).",
    )
    parser.add_argument(
        "--basis", type=Path, help="Basis written by `rome distill basis`: sliders for hair and shoulders."
    )
    parser.add_argument(
        "--max-seconds",
        type=float,
        default=20.0,
        help="Length of a driving video that is used (default: 20).",
    )
    parser.add_argument(
        "--max-megabytes", type=int, default=64, help="Size limit of an uploaded file (default: 64)."
    )
    return parser


def main(argv: list[str]) -> int:
    """Run the command; ``argv`` is what follows ``rome app``."""
    args = build_parser().parse_args(argv)
    if args.max_seconds <= 0 or args.max_megabytes <= 0:
        raise ValueError("--max-seconds and --max-megabytes must be positive")
    from rome_lightning.viewer.app import build_app, launch, load_gradio
    from rome_lightning.viewer.studio import Limits

    load_gradio()
    limits = Limits(max_seconds=args.max_seconds, max_megabytes=args.max_megabytes)
    app = build_app(args.checkpoint, limits, args.basis)
    where = Path(args.checkpoint).name if args.checkpoint else "the shipped model"
    address = launch(app, args.host, args.port, limits)
    print(f"serving {where} at {address} (Ctrl-C ends it)", file=sys.stderr, flush=True)
    app.block_thread()
    return 0
