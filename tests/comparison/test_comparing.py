"""Comparing run folders: pooling, computation, claims and errors."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from run_folders import METRICS, PROTOCOL, read_pairs, write_evaluation, write_run

from rome_lightning.cli import compare as command
from rome_lightning.cli import main as cli
from rome_lightning.comparison.comparing import Comparison, compare
from rome_lightning.comparison.judging import CompareOptions
from rome_lightning.comparison.runs import (
    Configuration,
    config_difference,
    pool_seeds,
    read_curves,
    read_run,
)
from rome_lightning.comparison.tables import render


def _compare(*runs: Path, **options: object) -> Comparison:
    configurations = pool_seeds([read_run(run) for run in runs])
    return compare(configurations, PROTOCOL, configurations[0], CompareOptions(resamples=2000, **options))


def _pair_of_runs(folder: Path, gain: float = 1.0, **settings: object) -> tuple[Path, Path]:
    first = write_run(folder / "base-0", 0, {"channels": 8}, **settings)
    return first, write_run(folder / "wide-0", 0, {"channels": 16}, gain, **settings)


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three seeds of two configurations; the second is much better."""
    folder = tmp_path_factory.mktemp("runs")
    return [
        write_run(folder / f"{name}-{seed}", seed, {"channels": channels}, gain, 0.1, pictures=True)
        for name, channels, gain in (("base", 8, 0.0), ("wide", 16, 1.0))
        for seed in range(3)
    ]


def test_seeds_are_pooled_and_a_real_difference_is_found(seeded):
    comparison = _compare(*seeded)
    assert [(c.name, len(c.runs)) for c in comparison.configurations] == [("base", 3), ("wide", 3)]
    for name in comparison.names:
        baseline, other = comparison.metric(name)
        assert baseline.verdict == "baseline"
        assert other.verdict == "better"
        assert other.interval.seeds_known
        assert (other.num_seeds, other.num_identities, other.num_clips, other.num_pairs) == (3, 6, 12, 36)
    psnr = comparison.metric("self/psnr/full")[1]
    assert psnr.interval.low < 1.0 < psnr.interval.high
    # LPIPS falls by a hundredth of what PSNR gains.
    assert comparison.metric("self/lpips_alex/full")[1].interval.difference == pytest.approx(
        -psnr.interval.difference / 100
    )


def test_means_and_differences_are_those_of_the_tables(seeded):
    """Compare with a computation by groups: pairs, clips, people, seeds."""

    def mean(run: Path) -> float:
        clips = read_pairs(run).groupby(["identity", "clip"])["psnr/full"].mean()
        return float(clips.groupby("identity").mean().mean())

    base, wide = np.mean([mean(r) for r in seeded[:3]]), np.mean([mean(r) for r in seeded[3:]])
    first, second = _compare(*seeded).metric("self/psnr/full")
    assert first.mean == pytest.approx(base)
    assert second.mean == pytest.approx(wide)
    assert second.interval.difference == pytest.approx(wide - base)


def test_one_seed_each_makes_no_claim_about_configurations(tmp_path):
    runs = _pair_of_runs(tmp_path)
    (result,) = _compare(*runs, metrics=["psnr"]).metric("self/psnr/full")[1:]
    assert result.interval.excludes_zero
    assert not result.interval.seeds_known
    assert result.verdict == "one seed"
    assert "train one configuration with 3 or more seeds" in render(_compare(*runs), "table")


def test_checkpoints_can_be_compared_without_seeds(tmp_path):
    comparison = _compare(*_pair_of_runs(tmp_path), scope="checkpoints", metrics=["psnr"])
    assert comparison.results[1].verdict == "better"
    assert "apply to these checkpoints" in render(comparison, "table")


def test_another_configuration_tells_how_much_seeds_matter(seeded, tmp_path):
    lone = write_run(tmp_path / "other-0", 0, {"channels": 4}, -1.0)
    result = _compare(*seeded[:3], lone, metrics=["psnr"]).results[1]
    assert result.interval.seeds_known
    assert result.verdict == "worse"


def test_seeds_of_one_configuration_kept_apart_are_not_told_apart(tmp_path):
    runs = [write_run(tmp_path / f"base-{seed}", seed, {}, seed_noise=2.0) for seed in range(2)]
    configurations = [Configuration(run.name, (run,)) for run in map(read_run, runs)]
    result = compare(configurations, PROTOCOL, configurations[0], CompareOptions(resamples=1000)).results[1]
    assert abs(result.interval.difference) > 0.3
    assert result.verdict == "undecided"


def test_one_configuration_alone_is_nothing_to_compare(tmp_path):
    runs = [write_run(tmp_path / f"base-{seed}", seed, {}) for seed in range(2)]
    with pytest.raises(ValueError, match="pooled, so nothing is left"):
        _compare(*runs)


def test_a_repeated_seed_is_refused(tmp_path):
    first = write_run(tmp_path / "base-0", 0, {})
    second = write_run(tmp_path / "again", 0, {})
    with pytest.raises(ValueError, match="same configuration with the same seed 0"):
        _compare(first, second)


def test_predictions_of_others_are_configurations_of_their_own(tmp_path):
    runs = _pair_of_runs(tmp_path)
    for run in runs:
        (run / "config.yaml").unlink()
    assert len(pool_seeds([read_run(run) for run in runs])) == 2


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        ({"protocol_hash": "x" * 64}, "the protocol differs"),
        ({"dataset_hash": "x" * 64}, "the dataset differs"),
        ({"pairs_hash": "x" * 64}, "the pair list differs"),
        ({"networks": {"lpips_alexnet": "x" * 64}}, "the networks of the metrics differs"),
    ],
)
def test_other_conditions_are_refused(tmp_path, entry, what):
    base, wide = _pair_of_runs(tmp_path)
    write_evaluation(wide, read_pairs(wide), **entry)
    with pytest.raises(ValueError, match=what):
        _compare(base, wide)


def test_another_head_model_is_refused(tmp_path):
    runs = [
        write_run(tmp_path / f"{head}-0", 0, {"avatar": {"head": head}}) for head in ("open", "flame2020")
    ]
    with pytest.raises(ValueError, match="the head model differs"):
        _compare(*runs)


def test_pairs_that_a_run_lacks_are_refused_or_reported(tmp_path):
    base, wide = _pair_of_runs(tmp_path)
    write_evaluation(wide, read_pairs(wide).iloc[5:])
    with pytest.raises(ValueError, match=r"same 36 pairs: .*wide-0 lacks 5"):
        _compare(base, wide)
    comparison = _compare(base, wide, common_pairs=True)
    assert comparison.num_dropped == 5
    assert comparison.results[0].num_pairs == 31
    assert "5 pairs that some run lacks" in render(comparison, "md")


def test_pairs_given_twice_are_refused(tmp_path):
    base, wide = _pair_of_runs(tmp_path)
    pairs = read_pairs(wide)
    write_evaluation(wide, pd.concat([pairs, pairs.iloc[:2]]))
    with pytest.raises(ValueError, match="contains 2 pairs twice"):
        _compare(base, wide)


def _fail(run: Path, rows: slice, undetected_target: bool = False) -> None:
    pairs = read_pairs(run)
    pairs.loc[pairs.index[rows], "psnr/full"] = np.nan
    pairs.loc[pairs.index[rows], "undetected_target" if undetected_target else "undetected_prediction"] = True
    write_evaluation(run, pairs)


def test_failed_pairs_are_skipped_for_all_and_penalised(tmp_path):
    base, wide = _pair_of_runs(tmp_path, gain=0.5)
    _fail(wide, slice(0, 4))
    first, second = _compare(base, wide).metric("self/psnr/full")
    # Both use the same pairs, so the baseline's mean is over 32 as well.
    assert (first.num_pairs, second.num_pairs) == (32, 32)
    assert (first.num_failed, second.num_failed) == (0, 4)
    assert second.interval.difference == pytest.approx(0.5, abs=0.2)
    # Four of 36 count as 0 dB.
    assert second.penalised < second.mean - 1
    assert second.penalised_interval.difference < 0
    # Excluding and penalizing disagree, so nothing is claimed.
    assert second.verdict == "undecided"


def test_frames_that_nobody_can_score_are_no_failures(tmp_path):
    base, wide = _pair_of_runs(tmp_path)
    for run in (base, wide):
        _fail(run, slice(0, 4), undetected_target=True)
    for result in _compare(base, wide).metric("self/psnr/full"):
        assert result.num_failed == 0
        assert result.num_pairs == 32
        assert result.penalised == pytest.approx(result.mean)


def test_failures_of_all_runs_are_failures_too(tmp_path):
    base, wide = _pair_of_runs(tmp_path)
    for run in (base, wide):
        _fail(run, slice(0, 4))
        write_evaluation(run, read_pairs(run), failures={"self": {"num_missing": 3}})
    comparison = _compare(base, wide)
    for result in comparison.metric("self/psnr/full"):
        assert result.num_failed == 4
        assert result.penalised < result.mean
    assert "absent or unreadable: base 3, wide 3" in render(comparison, "table")


def test_scores_of_whole_sets_have_no_interval(tmp_path):
    base, wide = _pair_of_runs(tmp_path)
    for run, value in ((base, 40.0), (wide, 30.0)):
        facts = {name: {**fact, "mean": 1.0, "penalised": 1.0, "num": 36} for name, fact in METRICS.items()}
        fid = {"mean": value, "penalised": value, "num": 36, "higher_is_better": False}
        write_evaluation(run, read_pairs(run), metrics={"self": {**facts, "fid_inception": fid}})
    results = _compare(base, wide).metric("self/fid_inception")
    assert [result.mean for result in results] == [40, 30]
    assert [result.verdict for result in results] == ["baseline", "no pairs"]


@pytest.mark.parametrize("name", ["lpips", "self/lpips", "self/lpips_alex", "lpips_alex/full"])
def test_the_beginning_of_a_metric_is_enough(tmp_path, name):
    results = _compare(*_pair_of_runs(tmp_path), metrics=[name]).results
    assert {result.metric for result in results} == {"lpips_alex/full"}


def test_half_a_word_is_no_beginning(tmp_path):
    with pytest.raises(ValueError, match="no metric 'self/lp'"):
        _compare(*_pair_of_runs(tmp_path), metrics=["self/lp"])


def test_an_unknown_metric_lists_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match=r"no metric 'fid'.*self/psnr/full"):
        _compare(*_pair_of_runs(tmp_path), metrics=["fid"])


def test_the_difference_of_configurations_is_short(seeded):
    configurations = pool_seeds([read_run(run) for run in seeded])
    assert config_difference(configurations) == {"model.init_args.channels": [8, 16]}


def test_a_curve_that_is_being_written_reads(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,train/loss,val/psnr\n0,0,1.0,\n0,9,,20.5\n1,")
    assert read_curves(path) == {"train/loss": [(0.0, 1.0)], "val/psnr": [(9.0, 20.5)]}


def test_the_forms_of_a_table_hold_the_same_numbers(seeded):
    comparison = _compare(*seeded, metrics=["psnr"])
    shown = f"{comparison.results[1].mean:.2f}"
    for style in ("table", "md", "latex"):
        assert shown in render(comparison, style)
    rows = list(csv.DictReader(io.StringIO(render(comparison, "csv"))))
    assert float(rows[1]["mean"]) == comparison.results[1].mean
    assert rows[1]["verdict"] == "better"
    assert r"\mathbf" in render(comparison, "latex")


def _rome(*arguments: object) -> int:
    return cli.main(["compare", *map(str, arguments)])


def test_the_command_writes_a_page_with_pictures_and_curves(seeded, tmp_path, capsys):
    page = tmp_path / "page" / "compare.html"
    code = _rome(*seeded, "--baseline", "wide", "--format", "html", "--output", page, "--resamples", 500)
    assert code == cli.EXIT_OK
    assert "worse" in capsys.readouterr().out
    text = page.read_text()
    for word in ("differs most", "worst of the baseline", "Learning curves", "model.init_args.channels"):
        assert word in text
    media = {path.name for path in (tmp_path / "page" / "compare_files").iterdir()}
    assert media >= {"intervals.svg", "curves.svg", "self-0.png"}
    assert all(f"compare_files/{name}" in text for name in media)


def test_training_metrics_are_compared_without_a_verdict(seeded, capsys):
    assert _rome(*seeded, "--protocol", "training") == cli.EXIT_OK
    shown = capsys.readouterr().out
    assert "val/psnr" in shown
    assert "no pairs" in shown


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "at least two run folders"),
        (["nowhere", "nowhere"], "no run folder at nowhere"),
        (["{0}", "{3}", "--format", "html"], "--output FILE.html"),
        (
            ["{0}", "{3}", "--baseline", "nobody"],
            "no configuration 'nobody' for the baseline; there are base, wide",
        ),
        (["{0}", "{3}", "--protocol", "vfhq"], "no finished evaluation under vfhq (finished: demo)"),
        (["{0}", "{3}", "--confidence", "95"], "confidence must be in [0.5, 1)"),
    ],
)
def test_mistakes_are_told_in_one_line(seeded, arguments, complaint, capsys):
    runs = [str(run) for run in seeded]
    assert _rome(*(word.format(*runs) for word in arguments)) != cli.EXIT_OK
    shown = capsys.readouterr().err
    assert complaint in shown
    assert shown.count("\n") == 1


def test_runs_without_a_common_protocol_are_refused(tmp_path, capsys):
    base, wide = _pair_of_runs(tmp_path)
    (wide / "evaluation" / PROTOCOL).rename(wide / "evaluation" / "other")
    assert _rome(base, wide) == cli.EXIT_FAILURE
    assert "no protocol under which all runs were evaluated" in capsys.readouterr().err


def test_help_explains_what_a_verdict_is_about(capsys):
    assert _rome("--help") == cli.EXIT_OK
    assert "--scope" in capsys.readouterr().out
    assert command.TRAINING == "training"


def test_options_may_come_from_a_file(seeded, tmp_path, capsys):
    file = tmp_path / "compare.yaml"
    file.write_text(yaml.safe_dump({"format": "csv", "resamples": 200, "metrics": ["psnr"]}))
    assert _rome("--config", file, *seeded) == cli.EXIT_OK
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_a_broken_summary_is_named(tmp_path):
    base, wide = _pair_of_runs(tmp_path)
    (wide / "evaluation" / PROTOCOL / "summary.json").write_text(json.dumps([1]))
    with pytest.raises(ValueError, match="should contain a JSON object"):
        _compare(base, wide)
