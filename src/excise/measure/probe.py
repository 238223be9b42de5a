"""What a network's features still tell: a linear probe on them, and how entangled forget and retain rows lie in them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from sklearn.linear_model import LogisticRegression

from excise import errors

MAX_ROWS = 2000
INVERSE_PENALTY = 1.0
"""C of the logistic regression: the penalty is half the squared norm of the weights beside the sum of losses over rows."""


def linear_probe(
    features: np.ndarray,
    targets: np.ndarray,
    judged: Mapping[str, tuple[np.ndarray, np.ndarray]],
    generator: np.random.Generator,
    *,
    max_rows: int = MAX_ROWS,
) -> dict[str, float]:
    """Give the accuracy of a new head, fitted to some rows' features, on other rows.

    Multinomial logistic regression on features brought to mean 0 and spread 1 by the rows that it is fitted to, with the
    penalty of `INVERSE_PENALTY`. A head that was spoilt or masked hides what the layers below it know; the probe does not go
    through it. Its null is the same probe on each oracle's own features (`against_oracles`), since features of a network
    that never saw the rows may well place them rightly.

    A class that no fitted row has can never be found: after removal of a whole class, fit to rows that hold it, such as
    holdout rows.

    Args:
        features: `[examples, dims]` of the rows to fit to, usually retain rows.
        targets: `[examples]`.
        judged: by name, features and targets of the rows to judge on, such as forget and test.
        generator: draws `max_rows` of the rows to fit to, where there are more.
        max_rows: as many are fitted to, at most.

    Returns:
        Accuracy by name, fractions.

    Raises:
        errors.BadRequest: features that are not finite, not of one width, or not one row a target; no rows to judge on;
            fitted rows of a single class.
    """
    width = features.shape[1] if features.ndim == 2 else -1
    for name, (values, classes) in {"the rows to fit to": (features, targets), **judged}.items():
        if (
            values.ndim != 2
            or values.shape != (len(classes), width)
            or not len(values)
            or not np.isfinite(values).all()
        ):
            raise errors.BadRequest(
                f"probe: expected finite features [examples, {max(width, 0)}] and a target a row, at least one, of {name}, "
                f"found {list(values.shape)} and {len(classes)} targets"
            )
    chosen = np.arange(len(features))
    if len(features) > max_rows:
        chosen = np.sort(generator.permutation(len(features))[:max_rows])
    fitted, classes = features[chosen], targets[chosen]
    if len(np.unique(classes)) < 2:
        raise errors.BadRequest("probe: expected rows of at least 2 classes to fit to, found 1; fit to more rows")
    centre, scale = fitted.mean(axis=0), fitted.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    head = LogisticRegression(C=INVERSE_PENALTY, max_iter=2000)
    head.fit((fitted - centre) / scale, classes)
    return {
        name: float((head.predict((values - centre) / scale) == wanted).mean())
        for name, (values, wanted) in judged.items()
    }


def entanglement(retain: np.ndarray, forget: np.ndarray) -> float:
    """Give ES, how entangled forget and retain rows lie in features: spread within the two over distance between them.

    ES = (mean |phi - mu_R|^2 + mean |phi - mu_S|^2) / ((|mu_R - mu|^2 + |mu_S - mu|^2) / 2), of the features of the
    **original** network. Larger is harder to forget.

    mu is the mean over all rows. Departs from the published code, which takes (mu_R + mu_S) / 2 for it, and unweighted means
    over batches: with far fewer forget than retain rows its denominator is half of this one. Means of finite samples never
    coincide: rows of one population do not give infinity, but about 4 / (1 / retain + 1 / forget) where one is far the
    smaller, and twice that where they are equally many.

    References:
        Zhao, Kurmanji, Bărbulescu, Triantafillou, Triantafillou, "What Makes Unlearning Hard and What to Do About It",
        NeurIPS 2024, arXiv:2406.01257.

    Args:
        retain: `[retain, dims]`, all of them.
        forget: `[forget, dims]`.

    Returns:
        At least 0; infinite where the means coincide.

    Raises:
        errors.BadRequest: no rows, features of different width, or not finite.
    """
    parts = {"retain": np.asarray(retain, dtype=np.float64), "forget": np.asarray(forget, dtype=np.float64)}
    widths = {values.shape[1:] for values in parts.values()}
    if len(widths) > 1 or any(v.ndim != 2 or not len(v) or not np.isfinite(v).all() for v in parts.values()):
        raise errors.BadRequest(
            "entanglement: expected finite features [examples, dims] of at least one retain and one forget row, found "
            f"{list(parts['retain'].shape)} and {list(parts['forget'].shape)}"
        )
    middle = np.concatenate(list(parts.values())).mean(axis=0)
    within = sum(float(((v - v.mean(axis=0)) ** 2).sum(axis=1).mean()) for v in parts.values())
    between = sum(float(((v.mean(axis=0) - middle) ** 2).sum()) for v in parts.values()) / 2
    return within / between if between > 0 else math.inf
