"""One training step of generator and discriminator, against the equivalent step of the release.

    python benchmarks/training_step.py --release CHECKOUT [--config experiments/rome/paper.yaml]

``CHECKOUT`` is a clone of the public release (https://github.com/SamsungLabs/rome, non-commercial); its
network classes are imported from there, with random weights; none of its code is here. Its loss networks are
torchvision's VGG-19 and ResNet-50, as in the release; what lies between the networks (sampling the texture,
moving the vertices) is written out as the release does it. Its rasterizations are timed separately, with
PyTorch3D if that is installed: hard with one face per pixel and soft with ten, as often as in the release.
Each side runs in its own process, so that peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from released import SIZE, released_networks
from torch import Tensor, nn
from torch.nn import functional as F

HARD_RASTERIZATIONS, SOFT_RASTERIZATIONS = 9, 5
"""Of one training step of the release: four pictures of the shape, three UV maps and two passes are hard,
the renderer is called five times with a soft rasterization."""


def cpu_seconds(step: Callable[[], None], repeats: int) -> list[float]:
    """CPU seconds of each repetition after one warm-up."""
    step()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    return times


def release_networks(checkout: Path) -> Callable[[], None]:
    """A step of the release's networks and losses, without its rasterizations and its tracker."""
    networks = released_networks(checkout)
    encoder, geometry, image, vertex = networks.encoder, networks.geometry, networks.image, networks.vertex
    from src.networks.multiscale_discriminator import MultiScaleDiscriminator  # type: ignore[import-not-found]
    from src.utils.harmonic_encoding import harmonic_encoding  # type: ignore[import-not-found]
    from torchvision.models import resnet50, vgg19

    discriminator = MultiScaleDiscriminator(64, 512, 4, 3, SIZE, 1)
    generator = nn.ModuleList([encoder, geometry, image, vertex])
    features = vgg19(weights=None).features.eval().requires_grad_(False)
    identity = resnet50(weights=None).eval().requires_grad_(False)
    optimizers = [
        torch.optim.Adam(generator.parameters(), 1e-4, betas=(0.0, 0.999)),
        torch.optim.Adam(discriminator.parameters(), 4e-4, betas=(0.0, 0.999)),
    ]
    draw = torch.Generator().manual_seed(0)
    source, target = (
        torch.rand(1, 4, SIZE, SIZE, generator=draw),
        torch.rand(1, 3, SIZE, SIZE, generator=draw),
    )
    positions, normals = (torch.rand(1, SIZE, SIZE, 3, generator=draw) for _ in range(2))
    uv = torch.rand(1, SIZE, SIZE, 2, generator=draw) * 2 - 1
    vertex_uv = torch.rand(1, 5023, 1, 2, generator=draw) * 2 - 1

    def vgg(x: Tensor) -> list[Tensor]:
        found = []
        for index, layer in enumerate(features[:30]):
            x = layer(x)
            if index in (1, 6, 11, 20, 29):
                found.append(x)
        return found

    def encoded(x: Tensor) -> Tensor:
        return harmonic_encoding(x).permute(0, 3, 1, 2)

    def scores_and_features(picture: Tensor) -> tuple[Tensor, list[Tensor]]:
        scores, found = discriminator(picture)
        return scores[0][0], [block[0] for block in found[0]]

    def step() -> None:
        texture = encoder(source)
        latent = geometry(torch.cat([texture.detach(), encoded(positions)], 1))
        sampled = F.grid_sample(latent, vertex_uv, align_corners=False)[..., 0].permute(0, 2, 1)
        per_vertex = torch.cat([sampled, harmonic_encoding(vertex_uv[:, :, 0])], -1)
        offsets = vertex(per_vertex.view(-1, 58)).tanh()
        rendered = F.grid_sample(texture, uv, align_corners=False)
        drawn = image(torch.cat([rendered, encoded(normals)], 1))
        picture, mask = drawn[:, :3].sigmoid(), drawn[:, 3:].sigmoid()
        with torch.no_grad():
            wanted = vgg(target)
            known = identity(F.interpolate(target, (224, 224)))
        loss = offsets.square().mean() + mask.square().mean()
        for weight, ours, theirs in zip((1 / 32, 1 / 16, 1 / 8, 1 / 4, 1), vgg(picture), wanted, strict=True):
            loss = loss + weight * (ours - theirs).abs().mean()
        embedding = identity(F.interpolate(picture, (224, 224)))
        loss = loss + 0.1 * (1 - F.cosine_similarity(embedding, known).mean())
        fake, fake_features = scores_and_features(picture)
        with torch.no_grad():
            _, real_features = scores_and_features(target)
        loss = loss - 0.1 * fake.mean()
        for ours, theirs in zip(fake_features, real_features, strict=True):
            loss = loss + (ours - theirs).abs().mean()
        optimizers[0].zero_grad()
        loss.backward()
        optimizers[0].step()
        real, fake = scores_and_features(target)[0], scores_and_features(picture.detach())[0]
        optimizers[1].zero_grad()
        ((1 - real).relu().mean() + (1 + fake).relu().mean()).backward()
        optimizers[1].step()

    return step


def release_rasterizations() -> Callable[[], None]:
    """The rasterizations of one step, forward and backward, with the release's settings in PyTorch3D."""
    from pytorch3d.renderer.mesh import rasterize_meshes  # type: ignore[import-not-found]
    from pytorch3d.structures import Meshes  # type: ignore[import-not-found]

    vertices, faces = posed_head()

    def step() -> None:
        points = vertices.clone().requires_grad_()
        for _ in range(HARD_RASTERIZATIONS):
            with torch.no_grad():
                rasterize_meshes(Meshes(points, faces[None]), SIZE, 0.0, 1)
        for _ in range(SOFT_RASTERIZATIONS):
            _, _, _, distances = rasterize_meshes(Meshes(points, faces[None]), SIZE, 1e-4, 10)
            (1 - torch.prod((distances / 1e-4).sigmoid(), dim=-1)).mean().backward()

    return step


def posed_head() -> tuple[Tensor, Tensor]:
    """The open head, filling the image like a face crop, in PyTorch3D's NDC."""
    from rome_lightning.head import load_head
    from rome_lightning.types import HeadParams

    head = load_head("open")
    vertices = head(HeadParams.neutral(1, head.num_shape, head.num_expression)).detach()
    centred = (vertices - vertices.mean(1, keepdim=True)) / (vertices.amax(1) - vertices.amin(1)).max() * 1.7
    return torch.stack([-centred[..., 0], centred[..., 1], 2 - centred[..., 2]], -1), head.faces.long()


def our_times(configs: list[Path], repeats: int) -> list[float]:
    """CPU seconds of each training step of ``rome fit`` on a synthetic person, data excluded."""
    from lightning import LightningModule, Trainer
    from lightning.pytorch.callbacks import Callback

    from datamodules.base import RomeDataModule
    from rome_lightning.cli.fit import RomeCLI
    from rome_lightning.training import RomeModule

    class Clock(Callback):
        def __init__(self) -> None:
            self.times: list[float] = []

        def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
            self.start = time.process_time()

        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
            self.times.append(time.process_time() - self.start)

    with tempfile.TemporaryDirectory() as folder:
        clock = Clock()
        RomeCLI(
            RomeModule, RomeDataModule, subclass_mode_model=True, subclass_mode_data=True,
            auto_configure_optimizers=False, save_config_callback=None,
            trainer_defaults={"callbacks": [clock]}, parser_kwargs={"exit_on_error": False},
            args=[
                "fit", *(part for config in configs for part in ("--config", str(config))),
                "--data=datamodules.synthetic.SyntheticDataModule", f"--data.init_args.image_size={SIZE}",
                "--data.init_args.batch_size=1", "--data.init_args.num_driving=1",
                f"--data.init_args.pairs_per_epoch={repeats + 1}", f"--run_dir={folder}/run",
                "--wandb=disabled",
                "--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.max_epochs=1",
                "--trainer.limit_val_batches=0", "--trainer.callbacks=[]",
                "--trainer.enable_checkpointing=false", "--trainer.enable_progress_bar=false",
                "--trainer.enable_model_summary=false",
            ],
        )  # fmt: skip
    return clock.times[1:]


def run_side(args: argparse.Namespace) -> None:
    """Measure one side in this process and print the result as JSON."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if args.side == "ours":
        times = our_times(args.config, args.repeats)
    elif args.side == "release":
        times = cpu_seconds(release_networks(args.release), args.repeats)
    else:
        times = cpu_seconds(release_rasterizations(), args.repeats)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": statistics.median(times), "peak_mb": (peak - idle) / 1024}))


def measure(side: str, args: argparse.Namespace) -> dict[str, float]:
    """Run one side in a separate process."""
    command = [sys.executable, __file__, "--side", side, "--repeats", str(args.repeats)]
    command += ["--release", str(args.release), *(part for c in args.config for part in ("--config", str(c)))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{side}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    """Print seconds, memory and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--release", type=Path, help="Checkout of the public release.")
    parser.add_argument("--config", type=Path, action="append", help="Configuration of our step, in order.")
    parser.add_argument("--repeats", type=int, default=3, help="Steps to take the median of.")
    parser.add_argument("--side", choices=("ours", "release", "rasterizations"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.config = args.config or [Path("experiments/rome/paper.yaml")]
    if args.side:
        run_side(args)
        return 0
    ours = measure("ours", args)
    print(f"ours, {' + '.join(map(str, args.config))}: {ours['seconds']:.2f} CPU s, {ours['peak_mb']:.0f} MB")
    if args.release is None:
        print("give --release CHECKOUT to compare with the public release")
        return 0
    theirs = measure("release", args)
    print(f"release, networks and losses: {theirs['seconds']:.2f} CPU s, {theirs['peak_mb']:.0f} MB")
    print(f"  ratio {theirs['seconds'] / ours['seconds']:.2f} (goal 1.3)")
    print(f"  memory, ours of theirs {ours['peak_mb'] / theirs['peak_mb']:.2f} (goal 0.6)")
    try:
        raster = measure("rasterizations", args)
    except RuntimeError as error:
        print(f"  the whole step is not compared: {error}")
        return 0
    whole = theirs["seconds"] + raster["seconds"]
    print(f"release, rasterizations: {raster['seconds']:.2f} CPU s; whole step {whole:.2f}")
    print(f"  ratio {whole / ours['seconds']:.2f} (goal 4)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
