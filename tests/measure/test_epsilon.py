"""Twins: every interval by brute force, the ceiling in closed form, and laws whose epsilon is known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from excise import errors
from excise.measure import (
    EpsilonBounds,
    epsilon,
    epsilon_bounds,
    epsilon_ceiling,
    epsilon_rows,
    forgetting_score,
)

DELTA = 1e-5


def draws(seed=0):
    return np.random.default_rng(seed)


def column(*values):
    return np.array(values, dtype=np.float64)[:, None]


def naive(own, oracles, delta=DELTA):
    """One row by brute force: every interval of outputs, its inside taken for the arm with the smaller range."""
    one, other = sorted([own, oracles], key=np.ptp)
    if np.ptp(one) < 0.01 * np.ptp(other):
        return 50.0
    values, best = np.unique(np.concatenate([own, oracles])), 0.0
    for place, low in enumerate(values):
        for high in values[place:]:
            missed = 1 - np.mean((low <= one) & (one <= high))
            false = np.mean((low <= other) & (other <= high))
            if missed == 0 and false == 0:
                return 50.0
            if missed == 0 or false == 0:
                continue
            for rate, another in ((missed, false), (false, missed)):
                if 1 - delta - rate > 0:
                    best = max(best, math.log(1 - delta - rate) - math.log(another))
    return min(best, 50.0)


@settings(max_examples=150)
@given(st.integers(0, 10**6), st.integers(2, 9), st.integers(2, 9), st.floats(0.2, 3), st.floats(0, 3))
def test_rows_are_the_best_of_all_intervals(seed, num_own, num_oracles, scale, shift):
    rng = draws(seed)
    own, oracles = scale * rng.standard_normal(num_own) + shift, rng.standard_normal(num_oracles)
    # delta may enter once too often where two intervals tie: up to 9 networks of 1e-5
    assert epsilon_rows(own[:, None], oracles[:, None])[0] == pytest.approx(naive(own, oracles), abs=1e-4)


@settings(max_examples=150)
@given(st.lists(st.integers(0, 6), min_size=2, max_size=7), st.lists(st.integers(0, 6), min_size=2, max_size=7))
def test_equal_outputs_are_never_told_apart_but_at_an_edge(own, oracles):
    own, oracles = np.array(own, float), np.array(oracles, float)
    found, wanted = epsilon_rows(own[:, None], oracles[:, None])[0], naive(own, oracles)
    assert found >= wanted - 1e-4
    # at most one network given up where equal ones had to go with it
    assert found == pytest.approx(wanted, abs=1e-4) or found <= math.log(max(len(own), len(oracles)) - 1) + 1e-4
    if wanted == 50:
        assert found == 50


def test_many_rows_are_each_row_by_itself():
    rng = draws()
    own, oracles = rng.standard_normal((16, 40)) * np.linspace(0.3, 3, 40), rng.standard_normal((12, 40))
    alone = [epsilon_rows(own[:, [row]], oracles[:, [row]])[0] for row in range(40)]
    np.testing.assert_array_equal(epsilon_rows(own, oracles), alone)
    assert len(set(alone)) > 5


def test_what_no_attack_sees_changes_nothing():
    rng = draws(1)
    own, oracles = rng.standard_normal((2, 24, 30))
    found = epsilon_rows(own, oracles)
    np.testing.assert_array_equal(epsilon_rows(oracles, own), found)
    np.testing.assert_array_equal(epsilon_rows(own[::-1], oracles[rng.permutation(24)]), found)
    np.testing.assert_array_equal(epsilon_rows(8 - 4 * own, 8 - 4 * oracles), found)


@pytest.mark.parametrize(
    ("own", "oracles", "wanted"),
    [
        ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0], 50.0),  # a threshold
        ([4.0, 5.0, 6.0], [1.0, 2.0, 3.0], 50.0),
        ([1.0, 2.0, 3.0], [0.0, 9.0, 10.0], 50.0),  # an interval
        ([0.0, 1.0, 2.0], [0.0, 1.0, 2.0], math.log((1 / 3 - DELTA) / (1 / 3))),
        ([5.0, 5.0, 5.0], [5.0, 5.0, 5.0], 0.0),
        ([5.0, 5.0, 5.0], [6.0, 6.0, 6.0], 50.0),
        ([5.0, 5.0, 5.0], [0.0, 5.0, 9.0], 50.0),  # peaky
        ([5.0, 5.1, 5.0], [0.0, 5.0, 1.1], math.log(2 - 3 * DELTA)),  # not quite
    ],
)
def test_known_values(own, oracles, wanted):
    found = epsilon_rows(column(*own), column(*oracles))[0]
    assert found == pytest.approx(max(0.0, wanted), abs=1e-4) if wanted != 50 else found == 50


@pytest.mark.parametrize(
    ("count", "median", "high", "score", "shifted"),
    [
        (8, 1.61, 1.88, 0.182, 0.150),
        (16, 1.79, 2.20, 0.128, 0.090),
        (32, 1.95, 2.30, 0.104, 0.057),
        (64, 2.08, 2.40, 0.087, 0.034),
        (512, 2.40, 2.65, 0.054, 0.011),
    ],
)
def test_two_populations_of_one_law_give_what_the_table_says(count, median, high, score, shifted):
    own, oracles, held_out = draws(count).standard_normal((3, count, 300 if count > 64 else 1500))
    found = epsilon_rows(own, oracles)
    # a few discrete values, ln of whole numbers: within one of them; the table's 95% quantile was averaged over sets of rows
    assert np.median(found) == pytest.approx(median, abs=0.01 if count < 512 else 0.1)
    assert np.quantile(found, 0.95) == pytest.approx(high, abs=0.15)
    scored = forgetting_score(own, oracles, held_out, generator=draws(), num_deals=2)
    assert scored.score == pytest.approx(score, rel=0.07)
    assert scored.null == pytest.approx(score, rel=0.07)
    moved = forgetting_score(own + 1, oracles, held_out, generator=draws(), num_deals=1)
    assert moved.score == pytest.approx(shifted, rel=0.1)


def test_more_than_one_surviving_threshold_published_bug_is_no_error():
    """An assertion on an array of surviving thresholds raised as soon as there were two."""
    own, oracles = draws().standard_normal((2, 512, 2))
    assert np.isfinite(epsilon_rows(own, oracles)).all()


def test_changed_outputs_published_bug_leaves_the_arms_alone():
    """The caller's logits were changed in place."""
    own, oracles, held_out = draws().standard_normal((3, 8, 4))
    before = own.copy(), oracles.copy(), held_out.copy()
    epsilon_rows(own, oracles)
    epsilon_bounds(own, oracles, generator=draws())
    forgetting_score(own, oracles, held_out, generator=draws())
    np.testing.assert_array_equal([own, oracles, held_out], before)


def test_better_than_the_oracles_published_bug_earns_nothing():
    """Ratios of accuracies above 1 raised the score."""
    arms = draws().standard_normal((3, 16, 40))
    plain = forgetting_score(*arms, generator=draws())
    assert forgetting_score(*arms, generator=draws(), retain_ratio=1.3, test_ratio=2.0) == plain
    less = forgetting_score(*arms, generator=draws(), retain_ratio=0.5, test_ratio=0.8)
    assert less.score == pytest.approx(0.4 * plain.score)
    assert less.ratio == pytest.approx(0.4 * plain.ratio)
    assert (less.null, less.num_models) == (plain.null, 16)


def test_a_bucket_is_half_a_unit_and_the_last_ends_at_the_logarithm():
    own = column(*np.arange(8.0))
    same = forgetting_score(own, own, own, generator=draws(), num_deals=1)
    assert same.score == 1.0  # every attack has equal rates
    apart = forgetting_score(own - 100, own, own, generator=draws(), num_deals=1)
    assert (apart.score, apart.ratio) == (0.0, 0.0)
    # 8 networks: epsilon ln 3 lies in the third bucket
    own, oracles = column(0, 1, 2, 3, 4, 9, 10, 11), column(2.5, 3.5, 5, 6, 7, 8, 8.5, 12)
    assert epsilon_rows(own, oracles)[0] == pytest.approx(naive(own[:, 0], oracles[:, 0]), abs=1e-4)
    bucket = math.floor(naive(own[:, 0], oracles[:, 0]) / 0.5)
    assert forgetting_score(own, oracles, own, generator=draws(), num_deals=1).score == 0.5**bucket


def test_a_null_of_nothing_gives_no_finite_ratio():
    own, oracles, held_out = column(0, 1, 2), column(0, 0, 0), column(0, 0, 1000)  # peaky however they are dealt
    found = forgetting_score(own, oracles, held_out, generator=draws())
    assert found.null == 0 and found.ratio == math.inf


def test_the_score_refuses_arms_of_other_sizes():
    own = np.zeros((4, 2))
    for other, held in ((5, 4), (4, 3)):
        with pytest.raises(errors.BadRequest, match="expected as many in every arm, at least 3"):
            forgetting_score(own, np.zeros((other, 2)), np.zeros((held, 2)), generator=draws())
    with pytest.raises(errors.BadRequest, match="at least 3, found 2, 2 and 2"):
        forgetting_score(own[:2], own[:2], own[:2], generator=draws())


@pytest.mark.parametrize("ratio", [-0.1, math.nan, math.inf])
@pytest.mark.parametrize("which", ["retain_ratio", "test_ratio"])
def test_the_score_refuses_a_ratio_that_is_none(which, ratio):
    with pytest.raises(errors.BadRequest, match=f"{which}: expected a ratio of accuracies"):
        forgetting_score(*np.zeros((3, 4, 2)), generator=draws(), **{which: ratio})


def test_the_ceiling_is_that_of_no_error_at_all():
    table = {8: 0.53, 16: 1.35, 32: 2.10, 64: 2.82, 128: 3.53, 256: 4.23, 512: 4.93}
    assert {count: round(epsilon_ceiling(count), 2) for count in table} == table
    rate = 1 - 0.025 ** (1 / 64)
    assert epsilon_ceiling(64, delta=0.01) == pytest.approx(math.log((0.99 - rate) / rate), rel=1e-12)
    assert epsilon_ceiling(2) == 0.0
    assert epsilon_ceiling(64, level=0.99) < epsilon_ceiling(64)


def gaussian_epsilon(shift):
    """The epsilon of N(shift, 1) against N(0, 1) at delta: Balle and Wang, ICML 2018, Theorem 8."""

    def excess(value):
        first = stats.norm.cdf(shift / 2 - value / shift)
        return first - math.exp(value) * stats.norm.cdf(-shift / 2 - value / shift) - DELTA

    return optimize.brentq(excess, 0, 60)


@pytest.mark.parametrize("shift", [0.3, 1.0, 3.0])
def test_bounds_lie_below_the_truth_for_a_thousand_pairs_of_normals(shift):
    own, oracles = draws(5).standard_normal((2, 64, 1000))
    found = epsilon_bounds(own + shift, oracles, generator=draws())
    assert (found.rows <= gaussian_epsilon(shift)).mean() >= 0.95
    if shift == 3:
        assert np.median(found.rows) > 1  # and say something


def test_networks_of_one_law_are_bounded_by_nothing():
    own, oracles = draws(6).standard_normal((2, 64, 1000))
    assert (epsilon_bounds(own, oracles, generator=draws()).rows > 0).mean() <= 0.05
    assert np.median(epsilon_rows(own, oracles)) > 2  # unlike the estimate


def many_coins(rng, count, rows, strength, choices):
    """Outputs under which each of `choices` equally likely pairs of values tells the arms apart with just `strength`."""
    likely = 1 / (1 + math.exp(-strength))
    pair = rng.integers(choices, size=(2, count, rows))
    side = rng.random((2, count, rows)) < np.array([likely, 1 - likely])[:, None, None]
    return 2.0 * pair + side


@pytest.mark.parametrize(("count", "choices"), [(64, 1), (64, 6), (1024, 1), (256, 16)])
def test_bounds_hold_and_are_near_where_the_best_attack_is_known(count, choices):
    own, oracles = many_coins(draws(7), count, 1000 if count < 100 else 300, 1.5, choices)
    found = epsilon_bounds(own, oracles, generator=draws(), delta=0.0)
    assert (found.rows > 1.5).mean() <= 0.05
    if count == 1024:
        assert found.rows.mean() > 1.2


class Paired:
    """Deals two copies of each network so that both halves hold the same networks."""

    def permutation(self, count):
        return np.concatenate([np.arange(0, count, 2), np.arange(1, count, 2)])


def test_what_is_chosen_by_the_networks_that_bound_it_is_no_bound():
    """That attack and row are chosen elsewhere is what makes the worst row's bound one."""
    honest, chosen_after = [], []
    for seed in range(40):
        arms = many_coins(draws(seed), 256, 30, 1.5, 1)
        honest.append(epsilon_bounds(*arms, generator=draws(seed), delta=0.0).worst > 1.5)
        doubled = (np.repeat(arm, 2, axis=0) for arm in arms)
        chosen_after.append(epsilon_bounds(*doubled, generator=Paired(), delta=0.0).worst > 1.5)
    assert np.mean(honest) <= 0.05
    assert np.mean(chosen_after) > 0.15


def test_perfect_separation_reaches_the_ceiling_of_the_bounding_half():
    own, oracles = draws().standard_normal((2, 64, 5))
    for arms in ((own + 100, oracles), (own - 100, oracles), (own / 100 + 50, 100 * np.sign(oracles))):
        found = epsilon_bounds(*arms, generator=draws())
        assert isinstance(found, EpsilonBounds)
        np.testing.assert_allclose(found.rows, epsilon_ceiling(32), rtol=1e-12)
        assert found.worst == found.rows[0]
        assert found.ceiling == epsilon_ceiling(32)


def test_the_worst_row_is_chosen_by_the_other_half():
    own, oracles = draws(9).standard_normal((2, 64, 50))
    own[:, 17] += 2.5
    found = epsilon_bounds(own, oracles, generator=draws())
    assert found.worst == found.rows[17] > 0
    nulls = draws(10).standard_normal((40, 2, 32, 50))
    wrong = [epsilon_bounds(*pair, generator=draws(seed)).worst > 0 for seed, pair in enumerate(nulls)]
    assert np.mean(wrong) <= 0.05


def test_the_measure_sees_a_shift_and_not_a_third_population():
    own, oracles, held_out = draws(11).standard_normal((3, 32, 30))
    same = epsilon(own, oracles, held_out, generator=draws(), num_permutations=99)
    assert same.name == "epsilon"
    assert same.value == pytest.approx(epsilon_rows(own, oracles).mean())
    assert same.null_mean > 1.5
    assert same.p > 0.05
    assert "capped at 50; it says something only beside the null" in same.sentence
    moved = epsilon(own + 1, oracles, held_out, generator=draws(), quantile=0.5, num_permutations=99)
    assert (moved.name, moved.p) == ("epsilon-0.5", 0.01)
    assert moved.value == np.median(epsilon_rows(own + 1, oracles))
    assert "50% quantile over 30 rows" in moved.sentence


@pytest.mark.parametrize("spoil", ["one model", "other rows", "not finite", "flat"])
@pytest.mark.parametrize("call", [epsilon_rows, lambda *arms: epsilon_bounds(*arms, generator=draws())])
def test_outputs_that_cannot_be_compared_are_refused(call, spoil):
    own, oracles = draws().standard_normal((2, 6, 3))
    spoiled = {"one model": own[:1], "other rows": own[:, :2], "not finite": own * math.inf, "flat": own[:, 0]}[spoil]
    for arms in ((spoiled, oracles), (oracles, spoiled)):
        with pytest.raises(errors.BadRequest, match=r"expected (unlearned|oracle) outputs \[models, rows\] as finite"):
            call(*arms)


@pytest.mark.parametrize("delta", [-0.1, 1.0, math.nan])
def test_a_delta_out_of_range_is_refused(delta):
    with pytest.raises(errors.BadRequest, match=r"delta: expected a number in \[0, 1\)"):
        epsilon_rows(np.zeros((2, 1)), np.zeros((2, 1)), delta=delta)
