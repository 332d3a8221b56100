"""``rome export-onnx``: a model's networks as ONNX files, checked with onnxruntime."""

from __future__ import annotations

from pathlib import Path

from rome_lightning.cli.parsing import StrictParser
from rome_lightning.cli.progress import shown


def build_parser() -> StrictParser:
    """Options of the command."""
    parser = StrictParser(
        prog="rome export-onnx",
        description="Write the networks of a model (texture, offsets, deferred renderer and, if there is "
        "one, the driver's encoder) as ONNX files for batch 1, with head.npz and a model.json that "
        "describes the steps between them. Rasterization is not exported. The command runs every file with "
        "onnxruntime and compares it with PyTorch.",
    )
    parser.add_argument(
        "checkpoint", help="Model of `rome fit`, full or linear, or the name of a shipped one."
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="Folder for the files.")
    parser.add_argument(
        "--torch-export", action="store_true", help="Also write each network as a PyTorch program (.pt2)."
    )
    return parser


def main(argv: list[str]) -> int:
    """Run the command; ``argv`` is what follows ``rome export-onnx``."""
    args = build_parser().parse_args(argv)
    from rome_lightning.export.onnx import export_networks
    from rome_lightning.models.shipped import open_model

    model = open_model(args.checkpoint, rasterizer="torch")
    with shown("writing and checking the networks"):
        differences = export_networks(model, model.image_size, args.output, args.torch_export)
    for name, difference in differences.items():
        path = args.output / f"{name}.onnx"
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, differs from PyTorch by at most {difference:.1e}")
    return 0
