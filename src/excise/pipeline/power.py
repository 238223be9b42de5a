"""What an audit could have seen: the share of the original's trace, and how many oracles would see more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from excise.measure import Measure, spreads_to_see

TRACES = ("forget_margin", "forget_margin_distance")
"""Measures that say how much of a trace the forget rows left."""


def trace_seen(nothing: Sequence[Measure]) -> float | None:
    """Give the smallest share of the original's trace that the audit sees with probability 0.8, by its sharpest measure.

    Args:
        nothing: measures of the original: what doing nothing leaves behind.

    A mean falls with the share that is left. A distance does not: an oracle lies as far from others as its own noise takes
    it, about sqrt(1 + 1/(n - 1)) spreads, and the noise and what is left of a trace add up in squares.

    Returns:
        For a mean, `least_detectable` over the original's own value, and for the distance the like; above 1 if not even all
        of it would be seen; None where there is no trace at all.
    """
    shares = [_share_seen(one) for one in nothing if one.name in TRACES and one.value]
    return min((one for one in shares if one is not None), default=None)


def _share_seen(measure: Measure) -> float | None:
    if measure.name != "forget_margin_distance":
        return measure.least_detectable / abs(measure.value)
    if measure.value < 0:
        return None  # nearer to the oracles than they to one another
    own = np.sqrt(1 + 1 / (measure.num_models - 1))
    seen, all_of_it = (float((gap + own) ** 2 - own**2) for gap in (measure.least_detectable, measure.value))
    return float(np.sqrt(seen / all_of_it))


def oracles_needed(margin: Measure, effect: float, *, among: int) -> int | None:
    """Give how many oracles would see `effect` of the original's trace, by the spread found here; None if none would.

    Args:
        margin: `forget_margin` of the original.
        effect: share of it.
        among: measures that decided together with it.
    """
    if not margin.least_detectable:
        return None
    wanted = effect * abs(margin.value) / (margin.least_detectable / spreads_to_see(margin.num_models, among))
    counts = (8, 12, 16, 24, 32, 48, 64, 96, 128)
    return next((n for n in counts if n > margin.num_models and spreads_to_see(n, among) <= wanted), None)
