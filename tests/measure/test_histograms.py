"""Twin: a loop that drops each loss into its bin."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from excise.measure import counts, log_edges

LOSSES = st.one_of(st.floats(0, 1e3), st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 1e-9]))


def naive(losses, edges):
    found = [0] * (len(edges) - 1)
    for loss in losses:
        place = 0
        if math.isnan(loss):
            place = len(found) - 1
        else:
            while place < len(found) - 1 and loss >= edges[place + 1]:
                place += 1
        found[place] += 1
    return found


@given(st.data(), st.integers(1, 8))
def test_every_loss_is_counted_once_in_its_bin(data, num_bins):
    losses = data.draw(arrays.arrays(np.float64, st.integers(0, 30), elements=LOSSES))
    edges = np.array(
        data.draw(st.lists(st.floats(1e-6, 1e3), min_size=num_bins + 1, max_size=num_bins + 1, unique=True))
    )
    edges.sort()
    found = counts(losses, edges)
    assert found.sum() == len(losses)
    assert found.tolist() == naive(losses.tolist(), edges.tolist())


def test_a_loss_on_an_edge_belongs_to_the_bin_above_and_on_the_last_edge_to_the_last():
    assert counts(np.array([1.0, 2.0, 4.0, 4.0]), np.array([1.0, 2.0, 4.0])).tolist() == [1, 3]


def test_what_lies_outside_or_is_not_finite_goes_to_the_end_bins():
    losses = np.array([0.0, -math.inf, 9.0, math.inf, math.nan, 1.5])
    assert counts(losses, np.array([1.0, 2.0, 3.0, 4.0])).tolist() == [3, 0, 3]


@given(st.lists(arrays.arrays(np.float64, st.integers(1, 10), elements=LOSSES), min_size=1, max_size=3))
def test_the_edges_hold_every_finite_loss_and_are_evenly_spaced_in_the_logarithm(losses):
    edges = log_edges(losses, num_bins=6)
    finite = [max(value, 1e-6) for part in losses for value in part.tolist() if math.isfinite(value)]
    assert len(edges) == 7
    assert (np.diff(edges) > 0).all()
    assert edges[0] > 0
    for value in finite:
        assert edges[0] <= value <= edges[-1]
    steps = np.diff(np.log(edges))
    assert steps == pytest.approx(steps.mean(), rel=1e-6)
    if finite:
        assert edges[0] == min(finite)
        assert edges[-1] == pytest.approx(max(max(finite), min(finite) * 1.01), rel=1e-8)


def test_one_axis_for_all_arrays():
    edges = log_edges([np.array([0.1, 1.0]), np.array([10.0, math.inf])], num_bins=2)
    assert edges == pytest.approx([0.1, 1.0, 10.0], rel=1e-8)


def test_nothing_finite_still_gives_an_axis():
    edges = log_edges([np.array([math.nan]), np.array([math.inf])])
    assert len(edges) == 25
    assert counts(np.array([math.nan]), edges).sum() == 1
