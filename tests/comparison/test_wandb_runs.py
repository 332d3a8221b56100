"""Runs of a W&B project become run folders; a stand-in plays the server."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from run_folders import PROTOCOL, write_run

from rome_lightning.comparison.comparing import compare
from rome_lightning.comparison.judging import CompareOptions
from rome_lightning.comparison.runs import pool_seeds
from rome_lightning.comparison.wandb_runs import fetch_runs, upload_run


class Server:
    """Keeps the files of runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.project: list[Any] = []

    def runs(self, project: str) -> list[Any]:
        assert project == "me/heads"
        return self.project

    def add(self, name: str, identifier: str, source: Path | None = None, **facts: Any) -> None:
        home = self.folder / identifier
        home.mkdir(parents=True)
        if source is not None:
            assert upload_run(source, SimpleNamespace(dir=str(home), save=lambda *_, **__: None)) > 0

        def files() -> list[Any]:
            names = [path.relative_to(home).as_posix() for path in sorted(home.rglob("*")) if path.is_file()]
            return [SimpleNamespace(name=n, download=_download(home / n, n)) for n in names]

        run = SimpleNamespace(name=name, id=identifier, state="finished", files=files)
        run.scan_history = lambda: facts.get("history", [])
        run.config, run.summary = facts.get("config", {}), facts.get("summary", {})
        self.project.append(run)


def _download(source: Path, name: str) -> Any:
    def download(root: str, replace: bool) -> None:
        target = Path(root) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)

    return download


def test_uploaded_evaluations_are_compared_like_folders(tmp_path):
    server = Server(tmp_path / "server")
    for name, gain in (("base", 0.0), ("wide", 1.0)):
        for seed in range(2):
            run = write_run(tmp_path / f"{name}-{seed}", seed, {"name": name}, gain, 0.01)
            server.add(f"{name}-{seed}", f"id-{name}{seed}", run)
    runs = fetch_runs("me/heads", [], tmp_path / "fetched", server)
    configurations = pool_seeds(runs)
    assert [len(c.runs) for c in configurations] == [2, 2]
    comparison = compare(configurations, PROTOCOL, configurations[0], CompareOptions(resamples=500))
    assert {r.verdict for r in comparison.results} == {"baseline", "better"}


def test_a_run_without_our_files_has_settings_summary_and_curves(tmp_path):
    server = Server(tmp_path / "server")
    history = [
        {"trainer/global_step": 10, "val/lpips": 0.4, "_step": 0},
        {"trainer/global_step": 20, "val/lpips": 0.3, "_step": 1},
    ]
    config = {"losses": {"dice": 1.0, "kind": SimpleNamespace()}}
    server.add("base", "abc", config=config, summary={"val/lpips": {"min": 0.3}, "_step": 1}, history=history)
    (run,) = fetch_runs("me/heads", ["abc"], tmp_path / "fetched", server)
    assert run.config["losses.dice"] == 1.0
    assert run.summary["metrics"] == {"val/lpips": 0.3}
    assert run.learning_curves() == {"val/lpips": [(10.0, 0.4), (20.0, 0.3)]}


def test_a_name_that_does_not_say_which_is_refused(tmp_path):
    server = Server(tmp_path / "server")
    server.add("base", "a")
    server.add("base", "b")
    with pytest.raises(ValueError, match=r"several runs are called 'base' in me/heads; there are base \(a\)"):
        fetch_runs("me/heads", ["base"], tmp_path, server)
    with pytest.raises(ValueError, match="no run is called 'other'"):
        fetch_runs("me/heads", ["other"], tmp_path, server)


def test_files_stay_below_the_folder(tmp_path):
    server = Server(tmp_path / "server")
    server.add("base", "a")
    evil = SimpleNamespace(name="rome/../../evil.png", download=lambda **_: pytest.fail("downloaded"))
    server.project[0].files = lambda: [evil]
    fetch_runs("me/heads", ["a"], tmp_path / "fetched", server)


@pytest.mark.parametrize("name", ["/tmp/absolute", "../../outside", "..", "a/b", "x\n=1", ".hidden", ""])
def test_a_name_of_the_server_is_no_path(name, tmp_path):
    server = Server(tmp_path / "server")
    server.add("base", "../a")
    server.project[0].name = name
    (run,) = fetch_runs("me/heads", [], tmp_path / "fetched", server)
    assert run.path.parent == tmp_path / "fetched"
    assert run.path.name.endswith("-a") or run.path.name.endswith("_a")
    # The stand-in for the server keeps the run in "a".
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "fetched", "server"]


@pytest.mark.parametrize("file", ["rome/.ssh/config.yaml", "/rome/x.png", "rome/a\nb.png"])
def test_only_plain_names_of_files_are_fetched(file, tmp_path):
    server = Server(tmp_path / "server")
    server.add("base", "a")
    evil = SimpleNamespace(name=file, download=lambda **_: pytest.fail("downloaded"))
    server.project[0].files = lambda: [evil]
    fetch_runs("me/heads", ["a"], tmp_path / "fetched", server)


def test_columns_of_the_history_are_no_formulas(tmp_path):
    server = Server(tmp_path / "server")
    server.add("base", "a", history=[{"trainer/global_step": 1, "=HYPERLINK(1)/x": 0.4}])
    (run,) = fetch_runs("me/heads", [], tmp_path / "fetched", server)
    assert "'=HYPERLINK(1)/x" in (run.path / "metrics.csv").read_text()
