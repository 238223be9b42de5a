"""Twins: the game written out as loops, every threshold tried; the zero of retraining and a leak by simulation."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from excise import errors
from excise.measure import swap, swap_advantage

KINDS = {"margin": lambda margins: margins, "confidence": lambda margins: 1 / (1 + np.exp(-margins))}


def draws(seed=0):
    return np.random.default_rng(seed)


def networks(generator, num_networks, num_rows, *, noise=1.0):
    """Margins `[networks, 2, rows]` of networks that saw neither F nor T. Half of F is mislabelled, none of T."""
    hardness = generator.normal(2, 2, (2, num_rows))
    hardness[0, : num_rows // 2] -= 6
    # of the network as a whole, and of each row
    return (
        hardness
        + generator.normal(0, 0.3, (num_networks, 1, 1))
        + noise * generator.normal(size=(num_networks, 2, num_rows))
    )


def pairs(generator, num_pairs, num_rows=60, leak=0.0, **options):
    """Pairs of networks; where they were trained on a row and forgot it, its margin keeps `leak`."""
    margins = networks(generator, 2 * num_pairs, num_rows, **options).reshape(num_pairs, 2, 2, num_rows)
    margins[:, [0, 1], [0, 1]] += leak
    return kinds(margins)


def kinds(margins):
    return {name: score(margins) for name, score in KINDS.items()}


def best_threshold(scores):
    """What a plain attack does: the best threshold between forgotten rows and rows never seen, under the first network."""
    forgotten, unseen = scores["margin"][0, 0]
    return stats.ks_2samp(forgotten, unseen).statistic


def by_loops(scores, order):
    """The game: for each pair and half of the rows, the best attack on the other pairs and the other half, played here."""
    num_pairs, _, _, num_rows = next(iter(scores.values())).shape
    halves = order[: num_rows // 2], order[num_rows // 2 :]
    total = 0.0
    for pair, (judged, calibrating) in itertools.product(range(num_pairs), (halves, halves[::-1])):
        others = [one for one in range(num_pairs) if one != pair] or [pair]
        attacks = [
            (name, threshold, sign)
            for name, values in scores.items()
            for threshold in between(values[others][..., calibrating].ravel())
            for sign in (1, -1)
        ]
        best = max(attacks, key=lambda attack: round(play(scores, attack, others, calibrating), 9))
        total += play(scores, best, [pair], judged) * len(judged) / num_rows
    return total / num_pairs


def between(values):
    """Above everything, then halfway between neighbours, the highest first."""
    steps = sorted(set(values), reverse=True)
    return [math.inf, *((one + other) / 2 for one, other in itertools.pairwise(steps))]


def play(scores, attack, pairs_, rows):
    """Mean over networks of Pr(A = 1 | forgotten) - Pr(A = 1 | never seen)."""
    name, threshold, sign = attack
    gains = []
    for pair, network in itertools.product(pairs_, (0, 1)):
        called = [[scores[name][pair, network, side, row] >= threshold for row in rows] for side in (0, 1)]
        gains.append(np.mean(called[network]) - np.mean(called[1 - network]))
    return sign * np.mean(gains)


class Fixed:
    """A generator whose permutation is known."""

    def __init__(self, order):
        self.order = order

    def permutation(self, count):
        assert count == len(self.order)
        return np.array(self.order)


@pytest.mark.parametrize("num_pairs", [1, 2, 3])
@pytest.mark.parametrize("leak", [0.0, 1.5, -2.0])
def test_the_advantage_is_the_game_played_in_loops(num_pairs, leak):
    generator = draws(num_pairs)
    margins = networks(generator, 2 * num_pairs, 9).reshape(num_pairs, 2, 2, 9)
    margins[:, [0, 1], [0, 1]] += leak
    scores = {"margin": margins, "other": generator.normal(size=margins.shape).round(1)}
    order = generator.permutation(9)
    assert swap_advantage(scores, generator=Fixed(order)) == pytest.approx(by_loops(scores, order), abs=1e-12)


def test_retraining_has_no_advantage_though_a_plain_attack_on_the_same_scores_does():
    """The failure that SWAP mends: mislabelled rows look forgotten, so that retraining looks worst of all."""
    plain, swapped = [], []
    for seed in range(100):
        scores = pairs(draws(seed), 4)
        plain.append(best_threshold(scores))
        swapped.append(swap_advantage(scores, generator=draws(seed)))
    assert min(plain) > 0.3
    assert np.quantile(swapped, 0.95) <= 0.05
    assert np.mean(swapped) == pytest.approx(0, abs=3 * np.std(swapped) / 10)


@pytest.mark.parametrize("leak", [2.0, -2.0])
def test_a_leak_is_seen_in_either_direction(leak):
    found = [swap_advantage(pairs(draws(seed), 4, leak=leak), generator=draws(seed)) for seed in range(100)]
    assert np.quantile(found, 0.05) >= 0.15


def test_a_perfect_leak_is_an_advantage_of_one_and_constant_scores_of_none():
    scores = pairs(draws(1), 2, leak=100.0)
    assert swap_advantage(scores, generator=draws()) == 1.0
    assert swap_advantage({"margin": np.ones((2, 2, 2, 8))}, generator=draws()) == 0.0


def test_one_leaking_kind_of_score_is_chosen_among_others():
    generator = draws(2)
    noise = generator.normal(size=(4, 2, 2, 60))
    leaking = pairs(generator, 4, leak=3.0)["margin"]
    alone = swap_advantage({"margin": leaking}, generator=draws())
    assert swap_advantage({"noise": noise, "margin": leaking}, generator=draws()) == alone
    assert alone > 0.2 > abs(swap_advantage({"noise": noise}, generator=draws()))


def test_monotone_kinds_and_the_order_of_rows_and_pairs_do_not_matter():
    scores = pairs(draws(3), 3, leak=1.0)
    value = swap_advantage(scores, generator=Fixed(np.arange(60)))
    assert swap_advantage({"margin": scores["margin"]}, generator=Fixed(np.arange(60))) == value
    assert swap_advantage({"line": 3 * scores["margin"] - 5}, generator=Fixed(np.arange(60))) == value
    turned = {name: values[::-1] for name, values in scores.items()}
    assert swap_advantage(turned, generator=Fixed(np.arange(60))) == pytest.approx(value)
    swapped = {name: values[:, ::-1, ::-1] for name, values in scores.items()}  # F called T, and T called F
    assert swap_advantage(swapped, generator=Fixed(np.arange(60))) == pytest.approx(value)


def test_the_measure_passes_oracles_and_fails_networks_that_remember():
    generator = draws(4)
    margins = networks(generator, 24, 60)
    oracles = kinds(margins[:16])
    own = margins[16:].reshape(4, 2, 2, 60)
    clean = swap(kinds(own), oracles, generator=draws(), num_permutations=99)
    assert (clean.name, clean.num_models) == ("swap", 16)
    assert clean.p > 0.05
    assert clean.null_low < 0 < clean.null_high < 0.06
    assert clean.null_mean == pytest.approx(0, abs=0.01)
    own[:, [0, 1], [0, 1]] += 2.0
    leaky = swap(kinds(own), oracles, generator=draws(), num_permutations=99)
    assert leaky.value == swap_advantage(kinds(own), generator=draws())
    assert leaky.value > leaky.null_high + leaky.least_detectable / 2
    assert leaky.p == 0.01
    assert clean.null_high < leaky.low < leaky.value < leaky.high


def test_oracles_are_rejected_about_as_often_as_the_level_says():
    rejected = 0
    for seed in range(80):
        margins = networks(draws(seed), 12, 20)
        own, oracles = {"margin": margins[:4].reshape(2, 2, 2, 20)}, {"margin": margins[4:]}
        rejected += swap(own, oracles, generator=draws(seed), num_permutations=19, num_bootstraps=2).p <= 0.05
    assert 1 <= rejected <= 10  # 4 expected; binomial 0.1% above


def test_the_interval_is_the_spread_over_pairs_and_rows():
    """With an attack that is the same for every half and pair, the value is a mean of independent numbers."""
    generator = draws(5)
    called = generator.uniform(size=(40, 2, 2, 50)) < np.array([[0.9, 0.2], [0.2, 0.9]])[:, :, None]
    found = swap(
        {"called": called.astype(float)},
        {"called": generator.uniform(size=(80, 2, 50)).round()},
        generator=draws(),
        num_permutations=2,
        num_bootstraps=1000,
    )
    assert found.value == pytest.approx(0.7, abs=0.04)
    # 4,000 differences of two coins; resampling pairs and rows at once counts their own noise thrice
    spread = math.sqrt((0.09 + 0.16) / 4000)
    assert 1.96 * spread < found.high - found.value < 1.96 * spread * 2
    assert found.high - found.value == pytest.approx(found.value - found.low)


def test_inputs_are_left_alone():
    scores = pairs(draws(6), 2)
    before = {name: values.copy() for name, values in scores.items()}
    swap_advantage(scores, generator=draws())
    for name, values in scores.items():
        np.testing.assert_array_equal(values, before[name])


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"margin": np.ones((2, 2, 60))},
        {"margin": np.ones((0, 2, 2, 9))},
        {"margin": np.ones((1, 3, 2, 9))},
        {"margin": np.ones((1, 2, 2, 1))},
        {"margin": np.ones((1, 2, 2, 9)), "confidence": np.ones((1, 2, 2, 8))},
    ],
)
def test_scores_of_another_shape_are_refused(broken):
    with pytest.raises(errors.BadRequest, match=r"scores: expected of each kind \[pairs, 2 networks, 2 sides, rows\]"):
        swap_advantage(broken, generator=draws())


def test_numbers_that_are_not_finite_are_refused_by_kind():
    good, broken = np.ones((1, 2, 2, 9)), np.full((1, 2, 2, 9), math.nan)
    with pytest.raises(errors.BadRequest, match=r"scores: expected finite numbers, found others in confidence;"):
        swap_advantage({"margin": good, "confidence": broken}, generator=draws())
    with pytest.raises(errors.BadRequest, match=r"oracles: expected finite numbers, found others in margin;"):
        swap({"margin": good}, {"margin": np.full((4, 2, 9), math.inf)}, generator=draws())


@pytest.mark.parametrize(
    "oracles",
    [
        {"margin": np.ones((3, 2, 9))},
        {"margin": np.ones((4, 2, 8))},
        {"other": np.ones((4, 2, 9))},
        {"margin": np.float64(1.0)},
    ],
)
def test_oracles_that_do_not_fit_or_are_too_few_are_refused(oracles):
    with pytest.raises(errors.BadRequest, match=r"oracles: expected \[models, \*\[2, 9\]\] of at least 4 models"):
        swap({"margin": np.ones((2, 2, 2, 9))}, oracles, generator=draws())
