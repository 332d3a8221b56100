"""The value of additional photographs of a person, on unseen frames of the same clip.

``python benchmarks/several_photos.py MANIFEST --checkpoint FILE [--split val] [--sources 1 3] [--json OUT]``

The first source is the frame whose pose is nearest to the clip's mean; further ones are the frames farthest
from those taken so far. The others, spread over the clip (or with
``--far`` those turned farthest from the first source), are reproduced; frames next to a source are left
out. PSNR, SSIM and LPIPS are of the whole image on white, means over frames, then over clips.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.manifest import Manifest
from datamodules.reading import ClipReader
from rome_lightning import assets
from rome_lightning.avatar import Avatar
from rome_lightning.metrics import load_lpips, lpips, psnr, ssim
from rome_lightning.models.checkpoint import load_avatar, read_checkpoint
from rome_lightning.types import Frames, HeadParams

HELD_OUT = 10
METRICS = ("psnr", "ssim", "lpips_alex")


def read_frames(reader: ClipReader, clip: int, numbers: list[int]) -> Frames:
    """Some frames of a clip, as stored."""
    values = {name: torch.tensor(np.array(v)) for name, v in reader.parameters(clip, numbers).items()}
    pictures = [reader.frame(clip, number) for number in numbers]
    return Frames(
        image=torch.tensor(np.stack([p.image for p in pictures])).permute(0, 3, 1, 2).float() / 255,
        foreground_mask=torch.tensor(np.stack([p.matte for p in pictures]))[:, None].float() / 255,
        regions=torch.tensor(np.stack([p.regions for p in pictures])),
        landmarks=values["landmarks"],
        params=HeadParams.from_packed(
            values["shape"], values["expression"], values["pose"], values["camera"]
        ),
    )


def choose(pose: Tensor, count: int) -> list[int]:
    """Rows of the sources."""
    chosen = [int((pose - pose.mean(0)).norm(dim=1).argmin())]
    while len(chosen) < count:
        chosen.append(int(torch.cdist(pose, pose[chosen]).min(1).values.argmax()))
    return chosen


def on_white(image: Tensor, mask: Tensor) -> Tensor:
    return torch.lerp(torch.ones_like(image), image, mask)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--sources", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--max-clips", type=int)
    parser.add_argument(
        "--least-turn", type=float, default=0.0, help="skip clips whose sources differ by fewer degrees"
    )
    parser.add_argument(
        "--far", action="store_true", help="hold out the frames farthest from the first source"
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    folder = args.manifest if args.manifest.is_dir() else args.manifest.parent
    reader = ClipReader(Manifest.load(folder), folder, args.split)
    model = load_avatar(args.checkpoint)
    size = read_checkpoint(args.checkpoint)["image_size"]
    network = load_lpips("alex", assets.resolve("lpips_alexnet"))
    rows: dict[str, dict[int, list[float]]] = {}
    for clip, plan in list(enumerate(reader.plan_clips()))[: args.max_clips]:
        valid = list(plan.frames)
        if len(valid) < 3 * max(args.sources):
            continue
        # The head's rotation is the sum of bust and neck, as small angles add up.
        packed = torch.tensor(np.array(reader.parameters(clip, valid)["pose"]))
        rotation = packed[:, :3] + packed[:, 3:6]
        order = choose(rotation, max(args.sources))
        turn = float(torch.rad2deg((rotation[order] - rotation[order[:1]]).norm(dim=1).max()))
        if turn < args.least_turn:
            continue
        free = [i for i in range(len(valid)) if all(abs(i - s) > 1 for s in order)]
        if args.far:
            free = sorted(free, key=lambda i: -float((rotation[i] - rotation[order[0]]).norm()))
            held = [valid[i] for i in free[:HELD_OUT]]
        else:
            held = [valid[free[int(i)]] for i in torch.linspace(0, len(free) - 1, min(HELD_OUT, len(free)))]
        target = read_frames(reader, clip, held).resized(size)
        wanted = on_white(target.image, target.foreground_mask)
        key = reader.key(clip)
        for count in args.sources:
            photos = read_frames(reader, clip, [valid[i] for i in order[:count]])
            avatar = Avatar.create(model, photos, size)
            drawn = torch.cat([r.image for r in avatar.draw(target.params)]).clamp(0, 1)
            scores = (psnr(drawn, wanted), ssim(drawn, wanted), lpips(network, drawn, wanted))
            rows.setdefault(key, {})[count] = [float(score.mean()) for score in scores]
        shown = "  ".join(
            f"{count}: " + " ".join(f"{v:.3f}" for v in values) for count, values in rows[key].items()
        )
        print(f"{key:<36} {turn:3.0f} deg  {shown}", flush=True)
    if not rows:
        raise SystemExit("no clip is long enough, or none turns far enough")
    means = {c: np.mean([r[c] for r in rows.values()], axis=0).tolist() for c in args.sources}
    for count, values in means.items():
        print(
            f"{count} source(s): " + "  ".join(f"{n} {v:.3f}" for n, v in zip(METRICS, values, strict=True))
        )
    if args.json:
        args.json.write_text(json.dumps({"clips": rows, "mean": means, "metrics": METRICS}, indent=2))


if __name__ == "__main__":
    main()
