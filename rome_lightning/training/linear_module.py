"""Training of the linear avatar: regressors in place of the full model's networks."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from rome_lightning.distillation.fitting import Targets, beside
from rome_lightning.losses.mesh_chamfer import chamfer_3d
from rome_lightning.models import (
    AvatarCode,
    AvatarConfig,
    AvatarModel,
    BasisConfig,
    DriverConfig,
    LinearBasis,
)
from rome_lightning.models.basis import read_official
from rome_lightning.models.checkpoint import (
    CONFIG_KEY,
    avatar_weights,
    config_from_dict,
    read_checkpoint,
    share_weights,
)
from rome_lightning.models.config import EncoderName
from rome_lightning.models.offsets import BasisOffsets
from rome_lightning.training.base import RomeModule
from rome_lightning.training.config import LossConfig, OptimizerConfig
from rome_lightning.training.objective import LossTerms, Objective, composited
from rome_lightning.types import AvatarBatch, Frames, HeadParams


@dataclass(frozen=True)
class RegressorConfig:
    """The two image encoders of the linear model."""

    identity: EncoderName = "resnet50"
    """Sees the source once per avatar and gives the coefficients of hair and neck (paper: ResNet-50)."""
    driver: EncoderName = "mobilenet_v2"
    """Sees every frame of a driver and gives expression, pose and camera (paper: MobileNetV2)."""
    input_size: int = 256
    """Larger images are reduced to this side before either sees them, pixels."""
    identity_weights: Path | None = None
    """torchvision state dict to start the identity encoder from, such as its ImageNet weights; none are
    shipped, and without them it is trained from scratch."""
    driver_weights: Path | None = None
    """The same for the driver encoder."""


@dataclass(frozen=True)
class DistillationLossConfig:
    """Weights of the terms that only the linear model has; a term of weight 0 is not computed."""

    coefficients: float = 1.0
    """Squared error of the coefficients, in standard deviations."""
    chamfer: float = 100.0
    """Distance in space between the predicted mesh and the full model's, metres."""
    chamfer_points: int = 768
    """Vertices drawn for that term."""
    driver: float = 1.0
    """Squared error of expression, pose and camera in the units of the encoder's outputs."""
    driver_vertices: float = 10.0
    """Distance between the vertices that the driver encoder and the tracker project, half images."""


class LinearModule(RomeModule):
    """Regressors of a linear model, with texture encoder and deferred renderer of the full one.

    Source: ROME sec. 3.5: squared error on the coefficients, occupancy, and chamfer between meshes.

    Args:
        full_checkpoint: the distilled model, which provides architecture and weights of all shared parts.
        basis: written by ``rome distill basis``, with the coefficients beside it.
        regressors: the encoders.
        distillation: weights of the terms against the full model.
        losses: weights of the terms against the frames, as for the full model.
        optimizer: Adam and its schedule.
        finetune: train texture encoder and deferred renderer too; then ``losses`` must hold them.
        image_size: side of the images, pixels; linked from the data.
    """

    def __init__(
        self,
        full_checkpoint: Path,
        basis: Path,
        regressors: RegressorConfig,
        distillation: DistillationLossConfig,
        losses: LossConfig,
        optimizer: OptimizerConfig,
        finetune: bool = False,
        image_size: int = 256,
    ) -> None:
        full = read_checkpoint(full_checkpoint)
        loaded = LinearBasis.load(basis)
        config = linear_config(config_from_dict(full[CONFIG_KEY]), loaded, regressors)
        super().__init__(AvatarModel(config), optimizer, image_size)
        self.save_hyperparameters()
        self.offsets_part.set_basis(loaded.check(self.avatar.head))
        share_weights(self.avatar, avatar_weights(full))
        for part in (self.avatar.texture_model, self.avatar.renderer):
            part.requires_grad_(finetune)
        _start_from(self.avatar, regressors)
        self.targets = Targets.load(beside(basis, "_coefficients.safetensors"), loaded)
        self.weights = distillation
        self.objective = Objective(losses, self.avatar.head)

    @property
    def offsets_part(self) -> BasisOffsets:
        """What distinguishes this model from the full one."""
        part = self.avatar.offset_network
        assert isinstance(part, BasisOffsets)
        return part

    def train_on(self, batch: AvatarBatch, batch_idx: int) -> None:
        """Coefficients of the sources, meshes against the full model's, silhouettes against the targets'."""
        terms, raw, total = self._all_terms(batch)
        self.descend(0, total)
        self.end_step(batch, terms.raw | raw)
        logs = terms.as_logs("train") | {f"train/loss_{name}": value.detach() for name, value in raw.items()}
        self.log_terms(logs | {"train/loss": total.detach()}, batch_size=len(batch))
        self.log("loss", total.detach(), prog_bar=True, logger=False, batch_size=len(batch))

    def loss_of(self, batch: AvatarBatch) -> Tensor:
        """The avatar's loss on a batch, without a step."""
        return self._all_terms(batch)[2]

    def _all_terms(self, batch: AvatarBatch) -> tuple[LossTerms, dict[str, Tensor], Tensor]:
        """Terms against the frames, those against the full model, and the weighted sum of all."""
        background = torch.rand(len(batch.target), 3, device=self.device)
        code = self.avatar.encode(batch.source)
        repeated = code.repeat_interleave(batch.num_driving)
        size = batch.target.image_size
        rendered = self.avatar.render(repeated, batch.target.params, size, background)
        own_colours = self.avatar.config.decoder.carry
        images = composited(rendered, batch.target, background, own_colours=own_colours)
        terms = self.objective(rendered, batch, images, None, self.global_step)
        raw = self._distillation_terms(batch, code)
        total = terms.total + torch.stack([getattr(self.weights, k) * v for k, v in raw.items()]).sum()
        return terms, raw, total

    def _distillation_terms(self, batch: AvatarBatch, code: AvatarCode) -> dict[str, Tensor]:
        """Terms of positive weight against the full model and the tracker."""
        part, raw = self.offsets_part, {}
        wanted = self.targets.rows(batch.clips).to(self.device)
        assert code.offsets is not None
        if self.weights.coefficients > 0:
            # Orthonormal components: the coefficients of the offsets are those that made them.
            given = torch.einsum("bvc,kvc->bk", code.offsets - part.mean, part.components)
            raw["coefficients"] = ((given - wanted) / part.scale).square().mean()
        if self.weights.chamfer > 0:
            raw["chamfer"] = self._mesh_chamfer(batch.source, code.offsets, wanted)
        if self.weights.driver > 0 or self.weights.driver_vertices > 0:
            raw |= self._driver_terms(batch.target)
        return {name: value for name, value in raw.items() if getattr(self.weights, name) > 0}

    def _mesh_chamfer(
        self, source: Frames, offsets: Float[Tensor, "b v 3"], coefficients: Float[Tensor, "b k"]
    ) -> Tensor:
        """Between both meshes at rest, on vertices that may move."""
        part = self.offsets_part
        count = min(self.weights.chamfer_points, len(part.moving))
        chosen = part.moving[torch.randperm(len(part.moving), device=self.device)[:count]]
        wanted = part.mean + torch.einsum("bk,kvc->bvc", coefficients, part.components)
        bare = self.avatar.rest(source.params)[:, chosen]
        return chamfer_3d(bare + offsets[:, chosen], bare + wanted[:, chosen])

    def _driver_terms(self, target: Frames) -> dict[str, Tensor]:
        """The driver encoder against the tracker."""
        network = self.avatar.driver_network
        assert network is not None
        found = network(target.image, target.params.shape)
        wanted = target.params
        error = (_packed(found) - _packed(wanted)) / network.scale
        distance = self._projected(found) - self._projected(wanted)
        return {"driver": error.square().mean(), "driver_vertices": distance.norm(dim=-1).mean()}

    def _projected(self, params: HeadParams) -> Float[Tensor, "b v 2"]:
        """Vertices of the bare head in half images."""
        return self.avatar.project(self.avatar.head(params), params, (2, 2))[..., :2]

    def _score(self, batch: AvatarBatch, stage: str) -> None:
        """Also the distance to the full model's offsets, where they are known, and of the driver encoder."""
        super()._score(batch, stage)
        known = [index for index, clip in enumerate(batch.clips) if clip in self.targets.clips]
        if known:
            part = self.offsets_part
            rows = torch.tensor(known, device=self.device)
            wanted = self.targets.rows(tuple(batch.clips[i] for i in known)).to(self.device)
            apart = part.coefficients(self.avatar.framed(batch.source[rows])) - wanted
            # Orthonormal components keep lengths.
            error = 1e3 * (apart.square().sum(1) / len(part.moving)).sqrt().mean()
            self.log(f"{stage}/offset_error_mm", error, batch_size=len(known), sync_dist=True)
        distance = self._driver_terms(batch.target)["driver_vertices"]
        self.log(f"{stage}/driver_vertices", distance, batch_size=len(batch), sync_dist=True)


def linear_config(full: AvatarConfig, basis: LinearBasis, regressors: RegressorConfig) -> AvatarConfig:
    """The linear model that goes with a full one."""
    return dataclasses.replace(
        full,
        offsets=dataclasses.replace(full.offsets, kind="basis", expression_dependent=False),
        basis=BasisConfig(basis.num_hair, basis.num_neck, regressors.identity, regressors.input_size),
        driver=DriverConfig(regressors.driver, regressors.input_size),
    )


def _start_from(avatar: AvatarModel, regressors: RegressorConfig) -> None:
    """Pretrained weights for the encoders, where the user has some."""
    assert isinstance(avatar.offset_network, BasisOffsets)
    assert avatar.driver_network is not None
    for path, regressor in (
        (regressors.identity_weights, avatar.offset_network.regressor),
        (regressors.driver_weights, avatar.driver_network.regressor),
    ):
        if path is not None:
            regressor.load_backbone(read_official(path))


def _packed(params: HeadParams) -> Float[Tensor, "b n"]:
    """Expression, pose and camera in the order of the driver encoder's outputs."""
    return torch.cat([params.expression, params.pose, params.camera], dim=-1)
