"""`Measure`: a number with its interval, its null and what it could have seen; and the one comparison that makes it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from scipy import stats

from excise import errors

CONFIDENCE = 0.95
POWER = 0.80


class Measure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One comparison of an unlearned network with networks that never saw the forget rows.

    Attributes:
        name: stable key.
        value: unlearned minus the oracles' mean (a gap), in the measure's own unit.
        low: lower end of the 95% interval of `value`, from the oracles' spread.
        high: upper end.
        null_mean: mean of the same number for an oracle held against the others; 0 for a gap.
        null_low: lower end of the 95% band in which a new oracle's own gap would fall.
        null_high: upper end of that band.
        p: two-sided p-value of `value` under "this network is one more oracle".
        num_models: oracles compared with.
        least_detectable: smallest true gap that this many oracles show with probability 0.8, at the level at which the
            measure decides.
        sentence: what the number says, for people.
    """

    name: str
    value: float
    low: float
    high: float
    null_mean: float
    null_low: float
    null_high: float
    p: float
    num_models: int
    least_detectable: float
    sentence: str = ""


def against_oracles(
    name: str, value: float, oracles: Sequence[float], *, resolution: float, among: int = 1, sentence: str = ""
) -> Measure:
    """Compare one network's number with the same number of several oracles.

    The oracles are taken as draws from a normal distribution, to which the network under test belongs if it is one more of
    them: then (value - mean) / (s * sqrt(1 + 1/n)) follows Student's t with n - 1 degrees of freedom (a prediction
    interval). With few models this is the honest choice over ranks, whose smallest p at 8 models is 0.22 two-sided.

    Args:
        name: key of the measure.
        value: the number of the network under test.
        oracles: the number of each oracle, at least 2.
        resolution: the smallest step the number can take (one row's worth of an accuracy); the spread is not taken to be
            below half of it, since oracles that agree exactly still differ by rounding to whole rows.
        among: how many measures a verdict rests on together; by Holm's first step, what one of them alone can show is
            what it shows at 5% over their number.
        sentence: what it says.

    Returns:
        The measure of the gap `value - mean(oracles)`.

    Raises:
        errors.BadRequest: fewer than 2 oracles, or a number that is not finite.
    """
    numbers = np.asarray(oracles, dtype=np.float64)
    if len(numbers) < 2:
        raise errors.BadRequest(f"{name}: expected at least 2 oracles to have a spread, found {len(numbers)}")
    if not (np.isfinite(numbers).all() and np.isfinite(value)):
        raise errors.BadRequest(f"{name}: expected finite numbers, found {value} against {numbers.tolist()}")
    count, gap = len(numbers), float(value - numbers.mean())
    spread = max(float(numbers.std(ddof=1)), resolution / 2)
    predictive = spread * np.sqrt(1 + 1 / count)
    freedom = count - 1
    edge = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom))
    margin = edge * spread / np.sqrt(count)
    deciding = float(stats.t.ppf(1 - (1 - CONFIDENCE) / (2 * among), freedom))
    return Measure(
        name=name,
        value=gap,
        low=float(gap - margin),
        high=float(gap + margin),
        null_mean=0.0,
        null_low=float(-edge * predictive),
        null_high=float(edge * predictive),
        p=float(2 * stats.t.sf(abs(gap) / predictive, freedom)) if predictive > 0 else float(gap == 0),
        num_models=count,
        least_detectable=float((deciding + stats.t.ppf(POWER, freedom)) * predictive),
        sentence=sentence,
    )


def oracle_band(values: Sequence[float], *, resolution: float = 0.0) -> tuple[float, float, float]:
    """Give low, mean and high of the 95% band in which one more oracle's number would fall (Student's t, see above)."""
    numbers = np.asarray(values, dtype=np.float64)
    reach = 0.0
    if len(numbers) > 1:
        edge = stats.t.ppf((1 + CONFIDENCE) / 2, len(numbers) - 1)
        spread = max(float(numbers.std(ddof=1)), resolution / 2)
        reach = float(edge * spread * np.sqrt(1 + 1 / len(numbers)))
    return float(numbers.mean()) - reach, float(numbers.mean()), float(numbers.mean()) + reach


def holm(p_values: Sequence[float], alpha: float) -> list[bool]:
    """Say which hypotheses are rejected with a chance of `alpha` for any false rejection among all of them.

    References:
        Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics, 1979.

    >>> holm([0.01, 0.04, 0.03], 0.05)
    [True, False, False]
    """
    rejected = [False] * len(p_values)
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[index] > alpha / (len(p_values) - rank):
            break
        rejected[index] = True
    return rejected


def more_than_chance(failures: int, trials: int, rate: float) -> bool:
    """Say whether at least `failures` of `trials` would come about with probability below `rate`, each having that rate."""
    return failures > 0 and float(stats.binom.sf(failures - 1, trials, rate)) < rate
