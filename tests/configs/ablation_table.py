"""Overlays and their index from the table of ablations.

After a change of ``experiments/ablations.yaml``: ``python tests/configs/ablation_table.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
FOLDER = EXPERIMENTS / "ablations"
TABLE = EXPERIMENTS / "ablations.yaml"
DEFAULT_BASE = "full/base"
_HEAD = """# Ablations

Each overlay changes one thing on top of a base, with the same data, seeds and steps.
[`ablations.yaml`](../ablations.yaml) has them all; the overlays and this page are generated from it.

```
rome fit -c full/base --ablation no_laplacian --run-dir runs/ablations/no_laplacian-0 ...
rome fit -c full/base -c rome/paper --ablation no_identity ...
rome fit -c full/base --ablation no_carry --ablation no_residual ...
rome compare runs/ablations/*
```

`--ablation` takes effect where it stands, so it comes after the last `-c`; `config.yaml` of the run
records it. An option that overrules it is refused. A sweep takes it as a parameter, with `null` for the
base ([`ablation_seeds`](../sweeps/ablation_seeds.yaml)).

On two CPU cores add `-c full/cpu` after the base. One seed says little: repeat with `--seed-everything 1`
and `2`, and look at the intervals that `rome compare` gives. The base is `full/base` unless the table names
another one; `rome/paper` and `ablations/no_carry` are overlays of `full/base`.
"""


@dataclass(frozen=True)
class Ablation:
    """One row of the table."""

    section: str
    name: str
    question: str
    change: dict[str, Any]
    """Values by dotted option; see the head of the table."""
    base: str = DEFAULT_BASE

    @property
    def path(self) -> Path:
        """Its overlay."""
        return FOLDER / f"{self.name}.yaml"

    @property
    def base_files(self) -> tuple[Path, ...]:
        """Its base configurations, lowest first."""
        base = EXPERIMENTS / f"{self.base}.yaml"
        return (base,) if base.name == "base.yaml" else (EXPERIMENTS / f"{DEFAULT_BASE}.yaml", base)


def read_table() -> list[Ablation]:
    """All rows, in order."""
    sections = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return [
        Ablation(section, name, **entry) for section, rows in sections.items() for name, entry in rows.items()
    ]


def overlay(ablation: Ablation) -> str:
    """The text of an overlay."""
    tree: dict[str, Any] = {}
    for key, value in ablation.change.items():
        path = key.split(".")
        if path[0] != "trainer":
            model = tree.setdefault("model", {"class_path": "rome_lightning.training.FullModule"})
            node = model.setdefault("init_args", {})
        else:
            node = tree
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = value
    return f"# Question: {ablation.question}\n" + yaml.safe_dump(tree, sort_keys=False)


def index(ablations: list[Ablation]) -> str:
    """The text of the folder's README."""
    parts = [_HEAD]
    for section in dict.fromkeys(ablation.section for ablation in ablations):
        parts.append(f"\n## {section}\n| overlay | base | question | changes |\n|---|---|---|---|\n")
        parts += [_row(ablation) for ablation in ablations if ablation.section == section]
    return "".join(parts)


def _row(ablation: Ablation) -> str:
    name = ablation.name
    base = "" if ablation.base == DEFAULT_BASE else f"`{ablation.base}`"
    changes = ", ".join(
        f"`{key}`" if isinstance(value, list) else f"`{key}: {yaml_word(value)}`"
        for key, value in ablation.change.items()
    )
    return f"| [{name}]({name}.yaml) | {base} | {ablation.question} | {changes} |\n"


def yaml_word(value: Any) -> str:
    """A scalar in YAML."""
    return str(yaml.safe_dump(value)).removesuffix("...\n").strip()


def write() -> None:
    """Write overlays and README, and remove overlays that are not in the table."""
    ablations = read_table()
    for path in FOLDER.glob("*.yaml"):
        path.unlink()
    for ablation in ablations:
        ablation.path.write_text(overlay(ablation), encoding="utf-8")
    (FOLDER / "README.md").write_text(index(ablations), encoding="utf-8")


if __name__ == "__main__":
    write()
