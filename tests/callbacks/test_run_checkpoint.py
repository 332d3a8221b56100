"""A run that was cut anywhere ends as the uninterrupted one; a module of a few numbers stands for a model."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from torch import nn
from torch.utils.data import DataLoader, Dataset

from datamodules.resuming import current_position
from datamodules.sampler import TrainingSampler
from rome_lightning.callbacks import RunCheckpoint, RunSummary, SeedEachStep, run_checkpoint
from rome_lightning.callbacks.run_logger import RunCSVLogger
from rome_lightning.media import stopping
from rome_lightning.media.stopping import RunStopped
from rome_lightning.training.checkpointing import RUN_KEY, RunCheckpointIO, newest_valid

STEPS_PER_EPOCH = 5


class _Numbers(Dataset):
    def __getitem__(self, place: tuple[int, int]) -> torch.Tensor:
        epoch, position = place
        generator = torch.Generator().manual_seed(1000 * epoch + position)
        return torch.randn(3, generator=generator)


class _Data(LightningDataModule):
    """Steps of one sample whose place in the stream is kept as the real datamodule keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.start: tuple[int, int] = (0, 0)

    def train_dataloader(self) -> DataLoader:
        sampler = TrainingSampler(STEPS_PER_EPOCH, 1, 1, 0, *self.start)
        return DataLoader(_Numbers(), batch_size=1, sampler=sampler)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(torch.ones(2, 3), batch_size=1)

    def state_dict(self) -> dict[str, Any]:
        at = current_position(self.trainer, 1)
        return {"start": (at.epoch, at.position)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.start = tuple(state_dict["start"])


class _Module(LightningModule):
    """Two networks, two optimizers, a schedule, noise in the step: what can go wrong in a real one."""

    automatic_optimization = False

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.discriminator = nn.Linear(3, 3), nn.Linear(3, 1)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        noisy = self.generator(batch + torch.randn_like(batch))
        losses = (self.discriminator(noisy).square().mean(), self.discriminator(noisy.detach()).mean() + 1)
        for optimizer, loss in zip(self.optimizers(), losses, strict=True):
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        for scheduler in self.lr_schedulers():
            scheduler.step()
        self.log("train/loss", losses[0].detach())

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        torch.randn(7)  # What validation draws must not change training.
        self.log("val/score", self.generator(batch).mean())

    def configure_optimizers(self) -> Any:
        optimizers = [
            torch.optim.Adam(part.parameters(), 0.05) for part in (self.generator, self.discriminator)
        ]
        return optimizers, [torch.optim.lr_scheduler.ExponentialLR(o, 0.97) for o in optimizers]


class _Cut(Callback):
    """Ends the process's run at a step, as kill -9 does: nothing is saved or closed."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx == self.step:
            raise _Killed


class _Killed(BaseException):
    pass


class _Unsaved(RunCheckpoint):
    """Dies without a word where the process would be dead."""

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if not isinstance(exception, _Killed):
            super().on_exception(trainer, pl_module, exception)


def _fit(folder: Path, *more: Callback, resume: bool = False, epochs: int = 3, **options: Any) -> _Module:
    seed_everything(0, verbose=False)
    module = _Module()
    monitor, every_n_steps = options.pop("monitor", "val/score"), options.pop("every_n_steps", None)
    long_validation_s = options.pop("long_validation_s", 30.0)
    checkpoint = _Unsaved(monitor, every_n_steps=every_n_steps, long_validation_s=long_validation_s)
    ema = EMAWeightAveraging(decay=0.5, use_buffers=False)
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=epochs,
        logger=options.pop("logger", None) or RunCSVLogger(folder),
        log_every_n_steps=1,
        num_sanity_val_steps=options.pop("num_sanity_val_steps", 0),
        callbacks=[SeedEachStep(), *more, ema, checkpoint],
        plugins=[RunCheckpointIO()],
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    path = newest_valid(folder / "checkpoints") if resume else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, datamodule=_Data(), ckpt_path=path)
    return module


def _steps(folder: Path, name: str = "last") -> int:
    path = folder / "checkpoints" / f"{name}.ckpt"
    return int(torch.load(path, weights_only=True)[RUN_KEY]["steps"])


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _same(a: _Module, b: _Module) -> bool:
    return all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, range(0, 15, 3)),
        ({"every_n_steps": 1}, range(0, 15, 4)),
        ({"every_n_steps": 1, "val_check_interval": 2}, range(1, 15, 5)),
        pytest.param({"every_n_steps": 1, "val_check_interval": 2}, range(15), marks=pytest.mark.slow),
        ({"every_n_steps": 3, "check_val_every_n_epoch": 2}, range(1, 15, 3)),
        ({"every_n_steps": 2, "num_sanity_val_steps": 1}, range(2, 15, 4)),
        ({"every_n_steps": 5}, range(4, 11)),
        ({"every_n_steps": 2, "limit_val_batches": 0}, range(1, 15, 3)),
    ],
    ids=str,
)
def test_a_run_cut_at_any_step_ends_as_the_whole_one(
    options: dict[str, Any], steps: range, tmp_path: Path
) -> None:
    whole = _fit(tmp_path / "whole", **options)
    last = torch.load(tmp_path / "whole" / "checkpoints" / "last.ckpt", weights_only=True)
    for step in steps:
        folder = tmp_path / f"cut-{step}"
        # Killed again and again, a run gets on as far as its checkpoints do.
        for cut in (step, step + 1, step + 4, 99):
            try:
                resumed = _fit(folder, _Cut(cut), resume=True, **options)
            except _Killed:
                continue
            break
        assert _rows(folder) == _rows(tmp_path / "whole"), step
        assert _same(resumed, whole), step
        again = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        for key in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "loops"):
            torch.testing.assert_close(again[key], last[key], rtol=0, atol=0)


def test_checkpoints_say_what_run_they_belong_to(tmp_path: Path) -> None:
    _fit(tmp_path, epochs=1)
    facts = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)[RUN_KEY]
    assert (facts["steps"], facts["epoch"], facts["seed"], facts["world_size"]) == (STEPS_PER_EPOCH, 0, 0, 1)
    assert facts["code"]["versions"].keys() >= {"torch", "lightning"}


def _full_disk(monkeypatch: pytest.MonkeyPatch, at_writes: set[int]) -> None:
    writes = 0
    original = RunCheckpointIO.save_checkpoint

    def save(
        self: RunCheckpointIO, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        nonlocal writes
        writes += 1
        if writes - 1 in at_writes:
            raise OSError(28, "No space left on device")
        original(self, checkpoint, path, storage_options)

    monkeypatch.setattr(RunCheckpointIO, "save_checkpoint", save)


def test_a_full_disk_keeps_the_old_checkpoint_and_training_goes_on(tmp_path, monkeypatch, capsys):
    # Before and after the first validation, then after the second, which fails, and the third.
    _full_disk(monkeypatch, {2})
    said = []
    monkeypatch.setattr(run_checkpoint, "rank_zero_warn", said.append)
    _fit(tmp_path, epochs=3)
    assert said == [
        "no checkpoint after 10 steps: [Errno 28] No space left on device; the previous one is kept, "
        "training continues"
    ]
    assert (_steps(tmp_path), _steps(tmp_path, "previous")) == (15, 5)


def test_a_run_whose_end_is_not_saved_fails(tmp_path, monkeypatch):
    _full_disk(monkeypatch, {2, 3})
    with pytest.raises(
        OSError, match="the run is finished, but its last state was not saved: after 15 steps"
    ):
        _fit(tmp_path, epochs=3)
    assert newest_valid(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "last.ckpt"


class _Signal(Callback):
    def __init__(self, step: int, *signals: int) -> None:
        self.step, self.signals = step, signals

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx == self.step:
            for signum in self.signals:
                os.kill(os.getpid(), signum)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_stops_between_two_steps(signum, tmp_path):
    before = signal.getsignal(signum)
    with pytest.raises(RunStopped) as stopped:
        _fit(tmp_path, _Signal(7, signum))
    assert stopped.value.code == 128 + signum
    assert "last.ckpt" in stopped.value.message
    assert signal.getsignal(signum) == before
    assert _same(_fit(tmp_path, resume=True), _fit(tmp_path / "whole"))


class _SignalInValidation(Callback):
    def __init__(self, step: int) -> None:
        self.step, self.seen = step, 0

    def on_validation_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx + 1 == self.step and not trainer.sanity_checking:
            self.seen += 1
            os.kill(os.getpid(), signal.SIGUSR2)


@pytest.mark.parametrize(
    ("options", "step"),
    [({}, 5), ({}, 10), ({"val_check_interval": 2}, 2), ({"val_check_interval": 2}, 9)],
)
def test_a_signal_stops_inside_of_a_long_validation(options, step, tmp_path):
    callback = _SignalInValidation(step)
    with pytest.raises(RunStopped) as stopped:
        _fit(tmp_path, callback, long_validation_s=0.0, **options)
    # The first of two batches; the averaged weights were in place of the trained ones.
    assert callback.seen == 1
    assert stopped.value.message.startswith(f"stopped by SIGUSR2 after {step} steps; resume with")
    assert _same(_fit(tmp_path, resume=True, **options), _fit(tmp_path / "whole", **options))


def test_a_signal_before_the_first_step_names_no_checkpoint(tmp_path):
    with pytest.raises(RunStopped) as stopped:
        _fit(tmp_path, _Signal(0, signal.SIGTERM))
    assert (
        stopped.value.message
        == "stopped by SIGTERM after 0 steps; there is nothing to resume: start it again"
    )
    assert not (tmp_path / "checkpoints" / "last.ckpt").exists()


def test_a_second_ctrl_c_does_not_wait(tmp_path):
    # Lightning makes an exit of an interrupt.
    with pytest.raises(SystemExit) as stopped:
        _fit(tmp_path, _Signal(7, signal.SIGINT, signal.SIGINT))
    assert not isinstance(stopped.value, RunStopped)


class _Warned(RunCSVLogger):
    """Signals come while the run closes its records."""

    def finalize(self, status: str) -> None:
        _warn()
        super().finalize(status)


def _warn() -> None:
    for signum in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
        os.kill(os.getpid(), signum)


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """Signals stop this process at once, as from the start of ``rome fit``; gives requests to requeue it."""
    before = {signum: signal.getsignal(signum) for signum in stopping._WATCHED}
    requests: list[str] = []
    for module in (stopping, run_checkpoint):
        monkeypatch.setattr(module, "requeue_job", lambda: bool(requests.append("requeue")) or True)
    stopping.watch_from_start()
    yield requests
    for signum, handler in before.items():
        signal.signal(signum, handler)
    stopping.end_watch()


def test_signals_after_the_last_step_are_ignored(watched, tmp_path):
    _fit(tmp_path, logger=_Warned(tmp_path), epochs=1)
    _warn()
    assert not watched


def test_signals_while_a_failed_run_ends_are_ignored(watched, tmp_path):
    with pytest.raises(ValueError, match="broken"):
        _fit(tmp_path, _Break(2, "on_train_batch_start"), logger=_Warned(tmp_path))
    _warn()
    assert not watched


@pytest.mark.parametrize("callback", [lambda: _Signal(2, signal.SIGUSR1), lambda: _SignalAtStart()])
def test_signals_while_a_stopped_run_ends_are_ignored(callback, watched, tmp_path):
    with pytest.raises(RunStopped, match="138"):
        _fit(tmp_path, callback(), logger=_Warned(tmp_path))
    _warn()
    assert watched == ["requeue"]


class _SignalAtStart(Callback):
    """Before the first step."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)


class _Break(Callback):
    """Raises between two steps, or in the middle of one."""

    def __init__(self, step: int, hook: str) -> None:
        self.step = step
        setattr(self, hook, self._act)

    def _act(self, trainer: Trainer, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx == self.step:
            raise ValueError("broken")


@pytest.mark.parametrize(("hook", "saved"), [("on_train_batch_start", 7), ("on_before_optimizer_step", 5)])
def test_an_error_saves_what_is_whole_and_no_half_step(hook, saved, tmp_path):
    with pytest.raises(ValueError, match="broken"):
        _fit(tmp_path, _Break(7, hook))
    assert _steps(tmp_path) == saved
    assert _same(_fit(tmp_path, resume=True), _fit(tmp_path / "whole"))


def test_a_run_killed_before_its_first_validation_says_its_data(tmp_path, monkeypatch):
    monkeypatch.setattr(_Data, "dataset_hash", "abc", raising=False)
    monkeypatch.setattr(_Module, "avatar", SimpleNamespace(head=SimpleNamespace(licence="")), raising=False)
    with pytest.raises(_Killed):
        _fit(tmp_path, RunSummary(), _Cut(1))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["dataset_hash"], summary["finished"]) == ("abc", False)


@pytest.mark.slow
def test_ranks_that_differ_do_not_wait_for_each_other(tmp_path):
    program = Path(__file__).with_name("uneven_ranks.py")
    ended = subprocess.run(
        [sys.executable, str(program), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "no checkpoint after 8 steps" in ended.stderr
    assert (_steps(tmp_path), _steps(tmp_path, "previous")) == (16, 16)


def test_a_metric_that_is_not_logged_is_named_with_those_that_are(tmp_path):
    with pytest.raises(ValueError, match=r"monitor = val/lpips, which is not logged; .*val/score"):
        _fit(tmp_path, epochs=1, monitor="val/lpips")


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_best_is_the_best_and_never_not_a_number(mode, tmp_path):
    checkpoint = RunCheckpoint("val/score", mode)
    scores = iter([3.0, math.nan, 1.0, 2.0])

    class Scored(_Module):
        def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
            if batch_idx == 0:
                self.score = next(scores)
            self.log("val/score", self.score)

    trainer = Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_epochs=4,
        logger=False,
        callbacks=[checkpoint],
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Scored(), datamodule=_Data())
    best = torch.load(checkpoint.best_model_path, weights_only=True)
    assert checkpoint.best_model_score == {"min": 1.0, "max": 3.0}[mode]
    assert best[RUN_KEY]["epoch"] == {"min": 2, "max": 0}[mode]


def test_a_run_gone_on_with_elsewhere_has_a_best_of_its_own_and_leaves_the_old_one(tmp_path):
    def fit(folder: Path, epochs: int, score: float, start: Path | None = None) -> RunCheckpoint:
        class Scored(_Module):
            def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
                self.log("val/score", score)

        checkpoint = RunCheckpoint("val/score")
        trainer = Trainer(
            default_root_dir=folder,
            accelerator="cpu",
            max_epochs=epochs,
            logger=False,
            callbacks=[checkpoint],
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Scored(), datamodule=_Data(), ckpt_path=start)
        return checkpoint

    old, new = tmp_path / "old", tmp_path / "new"
    fit(old, 1, 1.0)
    before = {path: path.read_bytes() for path in (old / "checkpoints").iterdir()}
    checkpoint = fit(new, 2, 2.0, old / "checkpoints" / "last.ckpt")
    assert checkpoint.best_model_score == 2
    assert torch.load(checkpoint.best_model_path, weights_only=True)[RUN_KEY]["epoch"] == 1
    assert {path: path.read_bytes() for path in (old / "checkpoints").iterdir()} == before
    # In the same folder the better one of before stays.
    assert fit(old, 2, 2.0, old / "checkpoints" / "last.ckpt").best_model_score == 1


def test_senseless_intervals_are_refused():
    with pytest.raises(ValueError, match="every_n_steps of RunCheckpoint must be positive"):
        RunCheckpoint(every_n_steps=0)
