"""From a full checkpoint to a basis and a linear model, by the commands users type."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_protocol import PROTOCOLS, pixels_only
from tiny_run import IMAGE_SIZE, ROOT, need, untrained_checkpoint, write_synthetic_dataset

from datamodules.synthetic import SyntheticHeads
from rome_lightning.avatar.refine import encode_refined
from rome_lightning.cli.main import main
from rome_lightning.head import load_head
from rome_lightning.losses.mesh_chamfer import chamfer_3d
from rome_lightning.models import LinearBasis
from rome_lightning.models.checkpoint import load_avatar, read_checkpoint
from rome_lightning.models.official import write_checkpoint
from rome_lightning.workflows.distillation import distill
from rome_lightning.workflows.options import DistillConfig

LINEAR = ROOT / "experiments" / "linear"
REFINE_STEPS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, a full checkpoint and a basis distilled from it."""
    folder = tmp_path_factory.mktemp("distill")
    (folder / "data").mkdir()
    write_synthetic_dataset(folder / "data")
    untrained_checkpoint(folder / "full.ckpt")
    assert main(["distill", "basis", *basis_options(folder, "basis.safetensors")]) == 0
    return folder


def basis_options(folder: Path, file: str, **changes: Any) -> list[str]:
    options = {
        "checkpoint": folder / "full.ckpt",
        "data": folder / "data",
        "output": folder / file,
        "hair": 3,
        "neck": 2,
        "sources_per_clip": 3,
        "refine_steps": REFINE_STEPS,
    }
    return [f"--{name}={value}" for name, value in (options | changes).items()]


def fit_options(folder: Path, run: str, steps: int) -> list[str]:
    need("lpips_alexnet")
    return [
        f"--config={LINEAR / 'base.yaml'}",
        f"--config={LINEAR / 'cpu.yaml'}",
        f"--run_dir={folder / run}",
        "--wandb=disabled",
        f"--model.init_args.full_checkpoint={folder / 'full.ckpt'}",
        f"--model.init_args.basis={folder / 'basis.safetensors'}",
        "--model.init_args.regressors.input_size=64",
        f"--data.init_args.manifest={folder / 'data'}",
        f"--data.init_args.image_size={IMAGE_SIZE}",
        "--data.init_args.batch_size=2",
        "--data.init_args.holdout_ratio=0",
        "--data.init_args.val_split=val",
        f"--data.init_args.pairs_per_epoch={2 * steps}",
        "--trainer.enable_progress_bar=false",
        "--trainer.callbacks=[{class_path: rome_lightning.callbacks.RunCheckpoint, "
        "init_args: {monitor: val/lpips, mode: min}}]",
        "--trainer.log_every_n_steps=1",
    ]


def test_basis_and_what_lies_beside_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    basis = LinearBasis.load(folder / "basis.safetensors").check(load_head("open"))
    assert (basis.num_hair, basis.num_neck) == (3, 2)
    assert basis.provenance["sources"] == 6
    for name in ("curves.csv", "curves.png", "components.png", "coefficients.safetensors"):
        assert (folder / f"basis_{name}").stat().st_size > 0
    rows = (folder / "basis_curves.csv").read_text().splitlines()
    assert rows[0] == "part,components,explained_variance_ratio,rms_mm,rms_mm_held_out"
    assert len(rows) == 1 + 4 + 3
    # A second call collects nothing again; other numbers of components take seconds.
    before = {path: path.stat().st_mtime_ns for path in (folder / "basis_offsets").iterdir()}
    assert main(["distill", "basis", *basis_options(folder, "basis.safetensors")]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in (folder / "basis_offsets").iterdir()}
    assert "hair: 3 components of 6 sources" in capsys.readouterr().out


def test_parts_of_the_work_in_processes_of_their_own(folder: Path) -> None:
    for part in ("1/2", "0/2"):
        assert main(["distill", "basis", *basis_options(folder, "parts.safetensors", part=part)]) == 0
    assert not (folder / "parts.safetensors").exists()
    assert main(["distill", "basis", *basis_options(folder, "parts.safetensors")]) == 0
    one, other = (LinearBasis.load(folder / f"{name}.safetensors") for name in ("basis", "parts"))
    assert torch.equal(one.components, other.components)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hair": 50}, "50 hair components need at least 51 sources, the data provide 6; set --hair"),
        ({"part": "2/2"}, "--part must be I/N"),
        ({"output": "basis.bin"}, "must be a .safetensors file"),
        ({"checkpoint": "nothing.ckpt"}, "no checkpoint at nothing.ckpt"),
    ],
)
def test_mistakes_are_one_line(
    folder: Path, changes: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["distill", "basis", *basis_options(folder, "basis.safetensors", **changes)]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error


def test_missing_options_and_unknown_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distill", "basis", "--hair=3"]) == 2
    assert "--checkpoint is required" in capsys.readouterr().err
    assert main(["distill", "nothing"]) == 1
    assert main(["distill", "--help"]) == 0
    assert "principal components" in capsys.readouterr().out


def test_a_linear_model_is_trained(folder: Path) -> None:
    assert main(["fit", *fit_options(folder, "run", steps=2)]) == 0
    model = load_avatar(folder / "run" / "checkpoints" / "last.ckpt")
    full = load_avatar(folder / "full.ckpt")
    basis = LinearBasis.load(folder / "basis.safetensors")
    assert model.basis is not None
    assert torch.equal(model.basis.components, basis.components)
    # Texture encoder and decoder are shared and unchanged.
    for name, value in full.state_dict().items():
        if not name.startswith("offset_network."):
            assert torch.equal(model.state_dict()[name], value), name
    assert "train/loss_coefficients" in (folder / "run" / "metrics.csv").read_text()


def test_another_basis_than_the_coefficients_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    need("lpips_alexnet")
    basis = LinearBasis.load(folder / "basis.safetensors")
    basis.save(tmp_path / "other.safetensors")
    arguments = fit_options(folder, "refused", steps=1)
    assert main(["fit", *arguments, f"--model.init_args.basis={tmp_path / 'other.safetensors'}"]) == 1
    assert "`rome distill basis` writes them beside the basis" in capsys.readouterr().err


@pytest.mark.slow
def test_the_whole_way_resumes_training_and_compares_three_models(folder: Path, tmp_path: Path) -> None:
    """Training is passed in: here a stand-in that records its arguments and returns the full model."""
    given: dict[str, Any] = {}

    def train(configs: list[Path], run_dir: Path, options: dict[str, Any], more: list[str]) -> Path:
        given.update(configs=configs, run_dir=run_dir, options=options, more=more)
        return tmp_path / "grown.ckpt"

    # The untrained model is the bare head, so there would be nothing to compare.
    content = read_checkpoint(folder / "full.ckpt")
    weight = content["state_dict"]["avatar.offset_network.vertex_network.block_2.8.weight"]
    weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    write_checkpoint(content, tmp_path / "grown.ckpt")
    config = DistillConfig(
        checkpoint=tmp_path / "grown.ckpt",
        data=folder / "data",
        output=tmp_path / "out",
        hair=1,
        neck=1,
        sources_per_clip=3,
        refine_steps=REFINE_STEPS,
        fit_options=["--trainer.max_epochs=1"],
        protocol=shrunk_protocol("demo", tmp_path),
        geometry=shrunk_protocol("geometry_synthetic", tmp_path),
    )
    done = distill(config, train)
    assert given["configs"] == [LINEAR / "base.yaml"]
    assert given["run_dir"] == tmp_path / "out" / "run"
    assert given["options"]["model.init_args.basis"] == tmp_path / "out" / "basis.safetensors"
    assert given["more"] == ["--trainer.max_epochs=1"]
    results = json.loads((tmp_path / "out" / "table.json").read_text())
    assert list(results) == ["full", "linear", "no offsets"]
    # The stand-in's model is the full one.
    assert results["linear"]["quality"] == results["full"]["quality"]
    assert results["no offsets"]["quality"] != results["full"]["quality"]
    assert {"self/psnr/full", "geometry/chamfer_mm"} <= set(results["full"]["quality"])
    assert [table.rows[0][0] for table in done.tables] == ["full", "full"]
    assert "strip.png" in done.report.read_text()


def shrunk_protocol(name: str, folder: Path) -> Path:
    """A shipped protocol at the size of the tiny dataset, without metrics that need networks."""
    content = yaml.safe_load((PROTOCOLS / f"{name}.yaml").read_text())
    content["resolution"] = IMAGE_SIZE
    content["dataset"]["split"] = "val"
    if content.get("mesh"):
        content["mesh"] |= {"num_points": 500, "num_people": 1}
    else:
        pixels_only(content)
        content["tasks"]["self"]["pairs"]["num_frames"] = 2
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.slow
def test_distilled_geometry_is_as_near_to_the_truth(folder: Path) -> None:
    """Within 5 % of the teacher's chamfer distance, on the people of the training."""
    more = [
        "--model.init_args.optimizer.learning_rate=0.003",
        "--data.init_args.batch_size=8",
        "--data.init_args.pairs_per_epoch=1200",
    ]
    refine_steps = 40
    options = basis_options(folder, "near.safetensors", refine_steps=refine_steps, sources_per_clip=4)
    assert main(["distill", "basis", *options]) == 0
    more.append(f"--model.init_args.basis={folder / 'near.safetensors'}")
    assert main(["fit", *fit_options(folder, "long", steps=1), *more]) == 0
    linear = load_avatar(folder / "long" / "checkpoints" / "last.ckpt")
    full = load_avatar(folder / "full.ckpt")
    heads = SyntheticHeads(full.head, IMAGE_SIZE, texture_size=128, rasterizer="torch")
    errors: dict[str, list[float]] = {"full": [], "linear": [], "bare": []}
    for person in (0, 1):
        frames, truth = heads.draw([person] * 3, [0, 1, 3])
        with torch.no_grad():
            refined = encode_refined(full, frames, refine_steps)
            found = {
                "full": full.deform(refined, frames.params).vertices,
                "linear": linear.reconstruct(frames).vertices,
                "bare": full.head(frames.params),
            }
        for name, vertices in found.items():
            errors[name].append(float(chamfer_3d(vertices, truth.vertices)))
    means = {name: sum(values) / len(values) for name, values in errors.items()}
    print(json.dumps({name: round(1e3 * value, 3) for name, value in means.items()}))
    assert means["full"] < means["bare"]
    assert means["linear"] < 1.05 * means["full"]
