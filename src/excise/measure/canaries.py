"""Gaussian canaries: does a network's gradient still point along the noise that was planted in its training rows?"""

from __future__ import annotations

import numpy as np
from scipy import stats

from excise import errors
from excise.measure.measures import CONFIDENCE, POWER, Measure

FEWEST_DRAWS = 999


def fresh_projections(projections: np.ndarray, generator: np.random.Generator, *, num_draws: int = 1999) -> np.ndarray:
    """Give projections, on the same gradients, of noise that no network has ever seen.

    The projection of isotropic Gaussian noise on a fixed direction, in units of the noise's scale, is a standard normal
    number whatever the direction, and those of independent noise are independent. So they are drawn as such, and nothing of
    the size of the inputs is. A canary without a gradient has 0 for its projection, on every noise.

    Args:
        projections: `[canaries]` of the network under test.
        generator: draws.
        num_draws: of noise on all canaries.

    Returns:
        float64 `[draws, canaries]`.
    """
    return np.where(projections != 0, generator.standard_normal((num_draws, len(projections))), 0.0)


def canary_test(projections: np.ndarray, fresh: np.ndarray, *, among: int = 1) -> Measure:
    """Test whether a network still knows its canaries' noise, by the mean of their projections, either sign.

    If the noise had no part in the network, it is one more fresh draw: the share of draws whose mean lies at least as far
    from 0 is an exact p-value. No oracle, no shadow network and no assumption about the gradients is needed. The noise
    must have been secret: a method that knows it can hide it.

    References:
        Pawelczyk et al., "Machine Unlearning Fails to Remove Data Poisoning Attacks", ICLR 2025 (the Gaussian unlearning
        score, https://arxiv.org/abs/2406.17216; departure: its null is drawn, and the test has two sides, since the sign
        of the mean depends on the network).

    Args:
        projections: `[canaries]`, from `excise.observe.projections`.
        fresh: `[draws, canaries]` of fresh noise on the same gradients, at least 999 draws; or `[draws]`, their means.
        among: how many measures a verdict rests on together, as in `against_oracles`.

    Returns:
        The measure of the mean's distance from 0; `low` is not below 0. Its interval is that of the mean over canaries,
        `num_models` is 0, as no other network has a part in it, and `least_detectable` is the smallest distance from 0 that
        is seen with probability 0.8.

    Raises:
        errors.BadRequest: projections that are not finite, fewer than 2, or all 0; too few draws, or of other canaries.
    """
    fits = fresh.ndim == 1 or fresh.shape[1:] == projections.shape
    if projections.ndim != 1 or len(projections) < 2 or not fits or not (_finite(projections) and _finite(fresh)):
        raise errors.BadRequest(
            f"expected finite projections of at least 2 canaries and fresh ones [draws, canaries] of the same, found shapes "
            f"{list(projections.shape)} and {list(fresh.shape)}"
        )
    if len(fresh) < FEWEST_DRAWS:
        raise errors.BadRequest(f"expected at least {FEWEST_DRAWS} fresh draws, found {len(fresh)}")
    silent = int((projections == 0).sum())
    if silent == len(projections):
        raise errors.BadRequest(
            "every canary's projection is 0: the loss has no gradient on any, so that nothing can be said; "
            "run the network in float64, or test it before it fits its rows perfectly"
        )
    means = fresh if fresh.ndim == 1 else fresh.mean(axis=1)
    null, value = np.abs(means), abs(float(projections.mean()))
    reach = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * float(projections.std(ddof=1)) / np.sqrt(len(projections))
    needed = stats.norm.ppf(1 - (1 - CONFIDENCE) / (2 * among)) + stats.norm.ppf(POWER)
    return Measure(
        name="canaries",
        value=float(value),
        low=float(max(0.0, value - reach)),
        high=float(value + reach),
        null_mean=float(null.mean()),
        null_low=float(np.quantile(null, 1 - CONFIDENCE)),
        null_high=float(np.quantile(null, CONFIDENCE)),
        p=float((1 + (null >= value).sum()) / (1 + len(null))),
        num_models=0,
        least_detectable=float(needed * means.std(ddof=1)),
        sentence=(
            f"mean projection of the loss's gradient on the noise of {len(projections)} canaries, in standard deviations of "
            f"fresh noise ({len(fresh)} draws)" + (f"; {silent} canaries have no gradient" if silent else "")
        ),
    )


def _finite(values: np.ndarray) -> bool:
    return bool(np.isfinite(values).all())
