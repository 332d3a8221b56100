"""A score below its floor is reported with an explanation."""

from __future__ import annotations

from rome_lightning.evaluation.floors import below_floor, floor_note


def _cell(mean, floor, higher_is_better=True):
    return {"mean": mean, "floor": floor, "higher_is_better": higher_is_better}


METRICS = {
    "psnr/full": _cell(20.0, 25.0),
    "psnr/mouth": _cell(26.0, 25.0),
    "lpips_alex/full": _cell(0.2, 0.1, higher_is_better=False),
    "csim_sface": _cell(0.9, 0.95),
    "apd_rotation_deg": _cell(1.0, 2.0, higher_is_better=False),
    "iqa_brisque": _cell(None, 3.0, higher_is_better=False),
}


def test_scores_that_are_worse_than_a_copy_are_found():
    assert below_floor(METRICS) == ["psnr/full", "lpips_alex/full", "csim_sface"]


def test_the_sentence_says_why():
    note = floor_note("self", METRICS)
    assert "Below the floor: psnr/full, lpips_alex/full: a copy keeps details" in note
    assert "csim_sface: the copy is a real image of the person" in note
    assert "driver's own face" in floor_note("cross", METRICS)


def test_nothing_is_said_where_nothing_is_below():
    assert floor_note("self", {"psnr/full": _cell(25.0, 25.0)}) == ""
    assert floor_note("temporal", {"jitter_px": _cell(0.5, 0.0, False)}).endswith("it has no jitter.")
