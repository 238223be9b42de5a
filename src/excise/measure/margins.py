"""Margins: how sure a network is of each row's label; and how far its margins lie from those of oracles, row by row."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import logsumexp


def margins(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Give ln(p / (1 - p)) of the target's probability p: its logit minus the log-sum-exp of the others.

    References:
        Carlini et al., "Membership Inference Attacks From First Principles", S&P 2022, eq. 6 (stable form).

    Args:
        logits: `[examples, classes]`, at least two classes.
        targets: `[examples]`.

    Returns:
        float64 `[examples]`; not finite where the row's logits are not.
    """
    rows = np.arange(len(targets))
    others = np.array(logits, dtype=np.float64)
    own = others[rows, targets].copy()
    others[rows, targets] = -np.inf
    with np.errstate(invalid="ignore"):
        return np.asarray(own - logsumexp(others, axis=1))


def margin_distance(own: np.ndarray, oracles: Sequence[np.ndarray]) -> float:
    """Give the root mean square over rows of (own margin - the oracles' mean), in units of the rows' pooled spread.

    Row by row, so that easy rows cannot hide hard ones, nor rows that moved up make up for rows that moved down. Pooled
    spread, because a handful of oracles gives no trustworthy spread for one row. One more oracle among n gives about
    sqrt(1 + 1/n).

    Args:
        own: `[examples]` margins of the network under test.
        oracles: the same of each oracle, at least 2.

    Returns:
        At least 0; infinite where oracles agree exactly and the network does not.
    """
    stacked = np.stack(list(oracles))
    spread = float(np.sqrt(stacked.var(axis=0, ddof=1).mean()))
    away = float(np.sqrt(((own - stacked.mean(axis=0)) ** 2).mean()))
    if spread == 0:
        return math.inf if away else 0.0
    return away / spread
