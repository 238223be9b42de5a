"""Normals of scores, row by row: how much a row's score varies over networks, when there are few networks and many rows."""

from __future__ import annotations

import numpy as np
from scipy import special

from excise import errors

RELATIVE_FLOOR = 1e-9
ABSOLUTE_FLOOR = 1e-12
"""A standard deviation is not taken below these: above the rounding of a mean of equal numbers, below any real spread."""


def row_spreads(scores: np.ndarray) -> tuple[np.ndarray, float]:
    """Give each row's standard deviation over networks, drawn towards what the rows have in common; and its freedom.

    A handful of networks gives no trustworthy spread for one row, and one spread for all rows is wrong where hard rows vary
    more than easy ones. So the rows' variances are taken as draws from a scaled inverse chi-squared, whose scale and weight
    (degrees of freedom) are fitted to them by the moments of their logarithms: s^2 = (d0 s0^2 + d v) / (d0 + d). Where the
    variances vary no more than variances of this many draws do, d0 is infinite and the spread is the pooled one.

    A spread of zero is raised to a floor that no real spread comes near, so that a row on which all networks agree stays
    finite and yet is told apart from any other value.

    References:
        Smyth, "Linear Models and Empirical Bayes Methods for Assessing Differential Expression", Statistical Applications
        in Genetics and Molecular Biology, 2004, sections 4 and 6.2.

    Args:
        scores: `[models, rows]`, finite, at least 2 models.

    Returns:
        `[rows]` standard deviations, and the degrees of freedom each has: at least models - 1, at most that times the rows.

    Raises:
        errors.BadRequest: fewer than 2 models, no rows, or numbers that are not finite.
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 2 or len(scores) < 2 or scores.shape[1] == 0 or not np.isfinite(scores).all():
        raise errors.BadRequest(
            f"scores: expected finite [models, rows] of at least 2 models and one row, found shape {list(scores.shape)}; "
            "leave out networks that give no finite output"
        )
    own = len(scores) - 1
    variances = scores.var(axis=0, ddof=1)
    scale, weight = _prior(variances, own)
    if np.isinf(weight):
        drawn, freedom = np.full_like(variances, variances.mean()), float(own * len(variances))
    else:
        drawn = (weight * scale + own * variances) / (weight + own)
        freedom = min(weight + own, float(own * len(variances)))
    floor = RELATIVE_FLOOR * np.abs(scores).max(axis=0) + ABSOLUTE_FLOOR
    return np.maximum(np.sqrt(drawn), floor), freedom


def _prior(variances: np.ndarray, own: int) -> tuple[float, float]:
    """Give s0^2 and d0; d0 is 0 for a single row, which has nothing to be drawn towards."""
    if len(variances) < 2:
        return 0.0, 0.0
    # a row without spread says "small", not "minus infinity": limma's own floor
    usable = np.maximum(variances, max(1e-5 * float(np.median(variances)), np.finfo(np.float64).tiny))
    logs = np.log(usable) - special.digamma(own / 2) + np.log(own / 2)
    excess = float(logs.var(ddof=1) - special.zeta(2, own / 2))
    if excess <= 0:
        return float(variances.mean()), np.inf
    half = _trigamma_inverse(excess)
    return float(np.exp(logs.mean() + special.digamma(half) - np.log(half))), 2 * half


def _trigamma_inverse(value: float) -> float:
    """Solve trigamma(y) = value for y, by Newton's method on 1 / trigamma (Smyth 2004, appendix)."""
    y = 0.5 + 1 / value
    for _ in range(50):
        here = float(special.zeta(2, y))
        step = here * (1 - here / value) / (-2 * float(special.zeta(3, y)))
        y += step
        if abs(step) < 1e-8 * y:
            break
    return y
