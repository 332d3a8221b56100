"""Options before ``--config`` are not silently overridden."""

from __future__ import annotations

from pathlib import Path

import pytest

from rome_lightning.cli import main as cli

FILE = "trainer: {max_epochs: 5}\nseed: 1\nmodel: {class_path: a.B, init_args: {x: 1}}\n"


@pytest.mark.parametrize("command", ["fit", "evaluate", "compare", "prepare", "sweep"])
@pytest.mark.parametrize(
    "option",
    [["--trainer.max_epochs", "3"], ["--seed=4"], ["--model.init_args.y", "2"], ["--trainer", "t.yaml"]],
)
@pytest.mark.parametrize("joined", [False, True])
def test_options_that_a_later_file_sets_are_refused(
    command: str, option: list[str], joined: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "b.yaml"
    path.write_text(FILE)
    file = [f"--config={path}"] if joined else ["--config", str(path)]
    assert cli.main([command, *option, *file]) == cli.EXIT_USAGE
    error = capsys.readouterr().err
    assert f"{option[0].split('=')[0]} before --config" in error
    assert "put options after the last --config" in error


def test_an_ablation_is_a_file_too(capsys: pytest.CaptureFixture[str]) -> None:
    option = "--model.init_args.losses.laplacian=1"
    assert cli.main(["fit", "-c", "full/base", option, "--ablation", "no_laplacian"]) == cli.EXIT_USAGE
    assert "losses.laplacian before --config or --ablation" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config", "b.yaml", "--trainer.max_epochs", "3"],
        ["--ckpt_path", "auto", "--trainer.devices", "2", "--config", "b.yaml"],
        ["--seed", "3", "--config", "nowhere.yaml"],
        ["--seed", "3", "--config"],
    ],
)
def test_others_pass(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("b.yaml").write_text(FILE)
    assert cli._overruled(arguments) == []
