"""Basis, linear model, and a table that compares it with the full model: what ``rome distill all`` runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.evaluation import StoredClips
from rome_lightning.assets.experiments import find_experiment
from rome_lightning.distillation.fitting import beside
from rome_lightning.distillation.measures import stage_times
from rome_lightning.media.atomic import write_atomic
from rome_lightning.media.image import to_uint8, write_png
from rome_lightning.media.provenance import code_and_versions
from rome_lightning.models import AvatarModel
from rome_lightning.models.checkpoint import CONFIG_KEY, load_avatar, read_checkpoint
from rome_lightning.models.official import write_checkpoint
from rome_lightning.report.page import Media, Section, Table, write_report
from rome_lightning.report.pictures import shaded
from rome_lightning.types import Frames
from rome_lightning.workflows.basis import make_basis
from rome_lightning.workflows.evaluation import evaluate
from rome_lightning.workflows.options import BasisConfig, DistillConfig, EvaluateConfig
from rome_lightning.workflows.reporter import Reporter

_QUALITY = (
    # Task and metric in a summary, heading of the column, decimals.
    ("self", "psnr/full", "PSNR [dB]", 2),
    ("self", "ssim/full", "SSIM", 3),
    ("self", "lpips_alex/full", "LPIPS", 3),
    ("self", "csim_sface", "CSIM", 3),
    ("cross", "csim_sface", "CSIM cross", 3),
    ("geometry", "chamfer_mm", "chamfer [mm]", 2),
    ("geometry", "chamfer_mm/scalp", "scalp [mm]", 2),
)
_NUM_EXAMPLES = 4


Train = Callable[[list[Path], Path, dict[str, Any], list[str]], Path]
"""Trains a model, given configuration files in order, the run folder, options by dotted name and further
command-line words. Resumes an interrupted call and returns the last checkpoint."""


@dataclass(frozen=True)
class Distillation:
    """Output of a distillation."""

    report: Path
    """Page with tables and pictures."""
    tables: tuple[Table, ...]
    """Quality and speed of the full model, the linear one, and the full one without offsets."""


def distill(config: DistillConfig, train: Train, reporter: Reporter | None = None) -> Distillation:
    """Run every step from the full model to the comparison; finished steps of an earlier call are kept.

    Args:
        config: with checkpoint, data and output.
        train: trains the linear model; the command line reads its configurations.
        reporter: shows progress.

    Raises:
        FileNotFoundError: the checkpoint, the dataset or a configuration does not exist.
        ValueError: a step did not finish.
    """
    assert config.checkpoint is not None
    assert config.data is not None
    assert config.output is not None
    reporter = reporter or Reporter()
    output = config.output
    if not config.checkpoint.is_file():
        raise FileNotFoundError(f"there is no checkpoint at {config.checkpoint}; set --checkpoint")
    # Resolve every name that is needed at the end before hours of work.
    configs = [find_experiment(path) for path in config.fit_config]
    protocols = [find_experiment(path, "protocols") for path in (config.protocol, config.geometry)]
    basis = output / "basis.safetensors"
    make_basis(
        BasisConfig(
            config.checkpoint,
            config.data,
            basis,
            config.hair,
            config.neck,
            config.sources_per_clip,
            config.refine_steps,
            held_out_split=config.split,
            device=config.device,
        ),
        reporter,
    )
    options = {
        "wandb": "disabled",
        "model.init_args.full_checkpoint": config.checkpoint,
        "model.init_args.basis": basis,
        "data.init_args.manifest": config.data,
    }
    linear = train(configs, output / "run", options, config.fit_options)
    bare = output / "no_offsets.ckpt"
    _without_offsets(config.checkpoint, bare)
    files = {"full": config.checkpoint, "linear": linear, "no offsets": bare}
    models = {name: load_avatar(path) for name, path in files.items()}
    results = {}
    for name, path in files.items():
        quality = _scores(config, protocols, output / name.replace(" ", "_"), path, reporter)
        results[name] = {"quality": quality, "milliseconds": _times(config, models[name])}
    tables = (_quality_table(results), _speed_table(results))
    write_atomic(output / "table.json", json.dumps(results, indent=2))
    write_png(output / "strip.png", _strip(config, models))
    page = _write_page(config, output, basis, list(models), tables)
    return Distillation(page, tables)


def _without_offsets(checkpoint: Path, output: Path) -> None:
    """The full model without offsets, as if hair were painted on the parametric head."""
    content = read_checkpoint(checkpoint)
    options = content[CONFIG_KEY]
    options = {**options, "offsets": {**options["offsets"], "kind": "none"}}
    state = {
        key: value
        for key, value in content["state_dict"].items()
        if not key.startswith("avatar.offset_network.")
    }
    write_checkpoint({"state_dict": state, CONFIG_KEY: options, "image_size": content["image_size"]}, output)


def _scores(
    config: DistillConfig, protocols: list[Path], folder: Path, checkpoint: Path, reporter: Reporter
) -> dict[str, float | None]:
    """Means of one model under every protocol."""
    found: dict[str, float | None] = {}
    # The second protocol generates its own people.
    for protocol, data, split in zip(protocols, (config.data, None), (config.split, None), strict=True):
        scores = evaluate(
            EvaluateConfig(
                protocol=protocol,
                checkpoint=checkpoint,
                data=data,
                split=split,
                output=folder,
                refine_steps=config.evaluate_refine_steps,
                device=config.device,
            ),
            reporter=reporter,
        )
        if scores is None:
            raise ValueError(f"{checkpoint} could not be scored under {protocol}")
        found |= scores.means()
    return found


def _times(config: DistillConfig, model: AvatarModel) -> dict[str, float]:
    """Milliseconds of each stage on the device that the scores are computed on."""
    source = _examples(config, model.image_size)[0]
    times = stage_times(model.to(config.device), source.to(config.device))
    model.cpu()
    return times


def _examples(config: DistillConfig, image_size: int) -> list[Frames]:
    """The typical frame and one other of a few clips."""
    assert config.data is not None
    clips = StoredClips(config.data, config.split, image_size)
    chosen = clips.clips[:: max(1, len(clips.clips) // _NUM_EXAMPLES)][:_NUM_EXAMPLES]
    return [clips.frames(clip.key, [clip.typical, clip.frames[-1]]) for clip in chosen]


def _quality_table(results: dict[str, Any]) -> Table:
    columns = [entry for entry in _QUALITY if f"{entry[0]}/{entry[1]}" in results["full"]["quality"]]
    rows = []
    for name, result in results.items():
        values = [result["quality"].get(f"{task}/{metric}") for task, metric, *_ in columns]
        cells = [
            "-" if value is None else f"{value:.{entry[3]}f}"
            for value, entry in zip(values, columns, strict=True)
        ]
        rows.append([name, *cells])
    caption = "Quality on clips of the dataset, and on synthetic heads with a known surface (smaller is "
    "better)."
    return Table(["model", *(entry[2] for entry in columns)], rows, caption)


def _speed_table(results: dict[str, Any]) -> Table:
    stages = list(dict.fromkeys(stage for result in results.values() for stage in result["milliseconds"]))
    rows = []
    for name, result in results.items():
        times = result["milliseconds"]
        rows.append([name, *(f"{times[stage]:.1f}" if stage in times else "tracker" for stage in stages)])
    return Table(["model", *stages], rows, "Milliseconds per stage, one image at a time.")


def _write_page(
    config: DistillConfig, output: Path, basis: Path, models: list[str], tables: tuple[Table, ...]
) -> Path:
    columns = "source, target, then " + ", ".join(f"{name} and its mesh" for name in models)
    pictures = [
        Media("strip.png", f"From left: {columns}."),
        Media(beside(basis, "_components.png").name, "First components at -3, 0 and +3 standard deviations."),
        Media(beside(basis, "_curves.png").name, "Variance that the basis keeps."),
    ]
    options = {key: str(value) for key, value in dataclasses.asdict(config).items()}
    page = output / "report.html"
    write_report(
        page,
        "Distillation",
        "The full model, the linear model distilled from it, and the same model without offsets.",
        [Section("Comparison", tables=list(tables)), Section("Pictures", pictures=pictures)],
        {"options": options, "code": code_and_versions()},
    )
    return page


@torch.no_grad()
def _strip(config: DistillConfig, models: dict[str, AvatarModel]) -> np.ndarray:
    """One row per clip: source, target, and every model's result."""
    rows = []
    for frames in _examples(config, models["full"].image_size):
        source, target = frames[slice(0, 1)], frames[slice(1, 2)]
        cells = [source.image, target.image]
        for model in models.values():
            rendered = model(source, target.params)
            cells += [rendered.image.clamp(0, 1), shaded(rendered)]
        rows.append(torch.cat(cells, dim=-1))
    return to_uint8(torch.cat(rows, dim=-2)[0])
