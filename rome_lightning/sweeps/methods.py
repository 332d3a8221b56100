"""Which settings a sweep tries next: grid, random and Bayesian search.

Every choice is a function of the sweep file, the seed, the trial's number and, for Bayesian search, the
trials on disk. Only the trials need to be kept, and a killed sweep resumes as if nothing had happened.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rome_lightning.sweeps.file import Parameter, SweepFile, Value
from rome_lightning.sweeps.trials import Trial

if TYPE_CHECKING:
    import optuna


def num_trials(sweep: SweepFile, count: int | None) -> int:
    """The total number of trials of a sweep.

    Args:
        sweep: its file.
        count: upper limit; None for the whole grid, or the file's ``run_cap``.

    Raises:
        ValueError: an endless search has no limit.
    """
    limits = [n for n in (count, sweep.run_cap) if n is not None]
    if sweep.method == "grid":
        assert sweep.grid_size is not None
        limits.append(sweep.grid_size)
    if not limits:
        raise ValueError(f"{sweep.method} search never ends; give --count, or set run_cap in the file")
    if min(limits) < 1:
        raise ValueError(f"a sweep needs at least one trial, got {min(limits)}")
    return min(limits)


def settings_of(sweep: SweepFile, number: int, seed: int, before: Sequence[Trial]) -> dict[str, Value]:
    """Settings of a trial.

    Args:
        sweep: its file.
        number: of the trial, from 1.
        seed: of the search.
        before: all other trials, for Bayesian search.
    """
    if sweep.method == "grid":
        return _grid_point(sweep, number - 1)
    if sweep.method == "random":
        rng = np.random.default_rng([seed, number])
        return {name: parameter.draw(rng) for name, parameter in sweep.parameters.items()}
    return _suggested(sweep, number, seed, before)


def _grid_point(sweep: SweepFile, number: int) -> dict[str, Value]:
    """The last parameter changes fastest."""
    chosen: dict[str, Value] = {}
    for name, parameter in reversed(sweep.parameters.items()):
        number, place = divmod(number, len(parameter.values))
        chosen[name] = parameter.values[place]
    return {name: chosen[name] for name in sweep.parameters}


def import_optuna(what: str) -> Any:
    """The optuna module.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise ImportError(f"{what} needs optuna: pip install 'rome-lightning[sweep]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _suggested(sweep: SweepFile, number: int, seed: int, before: Sequence[Trial]) -> dict[str, Value]:
    """The next point of a tree-structured Parzen estimator; trials that still run count as poor.

    Source: Bergstra et al. 2011, Algorithms for hyper-parameter optimization, as in optuna.
    """
    optuna = import_optuna("Bayesian search")
    study = study_of(sweep, before, seed=seed * 100_003 + number)
    trial = study.ask(distributions(sweep, optuna))
    chosen = {name: _decoded(sweep.parameters[name], trial.params[name]) for name in sweep.free}
    return {
        name: chosen.get(name, parameter.values[0] if parameter.values else None)
        for name, parameter in sweep.parameters.items()
    }


def distributions(sweep: SweepFile, optuna: Any) -> dict[str, Any]:
    """The free parameters as optuna describes them; listed values by their index."""
    kinds = optuna.distributions
    found: dict[str, Any] = {}
    for name, p in sweep.free.items():
        if p.values:
            found[name] = kinds.CategoricalDistribution(tuple(range(len(p.values))))
        elif p.distribution == "int_uniform":
            found[name] = kinds.IntDistribution(int(p.low), int(p.high))
        elif p.distribution == "q_uniform":
            found[name] = kinds.FloatDistribution(p.low, p.high, step=p.quantum)
        else:
            found[name] = kinds.FloatDistribution(p.low, p.high, log=p.is_log)
    return found


def _decoded(parameter: Parameter, value: Value) -> Value:
    if parameter.values:
        return parameter.values[int(value or 0)]
    if parameter.distribution.startswith("q_"):
        return float(round(float(value or 0) / parameter.quantum) * parameter.quantum)
    return value


def study_of(sweep: SweepFile, trials: Sequence[Trial], seed: int = 0) -> optuna.Study:
    """An in-memory optuna study with the given trials."""
    optuna = import_optuna("Bayesian search")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=8, constant_liar=True, multivariate=True
        )
    study = optuna.create_study(direction=sweep.goal, sampler=sampler)
    known = distributions(sweep, optuna)
    states = optuna.trial.TrialState
    for trial in trials:
        if trial.status == "failed" or (trial.is_over and trial.value is None):
            continue
        encoded = {name: _encoded(p, trial.settings[name]) for name, p in sweep.free.items()}
        state = states.COMPLETE if trial.is_over else states.RUNNING
        value = trial.value if trial.is_over else None
        study.add_trial(
            optuna.trial.create_trial(state=state, params=encoded, distributions=known, value=value)
        )
    return study


def _encoded(parameter: Parameter, value: Value) -> Any:
    return parameter.values.index(value) if parameter.values else value
