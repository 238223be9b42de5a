"""Twins: matching by loops, the distance by optimal transport, the signed-rank test by enumeration."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from excise import errors
from excise.measure import below_twins, neighbour_agreement, twin_distance, twins


def draws(seed=0):
    return np.random.default_rng(seed)


def pairs(seed, num_rows, shift):
    own, others = draws(seed).standard_normal((2, num_rows))
    return own + shift, others


def one_by_one(forget, held_out, reach):
    """The matching as its docstring tells it, in loops."""
    every = np.concatenate([forget, held_out])
    spread = [column.std() for column in every.T]

    def away(one, other):
        return math.sqrt(sum(((a - b) / s) ** 2 for a, b, s in zip(one, other, spread, strict=True) if s > 0))

    table = [[away(one, other) for other in held_out] for one in forget]
    near = []
    for row, distances in enumerate(table):
        nearest = sorted(range(len(held_out)), key=lambda place: (distances[place], place))[:16]
        near += [
            (distances[place], row, place) for place in nearest if distances[place] <= reach * distances[nearest[0]]
        ]
    found, used = {}, set()
    for _, row, place in sorted(near):
        if row not in found and place not in used:
            found[row] = place
            used.add(place)
    return [found.get(row, int(np.argmin(table[row]))) for row in range(len(forget))]


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 40), st.sampled_from([1.0, 1.05, 1.5, 4.0]))
def test_twins_are_those_of_the_loops(seed, num_forget, num_held_out, reach):
    rng = draws(seed)
    scale = np.array([1.0, 50.0, 0.0])  # a constant column counts for nothing
    forget, held_out = rng.standard_normal((num_forget, 3)) * scale, rng.standard_normal((num_held_out, 3)) * scale
    assert twins(forget, held_out, reach=reach).tolist() == one_by_one(forget, held_out, reach)


def test_a_look_alike_is_used_twice_rather_than_a_row_unlike():
    forget, held_out = np.array([[0.0], [0.1], [0.2]]), np.array([[0.1], [9.0]])
    assert twins(forget, held_out).tolist() == [0, 0, 0]


def test_of_two_as_near_one_that_is_free_is_taken_and_ties_go_to_the_lower():
    forget, held_out = np.array([[0.0], [0.0]]), np.array([[1.0], [1.02], [1.0]])
    assert twins(forget, held_out).tolist() == [0, 2]
    assert twins(forget, held_out[:2]).tolist() == [0, 1]
    assert twins(forget, held_out[:2], reach=1).tolist() == [0, 0]


def test_without_a_reach_a_row_that_is_repeated_gets_its_nearest_in_turn():
    held_out = np.array([[3.0], [1.0], [0.0], [2.0]])
    assert sorted(twins(np.zeros((3, 1)), held_out, reach=math.inf).tolist()) == [1, 2, 3]


@given(st.integers(0, 1000), st.floats(0.01, 100), st.floats(-5, 5))
def test_units_of_a_column_do_not_matter(seed, scale, shift):
    forget, held_out = draws(seed).standard_normal((5, 2)), draws(seed + 1).standard_normal((9, 2))
    other = [array * [scale, 1.0] + [shift, 0.0] for array in (forget, held_out)]
    assert twins(*other).tolist() == twins(forget, held_out).tolist()


def test_pixels_of_an_image_are_scaled_by_channel():
    rng = draws(3)
    images = [rng.standard_normal((n, 2, 3, 3)) * [[[[1.0]], [[100.0]]]] for n in (6, 30)]
    spread = np.concatenate(images).std(axis=(0, 2, 3))[:, None, None]
    flat = [(image / spread).reshape(len(image), -1) for image in images]
    table = ((flat[0][:, None] - flat[1][None]) ** 2).sum(-1)
    assert twins(*images, reach=1).tolist() == table.argmin(1).tolist()


@pytest.mark.parametrize(
    ("forget", "held_out"),
    [
        (np.zeros((0, 2)), np.zeros((3, 2))),
        (np.zeros((3, 2)), np.zeros((0, 2))),
        (np.zeros((3, 2)), np.zeros((3, 3))),
        (np.full((3, 2), np.nan), np.zeros((3, 2))),
    ],
    ids=["no forget", "no held out", "other shape", "not finite"],
)
def test_rows_that_cannot_be_compared_are_refused(forget, held_out):
    with pytest.raises(errors.BadData, match="twins: expected finite numbers for at least one forget and one held-out"):
        twins(forget, held_out)


def test_agreement_is_the_leave_one_out_nearest_neighbour():
    rng = draws(1)
    rows, labels = rng.standard_normal((40, 2)), rng.integers(3, size=40)
    table = np.linalg.norm((rows[:, None] - rows[None]) / rows.std(0), axis=-1)
    np.fill_diagonal(table, np.inf)
    assert neighbour_agreement(rows, labels) == np.mean(labels[table.argmin(1)] == labels)
    assert (
        neighbour_agreement(np.repeat(rows[:20], 2, axis=0), np.repeat(labels[:20], 2)) == 1.0
    )  # the copy, not the row itself
    assert math.isnan(neighbour_agreement(rows[:1], labels[:1]))


@given(st.integers(0, 1000), st.integers(2, 8))
def test_the_distance_is_the_cheapest_way_to_carry_one_sample_to_the_other(seed, num_rows):
    own, others = draws(seed).standard_normal((2, num_rows)) * [[1.0], [3.0]] + [[0.5], [0.0]]
    cost = np.abs(own[:, None] - others[None])
    cheapest = cost[optimize.linear_sum_assignment(cost)].mean() / others.std(ddof=1)
    assert twin_distance(own, others) == pytest.approx(cheapest, rel=1e-12)


@given(st.floats(0.01, 100), st.floats(-50, 50))
def test_a_network_cannot_come_closer_by_being_sure_of_nothing(scale, shift):
    own, others = pairs(2, 30, 1.0)
    assert twin_distance(own * scale + shift, others * scale + shift) == pytest.approx(twin_distance(own, others))


def test_the_distance_of_a_shift_is_the_shift_and_of_order_nothing():
    others = draws(4).standard_normal(50)
    shifted = others[::-1] + 2 * others.std(ddof=1)
    assert twin_distance(shifted, others) == pytest.approx(2)
    assert twin_distance(others[::-1], others) == 0


def test_the_distance_of_two_draws_of_one_normal_distribution_is_as_told():
    for num_rows in (30, 300):
        found = [twin_distance(*draws(seed).standard_normal((2, num_rows))) for seed in range(300)]
        assert np.mean(found) * math.sqrt(num_rows) == pytest.approx(1.8, rel=0.08)  # 300 draws, and small samples


def test_twins_that_agree_exactly_give_no_unit():
    assert twin_distance(np.array([1.0, 2.0]), np.array([0.0, 0.0])) == math.inf
    assert twin_distance(np.array([0.0]), np.array([0.0])) == 0
    assert math.isnan(twin_distance(np.array([np.nan, 0.0]), np.array([0.0, 1.0])))


def signed_rank(apart):
    """p-value of a low sum of positive ranks, by all signs."""
    ranks = stats.rankdata(np.abs(apart))
    observed = ranks[apart > 0].sum()
    sums = [
        sum(r for r, up in zip(ranks, signs, strict=True) if up)
        for signs in itertools.product([0, 1], repeat=len(apart))
    ]
    return np.mean(np.array(sums) <= observed)


@pytest.mark.parametrize("shift", [-1.0, 0.0, 0.5])
def test_below_is_the_signed_rank_test_by_enumeration(shift):
    own, others = pairs(7, 9, shift)
    p, share = below_twins(own, others, np.arange(9))
    assert p == pytest.approx(signed_rank(own - others))
    assert share == np.mean(own < others)
    above, rest = below_twins(others, own, np.arange(9))
    assert above == pytest.approx(signed_rank(others - own)) and rest == pytest.approx(1 - share)


def test_rows_that_share_a_twin_count_as_one():
    own, others = pairs(8, 6, -1.0)
    places = np.arange(6)
    again = below_twins(np.repeat(own, 3), np.repeat(others, 3), np.repeat(places, 3))
    assert again == pytest.approx(below_twins(own, others, places))
    assert below_twins(own, own, places) == (1.0, 0.5)
