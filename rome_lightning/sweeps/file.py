"""Sweep files in the format of Weights & Biases, read for use with or without their server.

See https://docs.wandb.ai/guides/sweeps/sweep-config-keys. This reader refuses unknown entries, so that
a file never means one thing to ``wandb agent`` and another here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

_KEYS = {
    *("name", "description", "project", "entity", "method", "metric", "parameters", "early_terminate"),
    *("command", "run_cap", "program"),
}
_RANGES = {
    "uniform": float,
    "q_uniform": float,
    "log_uniform_values": float,
    "q_log_uniform_values": float,
    "int_uniform": int,
}
Value = str | int | float | bool | None


@dataclass(frozen=True)
class Parameter:
    """The choices for one option: a list of values or a range."""

    values: tuple[Value, ...] = ()
    weights: tuple[float, ...] = ()
    """Probabilities of ``values`` in random search; equal ones if empty."""
    distribution: str = ""
    """Name of a range's distribution; empty for a list."""
    low: float = 0.0
    high: float = 0.0
    quantum: float = 1.0
    """Step of the distributions whose name starts with ``q_``."""

    @property
    def is_log(self) -> bool:
        """Whether the scale is logarithmic."""
        return "log" in self.distribution

    @property
    def is_fixed(self) -> bool:
        """Whether there is nothing to choose."""
        return len(self.values) == 1

    def at(self, ratio: float) -> Value:
        """Value of a range at a cumulative probability in [0, 1)."""
        if self.distribution == "int_uniform":
            return int(self.low + math.floor(ratio * (self.high - self.low + 1)))
        if self.is_log:
            value = math.exp(math.log(self.low) + ratio * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + ratio * (self.high - self.low)
        if self.distribution.startswith("q_"):
            value = round(value / self.quantum) * self.quantum
        return value

    def draw(self, rng: np.random.Generator) -> Value:
        """A random choice."""
        if self.values:
            return self.values[int(rng.choice(len(self.values), p=self.weights or None))]
        return self.at(float(rng.random()))


@dataclass(frozen=True)
class EarlyTermination:
    """When to stop a trial early.

    ``hyperband`` is W&B's: at each bracket only the best ``1 / eta`` of the trials that reached it continue.
    ``median`` works only without a server: a trial stops when its best value so far is worse than the median
    of the others' at the same validation.
    """

    type: Literal["hyperband", "median"]
    brackets: tuple[int, ...]
    """Validations at which trials are judged (``hyperband``); the first one that counts (``median``)."""
    eta: float = 3.0


@dataclass(frozen=True)
class SweepFile:
    """A sweep: what to try, by which method, and how to judge it."""

    path: Path
    name: str
    method: Literal["grid", "random", "bayes"]
    metric: str
    goal: Literal["minimize", "maximize"]
    parameters: dict[str, Parameter]
    command: tuple[str, ...]
    early_termination: EarlyTermination | None
    run_cap: int | None

    @property
    def free(self) -> dict[str, Parameter]:
        """Parameters with more than one choice."""
        return {name: p for name, p in self.parameters.items() if not p.is_fixed}

    @property
    def grid_size(self) -> int | None:
        """Points of the grid; None if a parameter is a range."""
        if any(p.distribution for p in self.parameters.values()):
            return None
        return math.prod(len(p.values) for p in self.parameters.values())

    def arguments(self, settings: Mapping[str, Value]) -> list[str]:
        """The command of a trial, ``rome`` first, with ``${args}`` replaced by ``--option=value``."""
        flags = [f"--{name}={as_flag(value)}" for name, value in settings.items()]
        words: list[str] = []
        for word in self.command:
            if word == "${args}":
                words += flags
            elif word != "${env}":
                words.append(word)
        return words


def as_flag(value: Value) -> str:
    """A value in command-line syntax."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def read_sweep(path: Path) -> SweepFile:
    """Read and check a sweep file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a sweep that W&B and this reader interpret in the same way.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no sweep file at {path}; `rome experiments list sweeps` shows examples")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a sweep: it needs method, metric, parameters and command")
    try:
        return _parse(path, content)
    except (ValueError, TypeError, KeyError) as error:
        text = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else error
        raise ValueError(f"{path}: {text}") from error


def _parse(path: Path, content: dict[str, Any]) -> SweepFile:
    unknown = sorted(set(content) - _KEYS)
    if unknown:
        raise ValueError(f"unknown entries {', '.join(unknown)}; known are {', '.join(sorted(_KEYS))}")
    method, metric = content["method"], content["metric"]
    if method not in ("grid", "random", "bayes"):
        raise ValueError(f"method must be grid, random or bayes, got {method!r}")
    goal = metric.get("goal", "minimize")
    if goal not in ("minimize", "maximize"):
        raise ValueError(f"metric.goal must be minimize or maximize, got {goal!r}")
    parameters = {str(name): _parameter(str(name), spec) for name, spec in content["parameters"].items()}
    if not parameters:
        raise ValueError("there are no parameters to vary")
    ranges = [name for name, parameter in parameters.items() if parameter.distribution]
    if method == "grid" and ranges:
        raise ValueError(f"method grid needs lists of values; {', '.join(ranges)} is a range")
    return SweepFile(
        path=path,
        name=str(content.get("name", path.stem)),
        method=method,
        metric=str(metric["name"]),
        goal=goal,
        parameters=parameters,
        command=_command(content["command"]),
        early_termination=_early(content.get("early_terminate")),
        run_cap=content.get("run_cap"),
    )


def _command(words: Any) -> tuple[str, ...]:
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError("command must be a list of words")
    plain = [word for word in words if word != "${env}"]
    if "${args}" not in plain:
        raise ValueError("command must contain ${args}: options as --option=value, which `rome fit` takes")
    foreign = [word for word in plain if word.startswith("${") and word != "${args}"]
    if foreign:
        raise ValueError(
            f"{', '.join(foreign)} in command is a form of ${{args}} that `rome fit` rejects; use ${{args}}"
        )
    if plain[:2] != ["rome", "fit"]:
        raise ValueError(f"command must run `rome fit` (after ${{env}}), got {' '.join(plain[:2])!r}")
    return tuple(words)


def _parameter(name: str, spec: Any) -> Parameter:
    if not isinstance(spec, dict):
        raise ValueError(f"{name} must have value, values, or min and max; got {spec!r}")
    if "parameters" in spec:
        raise ValueError(f"{name} is nested; write dotted keys instead")
    if "value" in spec:
        return Parameter((spec["value"],))
    if "values" in spec:
        values, weights = tuple(spec["values"]), tuple(spec.get("probabilities", ()))
        if not values or (weights and len(weights) != len(values)):
            raise ValueError(f"{name} needs values, and one probability per value if any")
        return Parameter(values, weights)
    kind = spec.get("distribution")
    if kind is not None and kind not in _RANGES:
        raise ValueError(f"{name} has distribution {kind!r}; this reader knows {', '.join(_RANGES)}")
    low, high = (_number(name, key, spec) for key in ("min", "max"))
    whole = isinstance(low, int) and isinstance(high, int)
    kind = kind or ("int_uniform" if whole else "uniform")
    if not low < high or ("log" in kind and low <= 0):
        raise ValueError(f"{name}: min must be below max (and above 0 for logarithms), got {low} and {high}")
    quantum = _number(name, "q", {"q": 1, **spec})
    return Parameter(distribution=kind, low=low, high=high, quantum=float(quantum))


def _number(name: str, key: str, spec: dict[str, Any]) -> float:
    """A bound of a range.

    YAML, and therefore W&B, reads ``1e-4`` as text.
    """
    if key not in spec:
        raise ValueError(f"{name} needs value, values, or min and max; {key} is missing")
    value = spec[key]
    if isinstance(value, str):
        try:
            meant = f"; YAML reads that as text, write {_with_dot(value)}"
        except ValueError:
            meant = ""
        raise ValueError(f"{name}: {key} must be a number, got {value!r}{meant}")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name}: {key} must be a finite number, got {value!r}")
    return value


def _with_dot(text: str) -> str:
    """A number such as 1e-4 as YAML 1.1 reads it, with a dot and the sign of its exponent: 1.0e-4."""
    float(text)
    mantissa, _, exponent = text.lower().partition("e")
    dotted = mantissa if "." in mantissa else f"{mantissa}.0"
    return f"{dotted}e{int(exponent):+d}" if exponent else dotted


def _early(spec: dict[str, Any] | None) -> EarlyTermination | None:
    """Brackets as W&B counts them: from ``min_iter`` up, or from ``max_iter`` down."""
    if spec is None:
        return None
    eta = float(spec.get("eta", 3))
    if eta <= 1:
        raise ValueError(f"early_terminate.eta must be above 1, got {eta}")
    if spec.get("type") == "median":
        return EarlyTermination("median", (int(spec.get("min_iter", 1)),), eta)
    if spec.get("type") != "hyperband":
        raise ValueError(f"early_terminate.type must be hyperband or median, got {spec.get('type')!r}")
    if "min_iter" in spec:
        brackets = [int(spec["min_iter"] * eta**k) for k in range(10)]
    elif "max_iter" in spec:
        brackets = [int(spec["max_iter"] / eta**k) for k in range(1, int(spec.get("s", 1)) + 1)]
    else:
        raise ValueError("early_terminate needs min_iter, or max_iter and s")
    return EarlyTermination("hyperband", tuple(sorted({max(1, b) for b in brackets})), eta)
