"""Twins: Smyth's equations solved by bisection, and draws from the very model they assume."""

import math

import numpy as np
import pytest
from scipy import optimize, special, stats

from excise import errors
from excise.measure import row_spreads


def draws(seed=0):
    return np.random.default_rng(seed)


def by_moments(table):
    """Smyth 2004, section 6.2, with the trigamma function inverted by bisection."""
    own = len(table) - 1
    variances = [float(np.var(column, ddof=1)) for column in table.T]
    logs = [math.log(v) - special.digamma(own / 2) + math.log(own / 2) for v in variances]
    mean = sum(logs) / len(logs)
    excess = sum((one - mean) ** 2 for one in logs) / (len(logs) - 1) - special.polygamma(1, own / 2)
    if excess <= 0:
        return [math.sqrt(sum(variances) / len(variances))] * len(variances), own * len(variances)
    half = optimize.brentq(lambda y: special.polygamma(1, y) - excess, 1e-6, 1e9, xtol=1e-12, rtol=1e-12)
    weight, scale = 2 * half, math.exp(mean + special.digamma(half) - math.log(half))
    drawn = [math.sqrt((weight * scale + own * v) / (weight + own)) for v in variances]
    return drawn, min(weight + own, own * len(variances))


@pytest.mark.parametrize("num_models", [2, 3, 8, 32])
@pytest.mark.parametrize("unequal", [0.0, 0.1, 0.6, 2.0])
def test_spreads_solve_the_papers_equations(num_models, unequal):
    for seed in range(3):
        generator = draws(seed)
        table = generator.normal(5, 1, (num_models, 40)) * np.exp(unequal * generator.normal(size=40))
        spread, freedom = row_spreads(table)
        wanted, wanted_freedom = by_moments(table)
        np.testing.assert_allclose(spread, wanted, rtol=1e-6)  # of the two searches for the root
        assert freedom == pytest.approx(wanted_freedom, rel=1e-5)


def test_equal_rows_share_one_spread_and_unequal_rows_keep_their_own():
    generator = draws(1)
    equal = generator.normal(0, 2, (4, 500))
    spread, freedom = row_spreads(equal)
    assert spread == pytest.approx(2, rel=0.1)
    assert np.ptp(spread) < 0.6
    assert freedom > 20
    scales = np.geomspace(0.01, 100, 500)
    spread, freedom = row_spreads(generator.normal(0, scales, (32, 500)))
    assert np.abs(np.log(spread / scales)).max() < 0.6  # 31 degrees of freedom each: 0.13 a standard deviation
    assert 31 < freedom < 33


def test_one_more_draw_follows_students_t_with_the_freedom_given():
    """Variances from the scaled inverse chi-squared that the model assumes: the p-values are uniform."""
    generator = draws(2)
    tails = []
    for _ in range(40):
        scales = np.sqrt(6 * 1.5**2 / generator.chisquare(6, 200))
        table = generator.normal(0, scales, (6, 200))
        spread, freedom = row_spreads(table[:5])
        tails.append(2 * stats.t.sf(np.abs(table[5] - table[:5].mean(axis=0)) / spread / math.sqrt(1.2), freedom))
    tails = np.concatenate(tails)
    assert (tails < 0.05).mean() == pytest.approx(0.05, abs=0.01)  # 4 standard errors of 8,000
    assert (tails < 0.001).mean() == pytest.approx(0.001, abs=0.0015)


def test_the_unit_and_the_origin_carry_over():
    table = draws(3).normal(0, 1, (5, 30)) * np.linspace(0.5, 4, 30)
    spread, freedom = row_spreads(table)
    moved, again = row_spreads(1e3 * table - 70)
    np.testing.assert_allclose(moved, 1e3 * spread, rtol=1e-9)
    assert again == pytest.approx(freedom)


@pytest.mark.parametrize("value", [0.0, -3.7, 1e38])
def test_no_spread_is_a_floor_between_rounding_and_any_real_spread(value):
    spread, freedom = row_spreads(np.full((7, 3), value))
    assert (spread > abs(value) * 1e-12).all()
    assert (spread < max(abs(value), 1) * 1e-6).all()
    assert freedom >= 6


def test_some_rows_without_spread_stay_finite():
    table = draws(4).normal(0, 1, (8, 20))
    table[:, :15] = 2.0
    spread, freedom = row_spreads(table)
    assert np.isfinite(spread).all()
    assert (spread[:15] < 0.01).all()
    assert (spread[15:] > 0.1).all()
    assert 7 <= freedom < 14


def test_a_single_row_has_its_own_spread():
    table = draws(5).normal(0, 1, (6, 1))
    spread, freedom = row_spreads(table)
    assert (spread[0], freedom) == (pytest.approx(table.std(ddof=1)), 5)


@pytest.mark.parametrize(
    "broken", [np.ones((1, 3)), np.ones((3, 0)), np.ones(4), np.array([[1.0, 2.0], [math.nan, 1.0]])]
)
def test_what_has_no_spread_is_refused(broken):
    with pytest.raises(errors.BadRequest, match=r"scores: expected finite \[models, rows\] of at least 2 models"):
        row_spreads(broken)
