"""Twins: every threshold by brute force, all pairs counted, sklearn, and the closed form of two normals."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve

from excise import errors
from excise.measure import auc, auc_band, auc_error, roc, tpr_at

TIED = st.lists(st.sampled_from([-math.inf, -1.0, 0.0, 0.5, 0.5, 2.0, math.inf]), min_size=1, max_size=9)


def draws(seed=0):
    return np.random.default_rng(seed)


def every_threshold(members, non_members):
    """Rates at each possible threshold, the highest first, after a threshold above everything."""
    points = [(0.0, 0.0)]
    for threshold in sorted({*members, *non_members}, reverse=True):
        called = [sum(score >= threshold for score in side) / len(side) for side in (non_members, members)]
        points.append(tuple(called))
    return points


def all_pairs(members, non_members):
    won = sum((one > other) + (one == other) / 2 for one in members for other in non_members)
    return won / (len(members) * len(non_members))


@given(TIED, TIED)
def test_the_curve_is_every_threshold_and_the_area_is_all_pairs(members, non_members):
    curve = roc(np.array(members), np.array(non_members))
    points = list(zip(curve.fpr.tolist(), curve.tpr.tolist(), strict=True))
    assert points == every_threshold(members, non_members)
    assert points[-1] == (1.0, 1.0)
    for threshold, fpr, tpr in zip(curve.thresholds[1:], curve.fpr[1:], curve.tpr[1:], strict=True):
        assert np.mean(np.array(non_members) >= threshold) == fpr
        assert np.mean(np.array(members) >= threshold) == tpr
    area = auc(np.array(members), np.array(non_members))
    assert area == pytest.approx(all_pairs(members, non_members), abs=1e-12)
    assert area == pytest.approx(np.sum(np.diff(curve.fpr) * (curve.tpr[1:] + curve.tpr[:-1]) / 2), abs=1e-12)


@given(TIED, TIED, st.floats(0.01, 1))
def test_the_rate_at_few_false_alarms_is_the_best_that_keeps_to_them(members, non_members, rate):
    allowed = [tpr for fpr, tpr in every_threshold(members, non_members) if fpr <= rate]
    if rate >= 1 / len(non_members):
        assert tpr_at(np.array(members), np.array(non_members), rate) == max(allowed)


def test_sklearn_draws_the_same_curve():
    generator = draws()
    members, non_members = generator.normal(0.4, 1, 70).round(1), generator.normal(0, 1, 90).round(1)
    labels, scores = np.repeat([1, 0], [70, 90]), np.concatenate([members, non_members])
    fpr, tpr, thresholds = roc_curve(labels, scores, drop_intermediate=False)
    curve = roc(members, non_members)
    np.testing.assert_allclose(curve.fpr, fpr, atol=1e-15)
    np.testing.assert_allclose(curve.tpr, tpr, atol=1e-15)
    np.testing.assert_array_equal(curve.thresholds, thresholds)
    assert auc(members, non_members) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


@pytest.mark.parametrize("distance", [0.0, 0.5, 1.0, -2.0])
def test_the_area_of_two_normals(distance):
    generator = draws(1)
    found = auc(generator.normal(distance, 1, 40000), generator.normal(0, 1, 40000))
    assert found == pytest.approx(stats.norm.cdf(distance / math.sqrt(2)), abs=0.008)  # 4 standard errors at 1/2


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
def test_the_rate_at_few_false_alarms_of_two_normals(rate):
    generator = draws(2)
    found = tpr_at(generator.normal(1, 1, 40000), generator.normal(0, 1, 40000), rate)
    wanted = stats.norm.cdf(1 + stats.norm.ppf(rate))
    assert found == pytest.approx(wanted, abs=0.015)  # of the threshold as well as the rows


@given(TIED, TIED)
def test_only_the_order_of_scores_matters_and_turned_round_they_give_the_rest(members, non_members):
    one, other = np.array(members), np.array(non_members)
    area = auc(one, other)
    assert auc(np.arctan(one), np.arctan(other)) == area
    assert auc(other, one) == pytest.approx(1 - area, abs=1e-12)
    assert auc(-one, -other) == pytest.approx(1 - area, abs=1e-12)
    assert auc(one[::-1], other[::-1]) == area
    assert auc(one, one) == 0.5


def test_a_tie_of_everything_is_one_step():
    curve = roc(np.zeros(5), np.zeros(7))
    assert (curve.fpr.tolist(), curve.tpr.tolist()) == ([0, 1], [0, 1])
    assert auc(np.zeros(5), np.zeros(7)) == 0.5
    assert tpr_at(np.zeros(5), np.zeros(7), 0.5) == 0.0


def test_tpr_at_published_bug_the_nearest_point_may_have_more_false_alarms():
    """RULI takes the point nearest to the rate; here that point needs three times the false alarms it claims."""
    non_members = np.concatenate([np.full(3, 5.0), np.linspace(0, 1, 197)])
    members = np.array([6.0, 5.0, 5.0, 5.0])
    curve = roc(members, non_members)
    nearest = int(np.abs(curve.fpr - 0.01).argmin())
    assert (curve.fpr[nearest], curve.tpr[nearest]) == (0.015, 1.0)
    assert tpr_at(members, non_members, 0.01) == 0.25


def test_a_rate_is_reached_where_the_share_is_exactly_it():
    non_members = np.arange(100.0)
    for count in range(1, 100):
        members = np.array([100.0 - count])  # beaten by count - 1, equal to one
        assert tpr_at(members, non_members, count / 100) == 1.0
        assert count == 1 or tpr_at(members, non_members, (count - 1) / 100) == 0.0


@pytest.mark.parametrize(("count", "reach"), [(30, 0.147), (60, 0.104), (100, 0.080), (300, 0.046), (1000, 0.025)])
def test_the_band_of_a_score_that_says_nothing(count, reach):
    low, high = auc_band(count, count)
    assert high - 0.5 == pytest.approx(reach, abs=6e-4)
    assert low + high == pytest.approx(1)


def test_the_band_holds_the_area_nineteen_times_in_twenty():
    generator = draws(3)
    low, high = auc_band(25, 40)
    inside = sum(low <= auc(*np.split(generator.normal(size=65), [25])) <= high for _ in range(4000))
    assert inside == pytest.approx(3800, abs=70)  # 5 standard deviations: the statistic is discrete


@pytest.mark.parametrize("area", [0.6, 0.8, 0.95])
def test_the_error_is_the_spread_over_rows_of_exponential_scores(area):
    generator = draws(4)
    rate = area / (1 - area)  # Pr(rate * X > Y) of two exponentials
    found = [auc(rate * generator.exponential(size=40), generator.exponential(size=60)) for _ in range(3000)]
    assert np.mean(found) == pytest.approx(area, abs=0.006)
    assert np.std(found) == pytest.approx(auc_error(area, 40, 60), rel=0.06)  # 4 standard errors of a spread


def test_the_error_without_ties_at_one_half_is_mann_and_whitneys():
    assert auc_error(0.5, 7, 11) == pytest.approx(math.sqrt(19 / (12 * 77)))
    assert auc_error(1.0, 7, 11) == 0.0


@pytest.mark.parametrize("function", [roc, auc, lambda one, other: tpr_at(one, other, 0.5)])
@pytest.mark.parametrize("broken", [[], [1.0, math.nan], [[1.0], [2.0]]])
def test_what_has_no_order_is_refused_by_name(function, broken):
    with pytest.raises(errors.BadRequest, match=r"^members: expected one score for each of at least one row"):
        function(np.array(broken), np.ones(3))
    with pytest.raises(errors.BadRequest, match=r"^non_members: expected one score"):
        function(np.ones(3), np.array(broken))


@pytest.mark.parametrize("rate", [0.0099, 0.0, -1.0, 1.01, math.nan])
def test_a_rate_that_so_few_non_members_cannot_show_is_refused(rate):
    with pytest.raises(errors.BadRequest, match=r"expected a false alarm rate from 1/100 .* use more non-members"):
        tpr_at(np.ones(5), np.zeros(100), rate)


@pytest.mark.parametrize(("area", "members", "others"), [(1.1, 3, 3), (-0.1, 3, 3), (0.5, 0, 3), (0.5, 3, 0)])
def test_no_error_without_rows_or_area(area, members, others):
    with pytest.raises(errors.BadRequest, match=r"expected an area in \[0, 1\] and at least one row a side"):
        auc_error(area, members, others)
