"""Relearning time: how fast a network learns the forget rows again, between the original and one that knows nothing.

Suppressed is not erased: what a few steps bring back was still there. Too slow is a mark as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from excise import errors
from excise.measure.measures import Measure, against_oracles

ALPHA = 0.05
ROUNDING = 1e-12
"""A mean of equal accuracies may lie above each of them by rounding."""


class Relearning(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A network's relearning time beside the oracles', with both anchors.

    Attributes:
        measure: the gap in log steps; its exponential is `index`.
        level: the forget accuracy to be reached.
        index: the Anamnesis index, relearning time over the oracles'. About 1 is good, far below 1 hidden memory, far above 1
            too much forgetting.
        index_oracles: of each oracle over the others.
        index_original: of the original over the oracles: one step, and what one step comes to.
        index_untrained: of an untrained network over the oracles.
        oracle_steps: the oracles' geometric mean time; at 1 they need no relearning, and the index says nothing.
        utility: test accuracy at the start of `own`, `oracles` (mean), `original` and `untrained`. Times of networks of
            different utility are not times of the same thing.
        num_censored: runs that did not reach the level, by the same names; their times are at least what is counted.
    """

    measure: Measure
    level: float
    index: float
    index_oracles: tuple[float, ...]
    index_original: float
    index_untrained: float
    oracle_steps: float
    utility: dict[str, float]
    num_censored: dict[str, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Relearner:
    """One network made to learn the forget rows again.

    Attributes:
        accuracy: `[seeds, points]` forget accuracy, the first point before any step.
        utility: its test accuracy before any step, a fraction.
    """

    accuracy: np.ndarray
    utility: float


def relearning_times(curves: np.ndarray, level: float, *, every: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Give the steps after which each curve is first at a level or above it, and whether it ever is.

    Args:
        curves: `[seeds, points]` accuracies, the first point before any step.
        level: to be reached.
        every: steps from one point to the next.

    Returns:
        Steps, float64 `[seeds]`, the last point's where the level is not reached (censored there); and bool `[seeds]`.

    Raises:
        errors.BadRequest: no curves, of a single point, or not finite.

    >>> [values.tolist() for values in relearning_times(np.array([[0.0, 0.4, 0.9], [0.0, 0.1, 0.2]]), 0.5)]
    [[2.0, 2.0], [True, False]]
    """
    if curves.ndim != 2 or not len(curves) or curves.shape[1] < 2 or not np.isfinite(curves).all():
        raise errors.BadRequest(
            f"relearning: expected finite curves [seeds, points], 2 points or more, found shape {list(curves.shape)}; "
            "learn on for more steps"
        )
    there = curves >= level - ROUNDING
    reached = np.asarray(there.any(axis=1))
    return np.asarray(np.where(reached, there.argmax(axis=1), curves.shape[1] - 1) * float(every)), reached


def relearning(
    own: Relearner,
    oracles: Sequence[Relearner],
    *,
    original: Relearner,
    untrained: Relearner,
    every: int = 1,
    alpha: float = ALPHA,
    among: int = 1,
) -> Relearning:
    """Measure a network's relearning time against the oracles'.

    A network's time is the geometric mean over its seeds of the steps until its forget accuracy is (1 - alpha) times what
    the original's was; the index is the ratio of times (AIN). A network at the level from the start counts as one step, since
    a ratio with 0 says nothing. A run that does not get there counts as the last step: two that do not are equal, and the
    gap from one that does to one that does not is understated.

    Learn the forget rows themselves for sets of single rows, a hint of them for a class or a trigger: rows that share
    nothing reveal nothing of each other. At least 3 seeds.

    References:
        Chundawat, Tarun, Mandal, Kankanhalli, "Zero-Shot Machine Unlearning", IEEE TIFS 2023, arXiv:2201.05629 (one run, and
        minibatches until the accuracy is within alpha of the original's).

    Args:
        own: the network under test.
        oracles: at least 2, learnt by the same plan with the same seeds.
        original: the network before unlearning, which sets the level.
        untrained: a network of random weights.
        every: steps from one point to the next.
        alpha: how far below the original is near enough.
        among: as in `against_oracles`.

    Raises:
        errors.BadRequest: curves of different shape; an original that gets no forget row right; alpha
            that is no fraction below 1; or as `relearning_times`, `against_oracles`.
    """
    _require_alike([own, *oracles, original, untrained], every, alpha)
    level = float(original.accuracy[:, 0].mean()) * (1 - alpha)
    if level <= 0:
        raise errors.BadRequest(
            "relearning: expected an original that gets forget rows right, found a forget accuracy of 0; "
            "there is nothing to relearn"
        )
    value, others = _log_time(own, level, every), [_log_time(one, level, every) for one in oracles]
    mean = float(np.mean(others))
    typical = float(np.exp(mean))
    groups = {"own": [own], "oracles": list(oracles), "original": [original], "untrained": [untrained]}
    censored = {
        name: sum(int((~relearning_times(one.accuracy, level)[1]).sum()) for one in group)
        for name, group in groups.items()
    }
    utility = {name: float(np.mean([one.utility for one in group])) for name, group in groups.items()}
    measure = against_oracles(
        "relearning",
        value,
        others,
        resolution=float(np.log1p(every / typical) / len(own.accuracy)),  # one of the runs a point later
        among=among,
        sentence=_sentence(float(np.exp(value - mean)), typical, censored, utility),
    )
    held_out = [np.exp(one - np.mean([*others[:at], *others[at + 1 :]])) for at, one in enumerate(others)]
    return Relearning(
        measure=measure,
        level=level,
        index=float(np.exp(value - mean)),
        index_oracles=tuple(float(one) for one in held_out),
        index_original=float(np.exp(_log_time(original, level, every) - mean)),
        index_untrained=float(np.exp(_log_time(untrained, level, every) - mean)),
        oracle_steps=typical,
        utility=utility,
        num_censored=censored,
    )


def _log_time(network: Relearner, level: float, every: int) -> float:
    steps, _ = relearning_times(network.accuracy, level, every=every)
    return float(np.log(np.maximum(steps, 1.0)).mean())


def _sentence(index: float, oracle_steps: float, censored: dict[str, int], utility: dict[str, float]) -> str:
    if oracle_steps <= 1:
        return "The oracles know the forget rows well enough from the start: there is nothing to relearn."
    text = f"The forget rows are learnt again in {index:.2f} times the oracles' {oracle_steps:.0f} steps"
    if censored["own"] and censored["oracles"]:
        text += ", both counted up to the last step, which some runs of each did not get beyond"
    elif censored["own"] or censored["oracles"]:
        text += f", {'or more' if censored['own'] else 'or less'}: some runs did not reach the level"
    return (
        f"{text}. This one begins at a test accuracy of {utility['own']:.1%}, the oracles at {utility['oracles']:.1%}."
    )


def _require_alike(networks: Sequence[Relearner], every: int, alpha: float) -> None:
    if not 0 <= alpha < 1:
        raise errors.BadRequest(f"alpha: expected a fraction below 1, found {alpha}")
    if every < 1:
        raise errors.BadRequest(f"every: expected at least 1 step from point to point, found {every}")
    shapes = {network.accuracy.shape for network in networks}
    if len(shapes) > 1:
        raise errors.BadRequest(
            f"relearning: expected curves of one shape [seeds, points] of all networks, found {sorted(shapes)}; "
            "learn each by the same plan"
        )
