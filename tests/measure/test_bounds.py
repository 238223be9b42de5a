"""Twins: the root of the binomial tail by bisection, closed forms at the ends, and the exact chance of missing the rate."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from excise import errors
from excise.measure import clopper_pearson, lower_bound, upper_bound


def by_bisection(successes, trials, level):
    """The rate at which P[Bin <= successes] has fallen to 1 - level; the tail falls as the rate grows."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if stats.binom.cdf(successes, trials, middle) > 1 - level else (low, middle)
    return low


@given(st.data(), st.integers(1, 80), st.sampled_from([0.5, 0.9, 0.95, 0.975, 0.999]))
def test_bounds_are_the_roots_of_the_tails(data, trials, level):
    successes = data.draw(st.integers(0, trials))
    upper = 1.0 if successes == trials else by_bisection(successes, trials, level)
    lower = 0.0 if successes == 0 else 1 - by_bisection(trials - successes, trials, level)
    assert float(upper_bound(successes, trials, level=level)) == pytest.approx(upper, abs=1e-12)
    assert float(lower_bound(successes, trials, level=level)) == pytest.approx(lower, abs=1e-12)
    both = clopper_pearson(successes, trials, level=level)
    assert both == (
        lower_bound(successes, trials, level=(1 + level) / 2),
        upper_bound(successes, trials, level=(1 + level) / 2),
    )


def test_no_success_at_all_has_a_closed_form():
    trials = np.array([1, 8, 64, 512])
    found = [float(upper_bound(0, count)) for count in trials]
    np.testing.assert_allclose(found, 1 - 0.05 ** (1 / trials), rtol=1e-12)
    assert [float(upper_bound(count, count)) for count in trials] == [1.0] * 4
    assert [float(lower_bound(0, count)) for count in trials] == [0.0] * 4


@pytest.mark.parametrize("trials", [1, 7, 40])
def test_the_rate_is_missed_no_more_often_than_the_level_says_and_nearly_that_often(trials):
    counts = np.arange(trials + 1)
    below, above = lower_bound(counts, trials), upper_bound(counts, trials)
    low, high = clopper_pearson(counts, trials)
    missed = []
    for rate in np.linspace(0.001, 0.999, 333):
        chance = stats.binom.pmf(counts, trials, rate)
        missed.append([chance[rate < below].sum(), chance[rate > above].sum()])
        assert chance[(rate < low) | (rate > high)].sum() <= 0.05 + 1e-9
    assert np.max(missed) <= 0.05 + 1e-9
    assert np.min(np.max(missed, axis=0)) > 0.045  # sharp at some rate


def test_bounds_of_many_counts_keep_their_shape():
    counts = np.array([[0, 3], [5, 10]])
    assert upper_bound(counts, 10).shape == counts.shape
    assert upper_bound(counts, 10)[1, 0] == upper_bound(5, 10)


@pytest.mark.parametrize(
    ("successes", "trials", "level"), [(-1, 4, 0.9), (5, 4, 0.9), (0.5, 4, 0.9), (0, 0, 0.9), (1, 4, 0.0), (1, 4, 1.0)]
)
@pytest.mark.parametrize("bound", [lower_bound, upper_bound])
def test_counts_and_levels_out_of_range_are_refused(bound, successes, trials, level):
    with pytest.raises(errors.BadRequest, match="expected whole counts from 0 to the number of trials"):
        bound(successes, trials, level=level)
