"""Histograms of losses on one shared logarithmic axis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FLOOR = 1e-6
"""Losses below this are counted in the first bin: float32 softmax cannot tell them from 0."""


def log_edges(losses: Sequence[np.ndarray], num_bins: int = 24) -> np.ndarray:
    """Give `num_bins + 1` bin edges, evenly spaced in the logarithm, that hold every finite loss of all arrays."""
    values = np.clip(np.concatenate([part[np.isfinite(part)] for part in losses]), FLOOR, None)
    low, high = (float(values.min()), float(values.max())) if len(values) else (FLOOR, 1.0)
    return np.geomspace(low, max(high, low * 1.01) * (1 + 1e-9), num_bins + 1)


def counts(losses: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Count the losses in each bin, the last edge inclusive; losses beyond either end, or not finite, go to the end bins.

    Every loss is counted once: the counts add up to the number of rows.
    """
    kept = np.clip(np.where(np.isnan(losses), np.inf, losses), edges[0], edges[-1])
    return np.histogram(kept, bins=edges)[0]
