"""Augmentation of training frames: colour, framing, and the defects of everyday photographs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rome_lightning.types import Frames, Region

_KINDS = 3
"""Defects of a photograph: blur, noise, JPEG."""


@dataclass(frozen=True)
class Augmentation:
    """Largest changes of training frames; 0 disables a change.

    Colours change equally in the source and the targets of a pair. Zoom and shift differ from frame to frame,
    because drivers are never framed like the photograph. Blur, noise and JPEG apply only to sources: targets
    show what the avatar should look like.

    There is no mirroring, which would have to mirror parameters and landmarks too; see
    ``model.init_args.views``. Nor is there rotation in the image plane: parameters rotate the bust about the
    root of the head model, which a dataset does not know.
    """

    brightness: float = 0.0
    """Largest relative change of brightness, 0.2 for 0.8 to 1.2."""
    contrast: float = 0.0
    """Largest relative change of contrast about middle grey."""
    saturation: float = 0.0
    """Largest relative change of saturation."""
    hue: float = 0.0
    """Largest rotation of the hue, as a fraction of a full turn."""
    zoom: float = 0.0
    """Largest relative change of a frame's scale about its middle, 0.1 for 0.9 to 1.1."""
    shift: float = 0.0
    """Largest shift of a frame along x and along y, as a share of the image's side."""
    blur: float = 0.0
    """Largest standard deviation of the Gaussian blur of a source, as a share of the image's side."""
    noise: float = 0.0
    """Largest standard deviation of the Gaussian noise in a source, RGB in [0, 1]."""
    jpeg: float = 0.0
    """Largest loss of JPEG quality of a source, 0.6 for qualities from 100 down to 40."""
    fault_ratio: float = 0.5
    """Share of the sources that are blurred; also of those with noise, and of those with JPEG, [0, 1]."""

    def __post_init__(self) -> None:
        limits = {"zoom": 0.9, "shift": 0.5, "blur": 0.05, "jpeg": 0.95, "fault_ratio": 1.0}
        for name, value in dataclasses.asdict(self).items():
            if not 0 <= value <= limits.get(name, math.inf):
                high = f"at most {limits[name]}" if name in limits else "not infinite"
                raise ValueError(
                    f"data.init_args.augmentation.{name} must be at least 0 and {high}, got {value}"
                )


def colour_matrix(
    jitter: Float[Tensor, "b 4"], settings: Augmentation
) -> tuple[Float[Tensor, "b 3 3"], Float[Tensor, "b 3"]]:
    """The affine colour change (matrix, shift) of each pair.

    Hue and saturation rotate and scale the chrominance plane (YIQ), so grey stays grey. One matrix takes a
    seventeenth of the work of kornia's four steps, two of which convert to HSV.

    Args:
        jitter: brightness, contrast, saturation and hue, as shares of the largest change in [-1, 1].
        settings: the largest changes.
    """
    limits = [settings.brightness, settings.contrast, settings.saturation, settings.hue]
    change = jitter * jitter.new_tensor(limits)
    brightness, contrast, saturation = (1 + change[:, :3]).unbind(1)
    angle = 2 * math.pi * change[:, 3]
    to_yiq = jitter.new_tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    cosine, sine = saturation * angle.cos(), saturation * angle.sin()
    turn = torch.stack([one, zero, zero, zero, cosine, -sine, zero, sine, cosine], 1).unflatten(1, (3, 3))
    matrix = torch.linalg.inv(to_yiq) @ turn @ to_yiq
    # Contrast about 1/2 after brightness: x -> c (b x - 1/2) + 1/2.
    matrix = matrix * (brightness * contrast)[:, None, None]
    shift = ((1 - contrast) / 2)[:, None].expand(-1, 3)
    return matrix, shift


def augmented(
    source: Frames, target: Frames, seeds: Sequence[int], settings: Augmentation
) -> tuple[Frames, Frames]:
    """Change the framing of source and targets, and degrade the sources like photographs.

    All random numbers come from the seed of a pair, on the CPU, so a resumed run repeats every bit, and
    devices agree.

    Args:
        source: one frame per pair.
        target: equally many frames per pair, in the order of the pairs.
        seeds: of each pair.
        settings: the largest changes.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    frames = 1 + len(target) // len(source)
    # Drawn even if unused, so that one option does not change the effect of another.
    framing = torch.stack([2 * torch.rand(frames, 3, generator=g) - 1 for g in generators])
    faults = torch.stack([torch.rand(_KINDS, 2, generator=g) for g in generators])
    if settings.zoom or settings.shift:
        zoom, shift = 1 + settings.zoom * framing[..., :1], settings.shift * framing[..., 1:]
        source = reframed(source, zoom[:, 0], shift[:, 0])
        target = reframed(target, zoom[:, 1:].flatten(0, 1), shift[:, 1:].flatten(0, 1))
    return _faulty(source, faults, generators, settings), target


def reframed(frames: Frames, zoom: Float[Tensor, "b 1"], shift: Float[Tensor, "b 2"]) -> Frames:
    """Scale frames about their centre, then shift them; labels, landmarks and cameras follow.

    Pixels from beyond the image repeat its border and are labelled ``Region.OUTSIDE``.

    Args:
        frames: square.
        zoom: factor of each frame.
        shift: x to the right and y down, as shares of the image's side.
    """
    from kornia.geometry.transform import warp_affine  # takes a quarter of a second, and few runs need it

    side = frames.image.shape[-1]
    zoom, shift = zoom.to(frames.image), shift.to(frames.image)
    offset = (1 - zoom) * (side - 1) / 2 + shift * side
    matrix = torch.cat([torch.diag_embed(zoom.expand(-1, 2)), offset[..., None]], dim=2)
    layers = torch.cat([frames.image, frames.foreground_mask], dim=1)
    layers = warp_affine(layers, matrix, (side, side), padding_mode="border", align_corners=False)
    # Labels from 1, so that 0 is what lies beyond the image.
    labels = frames.regions[:, None].float() + 1
    labels = warp_affine(labels, matrix, (side, side), mode="nearest", align_corners=False)[:, 0]
    regions = torch.where(labels > 0, labels - 1, int(Region.OUTSIDE)).to(frames.regions.dtype)
    # In NDC a share of the side is 2, and y of the camera points up.
    scale = frames.params.camera[:, :1] * zoom
    translation = frames.params.camera[:, 1:] + shift * shift.new_tensor([2, -2]) / scale
    return dataclasses.replace(
        frames,
        image=layers[:, :3],
        foreground_mask=layers[:, 3:],
        regions=regions,
        landmarks=frames.landmarks * zoom[..., None] + offset[:, None],
        params=dataclasses.replace(frames.params, camera=torch.cat([scale, translation], dim=1)),
    )


def _faulty(
    frames: Frames,
    faults: Float[Tensor, "b k 2"],
    generators: Sequence[torch.Generator],
    settings: Augmentation,
) -> Frames:
    """Degrade photographs: defocus, grain, compression, in the order in which a camera causes them.

    Args:
        frames: the sources.
        faults: uniform numbers in [0, 1] that decide whether and how much, by kind.
        generators: of the noise.
        settings: the largest changes.
    """
    if not (settings.blur or settings.noise or settings.jpeg):
        return frames
    hit = faults[..., 0] < settings.fault_ratio
    amounts = (faults[..., 1] * hit).to(frames.image)
    image = frames.image.clone()
    if settings.blur and len(rows := _rows(hit[:, 0], image)):
        image[rows] = _blurred(image[rows], amounts[rows, 0], settings.blur)
    if settings.noise and len(rows := _rows(hit[:, 1], image)):
        draws = [torch.randn(image.shape[1:], generator=generators[row]) for row in rows.tolist()]
        amount = settings.noise * amounts[rows, 1, None, None, None]
        image[rows] = (image[rows] + amount * torch.stack(draws).to(image)).clamp(0, 1)
    if settings.jpeg and len(rows := _rows(hit[:, 2], image)):
        from kornia.enhance import jpeg_codec_differentiable

        quality = 100 * (1 - settings.jpeg * amounts[rows, 2])
        image[rows] = jpeg_codec_differentiable(image[rows], quality).clamp(0, 1)
    return dataclasses.replace(frames, image=image)


def _rows(hit: Tensor, like: Tensor) -> Tensor:
    return hit.nonzero()[:, 0].to(like.device)


def _blurred(
    image: Float[Tensor, "n 3 h w"], amount: Float[Tensor, " n"], largest: float
) -> Float[Tensor, "n 3 h w"]:
    """Gaussian blur of each image, as fractions of the largest one."""
    from kornia.filters import gaussian_blur2d

    side = image.shape[-1]
    # One kernel size for all images, so that an image's blur does not depend on the rest of the batch.
    size = 2 * math.ceil(3 * largest * side) + 1
    sigma = (largest * side * amount).clamp_min(1e-3)
    return gaussian_blur2d(image, (size, size), sigma[:, None].expand(-1, 2))
