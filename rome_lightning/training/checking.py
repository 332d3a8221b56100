"""Checks of a run's settings before it starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jsonargparse import Namespace
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelCheckpoint, ProgressBar, WeightAveraging
from lightning.pytorch.utilities.model_helpers import is_overridden

from rome_lightning.head import have_same_parameters
from rome_lightning.models.checkpoint import CONFIG_KEY
from rome_lightning.training.checkpointing import RUN_KEY

_MODELS = (
    "rome_lightning.training.FullModule",
    "rome_lightning.training.full_module.FullModule",
    "rome_lightning.training.LinearModule",
    "rome_lightning.training.linear_module.LinearModule",
)
"""Classes that a checkpoint may name."""


def check_run(trainer: Trainer, module: LightningModule, data: LightningDataModule | None) -> None:
    """Refuse settings that would fail late or, worse, silently train something else.

    Raises:
        ValueError: names the setting to change.
    """
    _check_length(trainer)
    if not module.automatic_optimization:
        _check_manual_optimization(trainer)
    _check_callbacks(_callbacks_of(trainer))
    _check_head(module, data)


def _check_length(trainer: Trainer) -> None:
    """With ``max_steps`` Lightning forgets the current epoch on resuming, so data would repeat."""
    if trainer.max_steps != -1 and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        raise ValueError(
            f"trainer.max_steps = {trainer.max_steps} makes runs impossible to resume exactly; set "
            "trainer.max_epochs and data.init_args.pairs_per_epoch (or trainer.limit_train_batches) instead"
        )


def _check_manual_optimization(trainer: Trainer) -> None:
    if trainer.gradient_clip_val is not None:
        raise ValueError(
            f"trainer.gradient_clip_val = {trainer.gradient_clip_val} does nothing, since each optimizer "
            "clips its own gradients; set model.init_args.optimizer.clip_norm instead"
        )
    if trainer.accumulate_grad_batches != 1:
        raise ValueError(
            f"trainer.accumulate_grad_batches = {trainer.accumulate_grad_batches} does nothing, since every "
            "batch is a step of each optimizer; set it to 1, and data.init_args.batch_size to the pairs of a "
            "step"
        )


def _callbacks_of(trainer: Trainer) -> list[Callback]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks


def _check_callbacks(callbacks: list[Callback]) -> None:
    for index, callback in enumerate(callbacks):
        if isinstance(callback, WeightAveraging):
            _check_averaging(callback, callbacks[index + 1 :])
        if isinstance(callback, ModelCheckpoint):
            raise ValueError(
                "ModelCheckpoint, which Lightning adds where there is no RunCheckpoint, saves at points "
                "from which a run cannot be resumed exactly. Begin with a complete configuration, such as "
                "--config full/base, or put rome_lightning.callbacks.RunCheckpoint into trainer.callbacks, "
                "or set trainer.enable_checkpointing to false"
            )


def _check_averaging(average: WeightAveraging, later: list[Callback]) -> None:
    name = type(average).__name__
    for callback in later:
        if isinstance(callback, Checkpoint | ProgressBar):
            continue
        if is_overridden("on_validation_epoch_end", callback, Callback):
            raise ValueError(
                f"{type(callback).__name__} comes after {name} in trainer.callbacks and would see "
                f"unaveraged weights; put {name} last"
            )
    if getattr(average, "_use_buffers", False):
        raise ValueError(
            f"{name} with use_buffers: true averages integer buffers, such as the mesh's faces, into wrong "
            "ones; set its init_args.use_buffers to false"
        )


def _check_head(module: LightningModule, data: LightningDataModule | None) -> None:
    head = getattr(getattr(module, "avatar", None), "head", None)
    for manifest in getattr(data, "manifests", []):
        tracked = manifest.head.get("name")
        if head is not None and not have_same_parameters(str(tracked), head.name):
            raise ValueError(
                f"the dataset was tracked with the head model {tracked!r}, the model has {head.name!r}; set "
                "model.init_args.avatar.head, or prepare the videos again with --head"
            )


def check_continuation(checkpoint: dict[str, Any], config: Namespace, path: str) -> int:
    """Refuse to resume a run with different settings.

    Args:
        checkpoint: as read.
        config: the options of ``rome fit``.
        path: of the checkpoint, for the message.

    Returns:
        Steps that the run has done.

    Raises:
        ValueError: names the setting to change.
    """
    instead = "to start another run from its weights use model.init_args.init_from instead of --ckpt-path"
    if "optimizer_states" not in checkpoint:
        raise ValueError(f"{path} contains only weights, not a resumable run; {instead}")
    size = config["data"]["init_args"]["image_size"]
    if size != checkpoint["image_size"]:
        raise ValueError(
            f"{path} was trained at {checkpoint['image_size']} px, data.init_args.image_size is {size}; "
            f"{instead}"
        )
    model = config["model"]
    class_path = checkpoint.get("hyper_parameters", {}).get("_class_path", model["class_path"])
    if class_path.rsplit(".", 1)[-1] != model["class_path"].rsplit(".", 1)[-1]:
        raise ValueError(f"{path} is a run of {class_path}, the configuration says {model['class_path']}")
    trained = checkpoint[CONFIG_KEY]
    for key, value in _leaves(model["init_args"].get("avatar")).items():
        before = _leaves(trained).get(key, value)
        if before != value:
            raise ValueError(
                f"{path} was trained with model.init_args.avatar.{key} = {before}, it is now {value}; "
                f"{instead}, or restore the option"
            )
    return int(checkpoint.get(RUN_KEY, {}).get("steps", 0))


def _leaves(options: Any, prefix: str = "") -> dict[str, Any]:
    if hasattr(options, "as_dict"):
        options = options.as_dict()
    if not isinstance(options, Mapping):
        return {prefix: options} if prefix else {}
    found: dict[str, Any] = {}
    for key, value in options.items():
        found |= _leaves(value, f"{prefix}.{key}" if prefix else key)
    return found


def check_class(class_path: Any, options: Any, configured: str, path: str) -> None:
    """Refuse a checkpoint that names any class other than our models and the configuration's own.

    Args:
        class_path: what the checkpoint names.
        options: of the model, in the checkpoint; plain values, so no class among them.
        configured: class of the model in the configuration, which is the user's own.
        path: of the checkpoint, for the message.

    Raises:
        ValueError: names the class.
    """
    if not isinstance(class_path, str) or class_path not in (*_MODELS, configured):
        raise ValueError(
            f"{path} names the class {class_path!r}, which is not imported just because a file names it; "
            "if it is your own, set --model to it"
        )
    named = sorted(key for key in _keys(options) if key in ("class_path", "_class_path", "_instantiator"))
    if named:
        raise ValueError(f"{path} has {named[0]} among the model's options, which must be plain values")


def _keys(options: Any) -> Iterator[str]:
    """Keys of mappings at any depth."""
    if isinstance(options, Mapping):
        for key, value in options.items():
            yield str(key)
            yield from _keys(value)
    elif isinstance(options, list | tuple):
        for value in options:
            yield from _keys(value)
