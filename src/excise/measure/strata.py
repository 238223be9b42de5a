"""Strata: forget rows by how much they were memorised, and what a number comes to in each; and accuracy class by class.

Rows that were never memorised are told right by networks that never saw them. That stratum is the negative control: an
attack, or a method, that shows an effect there shows one that is not forgetting.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from excise import errors

NAMES = ("low", "mid", "high")


def memorization(correct: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Give each row's memorisation: how much oftener networks trained on it get it right than networks that were not.

    mem(i) = Pr[h(x_i) = y_i | i in S] - Pr[h(x_i) = y_i | i not in S], over networks trained on random halves of the rows. An
    estimate from m networks has a standard deviation of about sqrt((p (1 - p) + q (1 - q)) 2 / m), p and q being the two
    rates: at most 0.125 at 64.

    References:
        Feldman, "Does Learning Require Memorization?", STOC 2020, arXiv:1906.05271; Feldman and Zhang, "What Neural Networks
        Memorize and Why", NeurIPS 2020, arXiv:2008.03703.

    Args:
        correct: `[models, examples]`, whether each network gets each row right (its label as trained, wrong ones included).
        keep: bool `[models, examples]`, whether the row was in the network's training set.

    Returns:
        float64 `[examples]` in [-1, 1].

    Raises:
        errors.BadRequest: arrays of different shape, not of booleans, or a row that every network saw, or none did.
    """
    if correct.shape != keep.shape or keep.ndim != 2 or correct.dtype != bool or keep.dtype != bool:
        raise errors.BadRequest(
            f"memorization: expected booleans [models, examples], correct and keep, found {correct.dtype} "
            f"{list(correct.shape)} and {keep.dtype} {list(keep.shape)}"
        )
    inside = keep.sum(axis=0)
    alone = np.flatnonzero((inside == 0) | (inside == len(keep)))
    if len(alone):
        raise errors.BadRequest(
            f"memorization: expected each row in the training set of some networks and not of others, found {len(alone)} rows "
            f"in all or none of {len(keep)}, the first at position {alone[0]}; train more networks on other halves"
        )
    return np.asarray((correct & keep).sum(axis=0) / inside - (correct & ~keep).sum(axis=0) / (len(keep) - inside))


def memorization_of_arms(inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Give each row's memorisation from two arms: networks trained on all of the rows, and networks trained on none.

    Such arms are there after an audit (originals and oracles). Differs from `memorization`, whose networks lack other rows
    too: what rows of one forget set tell about each other counts as memorised here.

    Args:
        inside: bool `[models, examples]`, whether networks that saw the rows get them right.
        outside: the same of networks that did not; the number of models may differ.

    Raises:
        errors.BadRequest: no models, different rows, or values that are not booleans.
    """
    sound = inside.ndim == outside.ndim == 2 and inside.dtype == outside.dtype == bool
    if not sound or inside.shape[1] != outside.shape[1] or not len(inside) or not len(outside):
        raise errors.BadRequest(
            f"memorization: expected booleans [models, examples] of two arms over the same rows, found {inside.dtype} "
            f"{list(inside.shape)} and {outside.dtype} {list(outside.shape)}"
        )
    return np.asarray(inside.mean(axis=0) - outside.mean(axis=0))


def ranked_strata(scores: np.ndarray, num_strata: int = 3) -> np.ndarray:
    """Deal rows to strata of equal size by rank, 0 the lowest; int64 `[examples]`.

    Equal scores go together, to the stratum of their middle rank: the order of rows does not matter, and with many equal
    scores sizes are unequal, down to none.

    Raises:
        errors.BadRequest: fewer than 1 stratum, no rows, or scores that are not finite.

    >>> ranked_strata(np.array([0.9, 0.0, 0.3])).tolist()
    [2, 0, 1]
    """
    _require_scores(scores)
    if num_strata < 1:
        raise errors.BadRequest(f"num_strata: expected at least 1, found {num_strata}")
    doubled = (2 * rankdata(scores) - 1).astype(np.int64)  # twice the middle rank counted from one half: whole numbers
    return np.asarray(doubled * num_strata // (2 * len(scores)))


def threshold_strata(scores: np.ndarray, edges: Sequence[float]) -> np.ndarray:
    """Give each row the number of edges that its score reaches, int64 `[examples]`: 0 below all of them.

    Raises:
        errors.BadRequest: edges that do not ascend, no rows, or scores that are not finite.

    >>> threshold_strata(np.array([0.1, 0.25, 0.9]), [0.25, 0.75]).tolist()
    [0, 1, 2]
    """
    _require_scores(scores)
    if not len(edges) or not all(low < high for low, high in itertools.pairwise(edges)):
        raise errors.BadRequest(f"edges: expected numbers that ascend, at least one, found {list(edges)}")
    return np.asarray(np.digitize(scores, np.asarray(edges, dtype=np.float64)), dtype=np.int64)


@dataclass(frozen=True)
class Stratum:
    """What a number per row comes to in one stratum.

    Attributes:
        name: low, mid, high where there are three; else its number.
        num_rows: at least 1.
        mean: of the values.
        low: their 5% quantile.
        median: their 50% quantile.
        high: their 95% quantile.
    """

    name: str
    num_rows: int
    mean: float
    low: float
    median: float
    high: float


def by_stratum(values: np.ndarray, strata: np.ndarray, num_strata: int = 3) -> list[Stratum]:
    """Sum up any number per row in each stratum that has rows, the lowest first.

    Read the low stratum as the negative control. For a comparison with oracles, take a stratum's mean of each network's values
    to `against_oracles`.

    Args:
        values: `[examples]`: margins, membership scores, whether a row is right.
        strata: `[examples]`, from `ranked_strata` or `threshold_strata`.
        num_strata: how many there are.

    Raises:
        errors.BadRequest: arrays of different length, strata that are not below `num_strata`, or values that are not finite.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or numbers.shape != strata.shape or not np.isfinite(numbers).all():
        raise errors.BadRequest(
            f"strata: expected one finite value a row, found values {list(numbers.shape)} for {list(strata.shape)} rows"
        )
    if not np.issubdtype(strata.dtype, np.integer) or (
        len(strata) and not 0 <= strata.min() <= strata.max() < num_strata
    ):
        raise errors.BadRequest(f"strata: expected integers from 0 to {num_strata - 1}, found others")
    parts = ((number, numbers[strata == number]) for number in range(num_strata))
    return [_summed_up(NAMES[number] if num_strata == 3 else str(number), part) for number, part in parts if len(part)]


def _summed_up(name: str, values: np.ndarray) -> Stratum:
    low, median, high = np.quantile(values, (0.05, 0.5, 0.95)).tolist()
    return Stratum(name=name, num_rows=len(values), mean=float(values.mean()), low=low, median=median, high=high)


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Give Spearman's correlation of two scores of the same rows, ties at their middle rank.

    Raises:
        errors.BadRequest: different rows, fewer than 2, scores that are not finite, or all equal, so that there is no order.
    """
    _require_scores(one)
    _require_scores(other)
    ranks = [rankdata(scores) - (len(scores) + 1) / 2 for scores in (one, other)]
    lengths = [float(np.sqrt((part**2).sum())) for part in ranks]
    if one.shape != other.shape or 0.0 in lengths:
        raise errors.BadRequest(
            f"rank correlation: expected two scores of the same rows, neither of them all equal, found {list(one.shape)} and "
            f"{list(other.shape)} rows{' with all scores of one equal' if one.shape == other.shape else ''}"
        )
    return float(np.clip((ranks[0] @ ranks[1]) / (lengths[0] * lengths[1]), -1, 1))


def halves_agreement(
    correct: np.ndarray, keep: np.ndarray, generator: np.random.Generator, *, among: np.ndarray | None = None
) -> float:
    """Give Spearman's correlation of memorisation estimated twice, from two disjoint halves of the networks.

    How far estimates from half as many networks can be trusted to order rows. Over rows that are hardly memorised there is
    no order to find, and it is low however many networks there are.

    Args:
        correct: bool `[models, examples]`, as in `memorization`.
        keep: bool `[models, examples]`.
        generator: deals the networks to the halves.
        among: bool `[examples]`, the rows to correlate over, chosen by something other than these estimates; None for all.

    Raises:
        errors.BadRequest: as `memorization` and `rank_correlation`.
    """
    order = generator.permutation(len(keep))
    halves = np.array_split(order, 2)
    rows = np.ones(keep.shape[-1], dtype=bool) if among is None else among
    first, second = (memorization(correct[half][:, rows], keep[half][:, rows]) for half in halves)
    return rank_correlation(first, second)


@dataclass(frozen=True, eq=False)
class ByClass:
    """Accuracy class by class, as counts: a class without rows has none, and no number that stands for it.

    Attributes:
        num_rows: int64 `[classes]`.
        num_right: int64 `[classes]`.
    """

    num_rows: np.ndarray
    num_right: np.ndarray

    @property
    def accuracy(self) -> dict[int, float]:
        """Accuracy by class, of the classes that have rows."""
        return {
            number: int(right) / int(rows)
            for number, (right, rows) in enumerate(zip(self.num_right, self.num_rows, strict=True))
            if rows
        }


def accuracy_by_class(logits: np.ndarray, targets: np.ndarray, num_classes: int) -> ByClass:
    """Count rows, and those classified as labelled, by class; like `accuracy`, a row with a logit that is not finite is wrong.

    Args:
        logits: `[examples, classes]`.
        targets: `[examples]`.
        num_classes: how many there are.

    Raises:
        errors.BadRequest: a target that is not below `num_classes`.

    >>> accuracy_by_class(np.array([[2.0, 1.0], [0.0, 1.0]]), np.array([0, 0]), 2).accuracy
    {0: 0.5}
    """
    if len(targets) and not 0 <= targets.min() <= targets.max() < num_classes:
        raise errors.BadRequest(
            f"targets: expected classes from 0 to {num_classes - 1}, found {targets.min()} to {targets.max()}"
        )
    finite = np.isfinite(logits)
    right = finite.all(axis=1) & (np.where(finite, logits, -np.inf).argmax(axis=1) == targets)
    return ByClass(np.bincount(targets, minlength=num_classes), np.bincount(targets[right], minlength=num_classes))


def _require_scores(scores: np.ndarray) -> None:
    if scores.ndim != 1 or not len(scores) or not np.isfinite(scores).all():
        raise errors.BadRequest(f"strata: expected one finite score a row, found shape {list(scores.shape)}")
