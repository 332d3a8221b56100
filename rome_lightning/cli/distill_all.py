"""``rome distill all``: basis, linear model, and a table that compares it with the full one."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rome_lightning.assets.experiments import find_experiment
from rome_lightning.cli.distill_basis import BasisConfig, make_basis
from rome_lightning.media.atomic import write_atomic
from rome_lightning.media.image import write_png

if TYPE_CHECKING:
    import numpy as np

    from rome_lightning.report.page import Table

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


@dataclass
class AllConfig:
    """Options of ``rome distill all``."""

    checkpoint: Path | None = None
    """Full model, written by `rome fit`. Required."""
    data: Path | None = None
    """manifest.json of a dataset made by `rome prepare`, or its folder. Required."""
    output: Path | None = None
    """Folder for basis, run, scores and report. Required."""
    hair: int = 50
    """Components of the scalp (paper: 50)."""
    neck: int = 10
    """Components of neck and shoulders (paper: 10)."""
    sources_per_clip: int = 1
    """Frames of each clip whose offsets the basis is made of."""
    refine_steps: int = 100
    """Steps that fit each avatar to its photograph's outline before its offsets are taken."""
    fit_config: list[Path] = field(default_factory=lambda: [Path("linear/base")])
    """Configuration of the training, the base file and overlays in their order; files, or names of shipped
    ones."""
    fit_options: list[str] = field(default_factory=list)
    """Further options of `rome fit`, such as ["--trainer.max_epochs=10"]."""
    protocol: Path = Path("demo")
    """Protocol of the scores for self- and cross-reenactment."""
    geometry: Path = Path("geometry_synthetic")
    """Protocol of the scores against synthetic truth."""
    split: str = "val"
    """Split of the dataset that is scored."""
    evaluate_refine_steps: int = 0
    """Steps that fit the avatars to the photograph before they are scored; they would hide what the models
    themselves know, and the model without offsets has none to fit."""
    device: str = "cpu"
    """Where basis and scores are computed: cpu, cuda; the training decides by its configuration."""


def distill_all(config: AllConfig) -> int:
    """Every step, each left out if an earlier call has done it.

    Returns:
        0 when all was done.
    """
    assert config.checkpoint is not None
    assert config.data is not None
    assert config.output is not None
    config.fit_config = [find_experiment(path) for path in config.fit_config]
    config.protocol = find_experiment(config.protocol, "protocols")
    config.geometry = find_experiment(config.geometry, "protocols")
    if not config.checkpoint.is_file():
        raise FileNotFoundError(f"there is no checkpoint at {config.checkpoint}; set --checkpoint")
    basis = config.output / "basis.safetensors"
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
        )
    )
    linear = _train(config, basis)
    bare = config.output / "no_offsets.ckpt"
    _without_offsets(config.checkpoint, bare)
    models = {"full": config.checkpoint, "linear": linear, "no offsets": bare}
    results = {name: _measure(config, name, path) for name, path in models.items()}
    tables = [_quality_table(results), _speed_table(results)]
    write_atomic(config.output / "table.json", json.dumps(results, indent=2))
    _write_page(config, basis, models, tables)
    for table in tables:
        print(f"\n{table.caption}\n{table.as_text()}")
    print(f"\n{config.output / 'report.html'}")
    return 0


def _train(config: AllConfig, basis: Path) -> Path:
    """The linear model's checkpoint; resumes an interrupted run."""
    from rome_lightning.cli import fit

    run = config.output / "run"  # type: ignore[operator]
    last = run / "checkpoints" / "last.ckpt"
    if (run / "summary.json").is_file() and last.is_file():
        print(f"{last} is there already", file=sys.stderr)
        return last
    arguments = ["fit", *(part for path in config.fit_config for part in ("--config", str(path)))]
    arguments += [
        f"--run_dir={run}",
        "--wandb=disabled",
        f"--model.init_args.full_checkpoint={config.checkpoint}",
        f"--model.init_args.basis={basis}",
        f"--data.init_args.manifest={config.data}",
        *config.fit_options,
    ]
    if last.is_file():
        arguments.append(f"--ckpt_path={last}")
    if fit.main(arguments) != 0:
        raise ValueError("the training did not finish; run the command again to resume it")
    return last


def _without_offsets(checkpoint: Path, output: Path) -> None:
    """The full model as if hair were painted on the parametric head."""
    from rome_lightning.models.checkpoint import CONFIG_KEY, read_checkpoint
    from rome_lightning.models.official import write_checkpoint

    content = read_checkpoint(checkpoint)
    options = content[CONFIG_KEY]
    options = {**options, "offsets": {**options["offsets"], "kind": "none"}}
    state = {
        key: value
        for key, value in content["state_dict"].items()
        if not key.startswith("avatar.offset_network.")
    }
    write_checkpoint({"state_dict": state, CONFIG_KEY: options, "image_size": content["image_size"]}, output)


def _measure(config: AllConfig, name: str, checkpoint: Path) -> dict[str, Any]:
    """Scores under both protocols, and milliseconds per stage."""
    from rome_lightning.cli import evaluate
    from rome_lightning.evaluation.protocol import load_protocol

    assert config.output is not None
    folder = config.output / name.replace(" ", "_")
    found: dict[str, Any] = {}
    for protocol, more in (
        (config.protocol, [f"--data={config.data}", f"--split={config.split}"]),
        (config.geometry, []),
    ):
        summary = folder / "evaluation" / load_protocol(protocol).name / "summary.json"
        arguments = [f"--protocol={protocol}", f"--checkpoint={checkpoint}", f"--output={folder}", *more]
        arguments += [f"--refine-steps={config.evaluate_refine_steps}", f"--device={config.device}"]
        if evaluate.main(arguments) != 0:
            raise ValueError(f"{name} could not be scored under {protocol}")
        for task, metrics in json.loads(summary.read_text(encoding="utf-8"))["metrics"].items():
            found |= {f"{task}/{metric}": values["mean"] for metric, values in metrics.items()}
    return {"quality": found, "milliseconds": _times(config, checkpoint)}


def _times(config: AllConfig, checkpoint: Path) -> dict[str, float]:
    from rome_lightning.distillation.measures import stage_times
    from rome_lightning.models.checkpoint import load_avatar, read_checkpoint

    model = load_avatar(checkpoint).to(config.device)
    source = _examples(config, int(read_checkpoint(checkpoint)["image_size"]))[0]
    return stage_times(model, source.to(config.device))


def _examples(config: AllConfig, image_size: int) -> list[Any]:
    """The typical frame and another one of a few clips."""
    from datamodules.evaluation import StoredClips

    assert config.data is not None
    clips = StoredClips(config.data, config.split, image_size)
    chosen = clips.clips[:: max(1, len(clips.clips) // _NUM_EXAMPLES)][:_NUM_EXAMPLES]
    return [clips.frames(clip.key, [clip.typical, clip.frames[-1]]) for clip in chosen]


def _quality_table(results: dict[str, Any]) -> Table:
    from rome_lightning.report.page import Table

    columns = [entry for entry in _QUALITY if f"{entry[0]}/{entry[1]}" in results["full"]["quality"]]
    rows = []
    for name, result in results.items():
        values = [result["quality"].get(f"{task}/{metric}") for task, metric, *_ in columns]
        cells = [
            "-" if value is None else f"{value:.{entry[3]}f}"
            for value, entry in zip(values, columns, strict=True)
        ]
        rows.append([name, *cells])
    caption = "Quality: clips of the dataset, and synthetic heads whose surface is known (smaller is better)."
    return Table(["model", *(entry[2] for entry in columns)], rows, caption)


def _speed_table(results: dict[str, Any]) -> Table:
    from rome_lightning.report.page import Table

    stages = list(dict.fromkeys(stage for result in results.values() for stage in result["milliseconds"]))
    rows = []
    for name, result in results.items():
        times = result["milliseconds"]
        rows.append([name, *(f"{times[stage]:.1f}" if stage in times else "tracker" for stage in stages)])
    return Table(["model", *stages], rows, "Milliseconds per stage, one image at a time.")


def _write_page(config: AllConfig, basis: Path, models: dict[str, Path], tables: list[Table]) -> None:

    from rome_lightning.callbacks import code_and_versions
    from rome_lightning.distillation.fitting import beside
    from rome_lightning.report.page import Media, Section, write_report

    assert config.output is not None
    write_png(config.output / "strip.png", _strip(config, models))
    columns = "source, target, then " + ", ".join(f"{name} and its mesh" for name in models)
    pictures = [
        Media("strip.png", f"From left: {columns}."),
        Media(beside(basis, "_components.png").name, "First components at -3, 0 and +3 standard deviations."),
        Media(beside(basis, "_curves.png").name, "What the basis keeps."),
    ]
    options = {key: str(value) for key, value in dataclasses.asdict(config).items()}
    write_report(
        config.output / "report.html",
        "Distillation",
        "The full model, the linear model distilled from it, and the same model without offsets.",
        [Section("Comparison", tables=tables), Section("Pictures", pictures=pictures)],
        {"options": options, "code": code_and_versions()},
    )


def _strip(config: AllConfig, models: dict[str, Path]) -> np.ndarray:
    """A row per clip: source, target, and what every model makes of them."""
    import torch

    from rome_lightning.media.image import to_uint8
    from rome_lightning.models.checkpoint import load_avatar
    from rome_lightning.report.pictures import shaded

    loaded = [(model, model.image_size) for model in map(load_avatar, models.values())]
    rows = []
    with torch.no_grad():
        for frames in _examples(config, loaded[0][1]):
            source, target = frames[slice(0, 1)], frames[slice(1, 2)]
            cells = [source.image, target.image]
            for model, _ in loaded:
                rendered = model(source, target.params)
                cells += [rendered.image.clamp(0, 1), shaded(rendered)]
            rows.append(torch.cat(cells, dim=-1))
    return to_uint8(torch.cat(rows, dim=-2)[0])
