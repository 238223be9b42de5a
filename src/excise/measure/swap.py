"""SWAP: an attack whose advantage on networks retrained without the rows is zero, whatever the rows are like.

The same rows are asked about under two networks: one that was trained on F and forgot it, one that was trained on T and
forgot that. What merely makes F unlike T (mislabelled rows, harder rows) counts once for and once against the attacker.

References:
    Tu, Hu and Ma, "A Reliable Cryptographic Framework for Empirical Machine Unlearning Evaluation", NeurIPS 2025.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import stats

from excise import errors
from excise.measure.measures import CONFIDENCE, POWER, Measure
from excise.measure.roc import roc

Scores = Mapping[str, np.ndarray]
"""From the kind of score (margin, confidence, ...) to its values, in the same shape for all kinds."""


def swap_advantage(scores: Scores, *, generator: np.random.Generator) -> float:
    """Give the advantage of the best attack: one kind of score, one threshold, one direction.

    It is the mean over pairs and over both networks of a pair of Pr(attack says forgotten | row was forgotten) - Pr(attack
    says forgotten | row was never seen). The attack is the best on rows and, from two pairs on, networks that it is not
    judged on: the rows are dealt into two halves that calibrate each other, and each pair is judged by what was best on the
    other pairs. So with two pairs or more its expected value for retraining is exactly 0, since the networks of a pair are
    then exchangeable; with one pair the calibration has seen the networks, and the value is a little above 0.

    Departs from the paper in the calibration, and in the sign: without the absolute value, an attack that calibration
    pointed the wrong way is worth less than nothing, and noise does not add up to an advantage.

    Args:
        scores: of each kind `[pairs, 2, 2, rows]`: pair; the network trained on F and made to forget F, then the one
            trained on T and made to forget T; the rows F, then the rows T; as many rows in F as in T, at least 2.
        generator: deals the rows into halves.

    Returns:
        In [-1, 1].

    Raises:
        errors.BadRequest: no kind, shapes that do not fit, or numbers that are not finite.
    """
    _check_pairs(scores)
    return float(_contributions(scores, generator).mean())


def swap(
    own: Scores,
    oracles: Scores,
    *,
    generator: np.random.Generator,
    among: int = 1,
    num_permutations: int = 499,
    num_bootstraps: int = 500,
) -> Measure:
    """Measure the advantage against unlearned networks, beside that against pairs of oracles.

    If unlearning did what retraining does, the networks of `own` and the oracles, which saw neither F nor T, are
    exchangeable: all of them are dealt anew into pairs, and the share of deals that reach the value is an exact p-value
    (one-sided). The null's mean and its ends (5% and 95%) come from pairs dealt among the oracles. The interval is a bootstrap
    over pairs and rows with the attacks as they were chosen; of a single pair it can know the rows alone.

    Cost: `2 * num_permutations + 1` searches for the best attack, each sorting all scores about twice for each pair.

    Args:
        own: of each kind `[pairs, 2, 2, rows]`, as `swap_advantage`.
        oracles: of each kind `[models, 2, rows]`: the oracle; the rows F, then the rows T. At least two for each pair.
        generator: deals and resamples.
        among: how many measures the verdict rests on.
        num_permutations: deals.
        num_bootstraps: resamples.

    Raises:
        errors.BadRequest: as `swap_advantage`, or too few oracles or oracles of other kinds or rows.
    """
    num_pairs = _check_pairs(own)
    _check_oracles(own, oracles, 2 * num_pairs)
    found = _contributions(own, generator)
    value = float(found.mean())
    flat = {kind: values.reshape(2 * num_pairs, *values.shape[2:]) for kind, values in own.items()}
    pool = {kind: np.concatenate([flat[kind], oracles[kind]]) for kind in own}
    dealt = np.array([_dealt(pool, num_pairs, generator) for _ in range(num_permutations)])
    null = np.array([_dealt(oracles, num_pairs, generator) for _ in range(num_permutations)])
    again = np.array([_resampled(found, generator) for _ in range(num_bootstraps)])
    reach = float(stats.norm.ppf((1 + CONFIDENCE) / 2) * again.std(ddof=1))
    needed = stats.norm.ppf(1 - (1 - CONFIDENCE) / among) + stats.norm.ppf(POWER)
    return Measure(
        name="swap",
        value=value,
        low=value - reach,
        high=value + reach,
        null_mean=float(null.mean()),
        null_low=float(np.quantile(null, 1 - CONFIDENCE)),
        null_high=float(np.quantile(null, CONFIDENCE)),
        p=float((1 + (dealt >= value).sum()) / (1 + num_permutations)),
        num_models=len(next(iter(oracles.values()))),
        least_detectable=float(needed * null.std(ddof=1)),
        sentence="Advantage of the best attack on forgotten rows over rows never seen; 0 for networks retrained without them.",
    )


def _contributions(scores: Scores, generator: np.random.Generator) -> np.ndarray:
    """Give, `[pairs, 2 (F, T), rows]`, whether a row is called forgotten where it was less whether it is where it was not."""
    forgotten = {kind: np.stack([values[:, 0, 0], values[:, 1, 1]], axis=1) for kind, values in scores.items()}
    unseen = {kind: np.stack([values[:, 1, 0], values[:, 0, 1]], axis=1) for kind, values in scores.items()}
    num_pairs, _, num_rows = next(iter(forgotten.values())).shape
    order = generator.permutation(num_rows)
    halves = order[: num_rows // 2], order[num_rows // 2 :]
    found = np.empty((num_pairs, 2, num_rows))
    for judged, calibrating in (halves, halves[::-1]):
        for pair in range(num_pairs):
            others = np.arange(num_pairs) != pair if num_pairs > 1 else np.array([True])
            kind, threshold, sign = _best(
                {kind: values[others][:, :, calibrating].ravel() for kind, values in forgotten.items()},
                {kind: values[others][:, :, calibrating].ravel() for kind, values in unseen.items()},
            )
            here, there = (side[kind][pair][:, judged] >= threshold for side in (forgotten, unseen))
            found[pair][:, judged] = sign * (here.astype(np.float64) - there)
    return found


def _best(forgotten: Scores, unseen: Scores) -> tuple[str, float, float]:
    """Give the kind, the threshold and the direction of the attack that does best on these scores, the first of equals."""
    best, found = -1, ("", np.inf, 1.0)
    for kind, values in forgotten.items():
        curve = roc(values, unseen[kind])
        # whole rows, so that equal gains are equal
        gain = np.rint((curve.tpr - curve.fpr) * len(values)).astype(int)
        place = int(np.abs(gain).argmax())
        if abs(gain[place]) > best:
            best = abs(gain[place])
            found = (kind, _halfway(curve.thresholds, place), 1.0 if gain[place] >= 0 else -1.0)
    return found


def _halfway(thresholds: np.ndarray, place: int) -> float:
    """Give a threshold halfway down to the next score: as good here, and fairer to scores between the two."""
    here = float(thresholds[place])
    if np.isinf(here) or place + 1 == len(thresholds):
        return here
    below = float(thresholds[place + 1])
    middle = here / 2 + below / 2
    return middle if middle > below else here


def _dealt(networks: Scores, num_pairs: int, generator: np.random.Generator) -> float:
    count = len(next(iter(networks.values())))
    drawn = generator.permutation(count)[: 2 * num_pairs]
    pairs = {kind: values[drawn].reshape(num_pairs, 2, *values.shape[1:]) for kind, values in networks.items()}
    return float(_contributions(pairs, generator).mean())


def _resampled(found: np.ndarray, generator: np.random.Generator) -> float:
    num_pairs, _, num_rows = found.shape
    drawn = found[generator.integers(num_pairs, size=num_pairs)]
    return float(np.mean([drawn[:, side, generator.integers(num_rows, size=num_rows)].mean() for side in (0, 1)]))


def _check_pairs(scores: Scores) -> int:
    """Give the number of pairs."""
    shapes = {kind: list(np.shape(values)) for kind, values in scores.items()}
    first = next(iter(shapes.values()), [])
    fits = len(first) == 4 and first[0] > 0 and first[1:3] == [2, 2] and first[3] > 1
    if not fits or any(shape != first for shape in shapes.values()):
        raise errors.BadRequest(
            "scores: expected of each kind [pairs, 2 networks, 2 sides, rows] of at least one pair and 2 rows a side, "
            f"found {shapes}"
        )
    _check_numbers("scores", scores)
    return len(next(iter(scores.values())))


def _check_oracles(own: Scores, oracles: Scores, needed: int) -> None:
    shapes = {kind: list(np.shape(values)) for kind, values in oracles.items()}
    rows = list(next(iter(own.values())).shape[2:])
    counts = {shape[0] for shape in shapes.values() if shape}
    fits = oracles.keys() == own.keys() and all(shape[1:] == rows for shape in shapes.values())
    if not fits or len(counts) != 1 or min(counts) < needed:
        raise errors.BadRequest(
            f"oracles: expected [models, *{rows}] of at least {needed} models for each of {sorted(own)}, found {shapes}"
        )
    _check_numbers("oracles", oracles)


def _check_numbers(which: str, scores: Scores) -> None:
    broken = [kind for kind, values in scores.items() if not np.isfinite(values).all()]
    if broken:
        raise errors.BadRequest(
            f"{which}: expected finite numbers, found others in {', '.join(broken)}; leave out networks that give no finite "
            "output"
        )
