"""Settings that would silently train something else are refused before training."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint

from rome_lightning.callbacks import ImageGrid, LearningCurves, RunCheckpoint, RunSummary, Throughput
from rome_lightning.training.checking import check_class, check_run


class _Module(LightningModule):
    def __init__(self, head: str = "open") -> None:
        super().__init__()
        self.automatic_optimization = False
        self.avatar = SimpleNamespace(head=SimpleNamespace(name=head))


def _check(callbacks=(), head="open", tracked="open", **trainer):
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[*callbacks, RunCheckpoint()], **trainer)
    data = SimpleNamespace(manifests=[SimpleNamespace(head={"name": tracked})])
    check_run(trainer, _Module(head), data)


def _average(**options):
    return EMAWeightAveraging(**{"decay": 0.99, "use_buffers": False} | options)


def test_what_is_right_passes():
    _check([ImageGrid(), Throughput(), LearningCurves(), RunSummary(), _average()])
    # Callbacks that never use the weights may follow the average.
    _check([ImageGrid(), _average(), RunSummary(), Throughput()])


@pytest.mark.parametrize(
    ("callbacks", "options", "complaint"),
    [
        ([], {"max_steps": 10}, r"set trainer\.max_epochs and data\.init_args\.pairs_per_epoch"),
        ([], {"gradient_clip_val": 1.0}, r"set model\.init_args\.optimizer\.clip_norm"),
        ([], {"accumulate_grad_batches": 4}, r"set it to 1, and data\.init_args\.batch_size"),
        ([], {"tracked": "flame"}, r"tracked with the head model 'flame', the model has 'open'; set model\."),
        (
            [_average(), ImageGrid()],
            {},
            r"ImageGrid comes after EMA.*put EMAWeightAveraging last",
        ),
        ([_average(use_buffers=True)], {}, r"use_buffers: true .*set its init_args\.use_buffers to false"),
        (
            [ModelCheckpoint()],
            {},
            r"put rome_lightning\.callbacks\.RunCheckpoint",
        ),
    ],
    # Not of the callbacks: their names hold addresses, and processes must agree on what a test is called.
    ids=lambda value: None if isinstance(value, list) else str(value),
)
def test_what_is_wrong_names_the_setting(callbacks, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        _check(callbacks, **options)


@pytest.mark.parametrize(
    "named", ["os.system", "evil.Model", "rome_lightning.training.full_module", "", None, 3, ["x"]]
)
def test_a_checkpoint_cannot_have_other_classes_imported(named):
    with pytest.raises(
        ValueError, match=r"run\.ckpt names the class .* not imported just because a file names it"
    ):
        check_class(named, {}, "rome_lightning.training.FullModule", "run.ckpt")


@pytest.mark.parametrize(
    "options",
    [
        {"class_path": "os.system"},
        {"avatar": {"class_path": "evil.Config"}},
        {"losses": [{"deep": {"_class_path": "evil"}}]},
        {"avatar": {"_instantiator": "evil.make"}},
    ],
)
def test_options_of_a_checkpoint_name_no_class(options):
    ours = "rome_lightning.training.FullModule"
    with pytest.raises(ValueError, match="among the model's options"):
        check_class(ours, options, ours, "run.ckpt")


def test_own_models_and_that_of_the_configuration_are_taken():
    for named in ("rome_lightning.training.FullModule", "rome_lightning.training.LinearModule"):
        check_class(named, {"avatar": {"head": "open"}, "image_size": 64}, "mine.Model", "run.ckpt")
    check_class("mine.Model", {}, "mine.Model", "run.ckpt")
