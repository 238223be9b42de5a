"""Twins: numpy's own histogram with a loop over bins, the divergence of two normals, and the table of two equal laws."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from excise import errors
from excise.measure import clipped_fraction, klom, klom_rows

CEILING = -math.log(1e-5)


def draws(seed=0):
    return np.random.default_rng(seed)


def naive(own, oracles, bins):
    """One row, from the definition."""
    own, oracles = np.clip(own, -100, 100), np.clip(oracles, -100, 100)
    both = np.concatenate([own, oracles])
    if both.min() == both.max():
        return 0.0
    span = (both.min(), both.max())
    p, q = (np.histogram(part, bins, span)[0] / len(part) for part in (own, oracles))
    total = 0.0
    for own_share, oracle_share in zip(p, q, strict=True):
        if own_share > 0:
            total += own_share * math.log(own_share / max(oracle_share, 1e-5))
    return total


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 40), st.integers(1, 25))
def test_rows_are_the_histogram(seed, num_own, num_oracles, bins):
    rng = draws(seed)
    own, oracles = 60 * rng.standard_normal((num_own, 3)) + 20, 60 * rng.standard_normal((num_oracles, 3))
    wanted = [naive(own[:, row], oracles[:, row], bins) for row in range(3)]
    np.testing.assert_allclose(klom_rows(own, oracles, num_bins=bins), wanted, rtol=1e-12, atol=1e-12)


def column(*values):
    return np.array(values, dtype=np.float64)[:, None]


@pytest.mark.parametrize(
    ("own", "oracles", "wanted"),
    [
        ([0.0] * 4, [0.0] * 4, 0.0),
        ([0.0] * 4, [5.0] * 4, CEILING),
        ([5.0] * 4, [0.0] * 4, CEILING),
        ([0.0, 0.0, 1.0, 1.0], [0.0] * 4, 0.5 * math.log(0.5) + 0.5 * math.log(0.5 / 1e-5)),
        ([0.0] * 4, [0.0, 0.0, 1.0, 1.0], math.log(2)),  # the other direction: not symmetric
    ],
)
def test_known_values(own, oracles, wanted):
    assert klom_rows(column(*own), column(*oracles))[0] == pytest.approx(wanted, abs=1e-12)
    assert pytest.approx(11.512925, abs=1e-6) == CEILING


def test_identical_populations_give_zero_and_order_is_no_information():
    rng = draws()
    own, oracles = rng.standard_normal((2, 32, 6))
    assert klom_rows(own, own[rng.permutation(32)]).tolist() == [0.0] * 6
    np.testing.assert_array_equal(klom_rows(own[::-1], oracles[rng.permutation(32)]), klom_rows(own, oracles))
    np.testing.assert_array_equal(klom_rows(own[:, ::-1], oracles[:, ::-1]), klom_rows(own, oracles)[::-1])
    np.testing.assert_allclose(klom_rows(4 * own + 8, 4 * oracles + 8), klom_rows(own, oracles), rtol=1e-12)


@given(arrays.arrays(np.float64, (9, 2), elements=st.floats(-300, 300)))
def test_a_row_lies_between_zero_and_the_ceiling(table):
    found = klom_rows(table[:4], table[4:])
    assert (found >= -4e-5).all()  # floored shares are not renormalised
    assert (found <= CEILING + 1e-12).all()


def test_the_bins_are_an_eighth_of_the_oracles_and_at_least_4():
    rng = draws()
    for count, bins in ((8, 4), (35, 4), (64, 8), (100, 12), (200, 25)):
        own, oracles = rng.standard_normal((2, count, 5))
        np.testing.assert_array_equal(klom_rows(own, oracles), klom_rows(own, oracles, num_bins=bins))


@pytest.mark.parametrize(("shift", "scale"), [(1.0, 1.0), (-1.0, 1.0), (0.0, 0.6), (1.0, 0.8)])
def test_many_networks_give_the_divergence_of_two_normals(shift, scale):
    rng = draws(1)
    own, oracles = scale * rng.standard_normal((5000, 40)) + shift, rng.standard_normal((5000, 40))
    exact = -math.log(scale) + (scale**2 + shift**2 - 1) / 2
    assert klom_rows(own, oracles, num_bins=60).mean() == pytest.approx(exact, rel=0.1)


@pytest.mark.parametrize(
    ("count", "mean", "high", "shifted"),
    [
        (16, 3.81, 5.98, 4.59),
        (32, 1.65, 3.01, 2.65),
        (64, 0.62, 1.24, 1.55),
        (100, 0.33, 0.65, 1.16),
        (200, 0.15, 0.28, 0.82),
    ],
)
def test_two_populations_of_one_law_are_as_far_apart_as_the_table_says(count, mean, high, shifted):
    own, oracles = draws(count).standard_normal((2, count, 1500))
    found = klom_rows(own, oracles, num_bins=20)
    assert found.mean() == pytest.approx(mean, rel=0.1)
    assert np.quantile(found, 0.95) == pytest.approx(high, rel=0.1)
    assert klom_rows(own + 1, oracles, num_bins=20).mean() == pytest.approx(shifted, rel=0.1)


def test_beyond_the_clip_is_the_clip():
    oracles = draws().standard_normal((16, 1))
    wanted = klom_rows(column(*[100.0] * 16), oracles)
    for value in (101.0, 1e6, 1e300, math.inf):
        np.testing.assert_array_equal(klom_rows(column(*[value] * 16), oracles), wanted)
    own = column(-math.inf, 0.0, 1.0, 2.0)
    np.testing.assert_array_equal(klom_rows(own, oracles), klom_rows(np.maximum(own, -100), oracles))
    assert clipped_fraction(np.array([[100.0, 101.0], [-math.inf, 3.0]])) == 0.5


def test_the_dropped_maximum_published_bug_loses_no_network():
    """The largest margin of all fell outside the last bin: with it alone moved, nothing changed."""
    oracles = column(*np.linspace(0, 1, 16))
    own = column(*[0.0] * 15, 1.0)
    kept = (15 / 16) * math.log((15 / 16) / (4 / 16)) + (1 / 16) * math.log((1 / 16) / (4 / 16))
    assert klom_rows(own, oracles)[0] == pytest.approx(kept, abs=1e-12)  # 4 bins, 4 oracles in each, ends included


def test_a_constant_above_published_bug_gives_the_ceiling_and_no_nan():
    """Constant margins above every oracle gave NaN, since none was counted in any bin."""
    oracles = draws().standard_normal((64, 3))
    for value in (5.0, -5.0):
        assert klom_rows(np.full((64, 3), value), oracles).tolist() == pytest.approx([CEILING] * 3)


def test_everything_clipped_published_bug_is_not_perfect():
    """Margins all beyond the clip scored 0.0, the perfect score, in whatever they differed beyond it."""
    rng = draws()
    oracles = rng.standard_normal((64, 2))
    assert (klom_rows(oracles * 1e6 + 1e7, oracles) > 11).all()  # own beyond the clip, oracles not
    far = 200 + oracles
    np.testing.assert_allclose(klom_rows(np.full((64, 2), 1e6), far), [CEILING] * 2)  # both, and not alike
    np.testing.assert_allclose(klom_rows(-far, far), [CEILING] * 2)
    np.testing.assert_allclose(klom_rows(np.full((64, 2), math.inf), far), [CEILING] * 2)
    again = 200 + rng.standard_normal((64, 2))
    np.testing.assert_allclose(klom_rows(again, far), klom_rows(again - 200, far - 200))  # both, and alike
    mixed = np.concatenate([far[:, :1], oracles[:, 1:]], axis=1)  # one row hides another in neither
    np.testing.assert_allclose(klom_rows(mixed, mixed[::-1]), [0.0, 0.0])


def test_the_swapped_direction_published_bug_is_unlearned_from_oracle():
    """Some callers gave oracle and unlearned in the wrong order. Half of the oracles elsewhere costs ln 2, not 5.06."""
    spread, tight = column(0.0, 0.0, 1.0, 1.0), column(0.0, 0.0, 0.0, 0.0)
    assert klom_rows(own=spread, oracles=tight)[0] == pytest.approx(5.063316, abs=1e-6)
    assert klom_rows(own=tight, oracles=spread)[0] == pytest.approx(0.693147, abs=1e-6)


def test_only_one_arm_clipped_published_bug_clips_both():
    """Where only the unlearned were clipped, one wild oracle widened the bins until all of the others fell into one."""
    oracles = np.concatenate([draws().standard_normal((63, 1)), [[1e9]]])
    own = draws(1).standard_normal((64, 1)) + 60
    assert klom_rows(own, oracles)[0] > 11
    np.testing.assert_array_equal(klom_rows(own, oracles), klom_rows(own, np.minimum(oracles, 100)))


def test_a_network_that_gives_no_number_is_refused_by_name():
    own, oracles = draws().standard_normal((2, 8, 3))
    own[5, 1] = math.nan
    with pytest.raises(errors.BadRequest, match=r"NaN in 1 of 8 unlearned networks, first in network 5"):
        klom_rows(own, oracles)
    with pytest.raises(errors.BadRequest, match=r"NaN in 1 of 8 oracle networks"):
        klom_rows(oracles, own)
    with pytest.raises(errors.BadRequest, match=r"NaN in 1 of 8 oracle networks"):
        klom(oracles, oracles, own, generator=draws())


@pytest.mark.parametrize(
    "shapes", [((4, 2), (4, 3)), ((4,), (4,)), ((0, 2), (4, 2)), ((4, 2), (0, 2)), ((4, 0), (4, 0))]
)
def test_margins_of_other_rows_are_refused(shapes):
    own, oracles = (np.zeros(shape) for shape in shapes)
    with pytest.raises(errors.BadRequest, match=r"expected margins \[models, rows\] of the same rows"):
        klom_rows(own, oracles)


def test_no_bin_is_refused():
    with pytest.raises(errors.BadRequest, match="num_bins: expected at least 1, found 0"):
        klom_rows(np.zeros((4, 1)), np.zeros((4, 1)), num_bins=0)


def test_the_arms_are_left_alone():
    own, oracles = 1e3 * draws().standard_normal((2, 8, 3))
    before = own.copy(), oracles.copy()
    klom_rows(own, oracles)
    np.testing.assert_array_equal([own, oracles], before)


def test_the_measure_sees_a_shift_and_not_a_third_population():
    own, oracles, held_out = draws(2).standard_normal((3, 32, 30))
    same = klom(own, oracles, held_out, generator=draws(), num_permutations=99)
    assert same.name == "klom"
    assert same.value == pytest.approx(klom_rows(own, oracles).mean())
    assert same.null_low <= same.value <= same.null_high
    assert same.p > 0.05
    moved = klom(own + 1, oracles, held_out, generator=draws(), num_permutations=99)
    assert moved.p == 0.01
    assert moved.value > moved.null_mean + moved.least_detectable


def test_the_measure_of_a_quantile_names_it_and_says_what_was_clipped():
    own, oracles, held_out = draws(3).standard_normal((3, 16, 8))
    own[:, :2] = math.inf
    found = klom(own, oracles, held_out, generator=draws(), quantile=0.95, num_bins=20, num_permutations=19)
    assert found.name == "klom-0.95"
    assert found.value == pytest.approx(np.quantile(klom_rows(own, oracles, num_bins=20), 0.95))
    assert "95% quantile over 8 rows" in found.sentence
    assert "25.0% of the unlearned, 0.0% of the oracles' margins" in found.sentence
