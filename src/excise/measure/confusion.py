"""Corrective unlearning: two classes confused on purpose, a trigger planted; and what an oracle that kept them is worth.

Logits that are not finite are refused here rather than counted as wrong: a broken network confuses nothing, and must not
look corrected for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from excise import errors
from excise.measure.measures import Measure, against_oracles

POISONED_TOLERANCE = 0.05
"""How far above the clean rate an oracle's trigger success may lie: 5 points."""
ROUNDING = 1e-12


def confusion_counts(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Count rows by true class and by the class they are called, int64 `[classes, classes]`.

    Args:
        logits: `[examples, classes]`.
        targets: `[examples]`, the **true** classes: of a mislabelled row the one it should have.

    Raises:
        errors.BadRequest: logits that are not finite, or targets that are not classes of theirs.

    >>> confusion_counts(np.array([[2.0, 1.0], [3.0, 0.0], [0.0, 1.0]]), np.array([0, 1, 1])).tolist()
    [[1, 0], [1, 1]]
    """
    called, classes = _called("confusion", logits, targets), logits.shape[1]
    return np.bincount(targets * classes + called, minlength=classes * classes).reshape(classes, classes)


def interclass_confusion(logits: np.ndarray, targets: np.ndarray, pair: tuple[int, int]) -> float:
    """Give the share of rows of two classes that are called the other of the two: (C_ij + C_ji) over the rows of i and j.

    On the forget rows (whose labels had been exchanged between i and j) it says what of the manipulation is still there row
    by row; on clean test rows, what it did to others. Its null is the oracles' own confusion: some pairs are alike.

    Departs from the paper, which gives the count: a share compares sets of different size.

    References:
        Goel, Prabhu, Sanyal, Lim, Torr, Kumaraguru, "Towards Adversarial Evaluations for Inexact Machine Unlearning",
        arXiv:2201.06640.

    Args:
        logits: `[examples, classes]`.
        targets: `[examples]`, true classes.
        pair: i and j.

    Raises:
        errors.BadRequest: as `confusion_counts`; the pair is not of two different classes; no row of either.
    """
    table = confusion_counts(logits, targets)
    i, j = pair
    if i == j or not all(0 <= one < len(table) for one in pair):
        raise errors.BadRequest(f"pair: expected two different classes from 0 to {len(table) - 1}, found {pair}")
    rows = int(table[i].sum() + table[j].sum())
    if rows == 0:
        raise errors.BadRequest(f"interclass confusion: expected rows of class {i} or {j}, found none")
    return float((table[i, j] + table[j, i]) / rows)


def trigger_success(logits: np.ndarray, targets: np.ndarray, target_class: int) -> float:
    """Give the share of rows of other classes that are called the target class.

    On unseen rows with the trigger: the attack's success. On the same rows without it: the clean rate, what such a number is
    for a network that knows no trigger.

    References:
        Goel, Prabhu, Torr, Kumaraguru, Sanyal, "Corrective Machine Unlearning", TMLR 2024, arXiv:2402.14015.

    Args:
        logits: `[examples, classes]`.
        targets: `[examples]`, true classes; rows of the target class are left out.
        target_class: what the trigger stands for.

    Raises:
        errors.BadRequest: as `confusion_counts`; no such class, or no row of another class.
    """
    called = _called("trigger success", logits, targets)
    if not 0 <= target_class < logits.shape[1]:
        raise errors.BadRequest(f"target_class: expected a class from 0 to {logits.shape[1] - 1}, found {target_class}")
    others = targets != target_class
    if not others.any():
        raise errors.BadRequest(f"trigger success: expected rows of classes other than {target_class}, found none")
    return float((called[others] == target_class).mean())


def oracle_poisoned(
    triggered: Sequence[float], clean: Sequence[float], *, tolerance: float = POISONED_TOLERANCE
) -> bool:
    """Say whether retrained networks still obey the trigger: their mean success exceeds their clean rate by more than 5 points.

    They do when only part of the manipulated rows was known and left out. Then retraining is no standard for a correction.

    Args:
        triggered: `[oracles]`, each one's `trigger_success` on triggered rows.
        clean: `[oracles]`, the same on the rows without the trigger.
        tolerance: what is still no sign of it, a fraction.

    Raises:
        errors.BadRequest: none, not as many of one as of the other, or values that are no fractions.
    """
    table = [np.asarray(values, dtype=np.float64) for values in (triggered, clean)]
    if len(table[0]) != len(table[1]) or not len(table[0]) or not all(((v >= 0) & (v <= 1)).all() for v in table):
        raise errors.BadRequest(
            f"expected a trigger success and a clean rate, fractions, of each oracle, found {list(triggered)} and "
            f"{list(clean)}"
        )
    return bool(table[0].mean() - table[1].mean() > tolerance + ROUNDING)


def trigger_removal(
    own: float, triggered: Sequence[float], clean: Sequence[float], *, resolution: float, among: int = 1
) -> Measure:
    """Measure whether a trigger is gone, two-sided: against the oracles, or against the clean rate if they are poisoned.

    A success below the null is no better than one above it: a network that never says the target class is no clean one.

    Args:
        own: `trigger_success` on triggered rows of the network under test.
        triggered: the same of each oracle, at least 2.
        clean: of each oracle, the same on the rows without the trigger.
        resolution: one over the number of rows, as in `against_oracles`.
        among: as in `against_oracles`.
    """
    poisoned = oracle_poisoned(triggered, clean)
    success, rate = float(np.mean(triggered)), float(np.mean(clean))
    sentence = (
        f"The oracle itself is still poisoned: retrained networks obey the trigger on {success:.1%} of rows, and call "
        f"{rate:.1%} of them the target class without it. The comparison is with the latter."
        if poisoned
        else f"Retrained networks obey the trigger on {success:.1%} of rows, the clean rate being {rate:.1%}."
    )
    null = clean if poisoned else triggered
    return against_oracles(
        "trigger_success", own, null, resolution=resolution, among=among, limits=(0, 1), sentence=sentence
    )


def _called(what: str, logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    if logits.ndim != 2 or not np.isfinite(logits).all():
        raise errors.BadRequest(
            f"{what}: expected finite logits [examples, classes], found shape {list(logits.shape)}"
            f"{' with values that are not finite' if logits.ndim == 2 else ''}"
        )
    whole = targets.shape == logits.shape[:1] and np.issubdtype(targets.dtype, np.integer)
    if not whole or (len(targets) and not 0 <= targets.min() <= targets.max() < logits.shape[1]):
        raise errors.BadRequest(
            f"{what}: expected one class from 0 to {logits.shape[1] - 1} for each of {len(logits)} rows, found targets "
            f"{targets.dtype} {list(targets.shape)}"
        )
    return np.asarray(logits.argmax(axis=1))
