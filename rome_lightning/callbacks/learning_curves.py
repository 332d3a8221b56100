"""Learning curves of a run as one picture."""

from __future__ import annotations

import csv
import itertools
import math
from pathlib import Path

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from rome_lightning.callbacks.run_logger import BEST
from rome_lightning.media.image import write_figure

_PANEL_SIZE = (4.2, 2.8)
_NUM_COLUMNS = 3
Curves = dict[str, list[tuple[float, float]]]


class LearningCurves(Callback):
    """Draw ``curves.png`` from ``metrics.csv`` of the run folder after each validation and at the end."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw."""
        if not trainer.sanity_checking:
            self._draw(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw."""
        self._draw(trainer)

    def _draw(self, trainer: Trainer) -> None:
        folder = Path(trainer.default_root_dir)
        if trainer.is_global_zero and (folder / "metrics.csv").is_file():
            draw_curves(read_curves(folder / "metrics.csv"), folder / "curves.png")


def read_curves(path: Path) -> Curves:
    """(step, value) by metric, of the finite values in a table that ``RunCSVLogger`` wrote."""
    curves: Curves = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            for key, text in row.items():
                if text and key not in ("step", "epoch") and math.isfinite(value := float(text)):
                    curves.setdefault(key, []).append((float(row["step"]), value))
    return curves


def draw_curves(curves: Curves, path: Path) -> None:
    """A panel for each validation metric, one for the loss, one for its weighted terms, one for the speed."""
    panels: list[tuple[str, list[str], bool]] = [("loss", ["train/loss"], True)]
    panels.append(("weighted terms", sorted(k for k in curves if k.startswith("train/weighted_")), True))
    panels += [(_titled(key), [key], False) for key in sorted(curves) if key.startswith("val/")]
    panels.append(("share of time spent waiting for data", ["time/data_wait_ratio"], False))
    shown = [(title, [k for k in keys if k in curves], is_log) for title, keys, is_log in panels]
    shown = [panel for panel in shown if panel[1]]
    if not shown:
        return
    num_rows = math.ceil(len(shown) / _NUM_COLUMNS)
    figure = Figure((_PANEL_SIZE[0] * _NUM_COLUMNS, _PANEL_SIZE[1] * num_rows), layout="constrained")
    for index, (title, keys, is_log) in enumerate(shown):
        _draw_panel(figure.add_subplot(num_rows, _NUM_COLUMNS, index + 1), title, keys, is_log, curves)
    write_figure(path, figure)


def _titled(key: str) -> str:
    """A validation metric and which way is better, where that is known."""
    best = next((best for start, best in BEST.items() if key.removeprefix("val/").startswith(start)), None)
    return key if best is None else f"{key}, {'higher' if best == 'max' else 'lower'} is better"


def _draw_panel(axes: Axes, title: str, keys: list[str], is_log: bool, curves: Curves) -> None:
    for key in keys:
        steps, values = zip(*curves[key], strict=True)
        name = key.rsplit("/", 1)[-1].removeprefix("weighted_")
        if len(steps) > 200:
            # Single steps of small batches are noisy: drawn behind a running mean over 1 % of the run.
            (line,) = axes.plot(steps, _smoothed(values), label=name, linewidth=1.2)
            axes.plot(steps, values, alpha=0.2, linewidth=0.6, color=line.get_color())
        else:
            axes.plot(steps, values, label=name, linewidth=1.2, marker="." if len(steps) < 30 else "")
    positive = all(value > 0 for key in keys for _, value in curves[key])
    if is_log and positive:
        axes.set_yscale("log")
        # Plain numbers at 1, 2 and 5: matplotlib writes powers of ten, and none at all within a decade.
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    elif is_log:
        axes.set_yscale("symlog")
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("step", fontsize=8)
    axes.tick_params(which="both", labelsize=7)
    axes.grid(alpha=0.3)
    if len(keys) > 1:
        axes.legend(fontsize=6, ncols=2)


def _smoothed(values: tuple[float, ...]) -> list[float]:
    """Running mean over the last 1 % of the run."""
    width = max(1, len(values) // 100)
    sums = list(itertools.accumulate(values, initial=0.0))
    starts = [max(0, end - width) for end in range(1, len(sums))]
    return [(sums[end] - sums[start]) / (end - start) for end, start in enumerate(starts, start=1)]
