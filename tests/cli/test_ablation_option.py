"""``rome fit --ablation NAME``: the overlay applies at its position, and remains in effect."""

from __future__ import annotations

import pytest

from rome_lightning.assets.experiments import find_experiment
from rome_lightning.cli.ablations import check_ablations, expand_ablations, find_ablation


def test_each_name_becomes_its_overlay_and_a_record_in_place():
    path = find_experiment("ablations/no_laplacian")
    expanded = [f"--config={path}", "--ablation+=no_laplacian"]
    for given in (["--ablation", "no_laplacian"], ["--ablation=no_laplacian"]):
        assert expand_ablations(["fit", "-c", "full/base", *given, "--x=1"]) == [
            *("fit", "-c", "full/base", *expanded, "--x=1")
        ]


@pytest.mark.parametrize(
    "given", [["--ablation=no_carry,no_chamfer"], ["--ablation", "no_carry", "--ablation", "no_chamfer"]]
)
def test_several_are_allowed(given):
    records = [word for word in expand_ablations(given) if word.startswith("--ablation")]
    assert records == ["--ablation+=no_carry", "--ablation+=no_chamfer"]


@pytest.mark.parametrize("empty", ["null", "None"])
def test_an_empty_value_is_no_ablation(empty):
    assert expand_ablations(["fit", f"--ablation={empty}"]) == ["fit"]


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"no ablation 'no_laplace'; did you mean no_laplacian"):
        expand_ablations(["--ablation", "no_laplace"])
    with pytest.raises(ValueError, match="`rome experiments list ablations` shows them"):
        find_ablation("../full/base")


@pytest.mark.parametrize("given", [["--ablation"], ["--ablation", "--config=x"], ["--ablation="]])
def test_a_name_is_needed(given):
    with pytest.raises(ValueError, match="--ablation needs a name"):
        expand_ablations(given)


def _config(**losses):
    return {"ablation": ["no_laplacian"], "model": {"class_path": FULL, "init_args": {"losses": losses}}}


FULL = "rome_lightning.training.FullModule"


def test_what_is_recorded_is_in_force():
    check_ablations(_config(laplacian=0.0, chamfer=1.0))
    check_ablations({"ablation": []})
    with pytest.raises(ValueError, match=r"losses.laplacian is 20.0, but ablation no_laplacian sets 0.0"):
        check_ablations(_config(laplacian=20.0))


def test_appended_callbacks_are_looked_for_in_the_list():
    averaging = {
        "class_path": "lightning.pytorch.callbacks.EMAWeightAveraging",
        "init_args": {"decay": 0.999, "use_buffers": False, "update_every_n_steps": 1, "device": None},
    }
    other = {"class_path": "rome_lightning.callbacks.ImageGrid"}
    check_ablations({"ablation": ["ema"], "trainer": {"callbacks": [other, averaging]}})
    with pytest.raises(ValueError, match=r"trainer.callbacks is a list without it, but ablation ema"):
        check_ablations({"ablation": ["ema"], "trainer": {"callbacks": [other]}})
