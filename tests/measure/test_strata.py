"""Twins: Feldman's definition as loops, scipy's Spearman, and simulated networks with known memorisation."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from excise import errors
from excise.measure import (
    Stratum,
    accuracy,
    accuracy_by_class,
    by_stratum,
    halves_agreement,
    memorization,
    memorization_of_arms,
    rank_correlation,
    ranked_strata,
    threshold_strata,
)


def draws(seed=0):
    return np.random.default_rng(seed)


def simulated(known, num_models, generator):
    """Networks on random halves: right on 98% of the rows they saw, and less often, by what is memorised, on the others."""
    keep = generator.random((num_models, len(known))) < 0.5
    correct = generator.random(keep.shape) < np.where(keep, 0.98, 0.98 - known)
    return correct, keep


def naive_memorization(correct, keep):
    found = []
    for row in range(len(correct[0])):
        inside = [one[row] for one, kept in zip(correct, keep, strict=True) if kept[row]]
        outside = [one[row] for one, kept in zip(correct, keep, strict=True) if not kept[row]]
        found.append(float(Fraction(sum(inside), len(inside)) - Fraction(sum(outside), len(outside))))
    return found


def test_memorization_is_the_difference_of_rates_as_loops():
    correct, keep = simulated(draws().random(30) * 0.9, 16, draws(1))
    np.testing.assert_allclose(
        memorization(correct, keep), naive_memorization(correct.tolist(), keep.tolist()), atol=1e-15
    )


def test_memorization_of_known_networks():
    keep = np.array([[True, False], [False, True], [True, True], [False, False]])
    assert memorization(keep, keep).tolist() == [1, 1]  # right where seen
    assert memorization(~keep, keep).tolist() == [-1, -1]
    assert memorization(np.ones_like(keep), keep).tolist() == [0, 0]


def test_memorization_is_unbiased_with_the_spread_that_is_stated():
    known, models = np.full(4000, 0.5), 64
    found = memorization(*simulated(known, models, draws()))
    assert found.mean() == pytest.approx(0.5, abs=0.01)
    stated = math.sqrt((0.98 * 0.02 + 0.48 * 0.52) * 2 / models)
    # halves are binomial: on average a little more spread
    assert found.std() == pytest.approx(stated, rel=0.05)


def test_two_arms_are_the_same_difference():
    inside, outside = draws(0).random((5, 7)) < 0.9, draws(1).random((3, 7)) < 0.4
    keep = np.repeat([True, False], [5, 3])[:, None].repeat(7, axis=1)
    wanted = memorization(np.concatenate([inside, outside]), keep)
    np.testing.assert_allclose(memorization_of_arms(inside, outside), wanted, atol=1e-15)


@pytest.mark.parametrize(
    ("correct", "keep", "match"),
    [
        (np.ones((2, 3), bool), np.ones((2, 2), bool), "booleans"),
        (np.ones((2, 3)), np.ones((2, 3), bool), "expected booleans.*found float64"),
        (np.ones(3, bool), np.ones(3, bool), "booleans"),
        (
            np.ones((2, 2), bool),
            np.array([[True, True], [False, True]]),
            "1 rows in all or none of 2, the first at position 1",
        ),
    ],
)
def test_memorization_refuses_what_gives_none(correct, keep, match):
    with pytest.raises(errors.BadRequest, match=match):
        memorization(correct, keep)


@pytest.mark.parametrize("outside", [np.ones((2, 4), bool), np.ones((0, 3), bool), np.ones((2, 3)), np.ones(3, bool)])
def test_arms_over_other_rows_are_refused(outside):
    with pytest.raises(errors.BadRequest, match=r"booleans .* of two arms over the same rows"):
        memorization_of_arms(np.ones((2, 3), bool), outside)


@given(st.lists(st.integers(0, 12), min_size=1, max_size=40), st.integers(1, 5), st.randoms(use_true_random=False))
def test_ranked_strata_are_the_middle_ranks_share(values, num_strata, random):
    scores = np.array(values, dtype=float)
    found = ranked_strata(scores, num_strata)
    for value, stratum in zip(values, found.tolist(), strict=True):
        below, equal = sum(v < value for v in values), values.count(value)
        middle = Fraction(2 * below + equal, 2 * len(values))  # of the tied rows, in the order of all
        assert stratum == math.floor(middle * num_strata)
    order = list(range(len(values)))
    random.shuffle(order)
    assert ranked_strata(scores[order], num_strata).tolist() == found[order].tolist()


def test_strata_of_different_scores_are_of_equal_size_and_in_order():
    scores = draws().permutation(300).astype(float)
    found = ranked_strata(scores)
    assert np.bincount(found).tolist() == [100, 100, 100]
    assert (found == scores // 100).all()
    assert found.dtype == np.int64
    assert ranked_strata(np.zeros(5)).tolist() == [1] * 5  # nothing tells them apart


def test_thresholds_count_the_edges_reached():
    scores = draws(1).random(50).round(1)
    wanted = [sum(score >= edge for edge in (0.2, 0.5)) for score in scores.tolist()]
    assert threshold_strata(scores, [0.2, 0.5]).tolist() == wanted
    assert set(wanted) == {0, 1, 2}


@pytest.mark.parametrize("edges", [[], [0.5, 0.5], [0.5, 0.2], [0.1, math.nan]])
def test_edges_that_do_not_ascend_are_refused(edges):
    with pytest.raises(errors.BadRequest, match="edges: expected numbers that ascend"):
        threshold_strata(np.zeros(3), edges)


@pytest.mark.parametrize("scores", [np.zeros(0), np.array([math.nan]), np.zeros((2, 2))])
@pytest.mark.parametrize("deal", [ranked_strata, lambda scores: threshold_strata(scores, [0.5])])
def test_scores_that_have_no_order_are_refused(deal, scores):
    with pytest.raises(errors.BadRequest, match="strata: expected one finite score a row"):
        deal(scores)


def test_a_number_of_strata_below_one_is_refused():
    with pytest.raises(errors.BadRequest, match="num_strata: expected at least 1, found 0"):
        ranked_strata(np.ones(2), 0)


def test_each_stratum_is_summed_up():
    values, strata = draws().normal(size=60), draws(1).integers(3, size=60)
    found = by_stratum(values, strata)
    assert [one.name for one in found] == ["low", "mid", "high"]
    for number, one in enumerate(found):
        part = sorted(
            value for value, stratum in zip(values.tolist(), strata.tolist(), strict=True) if stratum == number
        )
        assert one.num_rows == len(part)
        assert one.mean == pytest.approx(math.fsum(part) / len(part))
        place = 0.05 * (len(part) - 1)  # linear between order statistics
        low = part[int(place)] + (place - int(place)) * (part[int(place) + 1] - part[int(place)])
        assert one.low == pytest.approx(low)
        assert one.low <= one.median <= one.high
        assert sum(value <= one.median for value in part) == sum(value >= one.median for value in part)
    assert sum(one.num_rows for one in found) == 60


def test_a_stratum_without_rows_is_left_out():
    assert by_stratum(np.array([1.0, 3.0]), np.array([2, 2])) == [
        Stratum(name="high", num_rows=2, mean=2.0, low=1.1, median=2.0, high=2.9)
    ]
    assert [one.name for one in by_stratum(np.ones(2), np.array([0, 3]), 4)] == ["0", "3"]
    assert by_stratum(np.zeros(0), np.zeros(0, dtype=int)) == []


@pytest.mark.parametrize(
    ("values", "strata", "match"),
    [
        (np.ones(2), np.zeros(3, dtype=int), "one finite value a row"),
        (np.array([math.nan]), np.zeros(1, dtype=int), "one finite value a row"),
        (np.ones(1), np.array([3]), "integers from 0 to 2"),
        (np.ones(1), np.array([-1]), "integers from 0 to 2"),
        (np.ones(1), np.array([0.0]), "integers from 0 to 2"),
    ],
)
def test_values_and_strata_that_do_not_match_are_refused(values, strata, match):
    with pytest.raises(errors.BadRequest, match=match):
        by_stratum(values, strata)


def test_the_low_stratum_is_the_negative_control():
    """A no-op keeps what was memorised: it shows at the high stratum, and nothing at the low one."""
    known = np.concatenate([np.zeros(100), np.full(100, 0.3), np.full(100, 0.9)])
    strata = ranked_strata(known)
    generator = draws(2)
    kept = (generator.random(300) < 0.98).astype(float)
    retrained = (generator.random(300) < 0.98 - known).astype(float)
    low, mid, high = (by_stratum(kept - retrained, strata)[place].mean for place in range(3))
    assert abs(low) < 0.1
    assert 0.1 < mid < 0.5
    assert high > 0.7


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=20))
def test_rank_correlation_is_scipys(pairs):
    one, other = (np.array(part, dtype=float) for part in zip(*pairs, strict=True))
    if len(set(one)) == 1 or len(set(other)) == 1:
        with pytest.raises(errors.BadRequest, match=r"neither of them all equal.*with all scores of one equal"):
            rank_correlation(one, other)
    else:
        assert rank_correlation(one, other) == pytest.approx(spearmanr(one, other).statistic, abs=1e-12)


def test_scores_of_other_rows_have_no_correlation():
    with pytest.raises(errors.BadRequest, match=r"two scores of the same rows.*found \[2\] and \[3\]"):
        rank_correlation(np.arange(2.0), np.arange(3.0))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_64_networks_order_rows_as_their_known_memorisation_does_above_the_low_stratum(seed):
    known = draws(seed).uniform(0, 0.98, 600)
    estimate = memorization(*simulated(known, 64, draws(seed + 10)))
    above = ranked_strata(known) > 0
    assert rank_correlation(estimate[above], known[above]) >= 0.9
    low = ranked_strata(known) == 0
    assert rank_correlation(estimate[low], known[low]) < rank_correlation(estimate[above], known[above])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_two_disjoint_sets_of_64_networks_agree_on_the_order(seed):
    known = draws(seed).uniform(0, 0.98, 600)
    correct, keep = simulated(known, 128, draws(seed + 10))
    assert halves_agreement(correct, keep, draws(20)) >= 0.9
    high = ranked_strata(known) == 2  # a third of the range and the same noise: less order to find
    few = halves_agreement(correct, keep, draws(20), among=high)
    many = halves_agreement(*simulated(known, 1024, draws(seed + 10)), draws(20), among=high)
    assert 0.5 < few < 0.9 <= many


def test_halves_are_dealt_by_the_generator_and_are_disjoint():
    correct, keep = simulated(draws().random(50), 41, draws(1))
    order = draws(3).permutation(41)
    parts = [memorization(correct[half], keep[half]) for half in (order[:21], order[21:])]
    assert halves_agreement(correct, keep, draws(3)) == pytest.approx(spearmanr(*parts).statistic)
    assert len({halves_agreement(correct, keep, draws(seed)) for seed in range(4)}) == 4


def test_rows_that_are_not_memorised_have_no_order_to_agree_on():
    correct, keep = simulated(np.full(800, 0.3), 128, draws())
    assert abs(halves_agreement(correct, keep, draws(1))) < 0.15


def test_accuracy_by_class_counts_rows_and_right_ones():
    logits, targets = draws().normal(size=(80, 4)), draws(1).integers(4, size=80)
    found = accuracy_by_class(logits, targets, 6)
    assert found.num_rows.tolist() == [int((targets == k).sum()) for k in range(6)]
    assert found.num_rows.sum() == 80
    assert found.accuracy == pytest.approx({k: accuracy(logits[targets == k], targets[targets == k]) for k in range(4)})
    assert found.num_right.sum() / 80 == pytest.approx(accuracy(logits, targets))


def test_a_row_that_is_not_finite_is_wrong_and_a_class_without_rows_has_no_accuracy():
    logits = np.array([[math.nan, 0.0], [math.inf, 0.0], [1.0, 0.0]])
    found = accuracy_by_class(logits, np.zeros(3, dtype=int), 2)
    assert found.accuracy == {0: 1 / 3}
    assert found.num_rows.tolist() == [3, 0]
    assert accuracy_by_class(np.zeros((0, 2)), np.zeros(0, dtype=int), 2).accuracy == {}


def test_a_target_that_is_no_class_is_refused():
    with pytest.raises(errors.BadRequest, match="targets: expected classes from 0 to 1, found 0 to 2"):
        accuracy_by_class(np.zeros((2, 3)), np.array([0, 2]), 2)
