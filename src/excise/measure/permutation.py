"""The null of a whole population of networks: models change arms, and the statistic is taken again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import stats

from excise import errors
from excise.measure.measures import CONFIDENCE, POWER, Measure

FEW = 4
"""Networks of an arm that is too small to leave any out."""

Statistic = Callable[[np.ndarray, np.ndarray], float]
"""From the arm under test `[models, ...]` and the reference arm `[models, ...]` to a number that is larger the further apart
they are."""


FEW = 4
"""Models up to which an arm is resampled with replacement for the interval."""


def against_held_out(
    name: str,
    statistic: Statistic,
    own: np.ndarray,
    oracles: np.ndarray,
    held_out: np.ndarray,
    *,
    generator: np.random.Generator,
    among: int = 1,
    num_permutations: int = 499,
    num_bootstraps: int = 100,
    sentence: str = "",
) -> Measure:
    """Measure how far a population of unlearned networks lies from oracles, beside what held-out oracles give.

    If unlearning did what retraining does, the unlearned networks and the held-out oracles are exchangeable. So whole
    networks are dealt anew to the two arms, and the statistic is taken against the same reference oracles each time: the
    share of deals that reach the observed value is an exact p-value (whole models are the unit, never rows, which all
    hang on one network). The null's mean and its ends, the 2.5% and the 97.5% quantile, come from dealing oracles and held-out
    oracles among themselves. The test is one-sided: the statistic is larger the further apart the arms are.

    Cost: `2 * num_permutations + num_bootstraps + 1` calls of the statistic.

    References:
        Phipson and Smyth, "Permutation P-values Should Never Be Zero", Statistical Applications in Genetics and Molecular
        Biology, 2010.

    Args:
        name: key of the measure.
        statistic: larger is further apart.
        own: `[models, ...]` of the unlearned networks, one original each.
        oracles: `[models, ...]` of the reference oracles.
        held_out: `[models, ...]` of oracles that are in no other arm.
        generator: deals and resamples.
        among: how many measures a verdict rests on together, as in `against_oracles`.
        num_permutations: deals; the smallest p is one over one more.
        num_bootstraps: subsamples of the models of `own` and `oracles` for the interval: half of them, without replacement
            (a model drawn twice would count as one that agrees with itself), their spread scaled to the full number. Arms of
            at most `FEW` are drawn with replacement, since statistics that fit a spread leave them no model to spare.
        sentence: what it says.

    Returns:
        The measure. `least_detectable` is how far above `null_mean` the value must lie to be seen with probability 0.8, by
        the spread of the null (normal approximation).

    Raises:
        errors.BadRequest: fewer than 2 models in an arm, arms of different rows, or values that are not finite.
    """
    arms = {"own": own, "oracles": oracles, "held_out": held_out}
    for which, arm in arms.items():
        if len(arm) < 2 or arm.shape[1:] != own.shape[1:] or not np.isfinite(arm).all():
            raise errors.BadRequest(
                f"{name}: expected {which} as finite numbers of at least 2 models over the same rows, "
                f"found shape {list(arm.shape)} beside {list(own.shape)}; leave out networks that give no finite output"
            )
    value, size = float(statistic(own, oracles)), len(own)
    pool = np.concatenate([own, held_out])
    dealt = np.array([_dealt(statistic, pool, size, oracles, generator) for _ in range(num_permutations)])
    retrained = np.concatenate([oracles, held_out])
    null = np.array([_halved(statistic, retrained, len(held_out), generator) for _ in range(num_permutations)])
    again = np.array([statistic(_some(own, generator), _some(oracles, generator)) for _ in range(num_bootstraps)])
    scale = np.sqrt(_num_of(size) / (size - _num_of(size))) if size > FEW else 1.0
    reach = float(stats.norm.ppf((1 + CONFIDENCE) / 2) * again.std(ddof=1) * scale)
    needed = stats.norm.ppf(1 - (1 - CONFIDENCE) / among) + stats.norm.ppf(POWER)
    return Measure(
        name=name,
        value=value,
        low=value - reach,
        high=value + reach,
        null_mean=float(null.mean()),
        null_low=float(np.quantile(null, (1 - CONFIDENCE) / 2)),
        null_high=float(np.quantile(null, (1 + CONFIDENCE) / 2)),
        p=float((1 + (dealt >= value).sum()) / (1 + num_permutations)),
        num_models=len(oracles),
        least_detectable=float(needed * null.std(ddof=1)),
        sentence=sentence,
    )


def _dealt(
    statistic: Statistic, pool: np.ndarray, size: int, oracles: np.ndarray, generator: np.random.Generator
) -> float:
    return float(statistic(pool[generator.permutation(len(pool))[:size]], oracles))


def _halved(statistic: Statistic, retrained: np.ndarray, size: int, generator: np.random.Generator) -> float:
    order = generator.permutation(len(retrained))
    return float(statistic(retrained[order[:size]], retrained[order[size:]]))


def _some(arm: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    if len(arm) <= FEW:
        return arm[generator.integers(len(arm), size=len(arm))]
    return arm[generator.permutation(len(arm))[: _num_of(len(arm))]]


def _num_of(count: int) -> int:
    """Give how many of so many networks make a subsample: half, or all but one where half were too few to fit to."""
    return count // 2 if count >= 8 else count - 1
