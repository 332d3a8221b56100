"""The protocol of turned heads: its frames, scores and report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from scipy.spatial.transform import Rotation
from scipy.stats import ttest_1samp
from tiny_protocol import PROTOCOLS
from tiny_run import IMAGE_SIZE, need

from datamodules.evaluation import StoredClips
from rome_lightning.cli.main import main
from rome_lightning.evaluation import evaluator
from rome_lightning.evaluation.pairs import pairs_of
from rome_lightning.evaluation.protocol import Protocol, load_protocol
from rome_lightning.evaluation.results import people_interval
from rome_lightning.evaluation.systems import UntrainedSystem, read_avatar_config
from rome_lightning.types import Region
from rome_lightning.types.clip import ClipInfo, FrameState

Shrunk = Callable[..., Path]


def state(yaw: float, eyes: float = 0.3, mouth: float = 0.0) -> FrameState:
    return FrameState((0.0, float(np.deg2rad(yaw)), 0.0), eyes, mouth)


YAWS = (0, 2, 5, 9, 15, 30, 33, 34, 50, 70)
CLIP = ClipInfo(
    "a-0", "anna", tuple(range(0, 50, 5)), 0,
    {5 * i: state(yaw, 0.1 if i in (2, 3) else 0.3, 0.2 if i == 4 else 0.0) for i, yaw in enumerate(YAWS)},
)  # fmt: skip


def pairs_by_task(clip: ClipInfo) -> dict[str, list[int]]:
    path = PROTOCOLS / "turned.yaml"
    chosen: dict[str, list[int]] = {}
    for pair in pairs_of(load_protocol(path), path, [clip]):
        chosen.setdefault(pair.task, []).append(pair.frame)
    return chosen


def test_drivers_lie_in_their_bins() -> None:
    assert pairs_by_task(CLIP) == {
        "turn_0_10": [5, 10, 15],
        "turn_10_20": [20],
        "turn_20_35": [25, 30, 35],
        "turn_35_60": [40],
        "own": [0],
        "open_mouth": [20],
        "closed_lids": [10, 15],
        # From 9 to 70 degrees in six frames: the largest rotation of all windows.
        "temporal": [20, 25, 30, 35, 40, 45],
    }


def test_what_nobody_does_has_no_pairs_and_untracked_clips_are_refused() -> None:
    still = ClipInfo("b-0", "bob", (0, 1, 2), 0, {i: state(0) for i in range(3)})
    assert set(pairs_by_task(still)) == {"turn_0_10", "own", "temporal"}
    with pytest.raises(ValueError, match="b-0 was not tracked"):
        pairs_by_task(ClipInfo("b-0", "bob", (0, 1, 2), 0))


def test_bins_must_rise(tmp_path: Path) -> None:
    content = yaml.safe_load((PROTOCOLS / "turned.yaml").read_text())
    content["tasks"]["turn_0_10"]["pairs"]["rotation_deg"] = [10, 10]
    path = tmp_path / "turned.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match="rotation_deg of task 'turn_0_10'"):
        load_protocol(path)


def test_states_are_those_of_the_shards(dataset: Path) -> None:
    """Compare with SciPy's rotations: the neck rotates the head on the bust."""
    clips = StoredClips(dataset, "val", IMAGE_SIZE)
    for clip in clips.clips:
        params = clips.frames(clip.key, clip.frames).params
        for place, number in enumerate(clip.frames):
            bust, neck = (
                Rotation.from_rotvec(p[place].numpy()) for p in (params.global_pose, params.neck_pose)
            )
            ours = Rotation.from_rotvec(clip.states[number].head_pose)
            assert (ours.inv() * bust * neck).magnitude() < 1e-4


def test_intervals_are_those_of_the_t_test() -> None:
    rng = np.random.default_rng(0)
    people = [f"p{i // 6}" for i in range(30)]
    clips = [f"c{i // 3}" for i in range(30)]
    values = rng.normal(size=30).tolist()
    values[4] = float("nan")
    of_clips = [np.nanmean(values[i : i + 3]) for i in range(0, 30, 3)]
    wanted = ttest_1samp(np.reshape(of_clips, (5, 2)).mean(1), 0).confidence_interval(0.95)
    assert people_interval(values, clips, people) == pytest.approx((wanted.low, wanted.high))
    assert people_interval(values[:6], clips[:6], people[:6]) is None


def regions_only(content: dict[str, Any]) -> None:
    """Bins that the synthetic heads fill, and metrics that need only the face network."""
    tasks = content["tasks"]
    pixels = ["psnr/full", "psnr/hair", "psnr/shoulders"]
    content["tasks"] = {
        "turn_0_20": {"pairs": tasks["turn_0_10"]["pairs"] | {"rotation_deg": [0, 20]}, "metrics": pixels},
        "turn_20_90": {"pairs": tasks["turn_0_10"]["pairs"] | {"rotation_deg": [20, 90]}, "metrics": pixels},
        "own": {"pairs": tasks["own"]["pairs"], "metrics": ["psnr/full"]},
        "temporal": {
            "pairs": tasks["temporal"]["pairs"] | {"num_frames": 4},
            "metrics": ["dtssd/full", "dtssd/hair"],
        },
    }
    content["networks"] = {"face_landmarker": content["networks"]["face_landmarker"]}


@pytest.fixture
def scored(shrunk: Shrunk, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An evaluation of a spline whose units hold two pairs, so that frames in a row lie in several."""
    need("face_landmarker")
    monkeypatch.setattr(evaluator, "UNIT_SIZE", 2)
    run(shrunk("turned", regions_only), dataset, tmp_path / "warp", "--baseline", "warp")
    return tmp_path / "warp"


def run(protocol: Path, dataset: Path, output: Path, *more: object) -> None:
    fixed = ("--data", dataset, "--output", output, "--keep_frames", "all")
    assert main([str(x) for x in ("evaluate", "--protocol", protocol, *fixed, *more)]) == 0


def real(clips: StoredClips, clip: str, frame: str) -> tuple[torch.Tensor, Any]:
    frames = clips.frames(clip, [int(frame)])
    return frames.image * frames.foreground_mask + 1 - frames.foreground_mask, frames


def picture(folder: Path, row: dict[str, Any]) -> torch.Tensor:
    name = f"frames/{row['task']}/{row['clip']}/{row['source']}__{row['frame']}.png"
    return torch.from_numpy(np.array(Image.open(folder / name))).permute(2, 0, 1)[None] / 255


def test_values_are_those_of_the_pictures_on_disk(scored: Path, dataset: Path) -> None:
    folder = scored / "evaluation" / "turned"
    rows = pq.read_table(folder / "pairs.parquet").to_pylist()
    clips = StoredClips(dataset, "val", IMAGE_SIZE)
    before: dict[str, Any] | None = None
    changes = 0
    for row in rows:
        target, frames = real(clips, row["clip"], row["frame"])
        hair = (frames.regions == int(Region.HAIR))[0]
        error = (picture(folder, row) - target)[0]
        if row["task"].startswith("turn"):
            low, high = map(int, row["task"].split("_")[1:])
            assert low <= row["rotation_deg"] < high
            wanted = -10 * np.log10(float(error[:, hair].square().mean()))
            assert row["psnr/hair"] == pytest.approx(wanted, abs=1e-3)
        elif row["task"] == "own":
            assert row["frame"] == row["source"]
            # A spline without motion, at 8 bits.
            assert row["psnr/full"] > 40
        elif before is not None and before["clip"] == row["clip"]:
            old, old_frames = real(clips, before["clip"], before["frame"])
            both = hair & (old_frames.regions == int(Region.HAIR))[0]
            difference = error - (picture(folder, before) - old)[0]
            assert row["dtssd/full"] == pytest.approx(float(difference.square().mean().sqrt()), abs=1e-5)
            assert row["dtssd/hair"] == pytest.approx(
                float(difference[:, both].square().mean().sqrt()), abs=1e-5
            )
            changes += 1
        else:
            assert np.isnan(row["dtssd/full"])
        before = row if row["task"] == "temporal" else None
    assert changes == 9  # three clips of four frames


def test_pages_show_bins_and_the_largest_turns(
    scored: Path, shrunk: Shrunk, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run(shrunk("turned", regions_only), dataset, tmp_path / "copy", "--baseline", "source")
    summary = json.loads((scored / "evaluation" / "turned" / "summary.json").read_text())
    assert summary["bins"] == {"turn_0_20": [0, 20], "turn_20_90": [20, 90]}
    assert summary["tasks_without_pairs"] == []
    cell = summary["metrics"]["turn_20_90"]["psnr/full"]
    assert cell["interval"][0] < cell["mean"] < cell["interval"][1]
    page = (scored / "evaluation" / "turned" / "report.html").read_text()
    assert "By rotation between source and driver" in page
    assert "20-90 deg" in page
    sheet = Image.open(scored / "evaluation" / "turned" / "pictures" / "largest_turns.png")
    assert sheet.size == (4 * IMAGE_SIZE, 3 * IMAGE_SIZE)
    output = tmp_path / "page.html"
    capsys.readouterr()
    runs = map(str, (tmp_path / "copy", scored))
    assert main(["compare", *runs, "--format", "html", "--output", str(output)]) == 0
    assert "mean of bins" in capsys.readouterr().out
    assert "By rotation" in output.read_text()
    assert Image.open(tmp_path / "page_files" / "largest_turns.png").size == (2 * IMAGE_SIZE, 3 * IMAGE_SIZE)


def test_an_untrained_model_is_built_from_a_configuration(
    shrunk: Shrunk, dataset: Path, tmp_path: Path
) -> None:
    options = {
        "texture": {"size": 64, "width": 4, "num_levels": 2},
        "offsets": {"uv_size": 32, "width": 4, "mlp_width": 8},
        "decoder": {"width": 4, "num_levels": 2},
    }
    alone, training = tmp_path / "small.yaml", tmp_path / "training.yaml"
    alone.write_text(yaml.safe_dump(options))
    training.write_text(yaml.safe_dump({"model": {"init_args": {"avatar": options}}, "data": {}}))
    assert read_avatar_config(alone) == read_avatar_config(training)
    assert read_avatar_config(alone).decoder.width == 4
    first, second = (UntrainedSystem(path, 64, 1.0) for path in (alone, training))
    assert first.describe() == second.describe()
    pairs = zip(first.model.parameters(), second.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)

    def own_only(content: dict[str, Any]) -> None:
        content["tasks"] = {"own": {"pairs": content["tasks"]["own"]["pairs"], "metrics": ["psnr/full"]}}
        content["networks"] = {}

    run(shrunk("turned", own_only), dataset, tmp_path / "run", "--untrained", alone, "--refine_steps", 2)
    summary = json.loads((tmp_path / "run" / "evaluation" / "turned" / "summary.json").read_text())
    assert summary["system"]["untrained"]["decoder"]["width"] == 4
    assert summary["checkpoint"] is None
    assert summary["metrics"]["own"]["psnr/full"]["num"] == 3


@pytest.mark.parametrize("system", [("--baseline", "warp"), ("--checkpoint", "tiny")])
def test_photographs_may_be_larger_than_what_is_scored(
    shrunk: Shrunk, dataset: Path, checkpoint: Path, tmp_path: Path, system: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """From photographs of twice the size, drawn there and reduced, a picture of itself is sharper."""

    def small(content: dict[str, Any]) -> None:
        content["resolution"] = IMAGE_SIZE // 2
        content["tasks"] = {"own": {"pairs": content["tasks"]["own"]["pairs"], "metrics": ["psnr/full"]}}
        content["networks"] = {}

    option, name = system
    chosen = (option, checkpoint if name == "tiny" else name, "--refine_steps", 2)
    summaries = []
    for size in (IMAGE_SIZE // 2, IMAGE_SIZE):
        output = tmp_path / str(size)
        run(shrunk("turned", small), dataset, output, *chosen, "--photo_size", size)
        summaries.append(json.loads((output / "evaluation" / "turned" / "summary.json").read_text()))
    assert [summary["photo_size"] for summary in summaries] == [IMAGE_SIZE // 2, IMAGE_SIZE]
    first, second = (summary["metrics"]["own"]["psnr/full"]["mean"] for summary in summaries)
    assert second != first
    if name == "warp":
        # The identity warp, sampled at twice the size, is almost the reduced photograph.
        assert second > max(first, 40)
    large = [str(x) for x in ("--protocol", shrunk("turned", small), "--data", dataset, *chosen)]
    assert main(["evaluate", *large, "--output", str(tmp_path / "no"), "--photo_size", "4096"]) != 0
    assert "--image-size 4096" in capsys.readouterr().err


def test_photo_size_is_refused_where_it_means_nothing(
    shrunk: Shrunk, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "frames").mkdir()
    options = ("--protocol", shrunk("turned"), "--data", dataset, "--predictions", tmp_path / "frames")
    assert main([str(x) for x in ("evaluate", *options, "--photo_size", 64)]) != 0
    assert "leave it out with --predictions" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["decoder: {wdth: 4}", "model: {init_args: {}}", "- 1", "a: ["])
def test_files_without_an_avatar_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"wrong\.yaml has no options of an avatar"):
        read_avatar_config(path)
    with pytest.raises(FileNotFoundError, match="no configuration at"):
        read_avatar_config(tmp_path / "absent.yaml")


def test_bins_are_known_to_the_protocol() -> None:
    protocol: Protocol = load_protocol(PROTOCOLS / "turned.yaml")
    assert list(protocol.bins.values()) == [[0, 10], [10, 20], [20, 35], [35, 60]]
