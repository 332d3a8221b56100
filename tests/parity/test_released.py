"""The released configuration against the official code, end to end.

``released.safetensors`` holds a subset of the official code's results on the files that ``released_files``
generates (``python -m benchmarks.official --release CHECKOUT --generated --width 8 --record FILE``), and
``released_full_width.safetensors`` the same for networks at the release's size (without ``--width``). No
values of FLAME or the release are included.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from released_files import (
    ReleasedFiles,
    Widths,
    released_inputs,
    released_weights,
    write_released_files,
    write_released_linear,
)
from released_values import TOLERANCES, import_released, released_values, thinned
from safetensors.torch import load_file

from rome_lightning.cli.main import main
from rome_lightning.models.checkpoint import load_avatar

WIDTH = 8


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ReleasedFiles:
    written = write_released_files(tmp_path_factory.mktemp("release"))
    write_released_linear(written.data)
    return written


@pytest.mark.parametrize("kind", ["full", "linear"])
@pytest.mark.parametrize(
    ("widths", "record"),
    [
        pytest.param(Widths(WIDTH, WIDTH), "released.safetensors", id="narrow"),
        pytest.param(Widths(), "released_full_width.safetensors", id="full width", marks=pytest.mark.slow),
    ],
)
def test_picture_is_the_official_one(
    files: ReleasedFiles, widths: Widths, record: str, tmp_path: Path, kind: str
) -> None:
    official = load_file(Path(__file__).with_name(record))
    avatar = import_released(files, released_weights(widths), tmp_path, kind == "linear")
    # Some hundred megabytes each, and pytest would keep three runs.
    for file in tmp_path.iterdir():
        file.unlink()
    assert int(avatar.head.region("scalp", "neck", "shoulders").sum()) == 645
    found = thinned(released_values(avatar, released_inputs()))
    for name, (largest, usual) in TOLERANCES.items():
        if name == "driver" and kind == "full":
            continue
        difference = (found[name] - official[f"{kind}/{name}"].float()).abs().flatten().sort().values
        assert difference[int(0.999 * (len(difference) - 1))] <= usual, name
        assert largest is None or difference[-1] <= largest, name


def test_missing_companions_are_refused_by_name(
    files: ReleasedFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for file in files.data.iterdir():
        (data / file.name).symlink_to(file)
    (data / "uvfaces_v2.pth").unlink()
    torch.save(released_weights(Widths(WIDTH, WIDTH)), tmp_path / "rome.pth")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flame.pkl").symlink_to(files.model)
    command = ["import-checkpoint", "rome.pth", "--head", "flame.pkl", "--release", "data", "-o", "ours.ckpt"]
    assert main(command) == 1
    refusal = capsys.readouterr().err
    assert "missing of the release: head_template.obj, uvfaces_v2.pth;" in refusal
    assert "register" not in refusal
    # As in a checkout of the release with its submodule.
    (tmp_path / "DECA").symlink_to(files.model.parent.parent)
    assert main([*command, "--approximate"]) == 0
    assert "uvfaces_v2.pth is missing: the mouth's triangles" in capsys.readouterr().err
    (data / "uvfaces_v2.pth").symlink_to(files.data / "uvfaces_v2.pth")
    assert main(command) == 0
    assert capsys.readouterr().err == ""
    # Paths remain valid in another working directory.
    monkeypatch.chdir(tmp_path.parent)
    head = load_avatar(tmp_path / "ours.ckpt").head
    assert torch.equal(head.faces, torch.load(files.data / "faces_v2.pth")[0])
    assert main(["export-checkpoint", str(tmp_path / "ours.ckpt"), "-o", str(tmp_path / "back.pth")]) == 0
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert all(torch.equal(back[key], value) for key, value in released_weights(Widths(WIDTH, WIDTH)).items())
