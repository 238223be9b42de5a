"""U-LiRA: can one tell, row by row, networks that unlearned the row from networks that never saw it?

A normal is fitted to each row's score in either arm. Whoever fits the normals to the very networks that are then judged is
told what to find: with two equal populations of 4 networks that gives an accuracy near 0.7 instead of 0.5. Here the networks of
each arm are dealt into two folds; what is fitted on one is judged on the other.

References:
    Hayes et al., "Inexact Unlearning Needs More Careful Evaluations to Avoid a False Sense of Privacy", SaTML 2025.
    Carlini et al., "Membership Inference Attacks From First Principles", S&P 2022 (normals of margins; pooled spread).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from excise import errors
from excise.measure.gaussians import row_spreads
from excise.measure.measures import Measure
from excise.measure.permutation import Statistic, against_held_out
from excise.measure.roc import auc, tpr_at

LEAST_MODELS = 4
"""Two in each fold of an arm: one network has no spread."""
WORST_FRACTION = 0.05


@dataclass(frozen=True, kw_only=True)
class RowAttack:
    """What the attack makes of two arms of networks.

    Attributes:
        accuracy: mean over rows of the balanced accuracy; 0.5 is what two equal populations give.
        auc: area under the curve of all (network, row) log odds.
        tpr: share of unlearned (network, row) pairs found at 1% false alarms; NaN where there are fewer than 100 pairs.
        per_row: `[rows]` balanced accuracy of each row.
        worst: mean accuracy over the 5% of rows most easily told apart. High by selection alone: hold it against its null.
    """

    accuracy: float
    auc: float
    tpr: float
    per_row: np.ndarray
    worst: float


def ulira_log_odds(own: np.ndarray, oracles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give ln(N(o; mu_in, s_in) / N(o; mu_out, s_out)) of every network and row, by normals fitted to the other fold.

    Given the normals, the judged networks of two equal populations follow the same law. So the balanced accuracy is 1/2 on
    average whatever was fitted, and the choice of the spread is free to serve the power: each arm has its own (a method whose
    outputs vary less than retraining's is told apart), drawn over the rows towards a common one (`row_spreads`), since 2 to
    16 networks a fold say little about the spread of a single row. Departs from the papers in this and in the folds.

    Args:
        own: `[models, rows]` margins of unlearned networks, at least 4; even places are one fold, odd ones the other.
        oracles: `[models, rows]` margins of networks that never saw the rows, at least 4.

    Returns:
        The log odds of both arms, in the arms' shapes; above 0 for "unlearned".

    Raises:
        errors.BadRequest: fewer than 4 models, rows that do not match, numbers that are not finite, or only zeros and ones.
    """
    own, oracles = _arms(own, oracles)
    own_odds, oracle_odds = np.empty_like(own), np.empty_like(oracles)
    for judged, fitted in ((0, 1), (1, 0)):
        inside, outside = _normal(own[fitted::2]), _normal(oracles[fitted::2])
        own_odds[judged::2] = _log_odds(own[judged::2], inside, outside)
        oracle_odds[judged::2] = _log_odds(oracles[judged::2], inside, outside)
    return own_odds, oracle_odds


def ulira_accuracy(own: np.ndarray, oracles: np.ndarray) -> float:
    """Give the mean over rows of the balanced accuracy of the attack; even odds count half. Arguments as `ulira_log_odds`."""
    return float(_per_row(*ulira_log_odds(own, oracles)).mean())


def ulira_worst(own: np.ndarray, oracles: np.ndarray) -> float:
    """Give the mean accuracy over the 5% of rows (at least one) that are told apart best. Arguments as `ulira_log_odds`."""
    return _worst(_per_row(*ulira_log_odds(own, oracles)))


def ulira_attack(own: np.ndarray, oracles: np.ndarray) -> RowAttack:
    """Give everything the attack finds in two arms. Arguments as `ulira_log_odds`."""
    own_odds, oracle_odds = ulira_log_odds(own, oracles)
    per_row = _per_row(own_odds, oracle_odds)
    inside, outside = own_odds.ravel(), oracle_odds.ravel()
    return RowAttack(
        accuracy=float(per_row.mean()),
        auc=auc(inside, outside),
        tpr=tpr_at(inside, outside, 0.01) if len(outside) >= 100 else float("nan"),
        per_row=per_row,
        worst=_worst(per_row),
    )


def ulira(
    own: np.ndarray, oracles: np.ndarray, held_out: np.ndarray, generator: np.random.Generator, *, among: int = 1
) -> Measure:
    """Measure how well the attack does, beside what it does on oracles that are in no other arm.

    Args:
        own: `[models, rows]` margins of unlearned networks on the forget rows.
        oracles: `[models, rows]` of the reference oracles.
        held_out: `[models, rows]` of further oracles; at least 4 in each arm.
        generator: deals the networks anew (`against_held_out`).
        among: how many measures the verdict rests on.
    """
    sentence = (
        "Share of (network, forget row) pairs that an attacker with shadow networks calls rightly; 0.5 is guessing."
    )
    return _measure("ulira", ulira_accuracy, own, oracles, held_out, generator, among, sentence)


def ulira_worst_rows(
    own: np.ndarray, oracles: np.ndarray, held_out: np.ndarray, generator: np.random.Generator, *, among: int = 1
) -> Measure:
    """Measure how well the attack does on the 5% of rows it finds easiest. Arguments as `ulira`."""
    sentence = "The same share on the 5% of forget rows that are told apart best; the null is chosen the same way."
    return _measure("ulira_worst_rows", ulira_worst, own, oracles, held_out, generator, among, sentence)


def ulira_rows(network: np.ndarray, own: np.ndarray, oracles: np.ndarray) -> np.ndarray:
    """Give each row's probability of having been in the forget set of one network, by normals of two shadow arms.

    Even prior odds. The network must be in neither arm: a network is always likelier under a normal fitted to itself.

    Args:
        network: `[rows]` margins of the network under attack.
        own: `[models, rows]` margins of shadow networks that unlearned the rows, at least 4.
        oracles: `[models, rows]` of shadow networks that never saw them, at least 4.

    Returns:
        `[rows]` in [0, 1].

    Raises:
        errors.BadRequest: as `ulira_log_odds`, or a network of other rows or without finite margins.
    """
    own, oracles = _arms(own, oracles)
    network = np.asarray(network, np.float64)
    if network.shape != own.shape[1:] or not np.isfinite(network).all():
        raise errors.BadRequest(
            f"network: expected finite margins of the arms' {own.shape[1]} rows, found shape {list(network.shape)}"
        )
    return np.asarray(expit(_log_odds(network[None], _normal(own), _normal(oracles))[0]))


def _measure(
    name: str,
    statistic: Statistic,
    own: np.ndarray,
    oracles: np.ndarray,
    held_out: np.ndarray,
    generator: np.random.Generator,
    among: int,
    sentence: str,
) -> Measure:
    _arms(own, oracles)
    _arms(held_out, oracles, first="held_out")
    return against_held_out(
        name, statistic, own, oracles, held_out, generator=generator, among=among, sentence=sentence
    )


def _arms(own: np.ndarray, oracles: np.ndarray, first: str = "own") -> tuple[np.ndarray, np.ndarray]:
    arms = {first: np.asarray(own, np.float64), "oracles": np.asarray(oracles, np.float64)}
    for which, arm in arms.items():
        if arm.ndim != 2 or len(arm) < LEAST_MODELS or not arm.size or not np.isfinite(arm).all():
            raise errors.BadRequest(
                f"{which}: expected finite margins [models, rows] of at least {LEAST_MODELS} models, found shape "
                f"{list(arm.shape)}; train more, and leave out networks that give no finite output"
            )
    one, other = arms.values()
    if one.shape[1] != other.shape[1]:
        raise errors.BadRequest(
            f"{first}: expected the same rows as the oracles', found {one.shape[1]} rows beside {other.shape[1]}"
        )
    if one.max() == other.max() == 1 and all(((arm == 0) | (arm == 1)).all() for arm in (one, other)):
        raise errors.BadRequest(
            f"{first} and oracles: expected margins, found only zeros and ones; correctness has no normal, use "
            "excise.measure.margins of the logits"
        )
    return one, other


def _normal(arm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return arm.mean(axis=0), row_spreads(arm)[0]


def _log_odds(
    scores: np.ndarray, inside: tuple[np.ndarray, np.ndarray], outside: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    far, near = ((scores - mean) / spread for mean, spread in (outside, inside))
    return np.asarray((far**2 - near**2) / 2 + np.log(outside[1] / inside[1]))


def _per_row(own_odds: np.ndarray, oracle_odds: np.ndarray) -> np.ndarray:
    """Give each row's balanced accuracy: the mean of both arms' shares, whatever their sizes."""
    return np.asarray((2 + np.sign(own_odds).mean(axis=0) - np.sign(oracle_odds).mean(axis=0)) / 4)


def _worst(per_row: np.ndarray) -> float:
    count = max(1, round(WORST_FRACTION * len(per_row)))
    return float(np.sort(per_row)[-count:].mean())
