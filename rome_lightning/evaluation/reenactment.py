"""Self- and cross-reenactment scores: the numbers of a run's table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rome_lightning.avatar import Avatar
from rome_lightning.avatar.refine import refine_offsets
from rome_lightning.data import AvatarBatch, Frames, Rendered
from rome_lightning.evaluation.report import Table
from rome_lightning.metrics import csim, lpips, psnr, ssim
from rome_lightning.metrics.csim import Embedder
from rome_lightning.models import AvatarCode, FullAvatar

Score = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class SelfReenactment:
    """Scores of one clip against its own frames, means over the pairs, full image on white."""

    clip: str
    num_pairs: int
    scores: dict[str, float]
    """Of the avatar."""
    floor: dict[str, float]
    """Of the source frame copied unchanged: what doing nothing scores."""


@torch.no_grad()
def reenact(
    model: FullAvatar, batch: AvatarBatch, codes: dict[str, AvatarCode], refine_steps: int = 100
) -> Rendered:
    """Draw the target of each pair with the avatar of its clip's source, on white.

    Args:
        model: in evaluation mode.
        batch: pairs with one target per source; the source of a clip is always the same.
        codes: avatars by clip; those that are missing are made and put there.
        refine_steps: as for ``Avatar.create``.
    """
    for index, clip in enumerate(batch.clips):
        if clip not in codes:
            source = batch.source[slice(index, index + 1)]
            codes[clip] = refine_offsets(model, model.encode(source), source, refine_steps)
    code = AvatarCode.cat([codes[clip] for clip in batch.clips])
    return model.render(code, batch.target.params, batch.target.image_size, 1.0)


@torch.no_grad()
def self_reenactment(
    model: FullAvatar,
    batches: Iterable[AvatarBatch],
    lpips_network: nn.Module,
    codes: dict[str, AvatarCode] | None = None,
) -> list[SelfReenactment]:
    """Reproduce the targets of every pair from its source, as users' avatars are made, and compare.

    Args:
        model: in evaluation mode.
        batches: pairs with one target per source.
        lpips_network: from ``metrics.load_lpips("alex", ...)``.
        codes: avatars by clip that exist already; filled, see ``reenact``.

    Returns:
        One entry per clip, in order of appearance.
    """
    codes = {} if codes is None else codes
    metrics: dict[str, Score] = {
        "psnr": psnr,
        "ssim": ssim,
        "lpips_alex": lambda a, b: lpips(lpips_network, a, b),
    }
    values: dict[str, list[tuple[dict[str, float], dict[str, float]]]] = {}
    for batch in batches:
        rendered = reenact(model, batch, codes).image.clamp(0, 1)
        source, target = on_white(batch.source), on_white(batch.target)
        ours = {name: score(rendered, target).tolist() for name, score in metrics.items()}
        copied = {name: score(source, target).tolist() for name, score in metrics.items()}
        for index, clip in enumerate(batch.clips):
            pair = ({n: v[index] for n, v in ours.items()}, {n: v[index] for n, v in copied.items()})
            values.setdefault(clip, []).append(pair)

    def mean(pairs: list[tuple[dict[str, float], dict[str, float]]], which: int) -> dict[str, float]:
        return {name: sum(pair[which][name] for pair in pairs) / len(pairs) for name in metrics}

    return [
        SelfReenactment(clip, len(pairs), mean(pairs, 0), mean(pairs, 1)) for clip, pairs in values.items()
    ]


def on_white(frames: Frames) -> Float[Tensor, "b 3 h w"]:
    """The person of each frame on a white background."""
    return torch.lerp(torch.ones_like(frames.image), frames.image, frames.foreground_mask)


@dataclass(frozen=True)
class CrossReenactment:
    """Identity kept while another person drives: mean cosine to the source's embedding."""

    avatar: str
    driver: str
    num_frames: int
    num_undetected: int
    """Drawn frames in which the detector finds no face; they are left out of ``csim_sface``."""
    csim_sface: float
    floor: float
    """The same for the driver's own frames: what showing the wrong person scores."""


@torch.no_grad()
def cross_reenactment(
    name: str, avatar: Avatar, driver_name: str, driver: Frames, embed: Embedder
) -> CrossReenactment:
    """Drive an avatar with another person and see whom the network recognises.

    Args:
        name: of the avatar, for the table.
        avatar: the person to keep.
        driver_name: for the table.
        driver: tracked frames of another person.
        embed: identity embeddings, such as ``SFaceEmbedder``.
    """
    source, found_source = embed(on_white(avatar.source))
    if not bool(found_source.all()):
        raise ValueError(f"no face is found in the source image of {name}; its identity cannot be measured")
    drawn, found = embed(torch.cat([rendered.image for rendered in avatar.animate(driver.params)]))
    own, found_own = embed(driver.image)
    return CrossReenactment(
        name,
        driver_name,
        len(driver),
        int((~found).sum()),
        float(csim(drawn, source.expand_as(drawn))[found].mean()),
        float(csim(own, source.expand_as(own))[found_own].mean()),
    )


def self_table(results: list[SelfReenactment], caption: str) -> Table:
    """Scores with the floor in brackets; the ceiling is the target itself (PSNR 100, SSIM 1, LPIPS 0)."""

    def row(name: str, count: str, items: list[SelfReenactment]) -> list[str]:
        weight = sum(item.num_pairs for item in items)

        def mean(which: str, metric: str) -> float:
            return sum(getattr(item, which)[metric] * item.num_pairs for item in items) / weight

        digits = {"psnr": 2, "ssim": 3, "lpips_alex": 3}
        cells = [f"{mean('scores', m):.{d}f} ({mean('floor', m):.{d}f})" for m, d in digits.items()]
        return [name, count, *cells]

    rows = [row(item.clip, str(item.num_pairs), [item]) for item in results]
    rows.append(row("all pairs", str(sum(item.num_pairs for item in results)), results))
    return Table(["clip", "pairs", "PSNR [dB]", "SSIM", "LPIPS (alex)"], rows, caption)


def cross_table(results: list[CrossReenactment], caption: str) -> Table:
    """Identity similarity with the floor in brackets; the ceiling is the source itself (1)."""
    rows = [
        [r.avatar, r.driver, str(r.num_frames), str(r.num_undetected), f"{r.csim_sface:.3f} ({r.floor:.3f})"]
        for r in results
    ]
    return Table(["avatar", "driver", "frames", "no face", "CSIM (SFace)"], rows, caption)
