"""`Measure`: a number with its interval, its null and what it could have seen; and the one comparison that makes it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from scipy import special, stats

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
        decides: whether a verdict rests on it; else it informs.
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
    decides: bool = False


def against_oracles(
    name: str,
    value: float,
    oracles: Sequence[float],
    *,
    resolution: float,
    among: int = 1,
    limits: tuple[float, float] | None = None,
    sentence: str = "",
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
        limits: least and greatest value that the number itself can take (0 and 1 for an accuracy): ends of bands and
            intervals are cut there.
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
    edge = float(special.stdtrit(freedom, (1 + CONFIDENCE) / 2))
    margin = edge * spread / np.sqrt(count)
    least, greatest = limits or (-np.inf, np.inf)
    mean = float(numbers.mean())
    return Measure(
        name=name,
        value=gap,
        low=float(max(gap - margin, value - greatest)),
        high=float(min(gap + margin, value - least)),
        null_mean=0.0,
        null_low=float(max(-edge * predictive, least - mean)),
        null_high=float(min(edge * predictive, greatest - mean)),
        p=float(2 * special.stdtr(freedom, -abs(gap) / predictive)) if predictive > 0 else float(gap == 0),
        num_models=count,
        least_detectable=spreads_to_see(count, among) * spread,
        sentence=sentence,
    )


def spreads_to_see(num_oracles: int, among: int = 1) -> float:
    """Give the smallest gap seen with probability 0.8, in standard deviations between oracles.

    The quantiles of Student's t at the deciding level (5% over `among`, two-sided) and at the power, times
    sqrt(1 + 1/n). It falls with the number of oracles towards that of the normal distribution, and not to zero: one
    network is judged, and networks differ.
    """
    freedom = num_oracles - 1
    deciding = special.stdtrit(freedom, 1 - (1 - CONFIDENCE) / (2 * among))
    return float((deciding + special.stdtrit(freedom, POWER)) * np.sqrt(1 + 1 / num_oracles))


def oracle_band(
    values: Sequence[float], *, resolution: float = 0.0, limits: tuple[float, float] | None = None
) -> tuple[float, float, float]:
    """Give low, mean and high of the 95% band in which one more oracle's number would fall (Student's t, see above).

    Ends beyond `limits`, what the number itself can be, are cut there.
    """
    numbers = np.asarray(values, dtype=np.float64)
    reach = 0.0
    if len(numbers) > 1:
        edge = special.stdtrit(len(numbers) - 1, (1 + CONFIDENCE) / 2)
        spread = max(float(numbers.std(ddof=1)), resolution / 2)
        reach = float(edge * spread * np.sqrt(1 + 1 / len(numbers)))
    mean, (least, greatest) = float(numbers.mean()), limits or (-np.inf, np.inf)
    return max(mean - reach, least), mean, min(mean + reach, greatest)


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


def more_than_chance(failures: int, trials: int, rate: float, level: float) -> bool:
    """Say whether at least `failures` of `trials` would come about with probability below `level`, each having `rate`."""
    return failures > 0 and float(stats.binom.sf(failures - 1, trials, rate)) < level
