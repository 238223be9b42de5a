"""Twins: every deal by enumeration on tiny arms, the level by simulation, the interval by the closed form of a mean."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from excise import errors
from excise.measure import against_held_out


def apart(own, oracles):
    return float(abs(own.mean() - oracles.mean()))


def draws(seed=0):
    return np.random.default_rng(seed)


def arms(seed, shift=0.0, num_models=12, num_rows=3):
    rng = draws(seed)
    own, oracles, held_out = rng.standard_normal((3, num_models, num_rows))
    return own + shift, oracles, held_out


def test_the_p_value_is_the_share_of_all_deals_that_reach_the_value():
    own, oracles, held_out = arms(1, shift=0.8, num_models=4, num_rows=1)
    pool = np.concatenate([own, held_out])
    every = [apart(pool[list(chosen)], oracles) for chosen in itertools.combinations(range(8), 4)]
    exact = np.mean([one >= apart(own, oracles) - 1e-12 for one in every])
    found = against_held_out("m", apart, own, oracles, held_out, generator=draws(), num_permutations=4000)
    assert found.p == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 4000) + 1e-3)
    assert found.value == apart(own, oracles)


def test_the_null_is_that_of_two_halves_of_the_oracles():
    own, oracles, held_out = arms(2, num_models=3, num_rows=1)
    pool = np.concatenate([oracles, held_out])
    every = [
        apart(pool[list(chosen)], pool[[i for i in range(6) if i not in chosen]])
        for chosen in itertools.combinations(range(6), 3)
    ]
    found = against_held_out("m", apart, own, oracles, held_out, generator=draws(), num_permutations=4000)
    assert found.null_mean == pytest.approx(np.mean(every), abs=4 * np.std(every) / math.sqrt(4000))
    slack = 1e-9  # the halves are summed in another order
    assert min(every) - slack <= found.null_low <= found.null_mean <= found.null_high <= max(every) + slack
    assert found.num_models == 3


def test_one_more_population_of_oracles_is_rejected_as_often_as_the_level_says():
    found = [
        against_held_out("m", apart, *arms(seed), generator=draws(seed), num_permutations=99, num_bootstraps=2)
        for seed in range(300)
    ]
    rejected = sum(one.p <= 0.05 for one in found)
    assert stats.binom.cdf(rejected, 300, 0.05) < 0.999  # exact, so never often
    assert rejected > 3  # and not by never rejecting


def test_a_shift_as_large_as_the_least_detectable_one_is_seen_about_four_times_in_five():
    wide = against_held_out("m", apart, *arms(0, num_models=24), generator=draws())
    needed = wide.null_mean + wide.least_detectable
    seen = [
        against_held_out(
            "m",
            apart,
            *arms(seed, shift=needed, num_models=24),
            generator=draws(seed),
            num_permutations=99,
            num_bootstraps=2,
        ).p
        <= 0.05
        for seed in range(1, 121)
    ]
    assert 0.65 < np.mean(seen) < 0.97  # a normal approximation to a folded statistic


def test_the_interval_is_that_of_a_difference_of_means():
    own, oracles, held_out = arms(3, shift=5.0, num_models=200, num_rows=1)
    found = against_held_out(
        "m", apart, own, oracles, held_out, generator=draws(), num_permutations=2, num_bootstraps=2000
    )
    reach = 1.96 * math.sqrt(own.var(ddof=1) / 200 + oracles.var(ddof=1) / 200)
    assert found.high - found.value == pytest.approx(reach, rel=0.08) == found.value - found.low  # 2,000 resamples


def test_order_of_the_models_is_no_information():
    own, oracles, held_out = arms(4, shift=0.4)
    found = against_held_out("m", apart, own, oracles, held_out, generator=draws())
    again = against_held_out("m", apart, own[::-1], oracles[::-1], held_out[::-1], generator=draws())
    assert again.value == pytest.approx(found.value, rel=1e-12)
    assert again.p == pytest.approx(found.p, abs=0.1)  # other deals of the same arms


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("spoil", ["one model", "other rows", "not finite"])
def test_arms_that_cannot_be_compared_are_refused(which, spoil):
    given = list(arms(5))
    changed = {"one model": given[which][:1], "other rows": given[which][:, :2], "not finite": given[which] * math.nan}
    given[which] = changed[spoil]
    with pytest.raises(
        errors.BadRequest, match=r"m: expected (own|oracles|held_out) as finite numbers of at least 2 models"
    ):
        against_held_out("m", apart, *given, generator=draws())


@pytest.mark.parametrize("num_models", [4, 5, 7, 8, 12])
def test_a_statistic_that_needs_four_models_is_given_four_at_least(num_models):
    def needy(own, oracles):
        assert min(len(own), len(oracles)) >= 4
        return apart(own, oracles)

    found = against_held_out(
        "m", needy, *arms(3, num_models=num_models), generator=draws(), num_permutations=2, num_bootstraps=200
    )
    assert found.low < found.value < found.high
    assert math.isfinite(found.high)
