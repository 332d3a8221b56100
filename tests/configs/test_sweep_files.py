"""Every file under experiments/sweeps is one that `wandb agent` and `rome sweep` can run."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from configurations import resolve_configuration
from tiny_run import ROOT

from rome_lightning.callbacks.run_logger import BEST
from rome_lightning.comparison.runs import flatten
from rome_lightning.sweeps.file import Parameter, SweepFile, Value, read_sweep
from rome_lightning.sweeps.methods import num_trials, settings_of

SWEEPS = sorted((ROOT / "experiments" / "sweeps").iterdir())


def _ends(parameter: Parameter) -> tuple[Value, Value]:
    """First and last possible value."""
    if parameter.values:
        return parameter.values[0], parameter.values[-1]
    return parameter.at(0.0), parameter.at(1 - 1e-9)


def _name(path: Path) -> str:
    return path.stem


def test_the_promised_sweeps_are_there():
    assert {path.stem for path in SWEEPS} >= {
        *("loss_weights", "texture_channels", "offsets", "distillation_size"),
    }


@pytest.mark.parametrize("end", [0, 1], ids=["first", "last"])
@pytest.mark.parametrize("path", SWEEPS, ids=_name)
def test_options_exist_and_take_the_values(path, end, monkeypatch):
    monkeypatch.chdir(ROOT)
    sweep = read_sweep(path)
    settings = {name: _ends(parameter)[end] for name, parameter in sweep.parameters.items()}
    words = sweep.arguments(settings)
    assert words[0] == "rome"
    config = flatten(resolve_configuration(*words[2:]))
    assert config["wandb"] == "online"
    for name, value in settings.items():
        # Ablations are recorded in a list, which is empty without any.
        found = config.get("ablation.0") if name == "ablation" else config[name]
        assert found == value, name


@pytest.mark.parametrize("path", SWEEPS, ids=_name)
def test_the_goal_is_the_side_on_which_the_metric_is_good(path):
    sweep: SweepFile = read_sweep(path)
    stage, _, metric = sweep.metric.partition("/")
    assert stage == "val"
    assert sweep.goal == {"min": "minimize", "max": "maximize"}[BEST[metric]]


@pytest.mark.parametrize("path", SWEEPS, ids=_name)
def test_the_search_has_an_end(path):
    sweep = read_sweep(path)
    if sweep.method == "grid":
        points = [settings_of(sweep, number, 0, []) for number in range(num_trials(sweep, None))]
        assert len({tuple(point.values()) for point in points}) == len(points)
    else:
        assert num_trials(sweep, None) > 0


@pytest.mark.parametrize("path", SWEEPS, ids=_name)
def test_files_say_their_question_and_keep_the_form_of_wandb(path):
    text = path.read_text()
    assert text.startswith("# Question: ")
    command = yaml.safe_load(text)["command"]
    assert command[:3] == ["${env}", "rome", "fit"]
    # Files first, flags last: later ones win.
    assert command[-1] == "${args}"
