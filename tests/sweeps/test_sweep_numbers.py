"""Invalid ranges in sweep files: the message says what to write."""

from __future__ import annotations

from pathlib import Path

import pytest

from rome_lightning.sweeps.file import read_sweep

FILE = """
method: random
metric: {{name: val/lpips}}
command: ["${{env}}", rome, fit, "${{args}}"]
parameters:
  lr: {spec}
"""


def read(folder: Path, spec: str) -> object:
    path = folder / "sweep.yaml"
    path.write_text(FILE.format(spec=spec))
    return read_sweep(path).parameters["lr"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "{min: 1e-4, max: 0.1}",
            "lr: min must be a number, got '1e-4'; YAML reads that as text, write 1.0e-4",
        ),
        (
            "{min: 1.0e-4, max: 1E2}",
            "lr: max must be a number, got '1E2'; YAML reads that as text, write 1.0e[+]2",
        ),
        ("{min: small, max: 0.1}", "lr: min must be a number, got 'small'$"),
        ("{min: true, max: 0.1}", "lr: min must be a finite number, got True"),
        ("{min: 0, max: .inf}", "lr: max must be a finite number, got inf"),
        ("{min: 0.1}", "lr needs value, values, or min and max; max is missing"),
        (
            "{distribution: normal, mu: 0, sigma: 1}",
            "lr has distribution 'normal'; this reader knows uniform",
        ),
        ("{distribution: log_uniform, min: -3, max: 1}", "lr has distribution 'log_uniform'"),
    ],
)
def test_the_remedy_is_named(tmp_path: Path, spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path, spec)


def test_what_the_message_says_is_read(tmp_path: Path) -> None:
    parameter = read(tmp_path, "{min: 1.0e-4, max: 1.0e+2}")
    assert (parameter.low, parameter.high) == (1e-4, 100.0)
