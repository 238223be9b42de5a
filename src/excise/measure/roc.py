"""Receiver operating characteristics of membership scores: the curve, the area under it, and the rate at few false alarms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from excise import errors
from excise.measure.measures import CONFIDENCE


@dataclass(frozen=True, kw_only=True)
class Roc:
    """A curve from (0, 0) to (1, 1), one point for each threshold that a score can be.

    A row is called a member where its score is at least the threshold. Rows of equal score are called so together: a tie
    is one step of the curve, however many members and non-members share it.

    Attributes:
        thresholds: `[points]`, falling; the first, infinite, stands for calling no row a member.
        fpr: `[points]` share of non-members called members, rising.
        tpr: `[points]` share of members called members, rising.
    """

    thresholds: np.ndarray
    fpr: np.ndarray
    tpr: np.ndarray


def roc(members: np.ndarray, non_members: np.ndarray) -> Roc:
    """Give every pair of rates that a threshold on the score reaches.

    Args:
        members: `[members]` scores, larger where the row looks like a member.
        non_members: `[non_members]` scores.

    Raises:
        errors.BadRequest: an empty array, more than one axis, or NaN.
    """
    inside, outside = _scores(members, non_members)
    order, starts = np.unique(np.concatenate([inside, outside]), return_inverse=True)
    size = len(order)
    hits = np.bincount(starts[: len(inside)], minlength=size)[::-1].cumsum()
    alarms = np.bincount(starts[len(inside) :], minlength=size)[::-1].cumsum()
    return Roc(
        thresholds=np.concatenate([[np.inf], order[::-1]]),
        fpr=np.concatenate([[0], alarms]) / len(outside),
        tpr=np.concatenate([[0], hits]) / len(inside),
    )


def auc(members: np.ndarray, non_members: np.ndarray) -> float:
    """Give the chance that a member scores above a non-member, a tie counting half (Mann and Whitney).

    It equals the area under the `roc`. The two arrays and what is refused are `roc`'s.

    >>> auc(np.array([2.0, 3.0]), np.array([1.0, 2.0]))
    0.875
    """
    inside, outside = _scores(members, non_members)
    ranks = stats.rankdata(np.concatenate([inside, outside]))[: len(inside)]
    return float((ranks.mean() - (len(inside) + 1) / 2) / len(outside))


def auc_error(area: float, num_members: int, num_non_members: int) -> float:
    """Give the standard error of an area under the curve over draws of the rows.

    With the area 1/2 it is that of Mann and Whitney's statistic without ties: sqrt((m + n + 1) / (12 m n)).

    References:
        Hanley and McNeil, "The Meaning and Use of the Area under a ROC Curve", Radiology, 1982, eq. 1 and 2.

    Raises:
        errors.BadRequest: an area outside [0, 1], or no rows on a side.
    """
    if not 0 <= area <= 1 or min(num_members, num_non_members) < 1:
        raise errors.BadRequest(
            f"expected an area in [0, 1] and at least one row a side, found {area}, {num_members} and {num_non_members}"
        )
    members_above, non_members_below = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (num_members - 1) * (members_above - area**2)
    variance += (num_non_members - 1) * (non_members_below - area**2)
    return float(np.sqrt(variance / (num_members * num_non_members)))


def auc_band(num_members: int, num_non_members: int) -> tuple[float, float]:
    """Give the ends of the 95% band around 1/2 in which the area falls when the score says nothing.

    This is the spread over draws of the rows. It is no band for rows of unequal difficulty: there the null is what networks
    retrained without the rows give.

    >>> [round(end, 3) for end in auc_band(60, 60)]
    [0.396, 0.604]
    """
    reach = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * auc_error(0.5, num_members, num_non_members)
    return 0.5 - reach, 0.5 + reach


def tpr_at(members: np.ndarray, non_members: np.ndarray, fpr: float) -> float:
    """Give the share of members found at the most generous threshold whose share of false alarms is at most `fpr`.

    Never a point above the rate asked for: taking the point nearest to it, as some evaluations do, may report a rate that
    needs more false alarms than it says. Where many non-members tie, the rate reached may lie well below the one asked for.

    Args:
        members: `[members]` scores.
        non_members: `[non_members]` scores.
        fpr: the largest share of false alarms, in [1 / non_members, 1].

    Raises:
        errors.BadRequest: as `roc`; or a rate that this many non-members cannot show.
    """
    curve = roc(members, non_members)
    if not 1 / len(non_members) <= fpr <= 1:
        raise errors.BadRequest(
            f"expected a false alarm rate from 1/{len(non_members)} (one of the non-members) to 1, found {fpr}; "
            "use more non-members, or ask for a higher rate"
        )
    return float(curve.tpr[curve.fpr <= fpr][-1])


def _scores(members: np.ndarray, non_members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    parts = {"members": np.asarray(members, np.float64), "non_members": np.asarray(non_members, np.float64)}
    for which, values in parts.items():
        if values.ndim != 1 or len(values) == 0 or np.isnan(values).any():
            raise errors.BadRequest(
                f"{which}: expected one score for each of at least one row, none of them NaN, "
                f"found shape {list(values.shape)} with {int(np.isnan(values).sum())} NaN"
            )
    return parts["members"], parts["non_members"]
