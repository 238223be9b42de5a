"""Twins: the null in closed form, its level by simulation, and the power of a normal mean."""

import math

import numpy as np
import pytest
from scipy import stats

from excise import errors
from excise.measure import canary_test, fresh_projections


def draws(seed=0):
    return np.random.default_rng(seed)


def judged(own, seed=0, **how):
    return canary_test(own, fresh_projections(own, draws(seed), num_draws=999), **how)


def test_fresh_noise_projects_to_standard_normals_on_any_gradient():
    rng = draws()
    directions = rng.standard_normal((8, 30))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    literally = (rng.standard_normal((4000, 8, 30)) * directions).sum(-1)
    found = fresh_projections(np.ones(8), draws(1), num_draws=4000)
    assert found.shape == literally.shape
    for drawn in (literally, found):
        assert stats.kstest(drawn.ravel(), "norm").pvalue > 0.001
        assert stats.kstest(drawn.mean(axis=1) * math.sqrt(8), "norm").pvalue > 0.001


def test_a_canary_without_a_gradient_is_silent_on_every_noise():
    own = np.array([0.0, 1.0, -2.0, 0.0])
    fresh = fresh_projections(own, draws())
    assert fresh.shape == (1999, 4)
    assert ((fresh != 0) == (own != 0)).all()
    assert "2 canaries have no gradient" in canary_test(own, fresh).sentence
    assert "no gradient" not in judged(own + 1e-9).sentence


def test_the_p_value_is_the_share_of_draws_at_least_as_far_from_zero():
    own, fresh = np.array([1.0, 0.5]), np.concatenate([np.zeros(995), [0.75, -0.75, 0.7, 3.0]])
    found = canary_test(own, fresh)
    assert found.p == 4 / 1000
    assert found.value == 0.75
    assert canary_test(-own, fresh) == found
    assert canary_test(own, np.stack([fresh + 1, fresh - 1], axis=1)) == found  # the means are those


def test_the_level_is_kept_where_the_noise_had_no_part():
    p = np.array([judged(draws(seed).standard_normal(60), seed=seed + 10**4).p for seed in range(400)])
    assert stats.kstest(p, "uniform").pvalue > 0.001
    assert stats.binom.cdf((p <= 0.05).sum(), 400, 0.05) < 0.999


def test_numbers_of_the_null_are_those_of_a_folded_normal():
    own = draws(1).standard_normal(64) + 1
    found = canary_test(own, fresh_projections(own, draws(2), num_draws=20000))
    scale = 1 / 8  # of a mean of 64
    assert found.null_mean == pytest.approx(scale * math.sqrt(2 / math.pi), rel=0.02)
    assert found.null_low == pytest.approx(scale * stats.halfnorm.ppf(0.05), rel=0.1)
    assert found.null_high == pytest.approx(scale * stats.halfnorm.ppf(0.95), rel=0.02)
    assert found.least_detectable == pytest.approx(scale * (1.96 + 0.8416), rel=0.02)
    reach = 1.96 * own.std(ddof=1) / 8
    assert (found.low, found.high) == pytest.approx((found.value - reach, found.value + reach), rel=1e-4)
    assert (found.name, found.num_models, found.p) == ("canaries", 0, 1 / 20001)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_shift_as_large_as_the_least_detectable_one_is_seen_four_times_in_five(sign):
    needed = judged(draws().standard_normal(40)).least_detectable
    seen = [judged(draws(seed).standard_normal(40) + sign * needed, seed=seed + 10**4).p <= 0.05 for seed in range(300)]
    assert 0.72 < np.mean(seen) < 0.88


def test_among_others_a_larger_shift_is_needed():
    own = draws().standard_normal(40)
    alone, together = judged(own), judged(own, among=5)
    ratio = (stats.norm.ppf(0.995) + 0.8416) / (1.96 + 0.8416)
    assert together.least_detectable == pytest.approx(ratio * alone.least_detectable, rel=1e-3)


def test_an_interval_ends_at_zero():
    assert judged(np.array([1.0, -1.0, 0.5])).low == 0.0


@pytest.mark.parametrize(
    ("own", "fresh"),
    [
        (np.ones(1), np.zeros((999, 1))),
        (np.ones((2, 2)), np.zeros((999, 2))),
        (np.ones(2), np.zeros((999, 3))),
        (np.ones(2), np.zeros((999, 2, 1))),
        (np.array([1.0, math.nan]), np.zeros(999)),
        (np.ones(2), np.full(999, math.inf)),
    ],
)
def test_projections_that_do_not_fit_are_refused(own, fresh):
    with pytest.raises(errors.BadRequest, match="expected finite projections of at least 2 canaries"):
        canary_test(own, fresh)


def test_too_few_draws_are_refused():
    with pytest.raises(errors.BadRequest, match="expected at least 999 fresh draws, found 998"):
        canary_test(np.ones(2), np.zeros(998))


def test_canaries_that_are_all_silent_are_refused_rather_than_passed():
    with pytest.raises(errors.BadRequest, match=r"every canary's projection is 0.*float64"):
        canary_test(np.zeros(3), np.zeros(999))
