"""Weights of the official ROME release: read and renamed in both directions, with a report on every key.

Users bring their own files; none is shipped. Pickles are read as plain tensors; no code in them runs.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rome_lightning.head.flame.released import check_released
from rome_lightning.media.atomic import atomic_file
from rome_lightning.media.digest import file_sha256, seal_archive
from rome_lightning.models.avatar_model import AvatarModel
from rome_lightning.models.checkpoint import CONFIG_KEY
from rome_lightning.models.config import AvatarConfig, DeferredRendererConfig, OffsetConfig, TextureConfig
from rome_lightning.networks import PatchDiscriminator
from rome_lightning.pretrained.weights import read_tensors

OFFICIAL_SIZE = 256
"""Side of the release's images and textures, pixels."""
_DISCRIMINATOR = "discriminator.net_0256."
NETWORKS = {
    "autoencoder.": "avatar.texture_model.encoder.",
    "mesh_deformer.": "avatar.offset_network.geometry_network.",
    "mlp_deformer.": "avatar.offset_network.vertex_network.",
    "unet.": "avatar.renderer.network.",
    _DISCRIMINATOR: "discriminator.",
}
"""Prefix of each network in the release and in our checkpoints."""
_HEAD_AND_TRACKER = "buffers of the release's DECA and FLAME: our head model and tracker take their place"
NOT_NETWORKS = {
    "parametric_avatar.": _HEAD_AND_TRACKER,
    "deca.": _HEAD_AND_TRACKER,
    "face_parsing.": "the release's frozen face parser: regions come with the data",
    "vgg19_loss.": "a frozen loss network",
    "vggface_loss.": "a frozen loss network",
    "vgggaze_loss.": "a frozen loss network",
    "lpips.": "a frozen metric network",
    "ssim.": "constants of a metric",
    "ms_ssim.": "constants of a metric",
}
"""Prefixes without trained weights of the method, and why they are skipped."""
_SPECTRAL_NORM_FORMS = {
    ".parametrizations.weight.original": ".weight",
    ".parametrizations.weight.0._u": ".weight_u",
    ".parametrizations.weight.0._v": ".weight_v",
    ".weight_orig": ".weight",
}
"""PyTorch's names for the parts of a spectrally normalized weight, and ours."""

_FIXED_OPTIONS = {
    "": ("framing", "camera_distance"),
    "texture": ("source", "size"),
    "offsets": ("kind", "direction", "expression_dependent", "max_offset", "network", "uv_size", "harmonics"),
    "decoder": (
        *("carry", "network", "mask_network", "pooling", "upsampling", "normals", "interpolation"),
        *("normal_frequencies", "harmonics", "extend_outside", "residual"),
    ),
}
"""Options of ``AvatarConfig``, by part, that no weight shows and on which the picture depends."""


@dataclass
class KeyReport:
    """What became of every key of a converted file."""

    matched: list[str] = field(default_factory=list)
    """Taken under the same name, apart from the network's prefix."""
    renamed: dict[str, str] = field(default_factory=dict)
    """Taken under another name, from another form of spectral normalization."""
    derived: list[str] = field(default_factory=list)
    """Computed from other keys: singular vectors of a weight whose normalization was folded."""
    ignored: dict[str, str] = field(default_factory=dict)
    """Skipped, with the reason."""
    missing: list[str] = field(default_factory=list)
    """Expected but not in the file."""
    unexpected: list[str] = field(default_factory=list)
    """In the file but unknown."""
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    """In the file with a different shape: (theirs, expected)."""

    @property
    def complete(self) -> bool:
        """Whether every expected key was found and every key of the file is accounted for."""
        return not (self.missing or self.unexpected or self.shapes)

    def as_text(self) -> str:
        """One line per group, and one per key that prevents completion."""
        lines = [
            f"{len(self.matched)} matched, {len(self.renamed)} renamed, {len(self.derived)} derived, "
            f"{len(self.ignored)} ignored, {len(self.missing)} missing, {len(self.unexpected)} unexpected, "
            f"{len(self.shapes)} of another shape"
        ]
        lines += [f"  renamed     {old} -> {new}" for old, new in self.renamed.items()]
        for reason in dict.fromkeys(self.ignored.values()):
            keys = [key for key, why in self.ignored.items() if why == reason]
            lines.append(f"  ignored     {keys[0]}{f' and {len(keys) - 1} more' * (len(keys) > 1)}: {reason}")
        lines += [f"  missing     {key}" for key in self.missing]
        lines += [f"  unexpected  {key}" for key in self.unexpected]
        lines += [
            f"  shape       {key}: {theirs}, wanted {ours}" for key, (theirs, ours) in self.shapes.items()
        ]
        return "\n".join(lines)


def read_official(path: Path) -> dict[str, Tensor]:
    """The flat dictionary of tensors in a file of the release, loaded to the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, or holds more than tensors.
    """
    content = read_tensors(
        path,
        "the release's weights are linked from https://github.com/SamsungLabs/rome (non-commercial research)",
    )
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path} is not a state dict of the release: it must hold tensors by name")
    # DistributedDataParallel adds a prefix, and the discriminator's prefix contains the image size.
    return {
        re.sub(r"^discriminator\.net_\d{4}\.", _DISCRIMINATOR, key.removeprefix("module.")): value.detach()
        for key, value in content.items()
    }


def release_config(
    head: str, state: Mapping[str, Tensor], rasterizer: str = "release", release: str = ""
) -> AvatarConfig:
    """The configuration of the released architecture, with widths inferred from the weights.

    Args:
        head: path of the FLAME pickle; the weights are meaningless on another head.
        state: from ``read_official``.
        rasterizer: visibility backend.
        release: folder of the release's data; see ``AvatarConfig.release``.

    Raises:
        ValueError: a network is missing.
    """

    def rows(key: str, dim: int = 0) -> int:
        if key not in state:
            raise ValueError(f"the file has no {key}: it is not a state dict of the release's full model")
        return state[key].shape[dim]

    return AvatarConfig(
        head=head,
        release=release,
        rasterizer=rasterizer,
        framing="ffhq",
        texture=TextureConfig(
            source="direct",
            channels=rows("unet.encoder.0.0.main.0.weight", 1) - 39,
            size=OFFICIAL_SIZE,
            width=rows("autoencoder.net.0.weight"),
            mirror=False,
            prior=False,
        ),
        offsets=OffsetConfig(
            direction="elementwise",
            expression_dependent=True,
            max_offset=1.0,
            network="release",
            uv_size=OFFICIAL_SIZE,
            width=rows("mesh_deformer.encoder.0.0.main.3.weight"),
            latent_channels=rows("mesh_deformer.to_outputs.weight"),
            mlp_width=rows("mlp_deformer.block_1.0.weight"),
        ),
        decoder=DeferredRendererConfig(
            carry=False,
            network="release",
            width=rows("unet.encoder.0.0.main.3.weight"),
            interpolation="release",
            extend_outside=False,
            residual=False,
        ),
    )


def from_official(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], KeyReport]:
    """Rename a released state dict to ours.

    Args:
        state: from ``read_official``.
        wanted: our state dict (``avatar.*``, and ``discriminator.*`` if there is one), for names and shapes.

    Returns:
        The tensors under our names, and the report, which lists everything that was taken or dropped.
    """
    report = KeyReport()
    taken: dict[str, Tensor] = {}
    for key, value in state.items():
        reason = next((why for prefix, why in NOT_NETWORKS.items() if key.startswith(prefix)), None)
        if reason is not None:
            report.ignored[key] = reason
            continue
        prefix = next((prefix for prefix in NETWORKS if key.startswith(prefix)), None)
        plain = _one_spectral_norm(key)
        ours = "" if prefix is None else NETWORKS[prefix] + plain.removeprefix(prefix)
        if prefix == _DISCRIMINATOR and not any(k.startswith("discriminator.") for k in wanted):
            report.ignored[key] = "the configuration has no discriminator"
        elif ours not in wanted:
            report.unexpected.append(key)
        elif wanted[ours].shape != value.shape:
            report.shapes[key] = (tuple(value.shape), tuple(wanted[ours].shape))
        else:
            taken[ours] = value.to(wanted[ours].dtype)
            if plain == key:
                report.matched.append(key)
            else:
                report.renamed[key] = ours
    report.derived = _add_singular_vectors(taken, wanted)
    has_discriminator = any(key.startswith("discriminator.") for key in taken)
    for ours in wanted:
        optional = ours.startswith("discriminator.") and not has_discriminator
        if ours not in taken and not optional and not _filled_by(ours, report.shapes):
            report.missing.append(_official_name(ours))
    return taken, report


def _add_singular_vectors(taken: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """Add the singular vectors that a file with folded spectral normalization lacks; returns the keys."""
    added = []
    for key, weight in list(taken.items()):
        left, right = f"{key}_u", f"{key}_v"
        if left in wanted and left not in taken and right not in taken:
            u, _, v = torch.linalg.svd(weight.flatten(1), full_matrices=False)
            taken[left], taken[right] = u[:, 0].contiguous(), v[0].contiguous()
            added += [left, right]
    return added


def to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename our state dict of a released architecture to the release's names.

    Args:
        state: ``avatar.*`` and, optionally, ``discriminator.*``.

    Raises:
        ValueError: a key belongs to no network of the release.
    """
    foreign = [key for key in state if _official_name(key) == key]
    if foreign:
        raise ValueError(
            f"{len(foreign)} weights do not exist in the release's files, {foreign[0]} first; only models "
            "of the released architecture (rome/release) can be exported"
        )
    return {_official_name(key): value for key, value in state.items()}


def official_differences(config: AvatarConfig, state: Mapping[str, Tensor]) -> list[str]:
    """Why the official code draws another picture with these weights; nothing if it draws the same.

    Args:
        config: of the model that the weights belong to.
        state: from ``to_official``.
    """
    released = release_config(config.head, state)
    lines = []
    if config.head == "open":
        lines.append("head is the open head; the official code has FLAME")
    for part, names in _FIXED_OPTIONS.items():
        for name in names:
            own, wanted = (
                getattr(each if part == "" else getattr(each, part), name) for each in (config, released)
            )
            if own != wanted:
                option = name if part == "" else f"{part}.{name}"
                lines.append(f"{option} is {own}; the official code has {wanted}")
    return lines


def _official_name(key: str) -> str:
    """The release's name for one of our keys; the key itself if there is none."""
    for theirs, ours in NETWORKS.items():
        if key.startswith(ours):
            return theirs + key.removeprefix(ours)
    return key


def _one_spectral_norm(key: str) -> str:
    """The key with our names for the parts of a spectrally normalized weight."""
    for theirs, ours in _SPECTRAL_NORM_FORMS.items():
        if key.endswith(theirs):
            return key.removesuffix(theirs) + ours
    return key


def _filled_by(ours: str, shapes: Mapping[str, object]) -> bool:
    """Whether an expected key is already reported with a different shape."""
    return any(_one_spectral_norm(key) == _official_name(ours) for key in shapes)


def import_official(
    path: Path,
    head: Path,
    release: Path | None = None,
    approximate: bool = False,
    rasterizer: str = "release",
) -> tuple[dict[str, Any], KeyReport]:
    """Make a checkpoint of this project from the release's full model.

    Args:
        path: the official ``rome.pth``.
        head: FLAME's ``generic_model.pkl``; the checkpoint stores its absolute path.
        release: the release's ``data`` folder, for files that are not beside the head.
        approximate: continue without some of those files.
        rasterizer: visibility backend.

    Returns:
        The checkpoint as plain data, and the report on every key. If the report is incomplete, the missing
        weights are random.

    Raises:
        FileNotFoundError: a file is missing; the message names it.
        ValueError: a file is damaged or of another kind.
    """
    state = read_official(path)
    if str(head) == "open":
        raise ValueError(
            "the release's weights belong to FLAME's texture layout and vertices, not to the open head; give "
            "the path of FLAME's generic_model.pkl with --head"
        )
    folder = "" if release is None else str(release.absolute())
    lacking = check_released(head, folder)
    if lacking and not approximate:
        raise FileNotFoundError(
            f"missing of the release: {', '.join(line.split()[0] for line in lacking)}; give its data folder "
            "with --release (head_template.obj is in DECA/data), or --approximate to continue without"
        )
    config = release_config(str(head.absolute()), state, rasterizer, folder)
    avatar = AvatarModel(config)
    wanted = {f"avatar.{key}": value for key, value in avatar.state_dict().items()}
    # The affine part of the first block has the same name in all forms of spectral normalization.
    first = state.get(f"{_DISCRIMINATOR}blocks.0.main.1.weight")
    if first is not None:
        discriminator = PatchDiscriminator(base_width=first.shape[0])
        wanted |= {f"discriminator.{key}": value for key, value in discriminator.state_dict().items()}
    taken, report = from_official(state, wanted)
    checkpoint = {
        "state_dict": wanted | taken,
        CONFIG_KEY: dataclasses.asdict(config),
        "image_size": OFFICIAL_SIZE,
        "origin": {"file": path.name, "sha256": file_sha256(path)},
    }
    return checkpoint, report


def write_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Save plain data and tensors, atomically."""
    with atomic_file(path) as file:
        torch.save(content, file)
        seal_archive(file)
