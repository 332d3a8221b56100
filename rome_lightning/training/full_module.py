"""Training of the full, non-linear avatar."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from rome_lightning.losses import hinge_discriminator
from rome_lightning.models import AvatarConfig, AvatarModel
from rome_lightning.models.checkpoint import load_state
from rome_lightning.models.config import check_sizes
from rome_lightning.models.shipped import model_weights
from rome_lightning.networks import PatchDiscriminator
from rome_lightning.training.base import RomeModule
from rome_lightning.training.config import DiscriminatorConfig, ExecutionConfig, LossConfig, OptimizerConfig
from rome_lightning.training.objective import ImagePair, LossTerms, Objective, composited
from rome_lightning.training.views import SourceViews, ViewsConfig
from rome_lightning.types import AvatarBatch

AVATAR, DISCRIMINATOR = 0, 1
"""Indices of the trained parts."""


class FullModule(RomeModule):
    """Self-supervised training on pairs of frames of one clip.

    Source: ROME sec. 3.4.

    Args:
        avatar: architecture of the model.
        losses: weights of the objective.
        optimizer: Adam and its schedule.
        discriminator: the adversary, built if ``losses.adversarial`` is positive.
        execution: execution of the networks.
        image_size: side of the images, pixels; linked from the data.
        views: how often a source is replaced by another view of the same photograph.
        init_from: initial weights: a checkpoint, a model file or the name of a shipped model; the run itself
            starts from scratch.
    """

    def __init__(
        self,
        avatar: AvatarConfig,
        losses: LossConfig,
        optimizer: OptimizerConfig,
        discriminator: DiscriminatorConfig | None = None,
        execution: ExecutionConfig | None = None,
        image_size: int = 256,
        views: ViewsConfig | None = None,
        init_from: Path | None = None,
    ) -> None:
        check_sizes(avatar, image_size)
        super().__init__(AvatarModel(avatar), optimizer, image_size, execution)
        self.save_hyperparameters()
        self.objective = Objective(losses, self.avatar.head)
        self.views = SourceViews(views, self.avatar.head) if views is not None else None
        self.discriminator_config = discriminator or DiscriminatorConfig()
        self.discriminator = (
            _build_discriminator(self.discriminator_config) if losses.adversarial > 0 else None
        )
        if init_from is not None:
            load_state(self.avatar, model_weights(init_from), init_from)

    def trained_parts(self) -> list[tuple[nn.Module, OptimizerConfig]]:
        """The avatar and, if the objective is adversarial, the discriminator."""
        parts = super().trained_parts()
        if self.discriminator is not None:
            parts.append((self.discriminator, self.discriminator_config.optimizer))
        return parts

    def loss_of(self, batch: AvatarBatch) -> Tensor:
        """The avatar's loss on a batch, without a step."""
        adversary = self._adversary()
        with _untrained(adversary):
            return self._terms(batch, adversary)[0].total

    def _adversary(self) -> nn.Module | None:
        """The discriminator, once its term has begun."""
        is_adversarial = self.objective.config.weight("adversarial", self.global_step) > 0
        return self.discriminator if is_adversarial else None

    def _terms(
        self, batch: AvatarBatch, adversary: nn.Module | None
    ) -> tuple[LossTerms, ImagePair, AvatarBatch]:
        """Terms of the loss, the compared images, and the batch as the model saw it."""
        # A random background keeps colour from leaking into a mask that is too small (ROME sec. 3.4).
        background = torch.rand(len(batch.target), 3, device=self.device)
        if self.views is not None:
            batch = dataclasses.replace(batch, source=self.views(self.avatar, batch.source))
        rendered = self.reproduce(batch, background)
        own_colours = self.avatar.config.decoder.carry
        images = composited(rendered, batch.target, background, own_colours=own_colours)
        return self.objective(rendered, batch, images, adversary, self.global_step), images, batch

    def train_on(self, batch: AvatarBatch, batch_idx: int) -> None:
        """Reproduce the targets on a random background; improve the avatar, then the discriminator."""
        adversary = self._adversary()
        with _untrained(adversary):
            terms, images, batch = self._terms(batch, adversary)
            self.descend(AVATAR, terms.total)
        logs = terms.as_logs("train")
        if adversary is not None:
            loss = discriminator_loss(adversary, images)
            self.descend(DISCRIMINATOR, loss)
            logs["train/discriminator"] = loss.detach()
        self.end_step(batch, terms.raw)
        self.log_terms(logs, batch_size=len(batch))
        self.log("loss", terms.total.detach(), prog_bar=True, logger=False, batch_size=len(batch))


def discriminator_loss(discriminator: nn.Module, images: ImagePair) -> Tensor:
    """Hinge loss of the discriminator on both images of every pair; the avatar gets no gradient."""
    # One pass: its normalization is per image, so pairs do not mix.
    scores, _ = discriminator(torch.cat([images.wanted, images.predicted.detach()]))
    real, fake = scores.chunk(2)
    return hinge_discriminator(real, fake)


def _build_discriminator(config: DiscriminatorConfig) -> PatchDiscriminator:
    return PatchDiscriminator(
        base_width=config.width, num_blocks=config.num_blocks, spectral_norm=config.spectral_norm
    )


@contextmanager
def _untrained(network: nn.Module | None) -> Iterator[None]:
    """Gradients pass through a network and are not kept by it."""
    if network is None:
        yield
        return
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)
