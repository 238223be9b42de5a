"""RMIA: a membership attack that needs one network trained without the rows, and gains little from more.

A row's confidence is divided by what networks that never saw it give, which takes part of its difficulty out; the row is
then ranked among rows of the population. The rest of its difficulty stays: the rows compared must be equally difficult for
the area to be 1/2 without membership, and the measure holds it against oracles either way.

References:
    Zarifzadeh, Liu and Shokri, "Low-Cost High-Power Membership Inference Attacks", ICML 2024 (offline form).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from excise import errors
from excise.measure.measures import Measure, against_oracles
from excise.measure.roc import auc

INTERPOLATION = 0.3
"""`a` of the paper's offline form, chosen there without knowledge of the target."""
GAMMA = 1.0


@dataclass(frozen=True, kw_only=True)
class Signals:
    """Confidences in the true label of three disjoint sets of rows, of one network `[rows]` or of several `[models, rows]`.

    Attributes:
        forget: rows to be forgotten: the members.
        non_members: rows that no network was trained on, of the forget rows' classes and label noise.
        population: further such rows, which the others are ranked among.
    """

    forget: np.ndarray
    non_members: np.ndarray
    population: np.ndarray

    def part(self, models: np.ndarray | int) -> Signals:
        """Give the signals of some of the networks."""
        return Signals(
            forget=self.forget[models], non_members=self.non_members[models], population=self.population[models]
        )


def rmia_scores(
    rows: np.ndarray,
    population: np.ndarray,
    reference_rows: np.ndarray,
    reference_population: np.ndarray,
    *,
    interpolation: float = INTERPOLATION,
    gamma: float = GAMMA,
) -> np.ndarray:
    """Give each row's share of population rows over which it is more than `gamma` times as likely under the target network.

    With f the target's confidence, P(x) = (1 + a)/2 mean_OUT(x) + (1 - a)/2 and ratio(x) = f(x) / P(x), the score of x
    is the share of z with ratio(x) / ratio(z) > gamma. Every reference is an OUT network of every row, because the caller says
    so: none is picked by the size of its signal, and a confidence of 0 counts as 0.

    Departs from the paper in the strict inequality, as its published code does: equal ratios are no evidence.

    Args:
        rows: `[rows]` confidences of the target network, in [0, 1].
        population: `[population]` confidences of the target network.
        reference_rows: `[models, rows]` confidences of networks trained on none of the rows, at least one.
        reference_population: `[models, population]` of the same networks, trained on none of these either.
        interpolation: `a`, in [0, 1).
        gamma: the factor, above 0.

    Returns:
        `[rows]` in [0, 1], larger where the row looks like a member.

    Raises:
        errors.BadRequest: shapes that do not fit, confidences outside [0, 1], or an option out of range.
    """
    if not 0 <= interpolation < 1 or gamma <= 0:
        raise errors.BadRequest(
            f"expected interpolation in [0, 1) and gamma above 0, found {interpolation} and {gamma}; "
            "at 1 a row that no reference believes has no ratio"
        )
    row_ratio = _ratio("rows", rows, reference_rows, interpolation)
    population_ratio = _ratio("population", population, reference_population, interpolation)
    if len(reference_rows) != len(reference_population):
        raise errors.BadRequest(
            f"references: expected the same networks for rows and population, found {len(reference_rows)} and "
            f"{len(reference_population)}"
        )
    below = np.searchsorted(np.sort(gamma * population_ratio), row_ratio, side="left")
    return np.asarray(below / len(population_ratio))


def rmia_auc(
    target: Signals, references: Signals, *, interpolation: float = INTERPOLATION, gamma: float = GAMMA
) -> float:
    """Give the area under the curve of forget rows against non-members, by `rmia_scores`.

    Args:
        target: `[rows]` signals of one network.
        references: `[models, rows]` signals of networks trained on none of the rows.
        interpolation: `a`.
        gamma: the factor.
    """
    forget, others = (
        rmia_scores(
            getattr(target, which),
            target.population,
            getattr(references, which),
            references.population,
            interpolation=interpolation,
            gamma=gamma,
        )
        for which in ("forget", "non_members")
    )
    return auc(forget, others)


def rmia(target: Signals, oracles: Signals, *, among: int = 1) -> Measure:
    """Measure by how much the attack on one unlearned network differs from the attack on each oracle in its place.

    The oracles are the references. In the null each is the target and the others are its references; these are one fewer
    than the network under test has, which makes the null a little wider, never narrower.

    Args:
        target: `[rows]` signals of the unlearned network.
        oracles: `[models, rows]` signals of the oracles, at least 3.
        among: how many measures the verdict rests on.

    Raises:
        errors.BadRequest: fewer than 3 oracles, or as `rmia_scores`.
    """
    counts = {field.name: len(getattr(oracles, field.name)) for field in fields(oracles)}
    count = counts["forget"]
    if count < 3 or len(set(counts.values())) > 1:
        raise errors.BadRequest(f"oracles: expected the same 3 or more networks for all rows, found {counts}")
    null = [rmia_auc(oracles.part(one), oracles.part(np.arange(count) != one)) for one in range(count)]
    return against_oracles(
        "rmia",
        rmia_auc(target, oracles),
        null,
        resolution=1 / (target.forget.size * target.non_members.size),
        among=among,
        limits=(0.0, 1.0),
        sentence="Area under the curve of forget rows against rows never trained on, each row beside what oracles give it.",
    )


def _ratio(which: str, own: np.ndarray, references: np.ndarray, interpolation: float) -> np.ndarray:
    own, references = np.asarray(own, np.float64), np.asarray(references, np.float64)
    fits = own.ndim == 1 and own.size and references.ndim == 2 and len(references) and references.shape[1:] == own.shape
    if not fits or not ((own >= 0) & (own <= 1)).all() or not ((references >= 0) & (references <= 1)).all():
        raise errors.BadRequest(
            f"{which}: expected confidences in [0, 1], [rows] of the target beside [models, rows] of at least one reference, "
            f"found shapes {list(own.shape)} and {list(references.shape)}"
        )
    believed = (1 + interpolation) / 2 * references.mean(axis=0) + (1 - interpolation) / 2
    return np.asarray(own / believed)
