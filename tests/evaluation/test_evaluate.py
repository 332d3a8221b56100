from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from tiny_protocol import PROTOCOLS, pixels_only
from tiny_run import IMAGE_SIZE, need

from rome_lightning.cli.main import main
from rome_lightning.evaluation import evaluator
from rome_lightning.evaluation.metric_table import SPECS
from rome_lightning.evaluation.results import hierarchical_mean
from rome_lightning.media.video import write_video
from rome_lightning.metrics import psnr
from rome_lightning.workflows.evaluation import evaluate as evaluate_by_library
from rome_lightning.workflows.options import EvaluateConfig

Shrunk = Callable[..., Path]
COLUMNS = ["task", "identity", "clip", "source", "frame", "driver_identity"]


def evaluate(protocol: Path, output: Path, *more: object) -> int:
    return main(["evaluate", "--protocol", str(protocol), "--output", str(output), *map(str, more)])


def summary_of(output: Path, name: str = "demo") -> dict:
    return json.loads((output / "evaluation" / name / "summary.json").read_text())


def numbers(output: Path, name: str = "demo") -> dict:
    return summary_of(output, name)["metrics"]


def test_a_model_is_scored_end_to_end(
    shrunk: Shrunk, dataset: Path, checkpoint: Path, tmp_path: Path
) -> None:
    need("lpips_alexnet", "sface", "yunet", "face_landmarker")
    assert (
        evaluate(shrunk("demo"), tmp_path, "--checkpoint", checkpoint, "--data", dataset, "--refine_steps", 2)
        == 0
    )
    folder = tmp_path / "evaluation" / "demo"
    summary = summary_of(tmp_path)
    assert set(summary["metrics"]) == {"self", "cross", "temporal"}
    cell = summary["metrics"]["self"]["psnr/full"]
    assert {"mean", "penalised", "num", "higher_is_better", "ceiling", "floor"} <= set(cell)
    assert summary["failures"]["self"]["num_pairs"] == 9
    assert summary["networks"]["sface"].startswith("0ba9fbfa")
    assert summary["speed"]["fps_whole_cpu"] > 0
    for key in ("protocol_hash", "pairs_hash", "dataset_hash", "code", "seed", "config_hash", "checkpoint"):
        assert key in summary
    table = pq.read_table(folder / "pairs.parquet").to_pydict()
    assert list(table)[:6] == COLUMNS
    assert len(table["task"]) == sum(f["num_pairs"] for f in summary["failures"].values())
    # Undetected faces are NaN and counted, never guessed.
    values = np.array(table["csim_sface"])[np.array(table["task"]) == "self"]
    assert np.isfinite(values).sum() == summary["metrics"]["self"]["csim_sface"]["num"]
    page = (folder / "report.html").read_text()
    assert "lpips_alex/full" in page
    assert (folder / "pictures" / "self_worst.png").is_file()
    assert list((folder / "frames" / "self").rglob("*.png"))


def test_values_are_those_of_the_metric_on_the_frames(
    shrunk: Shrunk, dataset: Path, checkpoint: Path, tmp_path: Path
) -> None:
    protocol = shrunk("demo", pixels_only)
    arguments = ("--checkpoint", checkpoint, "--data", dataset, "--refine_steps", 0, "--keep_frames", "all")
    assert evaluate(protocol, tmp_path, *arguments) == 0
    folder = tmp_path / "evaluation" / "demo"
    table = pq.read_table(folder / "pairs.parquet").to_pydict()
    from datamodules.evaluation import StoredClips

    clips = StoredClips(dataset, "val", IMAGE_SIZE)
    for row in range(len(table["task"])):
        name = f"self/{table['clip'][row]}/{table['source'][row]}__{table['frame'][row]}.png"
        drawn = torch.from_numpy(np.array(Image.open(folder / "frames" / name))).permute(2, 0, 1)[None] / 255
        real = clips.frames(table["clip"][row], [int(table["frame"][row])])
        white = real.image * real.foreground_mask + 1 - real.foreground_mask
        assert table["psnr/full"][row] == pytest.approx(float(psnr(drawn, white)), abs=1e-3)
    cell = numbers(tmp_path)["self"]["psnr/full"]
    assert cell["mean"] == pytest.approx(
        hierarchical_mean(table["psnr/full"], table["clip"], table["identity"])
    )


def test_the_library_scores_as_the_command_does(shrunk: Shrunk, dataset: Path, tmp_path: Path) -> None:
    protocol = shrunk("demo", pixels_only)
    scores = evaluate_by_library(
        EvaluateConfig(protocol=protocol, baseline="source", data=dataset, output=tmp_path / "library")
    )
    assert scores is not None
    assert scores.folder == tmp_path / "library" / "evaluation" / "demo"
    assert evaluate(protocol, tmp_path / "command", "--baseline", "source", "--data", dataset) == 0
    command = numbers(tmp_path / "command")
    assert numbers(tmp_path / "library") == command
    assert scores.means()["self/psnr/full"] == command["self"]["psnr/full"]["mean"]


def test_means_go_from_frames_to_clips_to_people() -> None:
    values = [1.0, 3.0, 5.0, 10.0, float("nan"), 20.0]
    clips, people = ["a", "a", "b", "c", "c", "d"], ["x", "x", "x", "y", "y", "y"]
    # x: (2 + 5) / 2, y: (10 + 20) / 2.
    assert hierarchical_mean(values, clips, people) == pytest.approx((3.5 + 15) / 2)
    assert np.isnan(hierarchical_mean([float("nan")], ["a"], ["x"]))


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_the_work_and_give_equal_numbers(
    world_size: int, shrunk: Shrunk, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three sources for two or four processes: unevenly distributed, and one of four is idle."""
    protocol = shrunk("demo", pixels_only)
    arguments = ("--baseline", "warp", "--data", dataset)
    assert evaluate(protocol, tmp_path / "one", *arguments) == 0
    monkeypatch.setenv("WORLD_SIZE", str(world_size))
    for rank in reversed(range(world_size)):
        monkeypatch.setenv("RANK", str(rank))
        done = (tmp_path / "many" / "evaluation" / "demo" / "summary.json").exists()
        assert not done
        assert evaluate(protocol, tmp_path / "many", *arguments) == 0
    assert numbers(tmp_path / "many") == numbers(tmp_path / "one")
    tables = [pq.read_table(tmp_path / n / "evaluation" / "demo" / "pairs.parquet") for n in ("one", "many")]
    assert tables[0].equals(tables[1])


@pytest.mark.slow
def test_the_command_starts_processes_itself(shrunk: Shrunk, dataset: Path, tmp_path: Path) -> None:
    protocol = shrunk("demo", pixels_only)
    arguments = ("--baseline", "warp", "--data", dataset)
    assert evaluate(protocol, tmp_path / "one", *arguments) == 0
    assert evaluate(protocol, tmp_path / "many", *arguments, "--num_processes", 4) == 0
    assert numbers(tmp_path / "many") == numbers(tmp_path / "one")


def test_a_killed_evaluation_resumes(
    shrunk: Shrunk, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rome_lightning.evaluation import baselines

    protocol = shrunk("demo", pixels_only)
    arguments = ("--baseline", "source", "--data", dataset)
    assert evaluate(protocol, tmp_path / "whole", *arguments) == 0
    answered = []
    predict = baselines.Baseline.predict

    def killed(self, pairs, source, driver):  # type: ignore[no-untyped-def]
        answered.append(pairs[0].clip)
        if len(answered) == 2:
            raise KeyboardInterrupt
        return predict(self, pairs, source, driver)

    monkeypatch.setattr(baselines.Baseline, "predict", killed)
    assert evaluate(protocol, tmp_path / "killed", *arguments) == 130
    assert not (tmp_path / "killed" / "evaluation" / "demo" / "summary.json").exists()
    assert evaluate(protocol, tmp_path / "killed", *arguments) == 0
    # Three clips; the first was finished before the kill and is not scored again.
    assert len(answered) == 1 + 1 + 2
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "whole")


def test_another_evaluation_is_not_mixed_in(
    shrunk: Shrunk, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    protocol = shrunk("demo", pixels_only)
    assert evaluate(protocol, tmp_path, "--baseline", "source", "--data", dataset) == 0
    assert evaluate(protocol, tmp_path, "--baseline", "mean", "--data", dataset) == 1
    assert "contains another evaluation (its system differs)" in capsys.readouterr().err
    assert evaluate(protocol, tmp_path, "--baseline", "mean", "--data", dataset, "--restart", "true") == 0
    assert summary_of(tmp_path)["system"]["baseline"] == "mean"


def test_values_of_other_code_are_not_kept(
    shrunk: Shrunk,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    protocol = shrunk("demo", pixels_only)
    arguments = ("--baseline", "source", "--data", dataset)
    monkeypatch.setattr(evaluator, "git_commit", lambda: "abc")
    assert evaluate(protocol, tmp_path, *arguments) == 0
    monkeypatch.setattr(evaluator, "git_commit", lambda: "abc-dirty")
    assert evaluate(protocol, tmp_path, *arguments) == 1
    assert "contains another evaluation (its git_commit differs)" in capsys.readouterr().err


def test_copying_the_source_is_the_floor_and_the_truth_is_the_ceiling(
    shrunk: Shrunk, dataset: Path, tmp_path: Path
) -> None:
    need("lpips_alexnet")

    def self_only(content: dict) -> None:
        pixels_only(content)
        metrics = [
            "psnr/full",
            "psnr/masked",
            "ssim/full",
            "ssim/masked",
            "l1/full",
            "lpips_alex/full",
            "lpips_alex/masked",
            "mask_iou",
        ]
        content["tasks"]["self"]["metrics"] = metrics

    protocol = shrunk("demo", self_only)
    assert evaluate(protocol, tmp_path / "floor", "--baseline", "source", "--data", dataset) == 0
    for name, cell in numbers(tmp_path / "floor")["self"].items():
        # The baseline is rounded to 8 bits.
        assert cell["mean"] == pytest.approx(cell["floor"], rel=2e-2, abs=2e-3), name
    truth = tmp_path / "truth"
    write_truth(tmp_path / "floor" / "evaluation" / "demo" / "pairs.txt", dataset, truth)
    assert evaluate(protocol, tmp_path / "ceiling", "--predictions", truth, "--data", dataset) == 0
    for name, cell in numbers(tmp_path / "ceiling")["self"].items():
        if name != "mask_iou":
            assert SPECS[name.split("/")[0]].ceiling == cell["ceiling"]
            # 8 bits are 58.9 dB away from floats at best.
            tolerance = 45 if name.startswith("psnr") else 5e-3
            assert cell["mean"] == pytest.approx(cell["ceiling"], abs=tolerance), name


def write_truth(pairs: Path, dataset: Path, folder: Path) -> None:
    """The real frames, on white, as predictions."""
    from datamodules.evaluation import StoredClips

    clips = StoredClips(dataset, "val", IMAGE_SIZE)
    for line in pairs.read_text().splitlines()[2:]:
        task, clip, source, driver, frame = line.split("\t")
        real = clips.frames(driver, [int(frame)])
        white = (real.image * real.foreground_mask + 1 - real.foreground_mask)[0]
        path = folder / task / clip / f"{int(source):06d}__{int(frame):06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((white * 255).round().byte().permute(1, 2, 0).numpy()).save(path)


@pytest.fixture
def predictions(shrunk: Shrunk, dataset: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A protocol, and a folder with a good prediction for each pair."""
    protocol = shrunk("demo", pixels_only)
    assert (
        evaluate(
            protocol, tmp_path / "first", "--baseline", "warp", "--data", dataset, "--keep_frames", "all"
        )
        == 0
    )
    folder = tmp_path / "predictions"
    shutil.copytree(tmp_path / "first" / "evaluation" / "demo" / "frames" / "self", folder / "self")
    return protocol, folder


def test_a_folder_of_frames_scores_like_the_system_that_made_it(
    predictions: tuple[Path, Path], dataset: Path, tmp_path: Path
) -> None:
    protocol, folder = predictions
    assert evaluate(protocol, tmp_path / "second", "--predictions", folder, "--data", dataset) == 0
    ours, theirs = numbers(tmp_path / "first")["self"], numbers(tmp_path / "second")["self"]
    for name in ("psnr/full", "ssim/masked"):
        assert theirs[name] == ours[name]
    # Frames contain no masks.
    assert theirs["mask_iou"]["num"] == 0


def test_what_is_missing_or_broken_is_counted_with_its_reason(
    predictions: tuple[Path, Path], dataset: Path, tmp_path: Path
) -> None:
    protocol, folder = predictions
    files = sorted(folder.rglob("0*.png"))
    assert len(files) == 9
    files[0].unlink()
    Image.new("RGB", (32, 32)).save(files[1])
    files[2].write_bytes(b"no picture")
    files[3].unlink()
    np.save(files[3].with_suffix(".npy"), np.full((IMAGE_SIZE, IMAGE_SIZE, 3), np.nan))
    files[4].unlink()
    np.save(files[4].with_suffix(".npy"), np.ones((IMAGE_SIZE, IMAGE_SIZE, 3), np.float32))
    assert evaluate(protocol, tmp_path / "gaps", "--predictions", folder, "--data", dataset) == 0
    failures = summary_of(tmp_path / "gaps")["failures"]["self"]
    assert failures["num_missing"] == 4
    assert failures["reasons"]["no frame"] == 1
    assert failures["reasons"]["wrong size"] == 1
    assert failures["reasons"]["not finite"] == 1
    cell = numbers(tmp_path / "gaps")["self"]["psnr/full"]
    assert cell["num"] == 5
    # Omitting the worst cases must not make a system look better: a missing frame counts as 0 dB.
    assert cell["penalised"] < cell["mean"] - 5

    def strict(content: dict) -> None:
        pixels_only(content)
        content["failures"] = {"missing": "refuse"}

    other = tmp_path / "strict.yaml"
    import yaml

    content = yaml.safe_load(protocol.read_text())
    strict(content)
    other.write_text(yaml.safe_dump(content))
    assert evaluate(other, tmp_path / "strict", "--predictions", folder, "--data", dataset) == 1


def test_videos_of_predictions_must_have_a_frame_per_pair(
    predictions: tuple[Path, Path], dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    protocol, folder = predictions
    clip = sorted((folder / "self").iterdir())[0]
    frames = [np.array(Image.open(path)) for path in sorted(clip.glob("*.png"))]
    shutil.rmtree(clip)
    write_video(clip.with_suffix(".mp4"), frames, 25, quality=1)
    assert evaluate(protocol, tmp_path / "video", "--predictions", folder, "--data", dataset) == 0
    assert summary_of(tmp_path / "video")["failures"]["self"]["num_missing"] == 0
    write_video(clip.with_suffix(".mp4"), frames[:-1], 25)
    assert evaluate(protocol, tmp_path / "short", "--predictions", folder, "--data", dataset) == 1
    assert "has 2 frames for 3 pairs" in capsys.readouterr().err


def test_an_empty_folder_is_refused(
    shrunk: Shrunk, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "empty").mkdir()
    assert (
        evaluate(
            shrunk("demo", pixels_only), tmp_path, "--predictions", tmp_path / "empty", "--data", dataset
        )
        == 1
    )
    assert (
        "has no prediction for any of 9 pairs; wanted for example self/synthetic-1/"
        in capsys.readouterr().err
    )


def test_two_videos_are_compared_frame_by_frame(
    shrunk: Shrunk, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    need("selfie_multiclass")
    ramp = np.linspace(0, 255, 48).astype(np.uint8)
    wanted = [np.stack([np.roll(np.tile(ramp, (32, 1)), 4 * i, 1)] * 3, -1) for i in range(5)]
    close = [np.clip(frame.astype(int) + 10, 0, 255).astype(np.uint8) for frame in wanted]
    for name, frames in {
        "wanted": wanted,
        "close": close,
        "short": close[:4],
        "small": [f[:16, :24] for f in close],
    }.items():
        write_video(tmp_path / f"{name}.mp4", frames, 25, quality=1)
    protocol = shrunk(
        "demo", lambda content: (pixels_only(content), content["tasks"]["self"].update(metrics=["psnr/full"]))
    )

    def run(name: str) -> int:
        return evaluate(
            protocol,
            tmp_path / name,
            "--predictions",
            tmp_path / f"{name}.mp4",
            "--targets",
            tmp_path / "wanted.mp4",
        )

    assert run("close") == 0
    cell = numbers(tmp_path / "close")["self"]["psnr/full"]
    assert cell["num"] == 4
    # Ten grey levels of 255, except where clipped to white; the padding to a square does not count.
    assert cell["mean"] == pytest.approx(-20 * np.log10(10 / 255), abs=1.5)
    assert run("short") == 1
    assert "has 4 frames" in capsys.readouterr().err
    assert run("small") == 1
    assert "24x16" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no protocol; give --protocol"),
        (["--protocol", "x.yaml"], "nothing to evaluate; give one of"),
        (["--protocol", "x.yaml", "--baseline", "source", "--checkpoint", "y.ckpt"], "give one of"),
        (["--protocol", "x.yaml", "--baseline", "source", "--num_processes", "0"], "at least 1"),
        (["--protocol", "x.yaml", "--baseline", "source", "--targets", "v.mp4"], "needs --predictions"),
    ],
)
def test_usage_errors(arguments: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["evaluate", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_larger_protocol_than_the_data_is_refused(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert evaluate(PROTOCOLS / "demo.yaml", tmp_path, "--baseline", "source", "--data", dataset) == 1
    assert "stores 64; prepare the dataset again with --image-size 128" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rome_eccv22", "vfhq_self_cross", "fomm_vox256"])
def test_published_protocols_run_end_to_end(
    name: str, shrunk: Shrunk, dataset: Path, checkpoint: Path, tmp_path: Path
) -> None:
    need(
        "lpips_alexnet", "sface", "yunet", "face_landmarker", "fid_inception", "brisque_svm", "brisque_range"
    )
    protocol = shrunk(name)
    assert (
        evaluate(protocol, tmp_path, "--checkpoint", checkpoint, "--data", dataset, "--refine_steps", 0) == 0
    )
    summary = summary_of(tmp_path, name)
    assert summary["as_published"] == (name != "vfhq_self_cross")
    if name == "rome_eccv22":
        cell = summary["metrics"]["cross"]["fid_inception"]
        assert cell["mean"] > cell["floor"] > 0
