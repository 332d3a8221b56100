from pathlib import Path

import pytest

from rome_lightning.assets import resolve
from rome_lightning.cli.demo import NEEDED
from rome_lightning.cli.main import main


@pytest.mark.slow
def test_demo_leaves_everything_it_promises_and_resumes_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        for name in NEEDED:
            resolve(name)
    except FileNotFoundError as error:
        pytest.skip(f"needs every asset of the demo: {error}")
    command = ["demo", "-o", str(tmp_path), "--steps", "8"]

    assert main(command) == 0

    for name in ("astronaut", "unseen"):
        assert (tmp_path / f"{name}.mp4").stat().st_size > 10_000
        for suffix in ("glb", "obj", "mtl", "png"):
            assert (tmp_path / "avatars" / name / f"{name}.{suffix}").is_file()
    page = (tmp_path / "report.html").read_text()
    for file in ("contact_sheet.png", "contact_sheet_seen.png", "contact_sheet_val.png"):
        assert (tmp_path / file).is_file()
        assert file in page
    for heading in ("psnr/full", "ssim/full", "lpips_alex/full", "csim_sface"):
        assert heading in page
    assert (tmp_path / "evaluation" / "demo" / "report.html").is_file()
    trained = (tmp_path / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    capsys.readouterr()

    assert main(command) == 0

    assert "already trained" in capsys.readouterr().err
    assert (tmp_path / "checkpoints" / "last.ckpt").stat().st_mtime_ns == trained
