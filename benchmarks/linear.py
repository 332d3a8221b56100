"""Time of the linear model against full models, in one run.

    python benchmarks/linear.py [--threads 1] [--repeats 5] [--image-size 256] [--device cpu]

Mesh reconstruction (a photo and its parameters to the mesh with hair): the paper claims "up to 10 times";
goal 20 against the released architecture. Driving one more frame with known parameters: at least 3 times
faster than the networks of the released architecture, and at least 40 times faster than its inference path
as a whole, 36.2 s per frame measured with PyTorch3D's CPU rasterizer. Weights are random: they do not
change the time.
"""

from __future__ import annotations

import argparse
import dataclasses

import torch

from datamodules.synthetic import SyntheticHeads
from rome_lightning.distillation.measures import stage_times
from rome_lightning.head import load_head
from rome_lightning.models import (
    AvatarConfig,
    AvatarModel,
    BasisConfig,
    DeferredRendererConfig,
    DriverConfig,
    OffsetConfig,
    TextureConfig,
)
from rome_lightning.types import Frames

RELEASE_FRAME_S = 36.2
"""CPU seconds of a further frame of the released inference path (eight rasterizations and its networks)."""

RELEASE = AvatarConfig(
    texture=TextureConfig(source="direct", width=256, mirror=False),
    offsets=OffsetConfig(
        direction="elementwise",
        expression_dependent=True,
        network="release",
        uv_size=256,
        width=128,
        mlp_width=256,
    ),
    decoder=DeferredRendererConfig(
        carry=False, network="release", width=128, extend_outside=False, residual=False
    ),
)
BASE = AvatarConfig(
    texture=TextureConfig(size=256, width=24, num_levels=5),
    offsets=OffsetConfig(uv_size=128, width=24, mlp_width=128),
    decoder=DeferredRendererConfig(width=32, num_levels=5),
)
SMALL = AvatarConfig(
    texture=TextureConfig(size=128, width=16, num_levels=4),
    offsets=OffsetConfig(uv_size=64, width=16, mlp_width=64),
    decoder=DeferredRendererConfig(width=16, num_levels=4, normal_frequencies=2),
)


def linear(full: AvatarConfig, encoder: str, driver: str, input_size: int) -> AvatarConfig:
    return dataclasses.replace(
        full,
        offsets=dataclasses.replace(full.offsets, kind="basis", expression_dependent=False),
        basis=BasisConfig(encoder=encoder, input_size=input_size),  # type: ignore[arg-type]
        driver=DriverConfig(encoder=driver, input_size=input_size),  # type: ignore[arg-type]
    )


def models() -> dict[str, AvatarConfig]:
    """The experiment files of the same names, and the released architecture."""
    return {
        "full, released architecture": RELEASE,
        "full, base.yaml": BASE,
        "full, cpu.yaml": SMALL,
        "linear, base.yaml": linear(BASE, "resnet50", "mobilenet_v2", 256),
        "linear, light.yaml": linear(BASE, "mobilenet_v3_small", "mobilenet_v3_small", 128),
        "linear, cpu.yaml": linear(SMALL, "mobilenet_v3_small", "mobilenet_v3_small", 128),
    }


def source_frame(image_size: int, device: str) -> Frames:
    frames, _ = SyntheticHeads(load_head("open"), image_size).draw([0], [0])
    return frames.to(device)


def measure(config: AvatarConfig, source: Frames, repeats: int) -> dict[str, float]:
    torch.manual_seed(0)
    model = AvatarModel(config).to(source.image.device).eval().requires_grad_(False)
    return stage_times(model, source, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    source = source_frame(args.image_size, args.device)
    stages = (
        "mesh of a photo",
        "avatar of a photo",
        "mesh of a frame",
        "whole frame",
        "parameters of a frame",
    )
    print(f"milliseconds, {args.image_size} px, {args.threads} thread(s), {args.device}")
    print(f"{'':30}" + "".join(f"{stage:>24}" for stage in stages))
    times = {}
    for name, config in models().items():
        times[name] = measure(
            config, source, 1 if config is RELEASE and args.device == "cpu" else args.repeats
        )
        cells = [f"{times[name][stage]:.1f}" if stage in times[name] else "-" for stage in stages]
        print(f"{name:30}" + "".join(f"{cell:>24}" for cell in cells), flush=True)
    print("\nmesh reconstruction, full : linear (goal at least 10, aim 20)")
    for full in ("full, released architecture", "full, base.yaml", "full, cpu.yaml"):
        for other in ("linear, base.yaml", "linear, light.yaml", "linear, cpu.yaml"):
            ratio = times[full]["mesh of a photo"] / times[other]["mesh of a photo"]
            print(f"  {full:28} : {other:20} {ratio:8.1f}")
    print("\none more frame, parameters known")
    for name in ("linear, base.yaml", "linear, light.yaml", "linear, cpu.yaml"):
        networks = times["full, released architecture"]["whole frame"] / times[name]["whole frame"]
        whole = 1e3 * RELEASE_FRAME_S / times[name]["whole frame"]
        rate = 1e3 / (times[name]["whole frame"] + times[name]["parameters of a frame"])
        print(
            f"  {name:20} {networks:6.1f} x the released networks (goal 3), {whole:8.0f} x the released path "
            f"as a whole (goal 40); {rate:.1f} frames/s with the driver encoder"
        )


if __name__ == "__main__":
    main()
