"""Interrupted and resumed training sees the same stream as uninterrupted training."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from small_dataset import SIZE, make_clip, write_dataset

from datamodules.talking_heads import TalkingHeadDataModule
from rome_lightning.types import AvatarBatch

PAIRS_PER_EPOCH = 18
"""No multiple of the batch sizes: the ragged tail of an epoch must be dropped on resume as well."""


def module(dataset: Path, **changes: Any) -> TalkingHeadDataModule:
    options = {"image_size": SIZE, "batch_size": 2, "pairs_per_epoch": PAIRS_PER_EPOCH, **changes}
    return TalkingHeadDataModule(dataset, **options)


def frame_of(image: torch.Tensor) -> int:
    """The frame number, which the fixture stored in the red channel."""
    return round((float(image[0].mean()) * 255 - 20) / 10)


class Recorder(lightning.LightningModule):
    """Two manually stepped optimizers, as in training; records all pairs."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.stop_after = stop_after
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.other = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, str, int, int]] = []
        self.steps = 0

    def training_step(self, batch: AvatarBatch, batch_idx: int) -> None:
        if self.steps == self.stop_after:
            raise KeyError("killed here")
        self.steps += 1
        for optimizer, weight in zip(self.optimizers(), (self.weight, self.other), strict=True):
            optimizer.zero_grad()
            self.manual_backward(weight * batch.target.image.mean())
            optimizer.step()
        for i, clip in enumerate(batch.clips):
            frames = frame_of(batch.source.image[i]), frame_of(batch.target.image[i])
            self.seen.append((self.current_epoch, clip, *frames))

    def validation_step(self, batch: AvatarBatch, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.SGD([self.weight], 0.1), torch.optim.SGD([self.other], 0.1)]


class SaveEverywhere(lightning.Callback):
    """Saves a checkpoint at every hook where users do, with the pairs seen so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.saved: list[tuple[str, Path, int]] = []

    def _save(self, hook: str, trainer: lightning.Trainer, recorder: Recorder) -> None:
        path = self.folder / f"{len(self.saved):03d}-{hook}.ckpt"
        trainer.save_checkpoint(path)
        self.saved.append((hook, path, len(recorder.seen)))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self._save("batch_end", trainer, pl_module)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self._save("validation_end", trainer, pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._save("epoch_end", trainer, pl_module)


def trainer(*callbacks: lightning.Callback, epochs: int = 3, **options: Any) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False,
        callbacks=[*callbacks], enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, **options,
    )  # fmt: skip


def fit(data: TalkingHeadDataModule, *callbacks: lightning.Callback, **options: Any) -> Recorder:
    checkpoint = options.pop("checkpoint", None)
    recorder = Recorder(options.pop("stop_after", None))
    run = trainer(*callbacks, **options)
    try:
        # Lightning's plain checkpoints, which this test has just written, hold more than weights.
        run.fit(recorder, data, ckpt_path=checkpoint, weights_only=False)
    except KeyError:
        assert recorder.steps == recorder.stop_after
    return recorder


@pytest.fixture(scope="module")
def saved(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recorder, SaveEverywhere]:
    """An uninterrupted run with batches of 4, validated twice per epoch, and its checkpoints."""
    keeper = SaveEverywhere(tmp_path_factory.mktemp("checkpoints"))
    return fit(module(dataset, batch_size=4), keeper, val_check_interval=2), keeper


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [
    {"batch_size": 4},
    {"batch_size": 4, "num_workers": 2},
    {"batch_size": 2},
    {"batch_size": 1},
])  # fmt: skip
def test_resumed_from_any_hook_is_as_uninterrupted(
    dataset: Path, saved: tuple[Recorder, SaveEverywhere], options: dict[str, Any]
) -> None:
    whole, keeper = saved
    assert len(whole.seen) == 3 * 16
    assert {hook for hook, _, _ in keeper.saved} == {"batch_end", "validation_end", "epoch_end"}
    chosen = keeper.saved if options == {"batch_size": 4} else keeper.saved[1:-3:7]
    for hook, path, count in chosen:
        resumed = fit(module(dataset, **options), checkpoint=path, val_check_interval=0.5)
        # Smaller batches use up to two pairs more of each epoch: what the larger ones dropped.
        expected = whole.seen[count:]
        seen = [pair for pair in resumed.seen if pair in whole.seen]
        assert (hook, count, seen) == (hook, count, expected)
        if options["batch_size"] == 4:
            assert resumed.seen == expected


@pytest.mark.filterwarnings("ignore")
def test_larger_steps_resume_too(dataset: Path, tmp_path: Path) -> None:
    """Lightning restores 8 steps of one pair; mistaken for 8 of 9 steps of two, the epoch would end early."""
    keeper = SaveEverywhere(tmp_path)
    whole = fit(module(dataset, batch_size=1), keeper, epochs=2, limit_val_batches=0)
    path = next(path for hook, path, count in keeper.saved if (hook, count) == ("batch_end", 8))
    resumed = fit(module(dataset, batch_size=2), checkpoint=path, epochs=2, limit_val_batches=0)
    assert resumed.seen == whole.seen[8:]


@pytest.mark.filterwarnings("ignore")
def test_a_run_that_died_in_a_step_repeats_only_that_step(dataset: Path, tmp_path: Path) -> None:
    whole = fit(module(dataset, batch_size=4))
    keeper = SaveEverywhere(tmp_path)
    killed = fit(module(dataset, batch_size=4), keeper, stop_after=6, limit_val_batches=0)
    assert len(killed.seen) == 24
    resumed = fit(module(dataset, batch_size=4), checkpoint=keeper.saved[-1][1], limit_val_batches=0)
    assert killed.seen + resumed.seen == whole.seen


@pytest.mark.filterwarnings("ignore")
def test_position_that_no_batch_divides(dataset: Path, saved: tuple[Recorder, SaveEverywhere]) -> None:
    with pytest.raises(ValueError, match=r"after 4 pairs .* multiple of 3 .*data\.init_args\.batch_size"):
        fit(module(dataset, batch_size=3), checkpoint=saved[1].saved[0][1])


@pytest.mark.parametrize("changes", [{"seed": 1}, {"pairs_per_epoch": 17}, {"num_driving": 2}])
def test_another_stream_is_refused(dataset: Path, changes: dict[str, Any]) -> None:
    state = module(dataset).state_dict()
    assert (state["epoch"], state["position"]) == (0, 0)
    module(dataset, batch_size=4).load_state_dict(state)
    with pytest.raises(ValueError, match=f"init_args.{next(iter(changes))}.*init_from"):
        module(dataset, **changes).load_state_dict(state)


@pytest.mark.filterwarnings("ignore")
def test_evaluation_may_use_other_data(
    dataset: Path, saved: tuple[Recorder, SaveEverywhere], tmp_path: Path
) -> None:
    write_dataset(tmp_path, {"train": [[make_clip("a", "a")]], "val": [[make_clip("b", "b")]]})
    run = trainer()
    # Written by this test, as above.
    run.validate(Recorder(), module(tmp_path), ckpt_path=saved[1].saved[0][1], weights_only=False)


def _rank_fit(rank: int, dataset: Path, checkpoint: Path, folder: Path, port: int) -> None:
    """One of two ranks that continue from a checkpoint of a single rank."""
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank),
        "NODE_RANK": "0",
    }  # fmt: skip
    options = {"devices": 2, "strategy": "ddp_find_unused_parameters_true", "val_check_interval": 2}
    resumed = fit(module(dataset, batch_size=1, num_workers=1), checkpoint=checkpoint, **options)
    torch.save(resumed.seen, folder / f"{rank}.pt")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_ranks_resume_where_one_stopped(
    dataset: Path, saved: tuple[Recorder, SaveEverywhere], tmp_path: Path
) -> None:
    whole, keeper = saved
    path, count = next((path, count) for hook, path, count in keeper.saved if count == 24)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_rank_fit, (dataset, path, tmp_path, port), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    together = [pair for pairs in zip(*ranks, strict=True) for pair in pairs]
    # Steps of 2 pairs instead of 4: the last two of an epoch's 18 are no longer dropped.
    assert [pair for pair in together if pair in whole.seen] == whole.seen[count:]
    assert len(together) == (18 - 8) + 18
