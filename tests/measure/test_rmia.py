"""Twins: the double loop of the paper; references few and many, retrained networks and nulls by simulation of confidences."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from excise import errors
from excise.measure import Signals, auc_band, rmia, rmia_auc, rmia_scores

UNIT = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.25, 1.0]))


def draws(seed=0):
    return np.random.default_rng(seed)


def double_loop(rows, population, reference_rows, reference_population, a=0.3, gamma=1.0):
    """Zarifzadeh et al. 2024, offline: Pr(x) = ((1 + a) mean_OUT + (1 - a)) / 2, and every x against every z."""
    scores = []
    for x in range(len(rows)):
        mean_x = sum(one[x] for one in reference_rows) / len(reference_rows)
        over = 0
        for z in range(len(population)):
            mean_z = sum(one[z] for one in reference_population) / len(reference_population)
            ratio_x = rows[x] / (((1 + a) * mean_x + (1 - a)) / 2)
            ratio_z = population[z] / (((1 + a) * mean_z + (1 - a)) / 2)
            over += ratio_x > gamma * ratio_z
        scores.append(over / len(population))
    return scores


def confident(margins):
    return 1 / (1 + np.exp(-margins))


def problem(seed, num_oracles, *, learnt=0.0, num_rows=600):
    """Confidences of one network and of oracles on three sets of rows of one difficulty; half of them mislabelled."""
    generator = draws(seed)

    def signals(num_models, extra):
        parts = {}
        for name in ("forget", "non_members", "population"):
            moved = extra if name == "forget" else 0.0
            # rows differ more than networks do, as networks' agreement on hard rows shows
            parts[name] = confident(hardness[name] + moved + generator.normal(0, 0.5, (num_models, num_rows)))
        return Signals(**parts)

    hardness = {
        name: generator.normal(0, 1.5, num_rows) + np.where(np.arange(num_rows) % 2, 2.0, -2.0)
        for name in ("forget", "non_members", "population")
    }
    return signals(1, learnt).part(0), signals(num_oracles, 0.0)


@given(st.data(), st.integers(1, 3), st.sampled_from([0.0, 0.3, 0.9]), st.sampled_from([0.5, 1.0, 1.7]))
def test_scores_are_the_double_loop_of_the_paper(data, num_references, a, gamma):
    num_rows, num_population = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))
    shapes = [(num_rows,), (num_population,), (num_references, num_rows), (num_references, num_population)]
    parts = [data.draw(arrays.arrays(np.float64, shape, elements=UNIT)) for shape in shapes]
    found = rmia_scores(*parts, interpolation=a, gamma=gamma)
    wanted = double_loop(*(part.tolist() for part in parts), a=a, gamma=gamma)
    differ = np.flatnonzero(found != wanted)
    # two ratios that are equal but for the last digit may fall on either side
    for row in differ:
        assert abs(found[row] - wanted[row]) <= sum(
            math.isclose(*pair, rel_tol=1e-12) for pair in ratios(parts, row, a, gamma)
        ) / len(parts[1])


def ratios(parts, row, a, gamma):
    rows, population, reference_rows, reference_population = parts
    mine = rows[row] / (((1 + a) * reference_rows[:, row].mean() + 1 - a) / 2)
    return [
        (mine, gamma * one / (((1 + a) * believed + 1 - a) / 2))
        for one, believed in zip(population, reference_population.mean(axis=0), strict=True)
    ]


def test_published_bug_a_reference_that_gives_zero_counts_as_zero():
    """The published code finds OUT signals by sorting and taking the largest; here references are named, and a zero is one."""
    rows, population = np.array([0.33]), np.array([0.3, 0.35, 0.5])
    believed = np.array([[0.2, 0.2, 0.6], [0.2, 0.2, 0.6]])
    # P = 0.65 mean + 0.35: the population's ratios are 0.3 / 0.48 = 0.625, 0.729 and 0.5 / 0.74 = 0.676
    assert rmia_scores(rows, population, np.array([[0.0], [0.4]]), believed)[0] == 2 / 3  # 0.33 / 0.48 = 0.6875
    assert rmia_scores(rows, population, np.array([[0.4], [0.4]]), believed)[0] == 0.0  # 0.33 / 0.61 = 0.541
    everywhere = rmia_scores(rows, population, np.zeros((2, 1)), np.zeros((2, 3)))
    assert everywhere[0] == 1 / 3  # all divided by 0.35


def test_a_zero_of_one_reference_in_any_order_is_the_same():
    generator = draws(1)
    parts = [generator.uniform(size=shape) for shape in ((20,), (30,), (4, 20), (4, 30))]
    parts[2][1] = 0.0
    order = [3, 1, 0, 2]
    np.testing.assert_array_equal(
        rmia_scores(*parts), rmia_scores(parts[0], parts[1], parts[2][order], parts[3][order])
    )


def test_equal_ratios_are_no_evidence():
    half = np.full(6, 0.5)
    assert rmia_scores(half, half, half[None], half[None]).tolist() == [0.0] * 6
    target = Signals(forget=half, non_members=half, population=half)
    references = Signals(forget=half[None], non_members=half[None], population=half[None])
    assert rmia_auc(target, references) == 0.5


def test_one_reference_does_nearly_what_sixteen_do():
    for learnt in (0.0, 1.0, 2.0):
        one, sixteen = [], []
        for seed in range(8):
            target, oracles = problem(seed, 16, learnt=learnt)
            one.append(rmia_auc(target, oracles.part(slice(0, 1))))
            sixteen.append(rmia_auc(target, oracles))
        assert np.mean(one) == pytest.approx(np.mean(sixteen), abs=0.02)
        if learnt:
            assert np.mean(sixteen) > 0.6


def test_a_network_that_never_saw_the_rows_lies_in_the_band():
    low, high = auc_band(600, 600)
    inside = [low <= rmia_auc(*problem(seed, 4)) <= high for seed in range(40)]
    assert sum(inside) >= 34  # 38 expected


def test_unmatched_rows_move_the_area_of_retraining_and_the_measure_moves_along():
    """Forget rows harder than non-members: the area lies far below 1/2 though nothing was learnt, and means nothing alone."""
    target, oracles = problem(4, 8, num_rows=200)
    clean, leaky = (
        Signals(
            forget=one.forget * 0.3,
            non_members=one.non_members,
            population=one.population,
        )
        for one in (target, problem(4, 8, num_rows=200, learnt=1.5)[0])
    )
    harder = Signals(forget=oracles.forget * 0.3, non_members=oracles.non_members, population=oracles.population)
    low, _ = auc_band(200, 200)
    assert rmia_auc(clean, harder) < low
    assert rmia(clean, harder).p > 0.05
    assert rmia_auc(leaky, harder) < 0.5
    assert rmia(leaky, harder).p < 0.01


def test_the_measure_passes_an_oracle_and_fails_a_network_that_remembers():
    target, oracles = problem(3, 8, num_rows=100)
    found = rmia(target, oracles, among=2)
    each = [rmia_auc(oracles.part(one), oracles.part([k for k in range(8) if k != one])) for one in range(8)]
    assert found.value == pytest.approx(rmia_auc(target, oracles) - np.mean(each))
    assert (found.name, found.num_models) == ("rmia", 8)
    assert found.p > 0.05
    leaky = rmia(problem(3, 8, num_rows=100, learnt=1.5)[0], oracles)
    assert leaky.value > leaky.null_high
    assert leaky.p < 0.01


def test_one_more_oracle_is_not_rejected_too_often():
    """The p-value is a little shy: in the null each oracle has one reference fewer, and they share their references."""
    rejected = [rmia(*problem(seed, 6, num_rows=40)).p < 0.05 for seed in range(400)]
    assert 4 <= sum(rejected) <= 31  # at most 20 expected; 2.5 standard deviations above


@pytest.mark.parametrize(("a", "gamma"), [(1.0, 1.0), (-0.1, 1.0), (0.3, 0.0), (math.nan, 1.0)])
def test_options_out_of_range_are_refused(a, gamma):
    half = np.full(3, 0.5)
    with pytest.raises(errors.BadRequest, match=r"expected interpolation in \[0, 1\) and gamma above 0"):
        rmia_scores(half, half, half[None], half[None], interpolation=a, gamma=gamma)


@pytest.mark.parametrize("broken", [[], [1.1, 0.5, 0.5], [-0.1, 0.5, 0.5], [math.nan, 0.5, 0.5], [0.5, 0.5]])
def test_confidences_out_of_range_or_shape_are_refused_by_name(broken):
    half = np.full(3, 0.5)
    with pytest.raises(errors.BadRequest, match=r"^rows: expected confidences in \[0, 1\]"):
        rmia_scores(np.array(broken), half, half[None], half[None])
    with pytest.raises(errors.BadRequest, match=r"^population: expected confidences in \[0, 1\]"):
        rmia_scores(half, half, half[None], np.array([broken]))
    with pytest.raises(errors.BadRequest, match=r"^population: expected confidences"):
        rmia_scores(half, half, half[None], half[None][:0])


def test_other_references_for_other_rows_are_refused():
    half = np.full((3, 4), 0.5)
    with pytest.raises(errors.BadRequest, match=r"references: expected the same networks .* found 3 and 2"):
        rmia_scores(half[0], half[0], half, half[:2])
    target = Signals(forget=half[0], non_members=half[0], population=half[0])
    with pytest.raises(errors.BadRequest, match=r"oracles: expected the same 3 or more networks"):
        rmia(target, Signals(forget=half, non_members=half[:2], population=half))
    with pytest.raises(errors.BadRequest, match=r"oracles: expected the same 3 or more networks"):
        rmia(target, Signals(forget=half[:2], non_members=half[:2], population=half[:2]))
