"""What ``rome avatar`` refuses before it computes anything."""

from pathlib import Path

import pytest

from rome_lightning.cli.main import main


@pytest.mark.parametrize("wrong", [["--refine-steps", "-4"], ["--image-size", "big"]])
def test_numbers_that_are_none_are_usage_errors(wrong, capsys):
    assert main(["avatar", "create", "a.png", "-o", "x", "--checkpoint", "c.ckpt", *wrong]) == 2
    assert f"wanted a whole number, 0 or more, got '{wrong[1]}'" in capsys.readouterr().err


def test_the_name_of_an_export_has_to_fit_its_format(tmp_path: Path, capsys):
    assert main(["avatar", "export", str(tmp_path), "--format", "glb", "-o", "a.obj"]) == 1
    assert capsys.readouterr().err == ("rome: error: --format glb writes a .glb file, got --output a.obj\n")
