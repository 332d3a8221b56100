"""Extras that error messages and pages tell people to install exist."""

import configparser
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_extra_that_is_named_is_declared():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    declared = set(config["options.extras_require"])
    files = [
        path
        for folder in ("rome_lightning", "datamodules", "docs", "experiments")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".md", ".yaml")
    ]
    named = {
        extra: path.relative_to(ROOT)
        for path in [*files, ROOT / "README.md"]
        for extra in re.findall(r"rome[-_]lightning\[([a-z0-9]+)\]", path.read_text(encoding="utf-8"))
    }
    assert named, "the pattern finds nothing"
    assert set(named) <= declared, {
        extra: str(path) for extra, path in named.items() if extra not in declared
    }
