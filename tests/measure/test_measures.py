"""Twins: Student's t from its density by quadrature, Holm and the binomial tail as loops, coverage and power by simulation."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, optimize

from excise import errors
from excise.measure import Measure, against_oracles, holm, more_than_chance, oracle_band

FINE = 0.0
VALUES = st.floats(-100, 100, allow_nan=False)


def t_tail(x, freedom):
    """P(T > x) for x >= 0, Student's density integrated."""
    scale = math.gamma((freedom + 1) / 2) / (math.sqrt(freedom * math.pi) * math.gamma(freedom / 2))
    return integrate.quad(lambda t: scale * (1 + t * t / freedom) ** (-(freedom + 1) / 2), x, math.inf, epsabs=1e-12)[0]


def t_quantile(tail, freedom):
    return optimize.brentq(lambda x: t_tail(x, freedom) - tail, 0, 200, xtol=1e-10)


def by_hand(value, oracles):
    count = len(oracles)
    mean = sum(oracles) / count
    spread = math.sqrt(sum((one - mean) ** 2 for one in oracles) / (count - 1))
    return value - mean, spread, spread * math.sqrt(1 + 1 / count)


@pytest.mark.parametrize("oracles", [[0.0, 1.0], [0.3, 0.35, 0.31], [2.0, -1.0, 0.5, 0.25, 3.5, 1.0, 1.5, -2.0]])
@pytest.mark.parametrize("value", [0.3, 1.7, -4.0])
def test_every_number_is_what_students_t_says_by_hand(value, oracles):
    gap, spread, predictive = by_hand(value, oracles)
    freedom = len(oracles) - 1
    edge = t_quantile(0.025, freedom)
    found = against_oracles("m", value, oracles, resolution=FINE)
    # 1e-7: the quadrature and the root search of the twin
    assert found.value == pytest.approx(gap, rel=1e-12)
    assert found.p == pytest.approx(2 * t_tail(abs(gap) / predictive, freedom), rel=1e-7)
    assert (found.null_mean, found.num_models, found.name) == (0.0, len(oracles), "m")
    assert found.null_high == -found.null_low == pytest.approx(edge * predictive, rel=1e-7)
    assert found.low == pytest.approx(gap - edge * spread / math.sqrt(len(oracles)), rel=1e-7)
    assert found.high == pytest.approx(gap + edge * spread / math.sqrt(len(oracles)), rel=1e-7)
    assert found.least_detectable == pytest.approx((edge + t_quantile(0.2, freedom)) * predictive, rel=1e-7)


def test_the_least_detectable_gap_of_one_among_five_is_that_of_a_fifth_of_the_level():
    oracles = [2.0, -1.0, 0.5, 0.25, 3.5, 1.0, 1.5, -2.0]
    alone, among = (against_oracles("m", 1.0, oracles, resolution=FINE, among=among) for among in (1, 5))
    predictive = by_hand(1.0, oracles)[2]
    assert among.least_detectable == pytest.approx((t_quantile(0.005, 7) + t_quantile(0.2, 7)) * predictive, rel=1e-7)
    assert msgspec.structs.replace(among, least_detectable=alone.least_detectable) == alone


def test_one_more_oracle_is_rejected_in_one_of_twenty():
    draws = np.random.default_rng(0).normal(3.0, 2.0, (4000, 9))
    found = [against_oracles("m", float(row[0]), row[1:], resolution=FINE) for row in draws]
    rejected = sum(one.p < 0.05 for one in found)
    outside = sum(not one.null_low <= one.value <= one.null_high for one in found)
    # 200 expected; 145 to 255 is +- 4 standard deviations of a binomial of 4,000 at 5%
    assert 145 < rejected < 255
    assert outside == rejected
    deciles = np.histogram([one.p for one in found], bins=10, range=(0, 1))[0]
    # p is uniform: 400 a decile, +- 4 standard deviations
    assert (abs(deciles - 400) < 76).all()


def test_the_interval_holds_the_distance_to_the_true_mean_nineteen_times_in_twenty():
    draws = np.random.default_rng(1).normal(3.0, 2.0, (4000, 8))
    found = [against_oracles("m", 10.0, row, resolution=FINE) for row in draws]
    inside = sum(one.low <= 10.0 - 3.0 <= one.high for one in found)
    assert 3745 < inside < 3855  # 3,800 +- 4 standard deviations


@pytest.mark.parametrize(("among", "num_oracles"), [(1, 4), (1, 8), (5, 8)])
def test_a_gap_of_the_least_detectable_size_is_seen_in_four_of_five(among, num_oracles):
    generator = np.random.default_rng(2)
    seen = 0
    for row in generator.normal(0.0, 1.0, (3000, num_oracles + 1)):
        least = against_oracles("m", 0.0, row[1:], resolution=FINE, among=among).least_detectable
        seen += against_oracles("m", float(row[0] + least), row[1:], resolution=FINE).p < 0.05 / among
    # over draws of the oracles the printed gap gives 0.800 to 0.803 (400,000 draws); 4 standard deviations are 0.029
    assert seen / 3000 == pytest.approx(0.8, abs=0.032)


@given(VALUES, st.lists(VALUES, min_size=2, max_size=9), st.floats(-50, 50))
def test_p_is_symmetric_and_a_constant_added_to_all_changes_nothing(value, oracles, constant):
    mean = float(np.mean(oracles))
    args = {"resolution": 0.1}
    one = against_oracles("m", value, oracles, **args)
    mirrored = against_oracles("m", 2 * mean - value, oracles, **args)
    shifted = against_oracles("m", value + constant, [each + constant for each in oracles], **args)
    # rounding of numbers up to 150 against a spread of at least 0.05
    assert mirrored.p == pytest.approx(one.p, abs=1e-9)
    assert mirrored.value == pytest.approx(-one.value, abs=1e-11)
    for name in ("value", "low", "high", "null_low", "null_high", "p", "least_detectable"):
        assert getattr(shifted, name) == pytest.approx(getattr(one, name), abs=1e-9), name
    assert one.null_low <= 0 <= one.null_high
    assert one.low <= one.value <= one.high
    assert 0 <= one.p <= 1
    assert (one.p < 0.05) == (not one.null_low <= one.value <= one.null_high)


@given(st.lists(VALUES, min_size=3, max_size=9), st.permutations(range(9)))
def test_the_order_of_the_oracles_does_not_matter(oracles, order):
    shuffled = [oracles[place] for place in order if place < len(oracles)]
    one, other = (against_oracles("m", 1.0, each, resolution=0.1) for each in (oracles, shuffled))
    assert other.p == pytest.approx(one.p, abs=1e-9)


def test_oracles_that_agree_exactly_have_half_a_row_of_spread():
    found = against_oracles("accuracy", 0.74, [0.75] * 8, resolution=0.01)
    predictive = 0.005 * math.sqrt(1 + 1 / 8)
    assert found.null_high == pytest.approx(t_quantile(0.025, 7) * predictive, rel=1e-7)
    assert found.p == pytest.approx(2 * t_tail(0.01 / predictive, 7), rel=1e-7)
    wide = against_oracles("accuracy", 0.74, [0.70, 0.80], resolution=0.01)
    assert wide == against_oracles("accuracy", 0.74, [0.70, 0.80], resolution=0.0)


def test_without_spread_or_resolution_equal_is_certain_and_unequal_impossible():
    assert against_oracles("m", 2.0, [2.0] * 4, resolution=FINE).p == 1.0
    assert against_oracles("m", 2.5, [2.0] * 4, resolution=FINE).p == 0.0


def test_the_sentence_is_carried():
    assert against_oracles("m", 1.0, [1.0, 2.0], resolution=FINE, sentence="Said.").sentence == "Said."


@pytest.mark.parametrize("oracles", [[], [1.0]])
def test_fewer_than_two_oracles_are_refused(oracles):
    with pytest.raises(errors.BadRequest, match=rf"gap: expected at least 2 oracles .* found {len(oracles)}"):
        against_oracles("gap", 1.0, oracles, resolution=FINE)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["value", "oracle"])
def test_numbers_that_are_not_finite_are_refused(broken, place):
    value, oracles = (broken, [1.0, 2.0]) if place == "value" else (1.0, [1.0, broken])
    with pytest.raises(errors.BadRequest, match=r"gap: expected finite numbers, found .*(nan|inf)"):
        against_oracles("gap", value, oracles, resolution=FINE)


def test_a_measure_is_frozen_and_survives_json():
    found = against_oracles("m", 1.0, [1.0, 2.0, 4.0], resolution=FINE)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Measure) == found
    with pytest.raises(AttributeError):
        found.p = 1.0
    with pytest.raises(msgspec.ValidationError, match="surprise"):
        msgspec.convert({**msgspec.to_builtins(found), "surprise": 1}, Measure)


@given(st.lists(VALUES, min_size=2, max_size=9))
def test_the_band_is_the_null_of_a_measure_around_the_mean(values):
    low, mean, high = oracle_band(values)
    null = against_oracles("m", 0.0, values, resolution=FINE)
    assert mean == pytest.approx(sum(values) / len(values), abs=1e-12)
    assert low == pytest.approx(mean + null.null_low, abs=1e-9)
    assert high == pytest.approx(mean + null.null_high, abs=1e-9)


def test_the_band_holds_one_more_oracle_nineteen_times_in_twenty():
    draws = np.random.default_rng(3).normal(-1.0, 0.3, (4000, 9))
    bands = [oracle_band(row[1:]) for row in draws]
    inside = sum(low <= row[0] <= high for row, (low, _, high) in zip(draws, bands, strict=True))
    assert 3745 < inside < 3855  # 3,800 +- 4 standard deviations


def test_the_band_of_one_oracle_is_the_oracle():
    assert oracle_band([0.7]) == (0.7, 0.7, 0.7)


def naive_holm(p_values, alpha):
    """Take the smallest p left; reject while it is at most alpha over the number left."""
    left, rejected = set(range(len(p_values))), set()
    while left:
        best = min(left, key=lambda place: (p_values[place], place))
        if p_values[best] * len(left) > alpha:
            break
        rejected.add(best)
        left.remove(best)
    return [place in rejected for place in range(len(p_values))]


@given(st.lists(st.sampled_from([0.0, 0.001, 0.009, 0.0126, 0.017, 0.02, 0.026, 0.04, 0.06, 0.5, 1.0]), max_size=7))
def test_holm_is_the_step_down_procedure(p_values):
    assert holm(p_values, 0.05) == naive_holm(p_values, 0.05)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=7), st.randoms())
def test_holm_lies_between_bonferroni_and_no_correction_and_ignores_order(p_values, random):
    rejected = holm(p_values, 0.05)
    for p, out in zip(p_values, rejected, strict=True):
        assert out or p > 0.05 / len(p_values)
        assert not out or p <= 0.05
    order = list(range(len(p_values)))
    random.shuffle(order)
    # ties are rejected or kept together, unless the step lies between them: compare as multisets
    again = holm([p_values[place] for place in order], 0.05)
    assert sorted(zip([p_values[place] for place in order], again, strict=True)) == sorted(
        zip(p_values, rejected, strict=True)
    )


def test_holm_keeps_the_chance_of_any_false_rejection():
    p_values = np.random.default_rng(4).uniform(size=(4000, 5))
    false = sum(any(holm(row, 0.05)) for row in p_values)
    # 1 - (1 - 0.01)^5 = 4.9% for independent measures: 196 +- 4 standard deviations
    assert 141 < false < 251


def tail_by_enumeration(failures, trials, rate):
    """Sum the probability of every sequence of outcomes with at least that many failures."""
    total = 0.0
    for outcomes in range(2**trials):
        failed = outcomes.bit_count()
        if failed >= failures:
            total += rate**failed * (1 - rate) ** (trials - failed)
    return total


@pytest.mark.parametrize("trials", [1, 4, 8, 12])
@pytest.mark.parametrize(("rate", "level"), [(0.05, 0.05), (0.05, 0.01), (0.3, 0.1)])
def test_more_than_chance_is_the_binomial_tail(trials, rate, level):
    found = [more_than_chance(failures, trials, rate, level) for failures in range(trials + 1)]
    assert found == [
        failures > 0 and tail_by_enumeration(failures, trials, rate) < level for failures in range(trials + 1)
    ]
    assert found == sorted(found)


def test_of_eight_oracles_two_may_fail():
    assert [more_than_chance(failures, 8, 0.05, 0.01) for failures in (0, 1, 2, 3)] == [False, False, False, True]
