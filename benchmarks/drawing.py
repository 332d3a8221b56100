"""Ablation of each rendering rule: LPIPS without it, on unseen people, with confidence intervals.

``python benchmarks/drawing.py DATA [DATA ...] [--checkpoint MODEL] [--split train] [--json OUT]``

DATA are folders of ``rome prepare``. Every clip's typical frame is the source. Of 24 frames spread over the
clip, the six with the largest rotations are rendered at 256 px on white, with and without the rule. Pixels
beyond the video's border are ignored. Differences are paired, means over frames, then clips, then people; the
intervals are over people.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.evaluation import StoredClips
from rome_lightning import assets
from rome_lightning.avatar.refine import encode_refined
from rome_lightning.comparison.statistics import Layout, paired_interval
from rome_lightning.geometry import axis_angle_to_matrix
from rome_lightning.metrics import load_lpips, lpips
from rome_lightning.models import (
    AvatarModel,
    blending,
    carrying,
    completion,
    deferred_renderer,
    photo_layers,
)
from rome_lightning.models.shipped import open_model
from rome_lightning.types import Frames, HeadParams, Region

SIZE = 256
CANDIDATES, FRAMES = 24, 6
BINS = ((0, 12), (12, 20), (20, 90))
"""Rotation between source and driver, degrees."""


def _no_photo(layers: Tensor, mesh: Tensor) -> Tensor:
    return torch.where(mesh, 0.0, 1.0) * layers[:, photo_layers.KNOWN]


Change = tuple[ModuleType | type | AvatarModel, str, Any]
"""Owner, name and value of an attribute."""

WITHOUT: dict[str, list[Change]] = {
    "carried photograph on the mesh (texture only)": [(blending, "share_of_photo", _no_photo)],
    "mirror completion": [
        (completion.Completion, "other_side", lambda _, colour, seen: (colour, torch.zeros_like(seen)))
    ],
    "mouth of the photograph for its own opening only": [
        (deferred_renderer, "same_mouth", lambda before, *_: torch.ones_like(before[:, :, 0, 0]))
    ],
    "skin filled at grazing angles": [
        (carrying, "STRETCHED_UPPER", carrying.STRETCHED),
        (carrying, "NOT_STRETCHED_UPPER", carrying.NOT_STRETCHED),
        (carrying, "STRETCHED_LOWER", carrying.STRETCHED),
        (carrying, "NOT_STRETCHED_LOWER", carrying.NOT_STRETCHED),
    ],
    "full hair beside faces": [
        (photo_layers, "full_hair", lambda layers: torch.zeros_like(layers[:, :, 0, :1, :1]))
    ],
    "hair in gaps": [(blending, "hair_gaps", lambda opacity, _: torch.zeros_like(opacity))],
    "slivers removed": [(blending, "without_slivers", lambda opacity, *_: opacity)],
    "soft outline of the mesh": [(blending, "soft_edges", lambda opacity, *_: opacity)],
    "corrections of the network": [
        (deferred_renderer, "blend", lambda c, *rest: blending.blend(0 * c, *rest))
    ],
}
"""The replacement that disables each rule."""


@contextmanager
def without(changes: list[Change]) -> Iterator[None]:
    """Replace attributes temporarily."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    for owner, name, value in changes:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


@dataclasses.dataclass
class Case:
    """A source, its offsets and the frames to render."""

    person: str
    source: Frames
    offsets: Tensor
    drivers: Frames
    degrees: Tensor


def rotation(params: HeadParams) -> Tensor:
    return axis_angle_to_matrix(params.global_pose) @ axis_angle_to_matrix(params.neck_pose)


def cases(model: AvatarModel, clips: StoredClips) -> Iterator[Case]:
    """One case per clip."""
    for clip in clips.clips:
        source = clips.frames(clip.key, [clip.typical])
        numbers = [number for number in clip.frames if number != clip.typical]
        numbers = numbers[:: max(1, len(numbers) // CANDIDATES)]
        turn = rotation(source.params).transpose(1, 2) @ rotation(clips.frames(clip.key, numbers).params)
        cosine = (turn.diagonal(dim1=1, dim2=2).sum(-1) - 1) / 2
        degrees = cosine.clamp(-1, 1).arccos().rad2deg()
        most = degrees.argsort(descending=True)[:FRAMES]
        drivers = clips.frames(clip.key, [numbers[i] for i in most.tolist()])
        offsets = encode_refined(model, source, 60).offsets
        offsets = model.perspective.flattened(offsets, source.params) if model.perspective else offsets
        yield Case(clip.identity, source, offsets, drivers, degrees[most])


def scores(model: AvatarModel, all_cases: list[Case], score: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """LPIPS of each frame of each case, followed by that of the source at its own pose."""
    values = []
    for case in all_cases:
        code = model.appearance(case.source, case.offsets)
        for target in (case.drivers, case.source):
            drawn = model.render(code.repeat_interleave(len(target)), target.params, (SIZE, SIZE)).image
            wanted = torch.lerp(torch.ones_like(target.image), target.image, target.foreground_mask)
            known = 1 - target.region_mask(Region.OUTSIDE)
            values.append(score(torch.lerp(wanted, drawn, known).clamp(0, 1).contiguous(), wanted))
    return torch.cat(values)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--checkpoint", help="name of a shipped model (default: the first)")
    parser.add_argument("--split", default="train")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = open_model(args.checkpoint).eval().requires_grad_(False)
    network = load_lpips("alex", assets.resolve("lpips_alexnet"))
    all_cases = [case for folder in args.data for case in cases(model, StoredClips(folder, args.split, SIZE))]
    people = {person: i for i, person in enumerate(dict.fromkeys(case.person for case in all_cases))}
    clip = np.concatenate([[i] * (len(case.drivers) + 1) for i, case in enumerate(all_cases)])
    degrees = torch.cat([torch.cat([case.degrees, torch.tensor([-1.0])]) for case in all_cases]).numpy()
    identity = np.array([people[case.person] for case in all_cases])
    score = partial(lpips, network)
    full = scores(model, all_cases, score).double().numpy()
    rows = {}
    for name, changes in {**WITHOUT, "perspective of the camera": [(model, "perspective", None)]}.items():
        with without(changes):
            rows[name] = scores(model, all_cases, score).double().numpy()
    results: dict[str, dict[str, list[float]]] = {}
    for title, low, high in (
        ("own pose", -2, -0.5),
        *((f"{a} to {b}", a, b) for a, b in BINS),
        ("turned", 0, 90),
    ):
        chosen = (degrees >= low) & (degrees < high)
        if not chosen.any():
            continue
        clips_kept, of_clip = np.unique(clip[chosen], return_inverse=True)
        of_person = np.unique(identity[clips_kept], return_inverse=True)[1]
        layout = Layout(of_clip, of_person)
        mean = float(layout.identity_means(full[chosen]).mean())
        print(
            f"\n{title}: {chosen.sum()} frames of {layout.num_identities} people, LPIPS {mean:.4f}; without"
        )
        for name, values in rows.items():
            interval = paired_interval(full[None, chosen], values[None, chosen], layout)
            print(f"  {name:50s} {interval.difference:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]")
            results.setdefault(name, {})[title] = [interval.difference, interval.low, interval.high]
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
