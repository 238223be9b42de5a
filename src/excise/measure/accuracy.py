"""Accuracy: the share of rows classified as labelled."""

from __future__ import annotations

import numpy as np


def accuracy(logits: np.ndarray, targets: np.ndarray) -> float:
    """Give the share of rows whose highest logit is the target's, in [0, 1].

    A row with a logit that is not finite is wrong. Equal highest logits count for the lowest class, as `argmax` does.

    Args:
        logits: `[examples, classes]`.
        targets: `[examples]`.

    >>> accuracy(np.array([[2.0, 1.0], [0.0, 1.0]]), np.array([0, 0]))
    0.5
    """
    sound = np.isfinite(logits).all(axis=1)
    return float((sound & (np.where(np.isfinite(logits), logits, -np.inf).argmax(axis=1) == targets)).mean())
