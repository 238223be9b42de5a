"""Membership attacks on score arrays. A score is larger where the row looks like a member."""

from __future__ import annotations

import numpy as np
from scipy.special import log_softmax, ndtr
from sklearn.svm import SVC

from excise import errors

MOST_FITTED = 2000
"""Rows of each kind that the confidence attack is fitted to, at most: its cost grows with their square."""


def confidences(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Give the softmax probability of each row's target, `[examples]` in [0, 1]; NaN where logits leave it undefined."""
    with np.errstate(invalid="ignore"):
        surprise = log_softmax(np.asarray(logits, dtype=np.float64), axis=1)
    return np.asarray(np.exp(surprise[np.arange(len(targets)), targets]))


def entropies(logits: np.ndarray) -> np.ndarray:
    """Give the entropy of each row's softmax in nats, `[examples]` in [0, ln(classes)]; NaN where logits leave it undefined.

    Small where the row looks like a member: its negative is a membership score.
    """
    with np.errstate(invalid="ignore"):
        surprise = log_softmax(np.asarray(logits, dtype=np.float64), axis=1)
        parts = np.where(surprise == -np.inf, 0.0, np.exp(surprise) * surprise)
    return np.asarray(0.0 - parts.sum(axis=1))


def modified_entropy(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Give -(1 - p_y) ln p_y - sum over the other classes k of p_k ln(1 - p_k), of each row for itself.

    An entropy that knows the label: 0 where all the probability is on the target, growing without bound as it moves to one
    wrong class. Small where the row looks like a member: its negative is a membership score.

    ln(1 - p_k) is taken from the other classes' logits, so that it keeps its digits where p_k is next to 1.

    References:
        Song and Mittal, "Systematic Evaluation of Privacy Risks of Machine Learning Models", USENIX Security 2021, eq. 8.

    Args:
        logits: `[examples, classes]`, at least two classes.
        targets: `[examples]`.

    Returns:
        float64 `[examples]`, at least 0; NaN where the logits leave it undefined.
    """
    values = np.asarray(logits, dtype=np.float64)
    rows = np.arange(len(targets))
    none = np.full((len(values), 1), -np.inf)
    with np.errstate(invalid="ignore"):
        surprise = log_softmax(values, axis=1)
        below = np.logaddexp.accumulate(np.hstack([none, values[:, :-1]]), axis=1)
        above = np.logaddexp.accumulate(np.hstack([none, values[:, :0:-1]]), axis=1)[:, ::-1]
        without = -np.logaddexp(0.0, values - np.logaddexp(below, above))
        parts = np.where(surprise == -np.inf, 0.0, np.exp(surprise) * without)
        parts[rows, targets] = np.where(
            without[rows, targets] == -np.inf, 0.0, np.exp(without[rows, targets]) * surprise[rows, targets]
        )
    return np.where(np.isnan(surprise).any(axis=1), np.nan, 0.0 - parts.sum(axis=1))


def above_unseen(own: np.ndarray, unseen: np.ndarray) -> np.ndarray:
    """Give Phi((s - mu) / sd) of each row's score s, mu and sd being those of the same row in networks that never saw it.

    One-sided likelihood ratio without networks that did see the row ("offline LiRA"). Near 1 where the row looks like a member
    beside them; uniform where the network is one more of them, a half where it scores as they do on average. Unlike
    published code no row needs a spread: where all agree it is a half for the same score, and else 0 or 1.

    References:
        Carlini et al., "Membership Inference Attacks From First Principles", S&P 2022, eq. 4; on the log-odds of
        `margins`, later code of DUCK (arXiv:2312.02052) takes it, and the area under its curve for the attack.

    Args:
        own: `[examples]` scores of the network under test, such as its `margins`.
        unseen: `[models, examples]`, the same of networks trained without the rows, at least 2.

    Returns:
        float64 `[examples]` in [0, 1].

    Raises:
        errors.BadRequest: fewer than 2 networks, or other rows.
    """
    table = np.asarray(unseen, dtype=np.float64)
    if table.ndim != 2 or len(table) < 2 or table.shape[1:] != np.shape(own):
        raise errors.BadRequest(
            f"unseen: expected scores [models, examples] of at least 2 networks for {np.shape(own)} rows, found shape "
            f"{table.shape}"
        )
    away, spread = np.asarray(own, dtype=np.float64) - table.mean(axis=0), table.std(axis=0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(ndtr(np.where(away == 0, 0.0, away / spread)))


def confidence_attack(
    members: np.ndarray, non_members: np.ndarray, forget: np.ndarray, generator: np.random.Generator
) -> float:
    """Give the share of forget rows that an attacker takes for rows never trained on: the "MIA efficacy" of SalUn and DEL.

    A support vector classifier (radial basis, C = 3, gamma = 1/features) learns to tell members from non-members by the
    confidence in the true label alone. Members are drawn down to the number of non-members, or the reverse, so that the
    classifier starts even, and both to at most `MOST_FITTED`.

    **This is a population attack.** Its perfect value is whatever it gives for networks retrained without the rows, not 1; it
    can even rank networks the wrong way round (a mislabelled row looks like a non-member to begin with). It is reported
    because the papers report it, always beside the oracles' own value, and decides nothing by itself.

    References:
        Fan et al., "SalUn", ICLR 2024 (SVC on confidence); Torkzadehmahani et al., TMLR 2025 use the same.

    Args:
        members: `[retain]` confidences of rows trained on.
        non_members: `[test]` confidences of rows never seen.
        forget: `[forget]` confidences of the rows to be forgotten.
        generator: draws the subset.

    Returns:
        A fraction in [0, 1].

    Raises:
        errors.BadRequest: an empty array, or values that are not finite.
    """
    for name, values in (("members", members), ("non_members", non_members), ("forget", forget)):
        if len(values) == 0 or not np.isfinite(values).all():
            raise errors.BadRequest(f"{name}: expected finite confidences of at least one row")
    count = min(len(members), len(non_members), MOST_FITTED)
    inside = generator.permutation(members)[:count]
    outside = generator.permutation(non_members)[:count]
    # random_state changes nothing in the result; without it, fit draws from numpy's global generator
    classifier = SVC(C=3.0, kernel="rbf", gamma="auto", random_state=0)
    classifier.fit(np.concatenate([inside, outside])[:, None], np.repeat([1, 0], count))
    return float((classifier.predict(forget[:, None]) == 0).mean())
