"""Training progress when the output goes to a file."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from jsonargparse import Namespace
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, TQDMProgressBar

from rome_lightning.callbacks import ProgressLines
from rome_lightning.cli.fit import _lines_for_bar


class _Line(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss = (self.weight - 1).square().sum()
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def _printed(every_s: float, folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    trainer = Trainer(
        max_epochs=2, callbacks=[ProgressLines(every_s)], logger=False, enable_checkpointing=False,
        enable_model_summary=False, accelerator="cpu", default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(_Line(), torch.utils.data.DataLoader(torch.zeros(3)))
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch")]


@pytest.mark.filterwarnings("ignore")
def test_each_step_is_told_with_the_time_left(tmp_path, capsys):
    lines = _printed(0.0, tmp_path, capsys)
    assert len(lines) == 6
    assert re.fullmatch(r"epoch 1 of 2, step 1 of 3, loss 1, about \d+ s left", lines[0])
    # After the last step no time is left.
    assert re.fullmatch(r"epoch 2 of 2, step 3 of 3, loss 0\.\d+", lines[-1])


@pytest.mark.filterwarnings("ignore")
def test_a_fast_training_has_a_line_per_epoch(tmp_path, capsys):
    assert len(_printed(3600.0, tmp_path, capsys)) == 2


@pytest.mark.parametrize(
    ("options", "is_terminal", "wanted"),
    [({}, False, True), ({}, True, False), ({"enable_progress_bar": False}, False, False)],
)
def test_lines_are_for_logs(monkeypatch, options, is_terminal, wanted):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal, raising=False)
    assert _lines_for_bar(Namespace(**options)) is wanted


@pytest.mark.parametrize(("is_terminal", "num_kept"), [(False, 1), (True, 2)])
def test_they_take_the_place_of_a_bar(monkeypatch, is_terminal, num_kept):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal, raising=False)
    options = Namespace(callbacks=[Callback(), TQDMProgressBar()])
    _lines_for_bar(options)
    assert len(options.callbacks) == num_kept
