"""Exact bounds on a rate, from successes counted in independent trials."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from excise import errors
from excise.measure.measures import CONFIDENCE


def upper_bound(successes: ArrayLike, trials: int, *, level: float = CONFIDENCE) -> np.ndarray:
    """Give the largest rate under which so few successes are not yet surprising: the inverse of the binomial tail.

    The root p of P[Bin(trials, p) <= successes] = 1 - level, 1 where every trial succeeded. The true rate lies above it
    with probability at most 1 - level, at any number of trials.

    References:
        Clopper and Pearson, "The Use of Confidence or Fiducial Limits Illustrated in the Case of the Binomial", Biometrika,
        1934 (one-sided); Langford, "Tutorial on Practical Prediction Theory for Classification", JMLR 2005, eq. 3.2.

    Args:
        successes: integers from 0 to `trials`, of any shape.
        trials: at least 1.
        level: in (0, 1).

    Returns:
        float64, of the shape of `successes`.

    Raises:
        errors.BadRequest: counts or a level out of range.

    >>> float(upper_bound(0, 64).round(4))
    0.0457
    """
    counts = _counts(successes, trials, level)
    return np.where(counts == trials, 1.0, stats.beta.ppf(level, counts + 1, np.maximum(trials - counts, 0.5)))


def lower_bound(successes: ArrayLike, trials: int, *, level: float = CONFIDENCE) -> np.ndarray:
    """Give the smallest rate under which so many successes are not yet surprising; the mirror of `upper_bound`.

    >>> float(lower_bound(64, 64).round(4))
    0.9543
    """
    counts = _counts(successes, trials, level)
    return 1 - upper_bound(trials - counts, trials, level=level)


def clopper_pearson(successes: ArrayLike, trials: int, *, level: float = CONFIDENCE) -> tuple[np.ndarray, np.ndarray]:
    """Give both ends of an interval that holds the rate with probability at least `level`, each side half the error.

    >>> [float(end.round(4)) for end in clopper_pearson(8, 10)]
    [0.4439, 0.9748]
    """
    side = (1 + level) / 2
    return lower_bound(successes, trials, level=side), upper_bound(successes, trials, level=side)


def _counts(successes: ArrayLike, trials: int, level: float) -> np.ndarray:
    counts = np.asarray(successes)
    if trials < 1 or not 0 < level < 1 or not ((counts >= 0) & (counts <= trials) & (counts == np.rint(counts))).all():
        raise errors.BadRequest(
            f"expected whole counts from 0 to the number of trials (at least 1) and a level in (0, 1), found "
            f"{np.array2string(counts, threshold=5)} of {trials} trials at level {level}"
        )
    return counts.astype(np.int64)
