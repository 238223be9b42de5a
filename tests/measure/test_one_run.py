"""Twins: the root of the binomial tail by bisection, the paper's tail written out, and the exact chance of being wrong."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from excise import errors
from excise.measure import one_run, one_run_epsilon


def draws(seed=0):
    return np.random.default_rng(seed)


def by_bisection(correct, guesses, level):
    """The epsilon at which P[Bin(r, 1 / (1 + e^-epsilon)) >= v] has risen to 1 - level."""
    low, high = 0.0, 60.0
    for _ in range(80):
        middle = (low + high) / 2
        tail = stats.binom.sf(correct - 1, guesses, 1 / (1 + math.exp(-middle)))
        low, high = (middle, high) if tail < 1 - level else (low, middle)
    return low


@given(st.data(), st.integers(1, 300), st.sampled_from([0.9, 0.95, 0.99]))
def test_the_bound_is_the_root_of_the_tail(data, guesses, level):
    correct = data.draw(st.integers(0, guesses))
    found = one_run_epsilon(correct, guesses, level=level)
    assert found == pytest.approx(by_bisection(correct, guesses, level), abs=1e-9)


def test_the_published_ceilings():
    assert [round(one_run_epsilon(count, count), 2) for count in (20, 60, 200, 1000)] == [1.82, 2.97, 4.19, 5.81]
    assert round(one_run_epsilon(120, 200), 2) == 0.16
    rate = 0.05 ** (1 / 60)
    assert one_run_epsilon(60, 60) == pytest.approx(math.log(rate / (1 - rate)), rel=1e-12)


@pytest.mark.parametrize("correct", [0, 50, 105])
def test_guesses_no_better_than_chance_bound_nothing(correct):
    assert one_run_epsilon(correct, 200) == 0.0
    assert one_run_epsilon(correct, 200, delta=0.01, num_canaries=200) == 0.0


@pytest.mark.parametrize("truth", [0.0, 0.3, 1.0, 2.5])
@pytest.mark.parametrize("guesses", [5, 60, 200])
def test_randomised_response_is_overrated_once_in_twenty_runs_at_most(truth, guesses):
    """Each guess is right with probability 1 / (1 + e^-epsilon); the chance of each count is known, so nothing is drawn."""
    counts = np.arange(guesses + 1)
    chance = stats.binom.pmf(counts, guesses, 1 / (1 + math.exp(-truth)))
    over = np.array([one_run_epsilon(int(count), guesses) > truth for count in counts])
    assert chance[over].sum() <= 0.05 + 1e-9
    if guesses == 200 and truth:
        assert chance[over].sum() > 0.02  # nearly as often as allowed


def tail_of_the_paper(correct, guesses, epsilon, delta, canaries):
    chance = 1 / (1 + math.exp(-epsilon))
    beta = sum(stats.binom.pmf(w, guesses, chance) for w in range(correct, guesses + 1))
    steepest = 0.0
    for i in range(1, canaries + 1):
        between = sum(stats.binom.pmf(w, guesses, chance) for w in range(max(correct - i, 0), correct))
        steepest = max(steepest, 2 / i * between)
    return beta + delta * canaries * steepest


@pytest.mark.parametrize(("correct", "delta"), [(18, 1e-4), (20, 1e-3), (15, 1e-3), (20, 0.01)])
def test_with_delta_the_bound_is_where_the_tail_of_the_paper_stops_being_surprising(correct, delta):
    found = one_run_epsilon(correct, 20, delta=delta, num_canaries=30)
    assert found < one_run_epsilon(correct, 20)
    if found:
        assert tail_of_the_paper(correct, 20, found, delta, 30) == pytest.approx(0.05, abs=1e-6)
    for smaller in np.linspace(0, found, 30)[:-1]:
        assert tail_of_the_paper(correct, 20, smaller, delta, 30) <= 0.05
    assert tail_of_the_paper(correct, 20, found + 1e-3, delta, 30) > 0.05


def test_a_smaller_delta_gives_a_larger_bound_up_to_that_without():
    found = [one_run_epsilon(190, 200, delta=delta, num_canaries=1000) for delta in (1e-3, 1e-4, 1e-5, 1e-12)]
    assert found == sorted(found)
    assert found[-1] == pytest.approx(one_run_epsilon(190, 200), abs=1e-6)
    assert one_run_epsilon(190, 200, delta=0.9, num_canaries=1000) == 0.0


@pytest.mark.parametrize("truth", [0.0, 1.0])
def test_leaks_with_delta_are_overrated_once_in_twenty_runs_at_most(truth):
    """Randomised response that with probability delta tells all: a guess is right with delta + (1 - delta) times the rate."""
    delta, counts = 0.02, np.arange(101)
    chance = stats.binom.pmf(counts, 100, delta + (1 - delta) / (1 + math.exp(-truth)))
    found = np.array([one_run_epsilon(int(count), 100, delta=delta, num_canaries=100) for count in counts])
    assert chance[found > truth].sum() <= 0.05
    assert (np.diff(found) >= -1e-9).all()


def test_the_largest_scores_are_taken_to_be_in_and_the_smallest_out():
    scores = np.array([0.9, 0.1, 0.5, 0.8, 0.2, 0.6])
    included = np.array([True, False, False, False, False, True])
    found = one_run(scores, included, num_guesses=4, generator=draws())
    assert (found.num_guesses, found.num_correct, found.num_canaries, found.delta) == (4, 3, 6, 0.0)
    assert found.epsilon == one_run_epsilon(3, 4)
    assert found.ceiling == one_run_epsilon(4, 4)
    turned = one_run(-scores, included, num_guesses=4, generator=draws())
    assert turned.num_correct == 1
    widened = one_run(scores, included, num_guesses=4, generator=draws(), delta=0.01, level=0.9)
    assert widened.ceiling == one_run_epsilon(4, 4, delta=0.01, num_canaries=6, level=0.9)
    assert widened.delta == 0.01


def test_equal_scores_do_not_tell_by_their_place():
    included = np.arange(400) < 200  # ordered by the very thing that is to be guessed
    for flag in (included, ~included):
        found = [one_run(np.zeros(400), flag, num_guesses=200, generator=draws(seed)) for seed in range(40)]
        assert sum(one.epsilon > 0 for one in found) <= 6  # one in twenty
        assert np.mean([one.num_correct for one in found]) == pytest.approx(100, abs=4)


def test_simulated_canaries_are_bounded_from_below_and_strong_ones_seen():
    rng, over, seen = draws(4), 0, []
    for _ in range(200):
        included = rng.random(300) < 0.5
        told = included ^ (rng.random(300) > 1 / (1 + math.exp(-1.0)))  # epsilon is 1
        found = one_run(told.astype(float), included, num_guesses=300, generator=rng)
        over += found.epsilon > 1
        seen.append(found.epsilon)
    # with all guessed, a third or so of the guesses is forced: equal numbers are taken to be in and out
    assert stats.binom.sf(over - 1, 200, 0.05) > 0.001
    assert 0.6 < np.mean(seen) < 1


@pytest.mark.parametrize("guesses", [0, 3, 8, -2])
def test_a_number_of_guesses_that_cannot_be_is_refused(guesses):
    with pytest.raises(errors.BadRequest, match="num_guesses: expected an even number from 2 to 6"):
        one_run(np.zeros(6), np.zeros(6, bool), num_guesses=guesses, generator=draws())


@pytest.mark.parametrize(
    ("scores", "included"),
    [
        (np.zeros(6), np.zeros(5, bool)),
        (np.zeros(6), np.zeros(6)),
        (np.zeros((6, 1)), np.zeros((6, 1), bool)),
        (np.full(6, math.nan), np.zeros(6, bool)),
    ],
)
def test_scores_that_do_not_fit_are_refused(scores, included):
    with pytest.raises(errors.BadRequest, match="expected one finite score and one bool a canary"):
        one_run(scores, included, num_guesses=2, generator=draws())


@pytest.mark.parametrize(("delta", "canaries"), [(0.1, None), (0.1, 19), (-0.1, 20), (1.0, 20), (math.nan, 20)])
def test_a_delta_that_cannot_be_acted_on_is_refused(delta, canaries):
    with pytest.raises(
        errors.BadRequest, match=r"expected delta in \[0, 1\) and, where it is not 0, the number of all"
    ):
        one_run_epsilon(20, 20, delta=delta, num_canaries=canaries)


def test_counts_out_of_range_are_refused():
    with pytest.raises(errors.BadRequest, match="expected whole counts"):
        one_run_epsilon(21, 20)
