"""Twins: ln(p / (1 - p)) in exact decimals, distances as loops, and one more oracle by simulation."""

import decimal
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from excise.measure import margin_distance, margins


def exactly(row, target):
    """ln(p / (1 - p)) from the definition of the softmax, with 400 digits."""
    with decimal.localcontext(decimal.Context(prec=400)):
        powers = [decimal.Decimal(value).exp() for value in row]
        p = powers[target] / sum(powers)
        return float((p / (1 - p)).ln())


@given(st.data(), st.integers(2, 5))
def test_margins_are_the_log_odds_of_the_target(data, num_classes):
    logits = data.draw(arrays.arrays(np.float64, (3, num_classes), elements=st.floats(-200, 200, width=32)))
    targets = data.draw(arrays.arrays(np.int64, 3, elements=st.integers(0, num_classes - 1)))
    wanted = [exactly(row, target) for row, target in zip(logits.tolist(), targets.tolist(), strict=True)]
    # float64 rounding of logits up to 200; where the margin is near 0 the terms cancel
    np.testing.assert_allclose(margins(logits, targets), wanted, rtol=1e-12, atol=1e-12)


def test_two_classes_give_the_difference():
    assert margins(np.array([[3.0, -1.0], [3.0, -1.0]]), np.array([0, 1])).tolist() == [4.0, -4.0]


@pytest.mark.parametrize("large", [1e3, 1e30, 3e38])
def test_extreme_logits_stay_finite_where_the_softmax_is_0_or_1(large):
    found = margins(np.array([[large, 0.0, 0.0], [-large, 0.0, 0.0]], dtype=np.float32), np.array([0, 0]))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, [large - math.log(2), -large - math.log(2)], rtol=1e-6)  # 3e38 as a float32


def test_the_input_is_left_alone_and_float32_is_widened_before_the_sum():
    logits = np.array([[20.0, 0.0, 0.0]], dtype=np.float32)
    before = logits.copy()
    assert margins(logits, np.array([0]))[0] == pytest.approx(20 - math.log(2), abs=1e-14)
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize(
    ("row", "wanted"), [([math.inf, 0.0], math.inf), ([math.inf, math.inf], math.nan), ([math.nan, 0.0], math.nan)]
)
def test_what_is_not_finite_is_passed_on_without_a_warning(row, wanted):
    np.testing.assert_equal(margins(np.array([row]), np.array([0])), [wanted])


def naive_distance(own, oracles):
    rows, count = len(own), len(oracles)
    away = variance = 0.0
    for row in range(rows):
        column = [one[row] for one in oracles]
        mean = sum(column) / count
        away += (own[row] - mean) ** 2 / rows
        variance += sum((value - mean) ** 2 for value in column) / (count - 1) / rows
    return math.sqrt(away) / math.sqrt(variance)


@given(st.data(), st.integers(1, 5), st.integers(2, 5))
def test_distance_is_the_loop(data, num_rows, num_oracles):
    numbers = st.integers(-1000, 1000).map(lambda value: value / 8)
    table = data.draw(arrays.arrays(np.float64, (num_oracles + 1, num_rows), elements=numbers))
    own, oracles = table[0], list(table[1:])
    if all((one == oracles[0]).all() for one in oracles):
        assert margin_distance(own, oracles) == (0.0 if (own == oracles[0]).all() else math.inf)
    else:
        assert margin_distance(own, oracles) == pytest.approx(naive_distance(own.tolist(), table[1:].tolist()))


def test_distance_does_not_depend_on_unit_origin_or_order():
    generator = np.random.default_rng(0)
    own, oracles = generator.normal(size=7), generator.normal(size=(4, 7))
    found = margin_distance(own, oracles)
    assert margin_distance(3 * own + 5, 3 * oracles + 5) == pytest.approx(found)
    order = generator.permutation(7)
    assert margin_distance(own[order], oracles[::-1, order]) == pytest.approx(found)


@pytest.mark.parametrize("num_oracles", [2, 8])
def test_one_more_oracle_lies_about_sqrt_1_plus_1_over_n_away(num_oracles):
    generator = np.random.default_rng(1)
    hardness = generator.normal(0, 5, 20000)
    table = hardness + generator.normal(0, 0.7, (num_oracles + 1, 20000))
    # 20,000 rows: a relative standard deviation of about 1% at 2 oracles
    assert margin_distance(table[0], list(table[1:])) == pytest.approx(math.sqrt(1 + 1 / num_oracles), rel=0.03)


def test_rows_that_move_up_do_not_make_up_for_rows_that_move_down():
    generator = np.random.default_rng(2)
    oracles = list(generator.normal(0, 1, (8, 1000)))
    moved = np.mean(oracles, axis=0) + np.where(np.arange(1000) % 2, 5.0, -5.0)
    assert moved.mean() == pytest.approx(np.mean(oracles), abs=1e-12)
    assert margin_distance(moved, oracles) == pytest.approx(5.0, rel=0.05)  # spread is 1 within 2%


def test_a_constant_added_to_all_logits_changes_nothing():
    logits, targets = np.random.default_rng(0).standard_normal((6, 4)), np.array([0, 1, 2, 3, 0, 1])
    shifts = np.array([0.0, 3.0, -7.0, 0.5, 100.0, -40.0])[:, None]
    np.testing.assert_allclose(margins(logits + shifts, targets), margins(logits, targets), rtol=0, atol=1e-12)
