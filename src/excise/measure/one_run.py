"""A lower bound on epsilon from a single training run, by canaries that a coin put in or left out."""

from __future__ import annotations

import math

import msgspec
import numpy as np
from scipy import stats

from excise import errors
from excise.measure.bounds import lower_bound
from excise.measure.measures import CONFIDENCE


class OneRun(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one run shows about canaries.

    Attributes:
        epsilon: lower bound; 0 where the guesses are no better than chance.
        num_guesses: canaries that were guessed about.
        num_correct: guesses that were right.
        num_canaries: all of them.
        ceiling: the bound that guesses without an error would give.
        delta: of the claim that is bounded.
    """

    epsilon: float
    num_guesses: int
    num_correct: int
    num_canaries: int
    ceiling: float
    delta: float


def one_run(
    scores: np.ndarray,
    included: np.ndarray,
    *,
    num_guesses: int,
    generator: np.random.Generator,
    delta: float = 0.0,
    level: float = CONFIDENCE,
) -> OneRun:
    """Guess by the scores which canaries were in, and bound epsilon from below by how often that was right.

    The `num_guesses` / 2 canaries with the largest scores are taken to be in, as many with the smallest to be out; about
    the others nothing is said. Equal scores are ordered by the generator, never by their place in the array, which may
    itself tell who was in.

    **The bound holds only if** each canary was in with probability 1/2 by a coin of its own (not by drawing exactly half),
    and `num_guesses` was fixed before the scores were seen.

    References:
        Steinke, Nasr and Jagielski, "Privacy Auditing with One (1) Training Run", NeurIPS 2023, Theorem 5.2,
        https://arxiv.org/abs/2305.08846.

    Args:
        scores: `[canaries]`, larger where the canary looks like a member.
        included: bool `[canaries]`.
        num_guesses: even, from 2 to the number of canaries.
        generator: orders equal scores.
        delta: in [0, 1); 0 bounds pure epsilon.
        level: confidence of the bound.

    Raises:
        errors.BadRequest: scores that are not finite or do not fit `included`, or a number of guesses or a delta out of
            range.
    """
    if scores.ndim != 1 or included.dtype != bool or included.shape != scores.shape or not np.isfinite(scores).all():
        raise errors.BadRequest(
            f"expected one finite score and one bool a canary, found scores {list(scores.shape)} and included "
            f"{included.dtype} {list(included.shape)}"
        )
    if num_guesses % 2 or not 2 <= num_guesses <= len(scores):
        raise errors.BadRequest(
            f"num_guesses: expected an even number from 2 to {len(scores)}, the number of canaries, found {num_guesses}"
        )
    order = np.lexsort((generator.random(len(scores)), scores))
    half = num_guesses // 2
    correct = int(included[order[-half:]].sum() + (~included[order[:half]]).sum())
    shown, most = (
        one_run_epsilon(right, num_guesses, delta=delta, num_canaries=len(scores), level=level)
        for right in (correct, num_guesses)
    )
    return OneRun(
        epsilon=shown,
        num_guesses=num_guesses,
        num_correct=correct,
        num_canaries=len(scores),
        ceiling=most,
        delta=delta,
    )


def one_run_epsilon(
    num_correct: int,
    num_guesses: int,
    *,
    delta: float = 0.0,
    num_canaries: int | None = None,
    level: float = CONFIDENCE,
) -> float:
    """Give the smallest epsilon under which so many correct guesses are not yet surprising; 0 if that is below 0.

    Under (epsilon, 0) the number of correct guesses is at most, in the sense of its tails, binomial with rate
    1 / (1 + exp(-epsilon)). Delta adds to the tail's probability as `_tail` says.

    Args:
        num_correct: from 0 to `num_guesses`.
        num_guesses: at least 1.
        delta: in [0, 1).
        num_canaries: in all, which a delta above 0 needs to know.
        level: confidence of the bound.

    Raises:
        errors.BadRequest: numbers out of range, or a delta without the number of canaries.

    >>> [round(one_run_epsilon(count, count), 2) for count in (20, 60, 200, 1000)]
    [1.82, 2.97, 4.19, 5.81]
    """
    rate = float(lower_bound(num_correct, num_guesses, level=level))
    pure = max(0.0, math.log(rate / (1 - rate))) if rate > 0 else 0.0
    if delta == 0:
        return pure
    if num_canaries is None or not (0 <= delta < 1 and num_guesses <= num_canaries):
        raise errors.BadRequest(
            f"expected delta in [0, 1) and, where it is not 0, the number of all canaries, at least {num_guesses}; found "
            f"delta {delta} and {num_canaries} canaries"
        )

    def surprising(epsilon: float) -> bool:
        return _tail(num_correct, num_guesses, epsilon, delta * num_canaries) <= 1 - level

    # the tail need not be monotone in epsilon: find where it first stops being surprising, then halve
    steps = np.linspace(0.0, pure, 200)
    first = next((place for place, epsilon in enumerate(steps) if not surprising(float(epsilon))), len(steps) - 1)
    if first == 0:
        return 0.0
    low, high = float(steps[first - 1]), float(steps[first])
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if surprising(middle) else (low, middle)
    return low


def _tail(num_correct: int, num_guesses: int, epsilon: float, expected_failures: float) -> float:
    """Bound the probability of at least `num_correct` correct guesses under (epsilon, delta), delta * canaries given.

    P[W >= v] + delta * m * max over i >= 1 of (2 / i) P[v > W >= v - i], W binomial with rate 1 / (1 + exp(-epsilon)).
    """
    rate = 1 / (1 + math.exp(-epsilon))
    within = np.cumsum(stats.binom.pmf(num_correct - np.arange(1, num_correct + 1), num_guesses, rate))
    steepest = float((within / np.arange(1, num_correct + 1)).max(initial=0.0))
    return float(stats.binom.sf(num_correct - 1, num_guesses, rate)) + 2 * expected_failures * steepest
