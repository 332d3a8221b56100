"""Runs of a W&B project become run folders, with a stand-in for the server."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from run_folders import PROTOCOL, write_run
from wandb.proto import wandb_internal_pb2

from rome_lightning.callbacks.run_logger import RunWandbLogger, record_settings
from rome_lightning.comparison import offline_runs, wandb_runs
from rome_lightning.comparison.comparing import compare
from rome_lightning.comparison.judging import CompareOptions
from rome_lightning.comparison.runs import pool_seeds
from rome_lightning.comparison.wandb_runs import fetch_runs, open_run, upload_run


class Server:
    """Stores the files of runs."""

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


def _recorded(tmp_path: Path, name: str, seed: int, manifest: str, dataset: str) -> Path:
    """The real client's record of a run, outside its run folder."""
    folder = tmp_path / name
    folder.mkdir()
    logger = RunWandbLogger(
        save_dir=folder, project="heads", name=name, offline=True, id=name, settings={"silent": True}
    )
    logger.log_hyperparams({"losses": {"dice": 1.0}})
    data = {"class_path": "x.Data", "init_args": {"manifest": manifest, "batch_size": 8, "seed": seed}}
    config = {"seed_everything": seed, "data": data, "trainer": {"max_epochs": 3}, "long": "x" * 70_000}
    record_settings([logger], config, {"dataset_hash": dataset, "git_commit": "abc", "seed": seed})
    for step, value in enumerate((0.4, 0.2, 0.3)):
        logger.log_metrics({"val/lpips": value}, step)
    logger.experiment.finish()
    (record,) = (folder / "wandb").glob("offline-run-*")
    # The client's service closes the file after it has said that the run is finished.
    (path,) = record.glob("*.wandb")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not _is_closed(path):
        time.sleep(0.1)
    return record


def _is_closed(path: Path) -> bool:
    """Whether the last entry of a record marks its run as finished."""
    kind = ""
    for data in offline_runs._records(path):
        entry = wandb_internal_pb2.Record()
        entry.ParseFromString(data)
        kind = entry.WhichOneof("record_type")
    return kind == "exit"


def test_records_of_the_client_say_seed_data_and_commit(tmp_path):
    runs = [
        open_run(_recorded(tmp_path, "a", 0, "data/mine", "d1")),
        open_run(_recorded(tmp_path, "b", 1, "data/mine", "d1")),
        open_run(_recorded(tmp_path, "c", 2, "data/mine", "d2")),
        open_run(_recorded(tmp_path, "d", 3, "data/other", "d1")),
    ]
    assert runs[1].config["data.init_args.batch_size"] == 8
    assert runs[1].config["trainer.max_epochs"] == 3
    assert runs[1].seed == 1
    assert runs[1].summary["git_commit"] == "abc"
    assert runs[1].summary["metrics"]["val/lpips"] == 0.2
    assert runs[1].learning_curves()["val/lpips"] == [(0.0, 0.4), (1.0, 0.2), (2.0, 0.3)]
    # Seeds of one configuration on one dataset, and neither other data nor another version of the same.
    assert [len(c.runs) for c in pool_seeds(runs)] == [2, 1, 1]


def test_a_run_that_continues_is_read_anew(tmp_path, monkeypatch):
    record = tmp_path / "offline-run-1"
    record.mkdir()
    (record / "run-a.wandb").write_bytes(b"")
    run = offline_runs.OfflineRun({"x": 1}, {"val/lpips": 0.4})
    monkeypatch.setattr(wandb_runs, "read_record", lambda path: run)
    assert open_run(record).summary["metrics"] == {"val/lpips": 0.4}
    run.summary["val/lpips"] = 0.2
    run.config["x"] = 2
    assert open_run(record).summary["metrics"] == {"val/lpips": 0.2}
    assert open_run(record).config == {"x": 2}


def test_a_fetched_run_that_continues_is_fetched_anew(tmp_path):
    server = Server(tmp_path / "server")
    server.add("base", "a", summary={"val/lpips": 0.4})
    (run,) = fetch_runs("me/heads", ["a"], tmp_path / "fetched", server)
    assert run.summary["metrics"] == {"val/lpips": 0.4}
    server.project[0].summary["val/lpips"] = 0.2
    (run,) = fetch_runs("me/heads", ["a"], tmp_path / "fetched", server)
    assert run.summary["metrics"] == {"val/lpips": 0.2}


def test_a_value_may_become_parts():
    items = [
        SimpleNamespace(nested_key=[], key="loss", value_json="0.5"),
        SimpleNamespace(nested_key=["loss", "min"], key="", value_json="0.4"),
    ]
    values: dict[str, Any] = {}
    offline_runs._update(values, items)
    assert values == {"loss": {"min": 0.4}}


def test_what_does_not_say_its_seed_is_not_pooled(tmp_path):
    server = Server(tmp_path / "server")
    for number in range(3):
        server.add(f"base-{number}", str(number), config={"losses": {"dice": 1.0}})
    runs = fetch_runs("me/heads", [], tmp_path / "fetched", server)
    assert not any(run.is_known for run in runs)
    assert [len(c.runs) for c in pool_seeds(runs)] == [1, 1, 1]


def test_a_record_inside_of_a_run_folder_is_that_run(tmp_path):
    run = write_run(tmp_path / "base-0")
    inside = run / "wandb" / "offline-run-1"
    inside.mkdir(parents=True)
    (inside / "run-abc.wandb").write_bytes(b"")
    assert open_run(inside).path == run


def test_a_cut_record_is_read_as_far_as_it_goes_and_a_changed_one_refused(tmp_path):
    folder = _recorded(tmp_path, "a", 0, "data/mine", "d1")
    (path,) = folder.glob("*.wandb")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - 40])
    assert open_run(folder).seed == 0
    path.write_bytes(data[:5000] + bytes([data[5000] ^ 1]) + data[5001:])
    with pytest.raises(ValueError, match=r"run-a.wandb is damaged at byte \d+"):
        open_run(folder)
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match="is not a record of Weights & Biases"):
        open_run(folder)
