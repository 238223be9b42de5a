"""Where to look next: one suggestion, a function of the seed and of what has been tried. The only file that uses Optuna."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from excise import errors, seeds
from excise.pipeline.tuning_space import Choices, Range

NUM_RANDOM = 8
"""Settings drawn evenly before the search begins to lean on what it has seen. A constant, so that a search can be prolonged."""


def suggest(
    space: Mapping[str, Range | Choices], tried: Sequence[tuple[Mapping[str, Any], int]], seed: int
) -> dict[str, Any]:
    """Give the settings to try next.

    A tree-structured Parzen estimator whose generator is seeded from the seed and the number of trials so far, over a study
    that is built anew from those trials: nothing is carried along, so a search that was stopped goes on as if it had not
    been. Trials are told by rank alone, which is all that the estimator looks at; that lets settings that break a bound, and
    those that failed, stand behind all others without a penalty in any unit.

    References:
        Bergstra, Bardenet, Bengio, Kégl, "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011; through Optuna
        (Akiba, Sano, Yanase, Ohta, Koyama, KDD 2019).

    Args:
        space: what is searched.
        tried: settings and their rank, 0 the best.
        seed: of the search.

    Raises:
        errors.MissingExtra: Optuna is not installed.
    """
    optuna = require_optuna()
    places = {key: _distribution(optuna, place) for key, place in space.items()}
    with _quietly():
        sampler = optuna.samplers.TPESampler(
            seed=seeds.derive(seed, "tune", len(tried)) % 2**32, n_startup_trials=NUM_RANDOM
        )
        study = optuna.create_study(sampler=sampler)
        for settings, rank in tried:
            study.add_trial(optuna.trial.create_trial(params=dict(settings), distributions=places, value=float(rank)))
        return dict(study.ask(places).params)


def _distribution(optuna: ModuleType, place: Range | Choices) -> Any:
    if isinstance(place, Choices):
        return optuna.distributions.CategoricalDistribution(place.values)
    if place.whole:
        return optuna.distributions.IntDistribution(int(place.low), int(place.high), log=place.log)
    return optuna.distributions.FloatDistribution(place.low, place.high, log=place.log)


@contextmanager
def _quietly() -> Iterator[None]:
    """Hold back what Optuna logs of every study, and leave its logger as it was."""
    log = logging.getLogger("optuna")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)


def require_optuna() -> ModuleType:
    """Give Optuna.

    Raises:
        errors.MissingExtra: it is not installed.
    """
    try:
        import optuna
    except ImportError as cause:
        raise errors.MissingExtra(
            "tune needs Optuna to search, and it is not installed: pip install 'excise[tune]'"
        ) from cause
    return optuna
