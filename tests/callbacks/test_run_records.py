"""Files that a run writes besides its checkpoints: tables, images, speed."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from rome_lightning.callbacks import run_logger, throughput
from rome_lightning.callbacks.image_grid import channel_tiles, error_map
from rome_lightning.callbacks.learning_curves import draw_curves, read_curves
from rome_lightning.callbacks.run_logger import RunCSVLogger, run_loggers
from rome_lightning.callbacks.throughput import Throughput


def _log(folder: Path, steps: range) -> RunCSVLogger:
    logger = RunCSVLogger(folder)
    for step in steps:
        logger.log_metrics({"train/loss": float(step)}, step)
        logger.save()
    return logger


def _steps(folder: Path) -> list[int]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def test_rows_after_the_checkpoint_are_written_once(tmp_path):
    _log(tmp_path, range(5))
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("5")  # A kill in the middle of a row.
    resumed = RunCSVLogger(tmp_path)
    resumed.drop_rows_from(3)
    for step in (3, 4):
        resumed.log_metrics({"train/loss": 0.5, "val/psnr": 20.0}, step)
        resumed.save()
    assert _steps(tmp_path) == [0, 1, 2, 3, 4]
    assert read_curves(tmp_path / "metrics.csv")["train/loss"] == [(0, 0), (1, 1), (2, 2), (3, 0.5), (4, 0.5)]


def test_a_table_cut_anywhere_keeps_its_columns(tmp_path):
    _log(tmp_path, range(3))
    whole = (tmp_path / "metrics.csv").read_bytes()
    for end in range(len(whole) + 1):
        (tmp_path / "metrics.csv").write_bytes(whole[:end])
        resumed = RunCSVLogger(tmp_path)
        resumed.drop_rows_from(2)
        for step in (2, 3):
            resumed.log_metrics({"train/loss": float(step), "val/psnr": 20.0}, step)
            resumed.save()
        with (tmp_path / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert set(rows[0]) == {"step", "train/loss", "val/psnr"}, end
        assert all(float(row["train/loss"]) == float(row["step"]) for row in rows), end
        assert [int(row["step"]) for row in rows][-2:] == [2, 3]


def test_further_columns_never_leave_half_a_table(tmp_path, monkeypatch):
    logger = _log(tmp_path, range(3))
    before = (tmp_path / "metrics.csv").read_bytes()
    logger.log_metrics({"val/psnr": 20.0}, 3)
    monkeypatch.setattr(run_logger, "write_atomic", lambda path, data: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        logger.save()
    assert (tmp_path / "metrics.csv").read_bytes() == before


def test_a_run_without_rows_has_none_to_drop(tmp_path):
    RunCSVLogger(tmp_path).drop_rows_from(0)
    assert not (tmp_path / "metrics.csv").exists()


def test_loggers_and_the_id_that_is_kept(tmp_path):
    names = [type(logger).__name__ for logger in run_loggers(tmp_path, "disabled", True, 0)]
    assert names == ["RunCSVLogger", "TensorBoardLogger"]
    first = run_loggers(tmp_path, "offline", False, 0)[-1]
    again = run_loggers(tmp_path, "offline", False, 7)[-1]
    assert first.version == again.version == (tmp_path / "wandb_id.txt").read_text().strip()


def test_curves_are_drawn_of_what_is_there(tmp_path):
    curves = {
        "train/loss": [(step, 1 / (step + 1)) for step in range(400)],
        "train/weighted_dice": [(0, 0.0), (1, 0.5)],
        "val/psnr": [(1, 20.0), (3, 21.0)],
    }
    draw_curves(curves, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > 1000
        assert np.asarray(picture).std() > 10
    draw_curves({}, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_errors_are_red_and_agreement_is_white():
    image = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    target = SimpleNamespace(image=image, foreground_mask=torch.ones(1, 1, 4, 4))
    shown = image.clone()
    shown[:, :, 0, 0] = (image[:, :, 0, 0] + 0.5) % 1.0
    shown[:, :, 1, 1] += 0.1
    result = error_map(SimpleNamespace(image=shown), target)[0]
    assert result[:, 0, 0].tolist() == [1, 0, 0]
    assert result[:, 2, 2].tolist() == [1, 1, 1]
    assert result[:, 1, 1].tolist() == pytest.approx([1, 0.7, 0.7], abs=1e-5)


def test_each_channel_has_a_tile_from_black_to_white():
    ramp = torch.linspace(-3, 5, 64).view(1, 1, 8, 8)
    tiles = channel_tiles(torch.cat([ramp, -ramp, torch.zeros_like(ramp)], dim=1), (32, 32))
    assert tiles.shape == (1, 3, 32, 32)
    first, second = tiles[0, 0, :16, :16], tiles[0, 0, :16, 16:]
    assert first[0, 0] < 0.05
    assert first[-1, -1] > 0.95
    assert second[0, 0] > 0.95
    assert (tiles[0, 0, 16:, 16:] == 1).all()


def test_speed_and_waiting_are_shares_of_the_time_between_rows(monkeypatch):
    clock = iter([0.0, 3.0, 4.0, 7.0])
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: next(clock))
    logged = {}
    module = SimpleNamespace(
        device=torch.device("cpu"), log_dict=lambda values, batch_size: logged.update(values)
    )
    trainer = SimpleNamespace(
        world_size=2,
        log_every_n_steps=2,
        datamodule=SimpleNamespace(pairs_skipped=1),
        fit_loop=SimpleNamespace(total_batch_idx=0),
    )
    callback = Throughput()
    for step in range(2):
        trainer.fit_loop.total_batch_idx = step
        callback.on_train_batch_start(trainer, module, [0] * 5, step)
        callback.on_train_batch_end(trainer, module, None, [0] * 5, step)
    # Steps of 3 s with 1 s between them, 5 images on each of two processes.
    assert logged["time/images_per_s"] == pytest.approx(20 / 7)
    assert logged["time/data_wait_ratio"] == pytest.approx(1 / 7)
    assert logged["data/skipped"] == 1
    assert 0.05 < logged["memory/peak_gb"] < 100
