"""Evaluated systems: checkpoints of this project and others."""

from __future__ import annotations

import dataclasses
import time
from argparse import ArgumentError
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from typing import Protocol as Interface

import torch
import yaml
from jaxtyping import Float, UInt8
from jsonargparse import ArgumentParser
from torch import Tensor
from torch.nn import functional as F

from rome_lightning.avatar.refine import encode_refined
from rome_lightning.evaluation.pairs import PairItem
from rome_lightning.evaluation.protocol import file_hash
from rome_lightning.media.image import quantize
from rome_lightning.models import AvatarCode, AvatarConfig, AvatarModel
from rome_lightning.models.shipped import model_file, open_model
from rome_lightning.types import Frames, Rendered

_CACHED_AVATARS = 8


@dataclass(frozen=True)
class Predictions:
    """One batch of a system's predictions."""

    images: UInt8[Tensor, "b 3 s s"]
    """RGB; rows with a reason may hold anything."""
    reasons: tuple[str, ...]
    """Why a prediction is missing; empty if it exists."""
    masks: Float[Tensor, "b 1 s s"] | None = None
    """Mask of the person, [0, 1], if the system provides it."""


class System(Interface):
    """Answers pairs of a protocol."""

    name: str

    def describe(self) -> dict[str, Any]:
        """Identification for the summary; the same system has the same description."""
        ...

    def predict(self, pairs: Sequence[PairItem], source: Frames, driver: Frames) -> Predictions:
        """Answer a batch whose pairs share one source frame.

        Args:
            pairs: what is asked.
            source: one identity frame.
            driver: a frame per pair.
        """
        ...


class AvatarSystem:
    """An avatar model of this project.

    Each source becomes an avatar once, which is rendered at the training size, or that of larger photographs,
    and then resized.

    Args:
        checkpoint: written by ``rome fit``, ``rome distill`` or ``rome import-checkpoint``.
        resolution: side of the answers, pixels.
        background: grey in [0, 1].
        refine_steps: steps that fit each avatar to its photograph's outline, see ``refine_offsets``.
        device: where it runs.
        photo_size: side of the sources and of what is drawn, pixels; the training size by default.
    """

    def __init__(
        self,
        checkpoint: Path,
        resolution: int,
        background: float,
        refine_steps: int = 16,
        device: str = "cpu",
        photo_size: int | None = None,
    ) -> None:
        self.checkpoint: Path | None = model_file(checkpoint)
        model = open_model(checkpoint)
        size = model.image_size if photo_size is None else photo_size
        self._use(model, model.image_size, size, resolution, background, refine_steps, device)
        self.name = checkpoint.stem

    def _use(
        self,
        model: AvatarModel,
        encoded_size: int,
        image_size: int,
        resolution: int,
        background: float,
        refine_steps: int,
        device: str,
    ) -> None:
        self.encoded_size, self.image_size, self.resolution = encoded_size, image_size, resolution
        self.background, self.refine_steps = background, refine_steps
        self.device = torch.device(device)
        self.model = model.to(self.device)
        self._codes: OrderedDict[tuple[str, int], AvatarCode] = OrderedDict()

    def _origin(self) -> dict[str, Any]:
        """What the weights are."""
        assert self.checkpoint is not None
        return {"checkpoint": str(self.checkpoint), "sha256": file_hash(self.checkpoint)}

    def describe(self) -> dict[str, Any]:
        """Weights, size and how avatars are made."""
        return {
            **self._origin(),
            "kind": type(self.model).__name__,
            "image_size": self.image_size,
            "refine_steps": self.refine_steps,
        }

    def predict(self, pairs: Sequence[PairItem], source: Frames, driver: Frames) -> Predictions:
        """Drive the avatar of the source."""
        code = self.code((pairs[0].clip, pairs[0].source), source)
        rendered = self.render(code, driver)
        # Reduced apart, as real frames are.
        colour, mask = (resized_to(x, self.resolution) for x in (rendered.rgb, rendered.mask))
        images = torch.lerp(torch.full_like(colour, self.background), colour, mask)
        finite = images.isfinite().flatten(1).all(1).tolist()
        reasons = tuple("" if fine else "not finite" for fine in finite)
        # Quantized like an image file: every system is scored at 8 bits.
        pixels = quantize(images.nan_to_num(0)).cpu()
        return Predictions(pixels, reasons, mask.cpu())

    @torch.no_grad()
    def render(self, code: AvatarCode, driver: Frames) -> Rendered:
        """The avatars driven by frames, at ``image_size``.

        Args:
            code: one avatar per frame, or one for all.
            driver: frames of any size; the images are ignored.
        """
        size = (self.image_size, self.image_size)
        return self.model.render(code, driver.params.to(self.device), size, self.background)

    @torch.no_grad()
    def code(self, key: tuple[str, int], source: Frames) -> AvatarCode:
        """The avatar of a source, made once.

        Args:
            key: clip and frame number, which tell sources apart.
            source: the identity frame.
        """
        if key not in self._codes:
            sharp = source.to(self.device)
            small = sharp.resized(self.encoded_size)
            self._codes[key] = encode_refined(self.model, small, self.refine_steps, sharp)
            while len(self._codes) > _CACHED_AVATARS:
                self._codes.popitem(last=False)
        return self._codes[key]

    @torch.no_grad()
    def speed(self, source: Frames, driver: Frames, repeats: int = 10) -> dict[str, float]:
        """Stages one frame at a time, after a warm-up: ``fps_<stage>_<device>`` and ``creation_s_<device>``.

        Args:
            source: one identity frame.
            driver: at least one frame.
            repeats: frames per stage.
        """
        kind = self.device.type
        small, params = (
            source.resized(self.encoded_size).to(self.device),
            driver.params[slice(0, 1)].to(self.device),
        )
        size = (self.image_size, self.image_size)
        start = time.perf_counter()
        code = encode_refined(self.model, small, self.refine_steps)
        self._wait()
        result = {f"creation_s_{kind}": time.perf_counter() - start}
        stages = {
            "driving": lambda: self.model.deform(code, params),
            "whole": lambda: self.model.render(code, params, size, self.background),
        }
        for stage, run in stages.items():
            run()
            self._wait()
            start = time.perf_counter()
            for _ in range(repeats):
                run()
            self._wait()
            result[f"fps_{stage}_{kind}"] = repeats / (time.perf_counter() - start)
        return {name: round(value, 3) for name, value in result.items()}

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class UntrainedSystem(AvatarSystem):
    """An avatar model before its first training step: the method without any training.

    It renders at the protocol's resolution, or that of larger photographs.

    Args:
        config: YAML of a training run, or just the options of an avatar; omitted options have their defaults.
        resolution: side of the answers, pixels.
        background: grey in [0, 1].
        refine_steps: as for ``AvatarSystem``.
        device: where it runs.
        photo_size: as for ``AvatarSystem``; the protocol's resolution by default.
        seed: of the initial weights.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has no options of an avatar.
    """

    def __init__(
        self,
        config: Path,
        resolution: int,
        background: float,
        refine_steps: int = 16,
        device: str = "cpu",
        photo_size: int | None = None,
        seed: int = 0,
    ) -> None:
        self.checkpoint = None
        self.config, self.seed = read_avatar_config(config), seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = AvatarModel(self.config).eval().requires_grad_(False)
        size = resolution if photo_size is None else photo_size
        self._use(model, resolution, size, resolution, background, refine_steps, device)
        self.name = f"{config.stem}, untrained"

    def _origin(self) -> dict[str, Any]:
        return {"untrained": dataclasses.asdict(self.config), "seed": self.seed}


def read_avatar_config(path: Path) -> AvatarConfig:
    """Options of an avatar from the YAML of a training run, or from an avatar's own YAML.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not YAML, or names options that an avatar does not have.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no configuration at {path}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        model = content.get("model")
        options = content if model is None else model["init_args"]["avatar"]
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(AvatarConfig, "avatar")
        parsed = parser.instantiate(parser.parse_object({"avatar": options}))
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ArgumentError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path} has no options of an avatar, neither under model.init_args.avatar nor at the top "
            f"level: {reason}"
        ) from error
    return AvatarConfig(**vars(parsed.avatar))


def resized_to(images: Float[Tensor, "b c h w"], size: int) -> Float[Tensor, "b c s s"]:
    """Images of another size, without aliasing."""
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True, align_corners=False)
