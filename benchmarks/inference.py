"""Networks and frames at inference, compared with the released networks in eager float32 and their pipeline.

    python benchmarks/inference.py [--threads 1] [--release CHECKOUT] [--without pytorch3d]

`--release` names a clone of the public release, see `released.py`; without it the networks of the same
architecture are measured as trained. The released pipeline as a whole needs licensed files: its time here is
that of its networks and its eight rasterizations per frame, measured with PyTorch3D in the same run; both
sides skip the tracker. Their images are compared too. Weights are random, which does not change the time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from figures import Figure, arguments, figure, finish, installed, median_ms
from linear import BASE, RELEASE, SMALL, source_frame
from released import SIZE, Released, released_networks
from scene import make_scene

from rome_lightning.models import AvatarConfig, AvatarModel, for_inference

RASTERIZATIONS = 8
"""Of one frame of the release; each is counted as the cheapest kind, hard with one face per pixel."""


def network_figures(released: Released, fast: AvatarModel, options: argparse.Namespace) -> list[Figure]:
    """The encoder and the image network alone."""
    source, features = torch.rand(1, 4, SIZE, SIZE), torch.rand(1, 47, SIZE, SIZE)
    setting = f"1 x {SIZE} px, {options.threads} thread(s)"
    figures = []
    for name, ours, theirs, inputs, operations in (
        ("texture encoder", fast.texture_model.encoder, released.encoder, source, 249.5e9),
        ("image U-Net", fast.renderer.network, released.image, features, 196.9e9),
    ):
        functions = {
            "ours": partial(ours, inputs),
            released.source: partial(theirs, inputs),
            "bound of direct convolution": _convolutions(operations),
        }
        figures.append(figure(name, setting, functions, {released.source: 2}, budget_s=12, most=7))
    return figures


def _convolutions(operations: float) -> Callable[[], None]:
    """The network's number of operations as 3x3 convolutions of the library's fastest kind."""
    conv = torch.nn.Conv2d(256, 256, 3, padding=1, bias=False).to(memory_format=torch.channels_last)
    image = torch.rand(1, 256, 64, 64).contiguous(memory_format=torch.channels_last)
    times = round(operations / (2 * conv.weight.numel() * 64 * 64))

    def convolutions() -> None:
        for _ in range(times):
            conv(image)

    return convolutions


def frame_figures(released: Released, config: AvatarConfig, options: argparse.Namespace) -> list[Figure]:
    """First and further frames of the released architecture, without the tracker."""
    source = source_frame(SIZE, "cpu")
    model = AvatarModel(config).eval()
    fast = for_inference(model)
    code = fast.encode(source)
    params, size = source.params, source.image_size
    features, grids = torch.rand(1, 47, SIZE, SIZE), torch.rand(5023, 58)

    def networks_of_a_frame() -> None:
        released.geometry(features)
        released.vertex(grids)
        released.image(features)

    def first_networks() -> None:
        released.encoder(features[:, :4])
        networks_of_a_frame()

    def first() -> None:
        fast.render(fast.encode(source), params, size)

    missing, rasterizations = _rasterizations(options)
    figures = []
    for name, ours, theirs, goal in (
        ("first frame", first, first_networks, 10),
        ("further frame", lambda: fast.render(code, params, size), networks_of_a_frame, 20),
    ):
        setting = f"released architecture, {SIZE} px, {options.threads} thread(s)"
        sides = {"ours": ours, released.source: theirs}
        item = figure(name, setting, sides, {released.source: 2}, budget_s=12, most=5)
        if rasterizations is not None:
            item.peers["released pipeline"] = item.peers[released.source] + rasterizations
        item.goals["released pipeline"] = goal
        item.missing = {} if missing is None else {"released pipeline": missing}
        figures.append(item)
    plain = model.render(code, params, size).image
    difference = fast.render(code, params, size).image - plain
    figures[-1].note = _sameness(difference)
    return figures


def _rasterizations(options: argparse.Namespace) -> tuple[str | None, float | None]:
    """Milliseconds of the release's rasterizations of one frame, or the reason why they are unknown."""
    missing = installed("pytorch3d", "PyTorch3D is not installed", options)
    if missing is not None:
        return missing, None
    from renderer import pytorch3d

    one = pytorch3d(make_scene("open", SIZE, 1, "cpu"))["visibility"]
    return None, RASTERIZATIONS * median_ms({"one": one}, fewest=2, budget_s=1)["one"]


def _sameness(difference: torch.Tensor) -> str:
    error = difference.square().mean().clamp_min(1e-20)
    return (
        f"same pictures: largest difference {difference.abs().max():.1e}, PSNR {-10 * error.log10():.0f} dB"
    )


def our_figures(options: argparse.Namespace) -> list[Figure]:
    """A further frame of our own configurations, compared with the same networks as trained."""
    figures = []
    for name, config, size in (("base.yaml", BASE, 256), ("cpu.yaml", SMALL, 128)):
        source = source_frame(size, "cpu")
        model = AvatarModel(config).eval()
        # Zero at the start of training, when all networks give the same image.
        torch.nn.init.normal_(model.renderer.network.head.weight, std=0.05)
        fast, code = for_inference(model), model.encode(source)
        inputs = (code, source.params, source.image_size)
        item = figure(
            "further frame",
            f"{name}, {size} px, {options.threads} thread(s)",
            {"ours": partial(fast.render, *inputs), "networks as trained": partial(model.render, *inputs)},
            {},
        )
        item.note = _sameness(fast.render(*inputs).image - model.render(*inputs).image)
        figures.append(item)
    return figures


@torch.no_grad()
def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--release", type=Path, help="checkout of the public release")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    released = released_networks(options.release)
    figures = network_figures(released, for_inference(AvatarModel(RELEASE).eval()), options)
    figures += frame_figures(released, RELEASE, options)
    return finish(figures + our_figures(options), options)


if __name__ == "__main__":
    sys.exit(main())
