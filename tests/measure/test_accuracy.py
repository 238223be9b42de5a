"""Twin: a loop over rows."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from excise.measure import accuracy


def naive(logits, targets):
    right = 0
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        if all(math.isfinite(value) for value in row):
            best = 0
            for place, value in enumerate(row):
                if value > row[best]:
                    best = place
            right += best == target
    return right / len(targets)


NUMBERS = st.sampled_from([0.0, 1.0, -1.0, 2.5, math.nan, math.inf, -math.inf])


@given(st.data(), st.integers(1, 6), st.integers(1, 4))
def test_accuracy_is_the_share_of_rows_counted_one_by_one(data, num_rows, num_classes):
    logits = data.draw(arrays.arrays(np.float64, (num_rows, num_classes), elements=NUMBERS))
    targets = data.draw(arrays.arrays(np.int64, num_rows, elements=st.integers(0, num_classes - 1)))
    assert accuracy(logits, targets) == naive(logits, targets)


def test_a_tie_counts_for_the_lowest_class():
    tied = np.array([[1.0, 1.0, 0.0]] * 2)
    assert accuracy(tied, np.array([0, 1])) == 0.5


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_a_row_that_is_not_finite_is_wrong_whatever_its_target(broken, place):
    row = np.array([[3.0, 1.0]])
    row[0, place] = broken
    assert [accuracy(row, np.array([target])) for target in (0, 1)] == [0.0, 0.0]


def test_the_order_of_rows_and_a_constant_on_a_row_change_nothing():
    generator = np.random.default_rng(0)
    logits, targets = generator.normal(size=(50, 4)), generator.integers(4, size=50)
    order = generator.permutation(50)
    assert 0 < accuracy(logits, targets) < 1
    assert accuracy(logits[order], targets[order]) == accuracy(logits, targets)
    assert accuracy(logits + generator.normal(size=(50, 1)), targets) == accuracy(logits, targets)


def test_float32_and_a_plain_number_out():
    found = accuracy(np.eye(3, dtype=np.float32), np.arange(3))
    assert found == 1.0
    assert type(found) is float
