"""Signals stop a run between two steps, and only while it trains."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from small_run import Break, fit_small, same_weights

from rome_lightning.callbacks import run_checkpoint
from rome_lightning.callbacks.run_logger import RunCSVLogger
from rome_lightning.media import stopping
from rome_lightning.media.stopping import RunStopped


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
        fit_small(tmp_path, _Signal(7, signum))
    assert stopped.value.code == 128 + signum
    assert "last.ckpt" in stopped.value.message
    assert signal.getsignal(signum) == before
    assert same_weights(fit_small(tmp_path, resume=True), fit_small(tmp_path / "whole"))


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
        fit_small(tmp_path, callback, long_validation_s=0.0, **options)
    # The first of two batches; the averaged weights were swapped in for the trained ones.
    assert callback.seen == 1
    assert stopped.value.message.startswith(f"stopped by SIGUSR2 after {step} steps; resume with")
    assert same_weights(fit_small(tmp_path, resume=True, **options), fit_small(tmp_path / "whole", **options))


def test_a_signal_before_the_first_step_names_no_checkpoint(tmp_path):
    with pytest.raises(RunStopped) as stopped:
        fit_small(tmp_path, _Signal(0, signal.SIGTERM))
    assert (
        stopped.value.message
        == "stopped by SIGTERM after 0 steps; there is nothing to resume: start it again"
    )
    assert not (tmp_path / "checkpoints" / "last.ckpt").exists()


def test_a_second_ctrl_c_does_not_wait(tmp_path):
    # Lightning turns an interrupt into an exit.
    with pytest.raises(SystemExit) as stopped:
        fit_small(tmp_path, _Signal(7, signal.SIGINT, signal.SIGINT))
    assert not isinstance(stopped.value, RunStopped)


class _Warned(RunCSVLogger):
    """Signals arrive while the run closes its records."""

    def finalize(self, status: str) -> None:
        _warn()
        super().finalize(status)


def _warn() -> None:
    for signum in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
        os.kill(os.getpid(), signum)


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """Let signals stop this process at once, as at the start of ``rome fit``; returns requeue requests."""
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
    fit_small(tmp_path, logger=_Warned(tmp_path), epochs=1)
    _warn()
    assert not watched


def test_signals_while_a_failed_run_ends_are_ignored(watched, tmp_path):
    with pytest.raises(ValueError, match="broken"):
        fit_small(tmp_path, Break(2, "on_train_batch_start"), logger=_Warned(tmp_path))
    _warn()
    assert not watched


@pytest.mark.parametrize("callback", [lambda: _Signal(2, signal.SIGUSR1), lambda: _SignalAtStart()])
def test_signals_while_a_stopped_run_ends_are_ignored(callback, watched, tmp_path):
    with pytest.raises(RunStopped, match="138"):
        fit_small(tmp_path, callback(), logger=_Warned(tmp_path))
    _warn()
    assert watched == ["requeue"]


class _SignalAtStart(Callback):
    """Before the first step."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
