"""Exposure of rows: which rows one unlearned network treats unlike oracles, and who else pays for the forgetting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from excise import errors
from excise.measure.gaussians import row_spreads
from excise.measure.measures import Measure, against_oracles
from excise.measure.roc import auc

LEVEL = 0.05
WORST_FRACTION = 0.05


@dataclass(frozen=True, kw_only=True)
class RowTest:
    """Each row of one network held against oracles.

    Attributes:
        scores: `[rows]` normal scores, above 0 where the network is surer of the label than oracles; within [-37, 37].
        p: `[rows]` p-values.
        told_apart: `[rows]` True where the row is told apart with a false discovery rate of 5% among all rows.
        worst: mean over the 5% of rows (at least one) that stand out most: of |scores| if the test is two-sided.
    """

    scores: np.ndarray
    p: np.ndarray
    told_apart: np.ndarray
    worst: float

    @property
    def num_rows(self) -> int:
        """Rows told apart."""
        return int(self.told_apart.sum())

    @property
    def share(self) -> float:
        """Share of the rows told apart."""
        return float(self.told_apart.mean())


@dataclass(frozen=True, kw_only=True)
class RowMeasures:
    """The rows of one network, and what the same makes of each oracle held against the others.

    Attributes:
        rows: the network's own test.
        share: the share of rows told apart, less the oracles' mean share.
        worst: the mean over the worst 5% of rows, less the oracles' mean.
    """

    rows: RowTest
    share: Measure
    worst: Measure


def benjamini_hochberg(p: np.ndarray, level: float) -> np.ndarray:
    """Say which hypotheses are rejected with an expected share of false ones among the rejected of at most `level`.

    References:
        Benjamini and Hochberg, "Controlling the False Discovery Rate", Journal of the Royal Statistical Society B, 1995.

    >>> benjamini_hochberg(np.array([0.5, 0.03, 0.02]), 0.05).tolist()
    [False, True, True]
    """
    order = np.argsort(p, kind="stable")
    small = np.flatnonzero(p[order] <= level * np.arange(1, len(p) + 1) / len(p))
    rejected = np.zeros(len(p), dtype=bool)
    if len(small):
        rejected[order[: small[-1] + 1]] = True
    return rejected


def row_test(
    own: np.ndarray, oracles: np.ndarray, *, alternative: Literal["two-sided", "greater"] = "two-sided"
) -> RowTest:
    """Hold each row's margin against the oracles' margins of that row.

    (own - mean) / (s sqrt(1 + 1/n)) with the spread s of `row_spreads`, which borrows from the other rows what few oracles
    cannot say about one, follows Student's t if the network is one more oracle.

    Args:
        own: `[rows]` margins of the network.
        oracles: `[models, rows]`, at least 2.
        alternative: "greater" asks only for rows of which the network is surer than oracles are.

    Raises:
        errors.BadRequest: fewer than 2 oracles, rows that do not match, or margins that are not finite.
    """
    return _row_test(own, oracles, alternative, np.ones(np.shape(own), dtype=bool))


def forget_rows(own: np.ndarray, oracles: np.ndarray, *, among: int = 1) -> RowMeasures:
    """Measure how many forget rows the network treats unlike oracles, in either direction, and how far off the worst are.

    Two-sided: a network that is surer of a row than oracles remembers it; one that is less sure has been marked by forgetting
    it, which tells as much.

    Args:
        own: `[rows]` margins of the unlearned network on the forget rows.
        oracles: `[models, rows]`, at least 3, since each is held against the others.
        among: how many measures the verdict rests on.

    Raises:
        errors.BadRequest: as `row_test`, or fewer than 3 oracles.
    """
    everywhere = np.zeros(np.shape(own))
    return _against_each(("forget_rows", "worst_forget_rows"), own, oracles, "two-sided", everywhere, among)


def retain_exposure(original: np.ndarray, own: np.ndarray, oracles: np.ndarray, *, among: int = 1) -> RowMeasures:
    """Measure how many retained rows unlearning has made easier to recognize as training rows.

    A row counts if the network is surer of it than oracles, which were trained on it too, and surer than the original was:
    one-sided, and with p = 1 where the margin did not grow. The worst rows are taken by their distance from oracles alone.

    References:
        Hayes et al., SaTML 2025: unlearning some rows raises the exposure of others.

    Args:
        original: `[rows]` margins of the network before unlearning, on retain rows.
        own: `[rows]` of the unlearned network.
        oracles: `[models, rows]`, at least 3.
        among: how many measures the verdict rests on.

    Raises:
        errors.BadRequest: as `forget_rows`.
    """
    original = np.asarray(original, np.float64)
    if original.shape != np.shape(own) or not np.isfinite(original).all():
        raise errors.BadRequest(
            f"original: expected finite margins of the network's rows, found shape {list(original.shape)} beside "
            f"{list(np.shape(own))}"
        )
    return _against_each(("retain_exposure", "worst_retain_rows"), own, oracles, "greater", original, among)


def before_and_after(
    original: tuple[np.ndarray, np.ndarray],
    own: tuple[np.ndarray, np.ndarray],
    oracles: tuple[np.ndarray, np.ndarray],
    *,
    among: int = 1,
) -> Measure:
    """Measure how well the forget rows are found by whoever holds the network of before and that of after.

    The score is the margin before less the margin after; the area under the curve of forget rows against rows that neither
    network was trained on. Even oracles give it away, since a row's margin falls where it is no longer trained on: the measure
    is how much more, or less, this network does.

    References:
        Chen et al., "When Machine Unlearning Jeopardizes Privacy", CCS 2021 (difference of posteriors; here of margins).

    Args:
        original: margins `[forget]` and `[others]` of the network before; the others of the forget rows' classes (`matched`).
        own: the same of the unlearned network.
        oracles: margins `[models, forget]` and `[models, others]`, at least 2.
        among: how many measures the verdict rests on.

    Raises:
        errors.BadRequest: shapes that do not fit, margins that are not finite, or fewer than 2 oracles.
    """
    forget, others = _sides(own, oracles)
    before = [np.asarray(part, np.float64) for part in original]
    if [part.shape for part in before] != [forget[0].shape, others[0].shape] or not all(map(_finite, before)):
        raise errors.BadRequest(
            "original: expected finite margins of the network's forget rows and others, found shapes "
            f"{[list(part.shape) for part in before]}"
        )
    found = [auc(before[0] - inside, before[1] - outside) for inside, outside in zip(forget, others, strict=True)]
    return against_oracles(
        "before_and_after",
        found[0],
        found[1:],
        resolution=1 / (before[0].size * before[1].size),
        among=among,
        limits=(0.0, 1.0),
        sentence="How much better than with an oracle the two networks together give the forget rows away (area under curve).",
    )


def retain_auc(
    own: tuple[np.ndarray, np.ndarray], oracles: tuple[np.ndarray, np.ndarray], *, among: int = 1
) -> Measure:
    """Measure the shift of how well retained rows are told from test rows by their margins (area under the curve).

    Args:
        own: margins `[retain]` and `[test]` of the unlearned network.
        oracles: margins `[models, retain]` and `[models, test]`, at least 2.
        among: how many measures the verdict rests on.

    Raises:
        errors.BadRequest: shapes that do not fit, margins that are not finite, or fewer than 2 oracles.
    """
    retain, test = _sides(own, oracles)
    found = [auc(inside, outside) for inside, outside in zip(retain, test, strict=True)]
    return against_oracles(
        "retain_auc",
        found[0],
        found[1:],
        resolution=1 / (retain.shape[1] * test.shape[1]),
        among=among,
        limits=(0.0, 1.0),
        sentence="How much easier than with an oracle retained rows are told from test rows (area under curve).",
    )


def matched(forget_labels: np.ndarray, candidate_labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draw candidates, each at most once, with the class mix of the forget rows.

    Where a class has fewer candidates than forget rows, all classes are drawn down in the same proportion (rounded down, but
    at least one), so that the mix stays and the number falls.

    Args:
        forget_labels: `[forget]`.
        candidate_labels: `[candidates]` of rows that no network was trained on.
        generator: draws.

    Returns:
        Positions among the candidates, rising.

    Raises:
        errors.BadRequest: no forget rows, or a class of theirs without a candidate.

    >>> matched(np.array([1, 1, 0]), np.array([0, 2, 1, 1]), np.random.default_rng(0)).tolist()
    [0, 2, 3]
    """
    classes, wanted = np.unique(forget_labels, return_counts=True)
    places = [np.flatnonzero(np.asarray(candidate_labels) == label) for label in classes]
    missing = [str(label) for label, found in zip(classes, places, strict=True) if len(found) == 0]
    if len(classes) == 0 or missing:
        raise errors.BadRequest(
            "candidates: expected at least one forget row and a candidate of every class of the forget rows, found none of "
            f"class {', '.join(missing) or '(no forget row)'}; give more rows that were never trained on"
        )
    # exact in integers: the scarcest class decides
    scarce = min(range(len(classes)), key=lambda place: len(places[place]) / wanted[place])
    have, need = min(len(places[scarce]), int(wanted[scarce])), int(wanted[scarce])
    drawn = [
        generator.choice(found, size=max(1, int(count) * have // need), replace=False)
        for found, count in zip(places, wanted, strict=True)
    ]
    return np.sort(np.concatenate(drawn))


def _row_test(own: np.ndarray, oracles: np.ndarray, alternative: str, possible: np.ndarray) -> RowTest:
    """Test the rows; those not `possible` have p = 1."""
    own, oracles = np.asarray(own, np.float64), np.asarray(oracles, np.float64)
    if own.ndim != 1 or oracles.shape[1:] != own.shape or not _finite(own):
        raise errors.BadRequest(
            f"own: expected finite margins [rows] beside oracles [models, rows], found shapes {list(own.shape)} and "
            f"{list(oracles.shape)}"
        )
    spread, freedom = row_spreads(oracles)
    t = (own - oracles.mean(axis=0)) / (spread * np.sqrt(1 + 1 / len(oracles)))
    # the tail on the far side keeps its digits; what underflows counts as the smallest number there is
    tail = np.maximum(stats.t.sf(np.abs(t), freedom), np.finfo(np.float64).tiny)
    scores = np.sign(t) * stats.norm.isf(tail)
    if alternative == "greater":
        p, out = np.where(t > 0, tail, 1 - tail), scores
    else:
        p, out = 2 * tail, np.abs(scores)
    p = np.where(possible, p, 1.0)
    count = max(1, round(WORST_FRACTION * len(own)))
    return RowTest(
        scores=scores, p=p, told_apart=benjamini_hochberg(p, LEVEL), worst=float(np.sort(out)[-count:].mean())
    )


def _against_each(
    names: tuple[str, str], own: np.ndarray, oracles: np.ndarray, alternative: str, original: np.ndarray, among: int
) -> RowMeasures:
    """Test the network against all oracles and each oracle against the others; `original` bars rows only one-sidedly."""
    own, oracles = np.asarray(own, np.float64), np.asarray(oracles, np.float64)
    if len(oracles) < 3:
        raise errors.BadRequest(
            f"oracles: expected at least 3, each to be held against two others or more, found {len(oracles)}"
        )
    one_sided = alternative == "greater"

    def test(network: np.ndarray, others: np.ndarray) -> RowTest:
        return _row_test(network, others, alternative, (network > original) | (not one_sided))

    rows = test(own, oracles)
    null = [test(oracles[one], np.delete(oracles, one, axis=0)) for one in range(len(oracles))]
    which = "retained rows surer than with an oracle or before" if one_sided else "forget rows unlike an oracle's"
    return RowMeasures(
        rows=rows,
        share=against_oracles(
            names[0],
            rows.share,
            [one.share for one in null],
            resolution=1 / len(own),
            among=among,
            limits=(0.0, 1.0),
            sentence=f"Share of {which} (5% false discoveries): {rows.num_rows} of {len(own)}.",
        ),
        worst=against_oracles(
            names[1],
            rows.worst,
            [one.worst for one in null],
            resolution=0.0,
            among=among,
            sentence=f"How far the worst 5% of rows stand out in standard deviations, among {which}.",
        ),
    )


def _sides(own: tuple[np.ndarray, np.ndarray], oracles: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Stack the network above the oracles, `[1 + models, rows]` for each of the two sets of rows."""
    network, others = ([np.asarray(part, np.float64) for part in side] for side in (own, oracles))
    fits = all(
        one.ndim == 1 and one.size and more.ndim == 2 and more.shape[1:] == one.shape
        for one, more in zip(network, others, strict=True)
    )
    if not fits or len(others[0]) != len(others[1]) or not all(map(_finite, [*network, *others])):
        raise errors.BadRequest(
            "expected finite margins [rows] of the network beside [models, rows] of the same oracles, for both sets of "
            f"rows, found {[list(part.shape) for part in network]} beside {[list(part.shape) for part in others]}"
        )
    inside, outside = (np.concatenate([one[None], more]) for one, more in zip(network, others, strict=True))
    return inside, outside


def _finite(values: np.ndarray) -> bool:
    return bool(np.isfinite(values).all())
