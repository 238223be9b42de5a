"""Scales: closed forms, and ticks that are round, in range and not too many."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from excise.report.scales import Linear, Log


@given(low=st.floats(-100, 100), width=st.floats(1e-3, 1e3), share=st.floats(0, 1))
def test_a_linear_scale_places_a_share_of_its_width_at_that_share(low, width, share):
    scale = Linear(low=low, high=low + width)
    assert scale.position(low) == 0
    assert scale.position(low + share * width) == pytest.approx(100 * share, abs=1e-6)  # low + width is rounded


@given(exponent=st.floats(-6, 3), decades=st.floats(0.5, 9), share=st.floats(0, 1))
def test_a_log_scale_is_linear_in_exponents(exponent, decades, share):
    scale = Log(low=10**exponent, high=10 ** (exponent + decades))
    assert scale.position(10 ** (exponent + share * decades)) == pytest.approx(
        100 * share, abs=1e-6
    )  # rounding of powers


@given(low=st.floats(-100, 100), width=st.floats(1e-3, 1e3), count=st.integers(2, 8))
def test_linear_ticks_are_equally_spaced_round_numbers_in_range(low, width, count):
    scale = Linear(low=low, high=low + width)
    ticks, step = scale.ticks(count), scale.step(count)
    assert 1 <= len(ticks) <= 2 * count + 1
    factor = step / 10 ** math.floor(math.log10(step) + 1e-9)
    assert min(abs(factor - allowed) for allowed in (1, 2, 5)) < 1e-6  # a power of ten is not exact below one
    for index, tick in enumerate(ticks):
        assert scale.low - 1e-6 * step <= tick <= scale.high + 1e-6 * step
        assert tick == pytest.approx(ticks[0] + index * step, abs=1e-6 * step)


@given(exponent=st.integers(-7, 3), decades=st.integers(1, 12))
def test_log_ticks_are_in_range_and_not_too_many(exponent, decades):
    scale = Log(low=10.0**exponent, high=10.0 ** (exponent + decades))
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 9
    assert ticks == sorted(set(ticks))
    assert scale.position(ticks[0]) >= -1e-6
    assert scale.position(ticks[-1]) <= 100 + 1e-6


def test_known_ticks():
    assert Linear(low=0.0, high=1.0).ticks() == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert Linear(low=0.971, high=1.001).ticks() == [0.98, 0.99, 1.0]
    assert Linear(low=0.0, high=108.0).ticks() == [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]
    assert Log(low=1e-4, high=1e2).ticks() == [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2]
    assert Log(low=0.3, high=7.0).ticks() == [0.5, 1.0, 2.0, 5.0]
