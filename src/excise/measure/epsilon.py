"""Epsilon of unlearning: how well the best attack on one row's outputs tells unlearned networks from oracles.

If unlearning with a forget row is (epsilon, delta)-close to retraining without it, every attack that guesses from the row's
output which of the two it sees obeys ln((1 - delta - FPR) / FNR) <= epsilon and the same with the rates exchanged (Kairouz
et al., "The Composition Theorem for Differential Privacy", ICML 2015). Read backwards, the rates of an attack bound epsilon
from below. `epsilon_rows` plugs in observed rates, as the NeurIPS 2023 challenge did: an estimate, far from 0 even for
networks of one law. `epsilon_bounds` is a bound with a stated confidence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec
import numpy as np

from excise import errors
from excise.measure.bounds import upper_bound
from excise.measure.measures import CONFIDENCE, Measure
from excise.measure.permutation import against_held_out

DELTA = 1e-5
CAP = 50.0
"""What a row counts whose two laws never overlap, in the observed networks."""
PEAKY = 0.01
"""Below this ratio of the two ranges the challenge takes a row as perfectly told apart."""
BUCKET = 0.5
"""Width of the challenge's buckets of epsilon, each of which earns half the points of the one before."""


def epsilon_rows(own: np.ndarray, oracles: np.ndarray, *, delta: float = DELTA) -> np.ndarray:
    """Estimate each row's epsilon as the challenge did: the largest over attacks, at their observed rates.

    The attacks are all thresholds, either way, and all intervals whose inside is taken for the arm with the smaller range.
    An attack with exactly one of its two rates 0 is left out as seen too seldom; both 0, or ranges in a ratio below 1%, make
    50. Two constant arms that agree make 0.

    Among the intervals that hold few of the wider arm, only those around a single one of its outputs need be tried: a
    longer interval is a chain of such, and its ratio of rates no larger than the largest in the chain. That makes the
    cost of a row M log M in the number of networks; 2 ms for 64 of each kind and 100 rows. Departure: where several chains
    tie, delta may enter once too often, a difference below delta times the number of networks.

    Where outputs of different networks are equal to the bit and an attack must give up one network to have no rate 0, it
    is counted as giving up one, even if equal outputs would take others along.

    **The estimate has no interval and a large null**: two populations of one law give a median of about 1.8 at 16 networks
    of each kind, 2.1 at 64 and 2.4 at 512. Nothing follows from it without `epsilon` or `epsilon_bounds`.

    References:
        Triantafillou et al., "Are We Making Progress in Unlearning? Findings from the First NeurIPS Unlearning Competition",
        2024, https://arxiv.org/abs/2406.09073 (the score; departure: thresholds lie between any two neighbouring outputs,
        not 0.01 apart).

    Args:
        own: `[models, rows]` margins of unlearned networks.
        oracles: `[models, rows]` of oracles.
        delta: in [0, 1).

    Returns:
        float64 `[rows]`, from 0 to 50.

    Raises:
        errors.BadRequest: outputs that are not finite, arms of different rows, fewer than 2 networks, or such a delta.

    >>> epsilon_rows(np.array([[1.0], [2.0]]), np.array([[3.0], [4.0]])).tolist()
    [50.0]
    """
    _require_comparable(own, oracles, delta)
    ranges = np.ptp(own, axis=0), np.ptp(oracles, axis=0)
    swap = ranges[1] < ranges[0]
    inside, outside = _atoms(own, oracles, swap)
    num_inside, num_outside = inside.sum(axis=1, keepdims=True), outside.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        best = np.maximum(
            _best_interval(inside, outside, num_inside, num_outside, delta),
            _best_outer(inside, outside, num_inside, num_outside, delta),
        )
        found = np.clip(np.log(best), 0.0, CAP)
    between = outside.cumsum(axis=1)
    first, last = _ends(inside)
    rows = np.arange(len(inside))
    apart = between[rows, last] - between[rows, first] + outside[rows, first] == 0
    peaky = np.minimum(*ranges) < PEAKY * np.maximum(*ranges)
    return np.asarray(np.where(apart | peaky, CAP, found))


def _atoms(own: np.ndarray, oracles: np.ndarray, swap: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count how many networks of the narrower and of the wider arm give each value, ascending; both `[rows, values]`."""
    pool = np.ascontiguousarray(np.concatenate([own, oracles]).T)
    order = pool.argsort(axis=1)
    ordered = np.take_along_axis(pool, order, axis=1)
    new = np.ones(pool.shape, dtype=np.int64)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    place = (new.cumsum(axis=1) - 1 + np.arange(len(pool))[:, None] * pool.shape[1]).ravel()
    narrow = ((order < len(own)) ^ swap[:, None]).ravel()
    every = np.bincount(place, minlength=pool.size).reshape(pool.shape)
    inside = np.bincount(place[narrow], minlength=pool.size).reshape(pool.shape)
    return inside, every - inside


def _best_interval(
    inside: np.ndarray, outside: np.ndarray, num_inside: np.ndarray, num_outside: np.ndarray, delta: float
) -> np.ndarray:
    """Give the largest (1 - delta - FNR) / FPR: of each value of the wider arm, with all of the narrower next to it."""
    upto = inside.cumsum(axis=1)
    before = np.zeros_like(upto)
    before[:, 1:] = np.maximum.accumulate(np.where(outside > 0, upto, 0), axis=1)[:, :-1]
    after = np.broadcast_to(num_inside, upto.shape).copy()
    following = np.where(outside > 0, upto - inside, num_inside)
    after[:, :-1] = np.minimum.accumulate(following[:, ::-1], axis=1)[:, ::-1][:, 1:]
    held = np.minimum(after - before, num_inside - 1)  # all of them would be a rate of 0
    ratio = (held / num_inside - delta) / (outside / num_outside)
    return np.asarray(np.where(outside > 0, ratio, 0.0).max(axis=1))


def _best_outer(
    inside: np.ndarray, outside: np.ndarray, num_inside: np.ndarray, num_outside: np.ndarray, delta: float
) -> np.ndarray:
    """Give the largest (1 - delta - FPR) / FNR: of giving up the narrower arm's lowest outputs, or its highest."""
    rising, falling = (
        _best_tail(inside[:, ::step], outside[:, ::step], num_inside, num_outside, delta) for step in (1, -1)
    )
    return np.asarray(np.maximum(rising, falling))


def _best_tail(
    inside: np.ndarray, outside: np.ndarray, num_inside: np.ndarray, num_outside: np.ndarray, delta: float
) -> np.ndarray:
    upto = inside.cumsum(axis=1)
    reached = outside.cumsum(axis=1)
    _, last = _ends(inside)
    free = num_outside - np.take_along_axis(reached, last[:, None], axis=1)  # past the narrower arm's last output
    # the tail ends before the next output of the narrower arm, so just after any value with the same count up to it
    left = np.minimum(reached + free, num_outside - 1)
    ratio = (left / num_outside - delta) / (upto / num_inside)
    return np.asarray(np.where((upto > 0) & (upto < num_inside), ratio, 0.0).max(axis=1))


def _ends(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    some = counts > 0
    return some.argmax(axis=1), counts.shape[1] - 1 - some[:, ::-1].argmax(axis=1)


def epsilon(
    own: np.ndarray,
    oracles: np.ndarray,
    held_out: np.ndarray,
    *,
    generator: np.random.Generator,
    quantile: float | None = None,
    among: int = 1,
    num_permutations: int = 499,
) -> Measure:
    """Measure the rows' estimated epsilon beside what held-out oracles give, see `against_held_out`.

    Args:
        own: `[models, rows]` margins of unlearned networks, each from its own original.
        oracles: `[models, rows]` of the reference oracles.
        held_out: `[models, rows]` of other oracles, best as many as `own`: the null depends on the number.
        generator: deals networks to arms.
        quantile: of the rows; None for their mean.
        among: how many measures a verdict rests on together.
        num_permutations: deals.

    Raises:
        errors.BadRequest: as `epsilon_rows` and `against_held_out`.
    """
    for arm in (oracles, held_out):
        _require_comparable(own, arm, DELTA)

    def statistic(one: np.ndarray, other: np.ndarray) -> float:
        rows = epsilon_rows(one, other)
        return float(rows.mean() if quantile is None else np.quantile(rows, quantile))

    return against_held_out(
        "epsilon" if quantile is None else f"epsilon-{quantile:g}",
        statistic,
        own,
        oracles,
        held_out,
        generator=generator,
        among=among,
        num_permutations=num_permutations,
        sentence=(
            f"estimated epsilon at delta {DELTA:g}, {'mean' if quantile is None else f'{quantile:.0%} quantile'} over "
            f"{own.shape[1]} rows, capped at {CAP:g}; it says something only beside the null: a lower bound that holds is "
            "another number, and far lower"
        ),
    )


def epsilon_ceiling(num_models: int, *, delta: float = DELTA, level: float = CONFIDENCE) -> float:
    """Give the largest epsilon that an attack without a single error on `num_models` networks of each kind can show.

    Each of the two rates is bounded at half the error, so that both bounds hold together.

    >>> [round(epsilon_ceiling(count), 2) for count in (8, 64, 512)]
    [0.53, 2.82, 4.93]
    """
    rate = float(upper_bound(0, num_models, level=(1 + level) / 2))
    return math.log((1 - delta - rate) / rate) if 1 - delta - rate > rate else 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class EpsilonBounds:
    """Lower bounds on epsilon.

    Attributes:
        rows: `[rows]`, each with the stated confidence by itself.
        worst: the bound of the row that looked worst to the networks by which the attacks were chosen: one row, chosen
            before it was bounded, so with the stated confidence as well.
        ceiling: the most that a row could have shown, with this many networks.
    """

    rows: np.ndarray
    worst: float
    ceiling: float


def epsilon_bounds(
    own: np.ndarray,
    oracles: np.ndarray,
    *,
    generator: np.random.Generator,
    delta: float = DELTA,
    level: float = CONFIDENCE,
) -> EpsilonBounds:
    """Bound each row's epsilon from below, with confidence.

    Half of the networks of each kind choose the row's attack, among all thresholds and intervals, either way round: the one
    with the largest bound on that half. On the other half its two error rates are bounded from above by Clopper and
    Pearson, each at half the error; the bound follows from them. Nothing is assumed about the law of the outputs, except
    that networks are independent of one another.

    Cost: of a row, quadratic in the number of networks; 0.5 s for 64 of each kind and 1,000 rows.

    References:
        Jagielski, Ullman and Oprea, "Auditing Differentially Private Machine Learning", NeurIPS 2020 (bounds of both rates).

    Args:
        own: `[models, rows]` margins of unlearned networks, each from its own original, at least 2.
        oracles: `[models, rows]` of oracles, at least 2.
        generator: says which networks choose.
        delta: in [0, 1).
        level: confidence of each bound.

    Raises:
        errors.BadRequest: as `epsilon_rows`.
    """
    _require_comparable(own, oracles, delta)
    choosing, bounding = zip(*(_halves(arm, generator) for arm in (own, oracles)), strict=True)
    side = (1 + level) / 2
    tables = [
        [upper_bound(np.arange(len(arm) + 1), len(arm), level=side) for arm in half] for half in (choosing, bounding)
    ]
    promised, shown = np.zeros(own.shape[1]), np.zeros(own.shape[1])
    for row in range(own.shape[1]):
        ends, own_inside, promised[row] = _choose(choosing[0][:, row], choosing[1][:, row], tables[0], delta)
        inside = [int(((ends[0] < arm[:, row]) & (arm[:, row] <= ends[1])).sum()) for arm in bounding]
        shown[row] = max(0.0, _shown(np.array(inside), [len(arm) for arm in bounding], tables[1], delta)[own_inside])
    ceiling = epsilon_ceiling(min(len(arm) for arm in bounding), delta=delta, level=level)
    return EpsilonBounds(rows=shown, worst=float(shown[promised.argmax()]), ceiling=ceiling)


def _halves(arm: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    order = generator.permutation(len(arm))
    return arm[order[: len(arm) // 2]], arm[order[len(arm) // 2 :]]


def _choose(
    own: np.ndarray, oracles: np.ndarray, tables: list[np.ndarray], delta: float
) -> tuple[tuple[float, float], int, float]:
    """Give the interval with the largest bound, whether its inside is taken for oracles (0) or own (1), and the bound."""
    values = np.unique(np.concatenate([own, oracles]))
    cuts = np.concatenate([[-np.inf], values[:-1] / 2 + values[1:] / 2, [np.inf]])
    below = np.stack([np.searchsorted(np.sort(arm), cuts, side="right") for arm in (own, oracles)])
    low, high = np.triu_indices(len(cuts), 1)
    bounds = _shown(below[:, high] - below[:, low], [len(own), len(oracles)], tables, delta)
    way, best = np.unravel_index(bounds.argmax(), bounds.shape)
    return (float(cuts[low[best]]), float(cuts[high[best]])), int(way), float(bounds[way, best])


def _shown(inside: np.ndarray, sizes: list[int], tables: list[np.ndarray], delta: float) -> np.ndarray:
    """Give the bound of intervals that hold so many `[own, oracles]`: taken for oracles, taken for own."""
    own_in, oracle_in = tables[0][inside[0]], tables[1][inside[1]]
    own_out, oracle_out = tables[0][sizes[0] - inside[0]], tables[1][sizes[1] - inside[1]]

    def most(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            first = np.log(1 - delta - one) - np.log(other)
            return np.asarray(np.fmax(first, np.log(1 - delta - other) - np.log(one)))

    both = np.stack([most(own_in, oracle_out), most(own_out, oracle_in)])
    return np.where(np.isnan(both), -np.inf, both)


class ForgettingScore(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The challenge's score of forgetting, with what perfect forgetting scores at the same number of networks.

    Attributes:
        score: F, mean points of the rows, times the utility.
        null: mean F of held-out oracles against oracles: what a perfect method gets.
        ratio: score / null: 1 is as good as retraining; above it by chance, or where unlearned networks agree more among
            themselves than retrained ones do.
        num_models: of each kind. F depends on it so strongly (0.13 at 16, 0.054 at 512, for a perfect method) that scores at
            different numbers cannot be compared.
    """

    score: float
    null: float
    ratio: float
    num_models: int


def forgetting_score(
    own: np.ndarray,
    oracles: np.ndarray,
    held_out: np.ndarray,
    *,
    generator: np.random.Generator,
    retain_ratio: float = 1.0,
    test_ratio: float = 1.0,
    num_deals: int = 20,
) -> ForgettingScore:
    """Give the challenge's F, and its null from `num_deals` divisions of oracles and held-out oracles into two.

    A row earns 1 point for an estimated epsilon below 0.5, 1/2 below 1, 1/4 below 1.5 and so on; none from ln(M - 1) on,
    rounded up, at M networks. Departure from the challenge: accuracy above the oracles' earns nothing (ratios are clipped
    at 1).

    Args:
        own: `[models, rows]` margins of unlearned networks.
        oracles: `[models, rows]` of oracles, as many.
        held_out: `[models, rows]` of other oracles, as many.
        generator: divides.
        retain_ratio: the unlearned networks' mean accuracy on retain rows over the oracles'.
        test_ratio: the same on test rows.
        num_deals: divisions.

    Raises:
        errors.BadRequest: arms of different numbers of networks, below 3; a ratio that is negative or no number; or as
            `epsilon_rows`.
    """
    for arm in (oracles, held_out):
        _require_comparable(own, arm, DELTA)
    if len(own) < 3 or {len(oracles), len(held_out)} != {len(own)}:
        raise errors.BadRequest(
            f"the forgetting score depends on the number of networks: expected as many in every arm, at least 3, found "
            f"{len(own)}, {len(oracles)} and {len(held_out)}"
        )
    for name, ratio in (("retain_ratio", retain_ratio), ("test_ratio", test_ratio)):
        if not (math.isfinite(ratio) and ratio >= 0):
            raise errors.BadRequest(f"{name}: expected a ratio of accuracies, at least 0, found {ratio}")
    score = _points(own, oracles) * min(1.0, retain_ratio) * min(1.0, test_ratio)
    pool, nulls = np.concatenate([oracles, held_out]), []
    for _ in range(num_deals):
        order = generator.permutation(len(pool))
        nulls.append(_points(pool[order[: len(own)]], pool[order[len(own) :]]))
    null = float(np.mean(nulls))
    return ForgettingScore(score=score, null=null, ratio=score / null if null else math.inf, num_models=len(own))


def _points(own: np.ndarray, oracles: np.ndarray) -> float:
    bucket = np.floor(epsilon_rows(own, oracles) / BUCKET)
    return float(np.where(bucket < math.ceil(math.log(len(own) - 1)) / BUCKET, 0.5**bucket, 0.0).mean())


def _require_comparable(own: np.ndarray, oracles: np.ndarray, delta: float) -> None:
    if not 0 <= delta < 1:
        raise errors.BadRequest(f"delta: expected a number in [0, 1), found {delta}")
    for name, arm in (("unlearned", own), ("oracle", oracles)):
        if arm.ndim != 2 or len(arm) < 2 or arm.shape[1:] != own.shape[1:] or not np.isfinite(arm).all():
            raise errors.BadRequest(
                f"expected {name} outputs [models, rows] as finite numbers of at least 2 networks over the same rows, found "
                f"shape {list(arm.shape)} beside {list(own.shape)}; a network that gives no number has not unlearned: count it "
                "as failed"
            )
