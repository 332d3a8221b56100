"""``--ablation NAME`` of ``rome fit``: overlays of ``experiments/ablations/`` by their short names."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from rome_lightning.assets.experiments import experiment_names, find_experiment

OPTION = "--ablation"
_FOLDER = "ablations"
NONE = ("null", "None")
"""Means no ablation: sweeps and `wandb agent` write an empty value this way, and the base of a sweep over
ablations needs a value too."""


def find_ablation(name: str) -> Path:
    """The overlay of an ablation.

    Raises:
        ValueError: there is no such ablation; the message suggests the nearest names.
    """
    names = [each.split("/")[1] for each in experiment_names() if each.startswith(f"{_FOLDER}/")]
    if name in names:
        return find_experiment(f"{_FOLDER}/{name}")
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else "`rome experiments list ablations` shows them"
    raise ValueError(f"there is no ablation {name!r}; {hint}")


def expand_ablations(argv: list[str]) -> list[str]:
    """Insert each ``--ablation``'s overlay after it and record its name.

    The position of the option matters: the overlay overrides files before it and yields to what follows.

    Args:
        argv: may contain ``--ablation NAME`` and ``--ablation=NAME``, where NAME is one name, several
            separated by commas, or null.

    Raises:
        ValueError: a name is missing or unknown.
    """
    expanded: list[str] = []
    words = iter(argv)
    for word in words:
        option, joined, value = word.partition("=")
        if option != OPTION:
            expanded.append(word)
            continue
        names = value if joined else next(words, "")
        if not names or names.startswith("-"):
            raise ValueError(f"{OPTION} needs a name; `rome experiments list {_FOLDER}` shows them")
        for name in names.split(",") if names not in NONE else ():
            expanded += [f"--config={find_ablation(name)}", f"{OPTION}+={name}"]
    return expanded


def check_ablations(config: dict[str, Any]) -> None:
    """Refuse a run whose record names an ablation that other options override.

    Raises:
        ValueError: another option or file overrides a value of the ablation.
    """
    for name in config.get("ablation") or ():
        content = yaml.safe_load(find_ablation(name).read_text(encoding="utf-8"))
        for option, wanted, found in _differences(content, config):
            raise ValueError(
                f"{option} is {found}, but ablation {name} sets {wanted}; put {OPTION} after the last "
                f"--config and omit the options that it sets"
            )


def _differences(overlay: Any, config: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Options whose value differs from the overlay's: dotted name, expected, found."""
    if not isinstance(overlay, dict) or not isinstance(config, dict):
        if overlay != config:
            yield prefix, overlay, config
        return
    for key, value in overlay.items():
        name = f"{prefix}.{key}" if prefix else key
        if not key.endswith("+"):
            yield from _differences(value, config.get(key), name)
            continue
        # Appended entries: each stands somewhere in the list, with defaults added.
        found = config.get(key[:-1]) or []
        for entry in value:
            if all(any(_differences(entry, each)) for each in found):
                yield name[:-1], entry, "a list without it"
