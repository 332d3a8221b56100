from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_run import (
    IMAGE_SIZE,
    ROOT,
    tiny_arguments,
    tiny_overlay,
    untrained_checkpoint,
    write_synthetic_dataset,
)

from datamodules.manifest import Manifest
from rome_lightning.cli import main as cli
from rome_lightning.models.checkpoint import load_full_avatar
from rome_lightning.training import FullModule, full_module


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _losses(folder: Path) -> dict[int, str]:
    """Training loss by step, as written."""
    return {int(row["step"]): row["train/loss"] for row in _rows(folder / "metrics.csv") if row["train/loss"]}


def _copied(run_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_folder, tmp_path / "run"))


def test_a_run_folder_is_complete(run_folder, dataset):
    names = {path.name for path in run_folder.iterdir()}
    assert names >= {"config.yaml", "checkpoints", "metrics.csv", "images", "curves.png", "summary.json"}
    assert {path.name for path in (run_folder / "checkpoints").iterdir()} == {
        "best.ckpt",
        "last.ckpt",
        "previous.ckpt",
    }
    config = yaml.safe_load((run_folder / "config.yaml").read_text())
    assert config["seed_everything"] == 0
    assert config["data"]["init_args"]["manifest"] == str(dataset)
    picture = Image.open(sorted((run_folder / "images").iterdir())[-1])
    assert picture.width == 8 * IMAGE_SIZE
    assert picture.height >= IMAGE_SIZE
    # Below the column names.
    assert picture.height % IMAGE_SIZE == 16


def test_the_summary_names_what_made_the_run(run_folder, dataset):
    summary = json.loads((run_folder / "summary.json").read_text())
    assert summary["seed"] == 0
    assert summary["steps"] == 4
    assert summary["finished"]
    assert summary["dataset_hash"] == Manifest.load(dataset).hash
    assert summary["versions"].keys() >= {"torch", "lightning"}
    assert "CC0" in summary["head_licence"]
    assert summary["asset_licences"]["lpips_alexnet"] == "BSD-3-Clause"
    assert summary["best_of_each"].keys() == {"val/psnr", "val/ssim", "val/lpips"}
    assert summary["metrics"].keys() >= {"val/psnr", "val/ssim", "val/lpips", "train/loss"}
    # A source archive has no commit.
    assert summary["git_commit"] or not (ROOT / ".git").exists()


def test_metrics_cover_every_step_and_validation(run_folder):
    assert list(_losses(run_folder)) == [0, 1, 2, 3]
    validated = [row["val/psnr"] for row in _rows(run_folder / "metrics.csv") if row["val/psnr"]]
    assert len(validated) == 2


def test_the_checkpoint_knows_its_architecture(run_folder):
    checkpoint = torch.load(run_folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["image_size"] == IMAGE_SIZE
    model = load_full_avatar(run_folder / "checkpoints" / "last.ckpt")
    assert model.config.decoder.width == 8
    # Metric and loss networks can be reloaded, so checkpoints do not contain them.
    assert not any("lpips" in key or "perceptual" in key for key in checkpoint["state_dict"])


def test_a_run_resumes_where_it_stopped(run_folder, dataset, tmp_path, rome):
    run = _copied(run_folder, tmp_path)
    before = _losses(run)
    overlay = tiny_overlay(dataset, run)
    overlay["trainer"]["max_epochs"] = 3
    arguments = tiny_arguments("fit", overlay, tmp_path)
    assert rome(*arguments, "--ckpt_path", run / "checkpoints" / "last.ckpt") == (0, "")
    after = _losses(run)
    assert list(after) == [0, 1, 2, 3, 4, 5]
    assert {step: after[step] for step in before} == before
    assert json.loads((run / "summary.json").read_text())["steps"] == 6


def test_validating_leaves_the_training_alone(run_folder, dataset, tmp_path, rome):
    run = _copied(run_folder, tmp_path)
    before = (run / "metrics.csv").read_bytes()
    arguments = tiny_arguments("validate", tiny_overlay(dataset, run), tmp_path)
    assert rome(*arguments, "--ckpt_path", run / "checkpoints" / "last.ckpt") == (0, "")
    assert (run / "metrics.csv").read_bytes() == before
    scores = _rows(run / "validate" / "metrics.csv")[-1]
    trained = json.loads((run / "summary.json").read_text())["last_metrics"]
    # The same weights on the same pairs.
    assert float(scores["val/psnr"]) == pytest.approx(trained["val/psnr"], abs=1e-4)


def test_testing_scores_the_test_split(run_folder, dataset, tmp_path, rome):
    run = _copied(run_folder, tmp_path)
    arguments = tiny_arguments("test", tiny_overlay(dataset, run, test_split="val"), tmp_path)
    assert rome(*arguments, "--ckpt_path", run / "checkpoints" / "last.ckpt") == (0, "")
    scores = _rows(run / "test" / "metrics.csv")[-1]
    trained = json.loads((run / "summary.json").read_text())["last_metrics"]
    assert float(scores["test/lpips"]) == pytest.approx(trained["val/lpips"], abs=1e-4)


def test_a_new_run_does_not_mix_with_an_old_one(run_folder, dataset, tmp_path, rome):
    code, error = rome(*tiny_arguments("fit", tiny_overlay(dataset, run_folder), tmp_path))
    assert code == cli.EXIT_FAILURE
    assert f"{run_folder} already holds a run" in error


def test_the_same_seed_gives_the_same_losses(run_folder, dataset, tmp_path, rome):
    for seed, epochs in ((0, 2), (1, 1)):
        overlay = tiny_overlay(dataset, tmp_path / str(seed))
        # Without validation, which must change nothing.
        overlay["trainer"] |= {"max_epochs": epochs, "limit_val_batches": 0}
        overlay["trainer"]["callbacks"] = [{"class_path": "rome_lightning.callbacks.RunCheckpoint"}]
        assert rome(*tiny_arguments("fit", overlay, tmp_path), "--seed_everything", seed) == (0, "")
    assert _losses(tmp_path / "0") == _losses(run_folder)
    other = _losses(tmp_path / "1")
    assert len(other) == 2
    assert not set(other.values()) & set(_losses(run_folder).values())


def test_weights_of_another_architecture_are_refused(run_folder, dataset, tmp_path, rome):
    overlay = tiny_overlay(dataset, tmp_path / "run")
    overlay["model"]["init_args"]["avatar"]["decoder"]["width"] = 12
    checkpoint = run_folder / "checkpoints" / "last.ckpt"
    arguments = tiny_arguments("fit", overlay, tmp_path, "--model.init_args.init_from", str(checkpoint))
    code, error = rome(*arguments)
    assert code == cli.EXIT_FAILURE
    assert "was trained with another architecture" in error
    assert "config.yaml of its run folder" in error
    assert "Union" not in error
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_weights_of_the_same_architecture_are_the_start_of_a_new_run(run_folder, dataset, tmp_path, rome):
    overlay = tiny_overlay(dataset, tmp_path / "run")
    overlay["trainer"] |= {"max_epochs": 1, "limit_val_batches": 0, "callbacks": []}
    overlay["model"]["init_args"]["optimizer"]["learning_rate"] = 0.0
    checkpoint = run_folder / "checkpoints" / "last.ckpt"
    overlay["trainer"]["callbacks"] = [
        {"class_path": "rome_lightning.callbacks.RunCheckpoint"},
    ]
    arguments = tiny_arguments("fit", overlay, tmp_path, "--model.init_args.init_from", str(checkpoint))
    assert rome(*arguments) == (0, "")
    kept = load_full_avatar(tmp_path / "run" / "checkpoints" / "last.ckpt").state_dict()
    given = load_full_avatar(checkpoint).state_dict()
    assert all(torch.equal(kept[key], given[key]) for key in given)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ({"image_size": 66}, "image_size must be divisible by 4 (the decoder halves it 2 times), got 66"),
        ({"image_size": 2 * IMAGE_SIZE}, f"image_size must be at most the stored {IMAGE_SIZE}"),
        ({"manifest": "nowhere"}, "no dataset at nowhere; make one with: rome prepare"),
    ],
)
def test_data_that_does_not_fit_is_one_line(dataset, tmp_path, rome, data, complaint):
    code, error = rome(*tiny_arguments("fit", tiny_overlay(dataset, tmp_path / "run", **data), tmp_path))
    assert code == cli.EXIT_FAILURE
    assert error.removeprefix('Parser key "model": ').startswith(complaint)


def test_another_file_than_a_checkpoint_is_one_line(dataset, tmp_path, rome):
    wrong = tmp_path / "wrong.ckpt"
    wrong.write_bytes(b"no checkpoint")
    arguments = tiny_arguments("fit", tiny_overlay(dataset, tmp_path / "run"), tmp_path)
    for path, complaint in (
        (wrong, "is not a readable checkpoint"),
        (tmp_path / "no.ckpt", "neither a file nor one of the shipped models"),
    ):
        code, error = rome(*arguments, "--model.init_args.init_from", path)
        assert code == cli.EXIT_FAILURE
        assert complaint in error
        assert "weights_only" not in error


@pytest.mark.filterwarnings("ignore:.*were not finite at step")
def test_data_that_is_not_finite_anywhere_stops_the_run(tmp_path, rome):
    folder = tmp_path / "shards"
    folder.mkdir()
    write_synthetic_dataset(folder, num_frames=2, spoil="camera")
    code, error = rome(*tiny_arguments("fit", tiny_overlay(folder, tmp_path / "run"), tmp_path))
    assert code == cli.EXIT_FAILURE
    assert "source.params.camera, target.params.camera of synthetic-" in error
    assert "remove these clips from the data" in error


def _spoil_batches(monkeypatch):
    """One value in each step's batch is not finite or too large: of a target, a source or a parameter."""
    spoilt = iter(
        (
            lambda batch: batch.target.image[0, 0, 3, 3:4].fill_(torch.nan),
            lambda batch: batch.source.image[0, 0, 3, 3:4].fill_(torch.inf),
            lambda batch: batch.target.params.camera[0, :1].fill_(torch.nan),
            lambda batch: batch.target.params.camera[0, :1].fill_(1e25),
        )
    )
    training_step = FullModule.training_step

    def step(self, batch, batch_idx):
        next(spoilt)(batch)
        return training_step(self, batch, batch_idx)

    monkeypatch.setattr(FullModule, "training_step", step)


def test_a_number_that_is_not_finite_costs_a_step_and_nothing_else(dataset, tmp_path, rome, monkeypatch):
    _spoil_batches(monkeypatch)
    overlay = tiny_overlay(dataset, tmp_path / "run")
    overlay["trainer"] |= {"max_epochs": 2, "limit_val_batches": 0}
    overlay["trainer"]["callbacks"] = [{"class_path": "rome_lightning.callbacks.RunCheckpoint"}]
    start = untrained_checkpoint(tmp_path / "start.ckpt")
    arguments = tiny_arguments("fit", overlay, tmp_path, "--model.init_args.init_from", str(start))
    with pytest.warns(UserWarning, match="were not finite at step") as said:
        assert rome(*arguments) == (0, "")
    reasons = [str(entry.message) for entry in said if "were not finite" in str(entry.message)]
    assert [reason.split(" of ")[0].split(" were")[0] for reason in reasons] == [
        "target.image",
        "source.image",
        "target.params.camera",
        "gradients",
    ]
    ended = load_full_avatar(tmp_path / "run" / "checkpoints" / "last.ckpt").state_dict()
    began = load_full_avatar(start).state_dict()
    assert all(torch.equal(ended[key], began[key]) for key in began)
    kept = sorted((tmp_path / "run" / "skipped_steps").iterdir())
    assert torch.load(kept[0], weights_only=True)["target"]["image"].isnan().sum() == 1


def test_weights_that_are_not_finite_are_refused(dataset, tmp_path, rome):
    start = untrained_checkpoint(tmp_path / "start.ckpt")
    content = torch.load(start, weights_only=True)
    name = next(key for key, value in content["state_dict"].items() if value.is_floating_point())
    content["state_dict"][name].view(-1)[0] = torch.nan
    torch.save(content, start)
    overlay = tiny_overlay(dataset, tmp_path / "run")
    code, error = rome(*tiny_arguments("fit", overlay, tmp_path, "--model.init_args.init_from", str(start)))
    assert code == cli.EXIT_FAILURE
    assert f"weights that are not finite, {name.removeprefix('avatar.')}" in error


def _spoil_losses(monkeypatch, at_steps):
    """Make the total NaN at some steps."""
    forward = full_module.Objective.forward

    def spoilt(self, *args):
        terms = forward(self, *args)
        if args[-1] not in at_steps:
            return terms
        return type(terms)({**terms.raw, "laplacian": terms.total * torch.nan}, {}, terms.total * torch.nan)

    monkeypatch.setattr(full_module.Objective, "forward", spoilt)


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(dataset, tmp_path, rome, monkeypatch):
    _spoil_losses(monkeypatch, {0, 1})
    overlay = tiny_overlay(dataset, tmp_path / "run")
    overlay["trainer"] |= {"max_epochs": 1, "limit_val_batches": 0}
    overlay["trainer"]["callbacks"] = [
        {"class_path": "rome_lightning.callbacks.RunCheckpoint"},
    ]
    start = untrained_checkpoint(tmp_path / "start.ckpt")
    arguments = tiny_arguments("fit", overlay, tmp_path, "--model.init_args.init_from", str(start))
    with pytest.warns(
        UserWarning, match=r"gradients were not finite at step 0 .* skipped \(1 of at most 20\)"
    ):
        assert rome(*arguments) == (0, "")
    ended = load_full_avatar(tmp_path / "run" / "checkpoints" / "last.ckpt").state_dict()
    began = load_full_avatar(start).state_dict()
    assert all(torch.equal(ended[key], began[key]) for key in began)
    assert _rows(tmp_path / "run" / "metrics.csv")[-1]["train/skipped_steps"] == "2.0"
    kept = sorted((tmp_path / "run" / "skipped_steps").iterdir())
    assert [path.name for path in kept] == ["step_0000000_rank_0.pt", "step_0000001_rank_0.pt"]
    batch = torch.load(kept[0], weights_only=True)
    assert batch["target"]["image"].shape == (2, 3, IMAGE_SIZE, IMAGE_SIZE)


def test_too_many_steps_that_are_not_finite_stop_the_run(dataset, tmp_path, rome, monkeypatch):
    _spoil_losses(monkeypatch, {0, 1})
    overlay = tiny_overlay(dataset, tmp_path / "run")
    overlay["model"]["init_args"]["optimizer"]["skip_budget"] = 1
    with pytest.warns(UserWarning, match="gradients were not finite at step 0"):
        code, error = rome(*tiny_arguments("fit", overlay, tmp_path))
    assert code == cli.EXIT_FAILURE
    assert error.startswith("gradients were not finite at step 1 (photometric ")
    assert "laplacian nan" in error
    assert "optimizer.skip_budget allows 1" in error


def test_all_loggers_have_the_same_keys(run_folder, dataset, tmp_path, rome):
    event_files = sorted((run_folder / "tensorboard").glob("events.*"))
    accumulator = EventAccumulator(str(event_files[0]))
    accumulator.Reload()
    columns = set(_rows(run_folder / "metrics.csv")[0]) - {"step"}
    assert set(accumulator.Tags()["scalars"]) == columns
    assert accumulator.Tags()["images"] == ["val/images"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            {"avatar.decoder.width": 12},
            "was trained with model.init_args.avatar.decoder.width = 8",
        ),
        ({"data.image_size": 32}, f"was trained at {IMAGE_SIZE} px, data.init_args.image_size is 32"),
        ({"data.seed": 3}, "the checkpoint was trained with data.init_args.seed = 0"),
    ],
    ids=str,
)
def test_a_run_does_not_resume_as_another_one(run_folder, dataset, tmp_path, rome, change, complaint):
    overlay = tiny_overlay(dataset, _copied(run_folder, tmp_path))
    for key, value in change.items():
        *path, name = key.split(".")
        place = overlay["data"]["init_args"] if path[0] == "data" else overlay["model"]["init_args"]
        for part in path if path[0] != "data" else []:
            place = place[part]
        place[name] = value
    code, error = rome(*tiny_arguments("fit", overlay, tmp_path, "--ckpt_path", "auto"))
    assert code == cli.EXIT_FAILURE
    assert complaint in error
    assert "use model.init_args.init_from instead of --ckpt-path" in error


def test_a_head_model_that_the_data_were_not_tracked_with_is_refused(dataset, tmp_path, rome):
    folder = tmp_path / "flame"
    shutil.copytree(dataset, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["head"]["name"] = "flame"
    changed = dataclasses.replace(Manifest.load(dataset), head=manifest["head"])
    (folder / "manifest.json").unlink()
    changed.save(folder / "manifest.json")
    code, error = rome(*tiny_arguments("fit", tiny_overlay(folder, tmp_path / "run"), tmp_path))
    assert code == cli.EXIT_FAILURE
    assert (
        "with the head model 'flame', the model has 'open-head-1'; set model.init_args.avatar.head" in error
    )


@pytest.mark.parametrize("overlay", ["overfit", "deterministic", "profile"])
def test_debugging_overlays_run(dataset, tmp_path, rome, overlay):
    """An overlay over the small model's settings, as users would write it."""
    run = tmp_path / "run"
    settings = tiny_overlay(dataset, run)
    arguments = tiny_arguments("fit", settings, tmp_path)
    extra = ["--config", str(ROOT / "experiments" / "debug" / f"{overlay}.yaml"), "--run_dir", str(run)]
    limits = ["--trainer.max_epochs", "1", "--trainer.profiler", "null"]
    limits += ["--data.init_args.pairs_per_epoch", "1", "--data.init_args.eval_pairs_per_clip", "1"]
    assert rome(*arguments, *extra, *limits) == (0, "")
    if overlay == "deterministic":
        again = tmp_path / "again"
        assert rome(*arguments, *extra, *limits, "--run_dir", again) == (0, "")
        assert _losses(again) == _losses(run)
        states = [
            torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
            for folder in (run, again)
        ]
        torch.testing.assert_close(*states, rtol=0, atol=0)
        torch.use_deterministic_algorithms(False)
