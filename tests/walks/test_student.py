"""From six clips to a comparison of two ablations, two seeds each, in eight commands."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tiny_run import need

from datamodules.manifest import Manifest

PREPARE = "rome prepare clips --output data/mine --max-frames 24"
COPY = "rome experiments copy sweeps/ablation_seeds"
SWEEP = "rome sweep experiments/sweeps/ablation_seeds.yaml --data data/mine --output runs/ablation"
EVALUATE = (
    "rome evaluate --protocol demo --checkpoint runs/ablation/trials/{trial:04d}/checkpoints/last.ckpt "
    "--data data/mine --refine-steps 0"
)
COMPARE = "rome compare runs/ablation/trials/* --format html --output comparison.html"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_student(rome, folder: Path, clips: Path) -> None:
    need("face_landmarker", "selfie_multiclass", "modnet", "lpips_alexnet", "lpips_vgg16", "sface", "yunet")
    rome(PREPARE)
    manifest = Manifest.load(folder / "data/mine")
    # Six people: two are held out for validation by default.
    assert len({person for shard in manifest.split("val") for person in shard.identities}) == 2
    rome(COPY)
    _shorten(folder / "experiments/sweeps/ablation_seeds.yaml")
    rome(SWEEP)
    for trial in range(1, 5):
        rome(EVALUATE.format(trial=trial))
    rome(COMPARE)
    page = (folder / "comparison.html").read_text()
    assert "losses.laplacian" in page


def _shorten(sweep: Path) -> None:
    """A few steps: this test is about the commands, not the result."""
    content = yaml.safe_load(sweep.read_text())
    content["parameters"]["data.init_args.pairs_per_epoch"] = {"value": 2}
    content["parameters"]["trainer.limit_val_batches"] = {"value": 2}
    sweep.write_text(yaml.safe_dump(content, sort_keys=False))
