"""Twins: a loop over curves, exponential curves with a known crossing, and oracles drawn around one rate."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from excise import errors
from excise.measure import Relearner, against_oracles, relearning, relearning_times

STEPS = np.arange(201)


def rising(rate, start=0.0, seeds=3, points=201):
    """Curves 1 - (1 - start) exp(-rate t): at 0.95 after ln(20 (1 - start)) / rate steps."""
    return np.tile(1 - (1 - start) * np.exp(-rate * STEPS[:points]), (seeds, 1))


def network(rate, start=0.0, utility=0.9, **shape):
    return Relearner(accuracy=rising(rate, start, **shape), utility=utility)


KNOWN = Relearner(accuracy=np.ones((3, 201)), utility=0.95)
ANCHORS = {"original": KNOWN, "untrained": network(0.02, utility=0.1)}


def oracles_of(rates):
    return [network(rate, utility=0.9) for rate in rates]


@given(st.lists(st.lists(st.integers(0, 8), min_size=3, max_size=9), min_size=1, max_size=3), st.integers(1, 8))
def test_times_are_those_of_a_loop(table, eighths):
    points = min(map(len, table))
    curves, level, every = np.array([row[:points] for row in table]) / 8, eighths / 8, 5
    steps, reached = relearning_times(curves, level, every=every)
    for curve, step, there in zip(curves.tolist(), steps.tolist(), reached.tolist(), strict=True):
        crossing = next((place for place, value in enumerate(curve) if value >= level), None)
        assert there is (crossing is not None)
        assert step == every * (points - 1 if crossing is None else crossing)


def test_times_of_known_curves():
    for rate in (0.05, 0.1, 0.3):
        steps, reached = relearning_times(rising(rate), 0.95)
        assert steps.tolist() == [math.ceil(math.log(20) / rate)] * 3
        assert reached.all()
    assert relearning_times(rising(0.1, start=0.97), 0.95)[0].tolist() == [0, 0, 0]
    steps, reached = relearning_times(rising(0.001), 0.95)
    assert (steps.tolist(), reached.tolist()) == ([200] * 3, [False] * 3)


def test_a_mean_of_equal_accuracies_is_reached_by_each_of_them():
    curve = np.full((3, 1), 0.1).repeat(2, axis=1)
    assert curve[:, 0].mean() > 0.1  # by rounding
    assert relearning_times(curve, float(curve[:, 0].mean()))[1].all()


@pytest.mark.parametrize("broken", [np.zeros((0, 5)), np.zeros((2, 1)), np.zeros(5), np.array([[0.0, np.nan]])])
def test_curves_without_a_time_are_refused(broken):
    with pytest.raises(errors.BadRequest, match=r"finite curves \[seeds, points\], 2 points or more"):
        relearning_times(broken, 0.5)


def test_the_index_is_the_ratio_of_times_with_both_anchors():
    oracles = oracles_of([0.05, 0.05, 0.05])
    found = relearning(network(0.1, utility=0.8), oracles, **ANCHORS)
    own, theirs, untrained = (math.ceil(math.log(20) / rate) for rate in (0.1, 0.05, 0.02))
    assert found.level == pytest.approx(0.95)
    assert found.index == pytest.approx(own / theirs)
    assert found.measure.value == pytest.approx(math.log(own / theirs))
    assert found.index_original == pytest.approx(1 / theirs)  # there from the start: one step
    assert found.index_untrained == pytest.approx(untrained / theirs)
    assert found.index_oracles == pytest.approx((1, 1, 1))
    assert found.oracle_steps == pytest.approx(theirs)
    assert found.utility == pytest.approx({"own": 0.8, "oracles": 0.9, "original": 0.95, "untrained": 0.1})
    assert found.num_censored == {"own": 0, "oracles": 0, "original": 0, "untrained": 0}
    assert found.measure.sentence == (
        f"The forget rows are learnt again in {own / theirs:.2f} times the oracles' 60 steps. "
        "This one begins at a test accuracy of 80.0%, the oracles at 90.0%."
    )


def test_the_time_is_the_geometric_mean_over_seeds_and_the_measure_the_comparison_of_its_logarithm():
    curves = np.concatenate([rising(rate, seeds=1) for rate in (0.05, 0.1, 0.2)])
    oracles = [Relearner(accuracy=np.roll(curves, turn, axis=0), utility=1.0) for turn in range(2)] + oracles_of([0.06])
    times = [[60, 30, 15], [60, 30, 15], [50, 50, 50]]
    found = relearning(network(0.1), oracles, **ANCHORS, among=2)
    logs = [sum(math.log(step) for step in row) / 3 for row in times]
    mean = sum(logs) / 3
    assert found.oracle_steps == pytest.approx(math.exp(mean))
    assert found.index_oracles == pytest.approx([math.exp(one - (3 * mean - one) / 2) for one in logs])
    step = math.log(1 + math.exp(-mean)) / 3
    wanted = against_oracles("relearning", math.log(30), logs, resolution=step, among=2)
    for field in ("value", "p", "low", "high", "least_detectable"):
        assert getattr(found.measure, field) == pytest.approx(getattr(wanted, field))


def test_hidden_memory_and_too_much_forgetting_are_seen_and_one_more_oracle_is_not():
    generator = np.random.default_rng(0)
    rates = 0.05 * np.exp(generator.normal(0, 0.1, 9))
    oracles = oracles_of(rates[1:])
    hidden, like, beyond = (relearning(network(rate), oracles, **ANCHORS) for rate in (0.5, rates[0], 0.017))
    assert hidden.index < 0.2
    assert hidden.measure.p < 1e-4
    assert 0.8 < like.index < 1.25
    assert like.measure.p > 0.05
    assert beyond.index > 2
    assert beyond.measure.p < 1e-4


def test_runs_that_do_not_get_there_count_as_the_last_step():
    slow = oracles_of([0.001, 0.001])
    both = relearning(network(0.002), slow, **ANCHORS)
    assert (both.index, both.measure.value, both.measure.p) == (pytest.approx(1), pytest.approx(0), pytest.approx(1))
    assert both.num_censored == {"own": 3, "oracles": 6, "original": 0, "untrained": 0}
    assert "both counted up to the last step" in both.measure.sentence
    later = relearning(network(0.001), oracles_of([0.05, 0.05]), **ANCHORS)
    assert later.index == pytest.approx(200 / 60)
    assert "3.33 times the oracles' 60 steps, or more" in later.measure.sentence
    sooner = relearning(network(0.1), slow, **ANCHORS)
    assert sooner.index == pytest.approx(30 / 200)
    assert "or less: some runs did not reach the level" in sooner.measure.sentence


def test_oracles_that_know_the_rows_leave_nothing_to_relearn():
    knowing = [network(0.1, start=0.99) for _ in range(2)]
    found = relearning(network(0.1, start=0.99), knowing, **ANCHORS)
    assert (found.oracle_steps, found.index) == (1, 1)
    assert "nothing to relearn" in found.measure.sentence


def test_points_further_apart_count_their_steps():
    sparse = lambda one: Relearner(accuracy=one.accuracy[:, ::10], utility=one.utility)  # noqa: E731
    anchors = {name: sparse(one) for name, one in ANCHORS.items()}
    found = relearning(sparse(network(0.1)), [sparse(one) for one in oracles_of([0.05, 0.05])], **anchors, every=10)
    assert found.index == pytest.approx(30 / 60)
    assert found.oracle_steps == pytest.approx(60)


def test_alpha_sets_the_level():
    found = relearning(network(0.1), oracles_of([0.05, 0.05]), **ANCHORS, alpha=0.5)
    assert found.level == 0.5
    assert found.index == pytest.approx(7 / 14)  # ln 2 / 0.1 and ln 2 / 0.05, upwards


@pytest.mark.parametrize("alpha", [-0.1, 1.0, math.nan])
def test_alpha_that_is_no_fraction_is_refused(alpha):
    with pytest.raises(errors.BadRequest, match="alpha: expected a fraction below 1"):
        relearning(KNOWN, [KNOWN, KNOWN], **ANCHORS, alpha=alpha)


def test_points_less_than_a_step_apart_are_refused():
    with pytest.raises(errors.BadRequest, match="every: expected at least 1 step from point to point, found 0"):
        relearning(KNOWN, [KNOWN, KNOWN], **ANCHORS, every=0)


def test_curves_of_different_plans_are_refused():
    with pytest.raises(errors.BadRequest, match=r"curves of one shape.*found \[\(2, 201\), \(3, 201\)\]; learn each"):
        relearning(network(0.1, seeds=2), [KNOWN, KNOWN], **ANCHORS)


def test_an_original_that_knew_nothing_sets_no_level():
    nothing = Relearner(accuracy=np.zeros((3, 201)), utility=0.1)
    with pytest.raises(errors.BadRequest, match="found a forget accuracy of 0; there is nothing to relearn"):
        relearning(KNOWN, [KNOWN, KNOWN], original=nothing, untrained=nothing)


def test_one_oracle_has_no_spread():
    with pytest.raises(errors.BadRequest, match="relearning: expected at least 2 oracles to have a spread, found 1"):
        relearning(KNOWN, [KNOWN], **ANCHORS)
