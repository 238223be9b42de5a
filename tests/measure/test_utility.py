"""Twins: loops from the papers, DUCK's table, exact fractions, a bootstrap for the error, simulated oracles for the null."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax

from excise import errors
from excise.measure import (
    against_oracles,
    agreement,
    beside_oracles,
    each_held_out,
    pairs_beside_oracles,
    total_variation,
    tug_of_war,
    unlearning_score,
    unlearning_score_of_runs,
    zero_retrain_forgetting,
)

PARTS = ("forget", "retain", "test")
fractions = st.fractions(0, 1, max_denominator=50)


def accuracies(*values):
    return dict(zip(PARTS, values, strict=True))


def exact_tug(own, references):
    product = Fraction(1)
    for part in PARTS:
        mean = sum((one[part] for one in references), Fraction(0)) / len(references)
        product *= 1 - abs(own[part] - mean)
    return product


@given(st.lists(st.tuples(fractions, fractions, fractions), min_size=2, max_size=5))
def test_tug_of_war_is_the_product_in_exact_fractions(rows):
    own, *references = [accuracies(*row) for row in rows]
    floats = [{part: float(value) for part, value in one.items()} for one in (own, *references)]
    assert tug_of_war(floats[0], floats[1:]) == pytest.approx(float(exact_tug(own, references)), abs=1e-12)


def test_tug_of_war_is_1_for_the_oracles_mean_and_charges_too_much_forgetting_as_too_little():
    reference = accuracies(0.5, 0.9, 0.8)
    assert tug_of_war(reference, [reference]) == 1
    assert tug_of_war(accuracies(0.25, 0.9, 0.8), [reference]) == 0.75
    assert tug_of_war(accuracies(0.75, 0.9, 0.8), [reference]) == 0.75
    assert tug_of_war(accuracies(1.0, 0.0, 0.0), [accuracies(0.0, 0.5, 0.5)]) == 0


def test_tug_of_war_refuses_other_parts_no_references_and_per_cent():
    own = accuracies(0.5, 0.9, 0.8)
    with pytest.raises(
        errors.BadRequest, match=r"accuracies of \['forget', 'retain', 'test'\] of at least one reference"
    ):
        tug_of_war(own, [{"forget": 0.5}])
    with pytest.raises(errors.BadRequest, match="at least one reference, found"):
        tug_of_war(own, [])
    with pytest.raises(errors.BadRequest, match=r"fractions in \[0, 1\], found 50"):
        tug_of_war(own, [accuracies(50, 0.9, 0.8)])


def test_each_oracle_is_held_against_the_others_and_the_network_against_as_many():
    heard = []

    def statistic(own, references):
        heard.append((own, tuple(references)))
        return own - sum(references) / len(references)

    value, null = each_held_out(statistic, 10.0, [1.0, 2.0, 6.0])
    assert value == pytest.approx(10 - 3)  # the mean of means of pairs is the mean
    assert null == pytest.approx([1 - 4, 2 - 3.5, 6 - 1.5])
    assert {len(references) for _, references in heard} == {2}
    assert all(own not in references for own, references in heard)


def test_oracles_are_needed_to_hold_an_oracle_against():
    with pytest.raises(errors.BadRequest, match="at least 2 oracles, each to be held against the others, found 1"):
        each_held_out(lambda own, _: own, 1.0, [1.0])
    with pytest.raises(
        errors.BadRequest, match="alike: expected at least 3 oracles, whose pairs have a spread, found 2"
    ):
        pairs_beside_oracles("alike", lambda *_: 1.0, 1.0, [1.0, 2.0], resolution=0)


def test_the_measure_of_a_statistic_is_the_held_out_comparison():
    oracles = [accuracies(0.5 + step / 50, 0.9, 0.8 - step / 60) for step in range(4)]
    own = accuracies(0.9, 0.9, 0.7)
    value, null = each_held_out(tug_of_war, own, oracles)
    found = beside_oracles("tug_of_war", tug_of_war, own, oracles, resolution=0.01, among=3, sentence="So.")
    assert found == against_oracles("tug_of_war", value, null, resolution=0.01, among=3, sentence="So.")
    assert found.p < 0.01


def alarms(make, runs=300):
    return np.mean([make() < 0.05 for _ in range(runs)])


@pytest.mark.parametrize("num_oracles", [4, 8])
def test_one_more_oracle_is_rarely_called_different_by_its_tug_of_war(num_oracles):
    generator = np.random.default_rng(num_oracles)

    def p_value():
        pool = [accuracies(*generator.normal([0.5, 0.95, 0.85], 0.01)) for _ in range(num_oracles + 1)]
        return beside_oracles("tug_of_war", tug_of_war, pool[0], pool[1:], resolution=1e-4).p

    assert alarms(p_value) < 0.09  # 5% of 300, and three standard deviations of the share


@pytest.mark.parametrize("num_oracles", [3, 8])
def test_one_more_oracle_is_rarely_called_different_by_its_likeness(num_oracles):
    """Oracles that differ in how odd they are: held-out means over pairs then hang together, and unwidened give 16% at 3."""
    generator = np.random.default_rng(num_oracles)

    def p_value():
        oddness = generator.normal(size=num_oracles + 1)
        pool = list(enumerate(oddness))
        noise = generator.normal(0, 0.1, (num_oracles + 1, num_oracles + 1))
        return pairs_beside_oracles(
            "alike", lambda a, b: a[1] + b[1] + noise[min(a[0], b[0]), max(a[0], b[0])], pool[0], pool[1:], resolution=0
        ).p

    assert alarms(p_value) < 0.09


def test_likeness_is_the_mean_over_oracles_beside_the_mean_over_the_other_oracles():
    nets = [np.random.default_rng(seed).normal(size=(50, 4)) for seed in range(5)]
    found = pairs_beside_oracles("agreement", agreement, nets[0], nets[1:], resolution=0.02)
    own = np.mean([agreement(nets[0], other) for other in nets[1:]])
    others = [np.mean([agreement(nets[i], nets[j]) for j in range(1, 5) if j != i]) for i in range(1, 5)]
    assert found.value == pytest.approx(own - np.mean(others))
    wider = np.mean(others) + (np.array(others) - np.mean(others)) * 3 / 2
    assert found.p == pytest.approx(against_oracles("", own, wider.tolist(), resolution=0.02).p)


@pytest.mark.parametrize(
    ("original", "test", "removed", "printed"),
    [(0.8864, 0.855, 0.0, 0.9686), (0.7755, 0.7157, 0.01, 0.9309), (0.6840, 0.613, 0.002, 0.9271)],
)
def test_the_score_of_class_removal_is_that_of_ducks_table(original, test, removed, printed):
    found = unlearning_score(original_test=original, test=test, forget=removed, scenario="class removal")
    assert found == pytest.approx((1 - (original - test)) / (1 + removed))
    assert round(found, 4) == pytest.approx(printed, abs=1.01e-4)  # the table's accuracies have one or two digits


def test_the_score_in_closed_forms():
    assert unlearning_score(original_test=0.8, test=0.8, forget=0.0, scenario="class removal") == 1
    assert unlearning_score(original_test=0.8, test=0.8, forget=1.0, scenario="class removal") == 0.5
    assert unlearning_score(original_test=0.9, test=0.8, forget=0.8) == pytest.approx(0.9)
    assert unlearning_score(original_test=0.8, test=0.75, forget=1.0) == pytest.approx(0.95 / 1.25)
    assert unlearning_score(original_test=0.8, test=0.75, forget=0.5) == pytest.approx(0.95 / 1.25)  # |test - forget|
    assert unlearning_score(original_test=0.5, test=0.75, forget=0.75) == 1.25  # better than the original


def test_the_score_refuses_what_it_cannot_mean():
    with pytest.raises(errors.BadRequest, match="scenario: expected one of class removal, random removal, found 'CR'"):
        unlearning_score(original_test=0.8, test=0.8, forget=0.0, scenario="CR")
    with pytest.raises(errors.BadRequest, match=r"unlearning score: expected accuracies as fractions.*found 88.64"):
        unlearning_score(original_test=88.64, test=0.8, forget=0.0)


def runs_of(count, scenario, seed=0):
    generator = np.random.default_rng(seed)
    shared = generator.normal(0, 0.01, count)  # a good run is good everywhere: the accuracies go together
    original = 0.88 + shared + generator.normal(0, 0.004, count)
    test = 0.84 + shared + generator.normal(0, 0.006, count)
    forget = (0.05 if scenario == "class removal" else 0.95) - shared / 2 + generator.normal(0, 0.01, count)
    return original, test, forget


@pytest.mark.parametrize("scenario", ["class removal", "random removal"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_error_over_runs_is_that_of_a_bootstrap(scenario, seed):
    count = 40
    table = np.array(runs_of(count, scenario, seed))
    score, error = unlearning_score_of_runs(*table, scenario=scenario)
    generator = np.random.default_rng(7)
    again = []
    for _ in range(4000):
        o, t, f = table[:, generator.integers(count, size=count)].mean(axis=1)
        again.append((1 - (o - t)) / (1 + (f if scenario == "class removal" else abs(t - f))))
    assert score == pytest.approx(np.mean(again), abs=1e-3)
    # a bootstrap's spread is smaller by sqrt(1 - 1/n); 4,000 draws leave 1% of noise
    assert error == pytest.approx(np.std(again) / math.sqrt(1 - 1 / count), rel=0.05)


@pytest.mark.parametrize("scenario", ["class removal", "random removal"])
def test_the_error_over_runs_is_the_spread_of_the_score_over_many_such_runs(scenario):
    """Monte Carlo: the experiment of ten runs again and again; its scores spread as its errors say, squared, on average."""
    found = [unlearning_score_of_runs(*runs_of(10, scenario, seed), scenario=scenario) for seed in range(1500)]
    scores, errors_said = np.array(found).T
    spread = scores.std(ddof=1)
    # the standard error of a standard deviation of 1,500 values is 1.8%, that of the root of the mean square less
    assert np.sqrt((errors_said**2).mean()) == pytest.approx(spread, rel=0.08)


def test_the_error_sees_that_accuracies_go_together():
    original = np.array([0.7, 0.8, 0.9])
    score, error = unlearning_score_of_runs(original, original - 0.05, [0.02] * 3, scenario="class removal")
    assert score == pytest.approx(0.95 / 1.02)
    assert error == pytest.approx(0, abs=1e-9)  # the score depends on their difference alone


def test_the_error_of_one_free_accuracy_in_closed_form():
    test = [0.80, 0.82, 0.84]
    standard = np.std(test, ddof=1) / math.sqrt(3)
    _, error = unlearning_score_of_runs([0.9] * 3, test, [0.1] * 3, scenario="class removal")
    assert error == pytest.approx(standard / 1.1)
    score, error = unlearning_score_of_runs(
        [0.9] * 3, test, [1.0] * 3
    )  # d/dt of (0.1 + t) / (2 - t) is 2.1 / (2 - t)^2
    assert score == pytest.approx(0.92 / 1.18)
    assert error == pytest.approx(standard * 2.1 / 1.18**2)


@pytest.mark.parametrize("lists", [([0.9], [0.8], [0.1]), ([0.9, 0.9], [0.8, 0.8], [0.1])])
def test_runs_are_needed_for_an_error(lists):
    with pytest.raises(errors.BadRequest, match="three accuracies of each of at least 2 runs"):
        unlearning_score_of_runs(*lists)


def logits(seed, rows=30, classes=5, scale=2.0):
    return np.random.default_rng(seed).normal(0, scale, (rows, classes))


def test_zero_retrain_forgetting_is_one_minus_the_divergence_in_bits():
    one, other = logits(0), logits(1)
    p, q = softmax(one, axis=1), softmax(other, axis=1)
    divergence = [jensenshannon(a, b, base=2) ** 2 for a, b in zip(p, q, strict=True)]
    found = zero_retrain_forgetting(one, other)
    assert found == pytest.approx(1 - np.mean(divergence), abs=1e-12)
    assert found == pytest.approx(zero_retrain_forgetting(other, one), abs=1e-15)
    assert zero_retrain_forgetting(one + 100, other) == pytest.approx(found, abs=1e-12)  # the softmax has no origin


def test_zero_retrain_forgetting_lies_between_0_and_1_and_reaches_both():
    one = logits(0)
    assert zero_retrain_forgetting(one, one) == pytest.approx(1, abs=1e-15)
    sure, other = np.array([[1e5, 0.0]]), np.array([[0.0, 1e5]])
    assert zero_retrain_forgetting(sure, other) == 0
    half = zero_retrain_forgetting(sure, np.array([[0.0, 0.0]]))  # [1, 0] and [1/2, 1/2]
    assert half == pytest.approx(1 - (math.log2(4 / 3) + (math.log2(2 / 3) + 1) / 2) / 2)


def test_agreement_counts_rows_called_alike():
    one, other = logits(0, 200), logits(1, 200)
    count = sum(a.tolist().index(max(a)) == b.tolist().index(max(b)) for a, b in zip(one, other, strict=True))
    assert agreement(one, other) == count / 200 == agreement(other, one)
    assert agreement(one, one) == 1
    assert agreement(one, np.roll(one, 1, axis=1)) == 0
    assert agreement(one, 3 * one + 1) == 1


def test_networks_that_are_right_equally_often_need_not_agree():
    targets = np.zeros(4, dtype=int)
    one = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    assert (one.argmax(1) == targets).mean() == (one[::-1].argmax(1) == targets).mean()
    assert agreement(one, one[::-1]) == 0


def test_total_variation_is_the_largest_difference_in_the_chance_of_any_event():
    one, other = logits(2, 12, 4), logits(3, 12, 4)
    wanted = []
    for p, q in zip(softmax(one, axis=1), softmax(other, axis=1), strict=True):
        events = [[k for k in range(4) if number >> k & 1] for number in range(16)]
        wanted.append(max(p[event].sum() - q[event].sum() for event in events))
    assert total_variation(one, other) == pytest.approx(np.mean(wanted), abs=1e-12)
    assert total_variation(one, one) == 0
    assert total_variation(np.array([[1e5, 0.0]]), np.array([[0.0, 1e5]])) == 1


@pytest.mark.parametrize("statistic", [zero_retrain_forgetting, agreement, total_variation])
@pytest.mark.parametrize("broken", [np.zeros((2, 3)), np.zeros((0, 2)), np.array([[math.nan, 0.0]]), np.zeros(2)])
def test_logits_that_do_not_match_or_are_not_finite_are_refused(statistic, broken):
    good = np.zeros((1, 2)) if broken.shape != (0, 2) else broken
    with pytest.raises(errors.BadRequest, match=r"expected finite logits \[examples, classes\] of the same rows"):
        statistic(good, broken)
    with pytest.raises(errors.BadRequest, match="expected finite logits"):
        statistic(broken, good)
