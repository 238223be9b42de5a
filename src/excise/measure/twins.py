"""Twins: for each forget row a row that was never trained on and looks like it; and how far the two kinds lie apart."""

from __future__ import annotations

import math

import numpy as np
from scipy.spatial.distance import cdist
from scipy.stats import wilcoxon

from excise import errors

REACH = 1.05
"""A row that is no twin yet is taken before a nearer one that is, if it is at most so many times as far as the nearest."""

_NEAREST = 16  # rows that are looked at for each
_CHUNK = 256


def twins(forget: np.ndarray, held_out: np.ndarray, *, reach: float = REACH) -> np.ndarray:
    """Give for each forget row the place of its twin among the held-out rows: one of the nearest in input space.

    Distance is Euclid's after each column (of images, `[rows, channels, ...]`: each channel) is divided by its standard
    deviation over all rows given; one that is constant is left out. Pairs are taken from the nearest up, as long as both
    are free and the distance is at most `reach` times that from the forget row to the nearest held-out row of all, among
    its 16 nearest. A forget row that is left without gets its nearest, which then is the twin of several: a look-alike
    used twice is a better twin than a row unlike it. Ties go to the lower forget row, then to the lower held-out row.

    Cost: all distances once, 256 forget rows at a time.

    Args:
        forget: `[forget, ...]` what the rows are compared by, such as the inputs.
        held_out: `[held out, ...]` of the same shape but for the number of rows.
        reach: at least 1, where the nearest row is taken whatever it is used for already; infinite to look no further than 16.

    Returns:
        int64 `[forget]`, places in `held_out`.

    Raises:
        errors.BadData: no rows, rows of different shapes, or values that are not finite.

    >>> twins(np.array([[0.0], [0.1], [5.0]]), np.array([[5.2], [0.0]])).tolist()
    [1, 1, 0]
    """
    scaled, others = _scaled(forget, held_out)
    nearest, away = _nearest(scaled, others)
    limit = reach * away[:, :1] if math.isfinite(reach) else np.inf  # infinity times 0 is no number
    rows, ranks = np.nonzero(away <= limit)
    places = nearest[rows, ranks]
    found = np.full(len(scaled), -1, dtype=np.int64)
    used = np.zeros(len(others), dtype=bool)
    for pair in np.lexsort((places, rows, away[rows, ranks])):
        row, place = rows[pair], places[pair]
        if found[row] < 0 and not used[place]:
            found[row], used[place] = place, True
    return np.where(found < 0, nearest[:, 0], found)


def _scaled(*arrays: np.ndarray) -> list[np.ndarray]:
    """Give float64 `[rows, columns]` of each array, every column or channel in units of its spread over all of them."""
    shapes = {array.shape[1:] for array in arrays}
    if len(shapes) > 1 or not all(len(array) and np.isfinite(array).all() for array in arrays):
        raise errors.BadData(
            "twins: expected finite numbers for at least one forget and one held-out row, in rows of one shape; found shapes "
            f"{' and '.join(str(list(array.shape)) for array in arrays)}"
        )
    every = np.concatenate([np.asarray(array, dtype=np.float64) for array in arrays])
    every = every.reshape(len(every), every.shape[1] if every.ndim > 1 else 1, -1)
    spread = every.std(axis=(0, 2) if arrays[0].ndim > 2 else 0, keepdims=True)
    flat = np.divide(every, spread, out=np.zeros_like(every), where=spread > 0).reshape(len(every), -1)
    return np.split(flat, np.cumsum([len(array) for array in arrays])[:-1])


def _nearest(rows: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give for each row the places of its nearest others, nearest first, ties by place, and how far they are."""
    kept = min(_NEAREST, len(others))
    places, away = [], []
    for start in range(0, len(rows), _CHUNK):
        distances = cdist(rows[start : start + _CHUNK], others)
        order = np.argsort(distances, axis=1, kind="stable")[:, :kept]
        places.append(order)
        away.append(np.take_along_axis(distances, order, axis=1))
    return np.concatenate(places), np.concatenate(away)


def neighbour_agreement(rows: np.ndarray, labels: np.ndarray) -> float:
    """Give the share of rows whose nearest other row has their label: whether rows that lie close are alike at all.

    Distance as in `twins`; of rows as near, the lowest counts. NaN for fewer than 2 rows.

    Args:
        rows: `[rows, ...]` held-out rows.
        labels: `[rows]`.
    """
    if len(rows) < 2:
        return math.nan
    places, _ = _nearest(*_scaled(rows, rows))
    own = np.arange(len(rows))
    first = np.where(places[:, 0] == own, places[:, 1], places[:, 0])
    return float((labels[first] == labels).mean())


def twin_distance(own: np.ndarray, others: np.ndarray) -> float:
    """Give how far the margins of forget rows lie from those of their twins, as distributions, in units of the twins' spread.

    The first Wasserstein distance of two samples of one size, which is the mean absolute difference of the sorted values,
    over the standard deviation of the twins' margins. Distributions, because no row's twin is so like it that their
    margins should be equal; the mean over rows of the forget rows' own labels decides what they are of. It does not change
    when all margins are multiplied by one number, so it cannot be made small by a network that is sure of nothing; and it
    does not see when one is.

    Args:
        own: `[forget]` margins of the forget rows.
        others: `[forget]` margins of their twins under the forget rows' labels.

    Returns:
        At least 0, in expectation about 1.8 / sqrt(rows) where both are draws of one normal distribution; infinite where the
        twins agree exactly and the forget rows do not agree with them, NaN where a margin is.
    """
    apart = float(np.abs(np.sort(own) - np.sort(others)).mean())
    spread = float(others.std(ddof=1)) if len(others) > 1 else 0.0
    if spread == 0:
        return math.inf if apart else 0.0
    return apart / spread


def below_twins(own: np.ndarray, others: np.ndarray, places: np.ndarray) -> tuple[float, float]:
    """Test whether forget rows' margins lie below their twins': forgotten harder than a row that was never seen.

    With `own` and `others` exchanged it tests whether they lie above: whether there is anything to forget.

    Forget rows that share a twin count as one, with their mean margin, so that each pair has a twin of its own.

    References:
        Wilcoxon, "Individual Comparisons by Ranking Methods", Biometrics Bulletin, 1945 (the signed-rank test, one-sided).

    Args:
        own: `[forget]` margins of the forget rows.
        others: `[forget]` margins of their twins.
        places: `[forget]` which row is the twin, from `twins`.

    Returns:
        p-value, and the share of pairs in which the forget row lies below (of those in which the two differ; 0.5 if none do).
    """
    _, which = np.unique(places, return_inverse=True)
    apart = np.bincount(which, weights=own - others) / np.bincount(which)
    apart = apart[apart != 0]
    if len(apart) == 0:
        return 1.0, 0.5
    return float(wilcoxon(apart, alternative="less").pvalue), float((apart < 0).mean())
