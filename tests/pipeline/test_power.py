"""What could have been seen, by hand: shares of a mean, shares of a distance, and oracles that would see more."""

import math

import pytest

from excise.measure import against_oracles, spreads_to_see
from excise.pipeline.power import oracles_needed, trace_seen


def margin(value, count=8, among=5, name="forget_margin"):
    spread = [(-1) ** place * math.sqrt((count - 1) / count) for place in range(count)]  # of standard deviation 1
    return against_oracles(name, value, spread, resolution=0.0, among=among)


@pytest.mark.parametrize("value", [3.0, -7.0, 40.0])
def test_of_a_mean_the_share_is_what_is_seen_over_what_is_there(value):
    assert trace_seen([margin(value)]) == pytest.approx(spreads_to_see(8, 5) / abs(value))


def test_of_a_distance_noise_and_trace_add_up_in_squares():
    one = margin(10.0, name="forget_margin_distance")
    own = math.sqrt(1 + 1 / 7)
    seen, there = (one.least_detectable + own) ** 2 - own**2, (10 + own) ** 2 - own**2
    assert trace_seen([one]) == pytest.approx(math.sqrt(seen / there))
    assert trace_seen([one, margin(1000.0)]) == pytest.approx(spreads_to_see(8, 5) / 1000)  # the sharper of both


def test_without_a_trace_there_is_no_share():
    assert trace_seen([]) is trace_seen([margin(0.0)]) is None
    assert trace_seen([margin(-1.0, name="forget_margin_distance")]) is None  # nearer than oracles to one another


@pytest.mark.parametrize("among", [5, 7])
def test_the_oracles_needed_are_the_fewest_that_see_the_share(among):
    for count in (12, 16, 24, 48):
        just = 2 * spreads_to_see(count, among)  # half of it is what so many see
        assert oracles_needed(margin(just * 1.0001, among=among), 0.5, among=among) == count
        assert oracles_needed(margin(just * 0.9999, among=among), 0.5, among=among) != count
    assert oracles_needed(margin(1.0, among=among), 0.5, among=among) is None  # single networks differ by more
