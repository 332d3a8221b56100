"""A score below its floor is reported with an explanation."""

from __future__ import annotations

import warnings

import torch

from rome_lightning.evaluation.floors import below_floor, floor_note
from rome_lightning.evaluation.pixels import PixelMetrics
from rome_lightning.evaluation.protocol import DatasetRule, Protocol


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


def test_features_of_copied_sources_are_their_own() -> None:
    """Those of the last copied source are kept, but only for it."""
    import lpips as package

    with torch.random.fork_rng(), warnings.catch_warnings():
        # The package uses a deprecated torchvision argument.
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        network = package.LPIPS(net="alex", pnet_rand=True, verbose=False).eval().requires_grad_(False)
    protocol = Protocol("floors", 1, "", DatasetRule("", "", ""), {})
    pixels = PixelMetrics(protocol, {"lpips_alex": network}, 1.0, torch.device("cpu"))
    first, second, target = torch.rand(3, 1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    for source in (first, first, second, first):
        copies = source.expand(2, -1, -1, -1)
        ours, theirs = pixels.features(
            "lpips_alex", "lpips_alex/full", copies, target.expand(2, -1, -1, -1), ("a", "b")
        )
        value = pixels.distance("lpips_alex", (ours, theirs), None)
        expected = network(source, target, normalize=True).flatten().expand(2)
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5)
