"""Twins: the step-up procedure as a loop, Student's t by hand; nulls and leaks by simulation of margins."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from excise import errors
from excise.measure import (
    auc,
    before_and_after,
    benjamini_hochberg,
    forget_rows,
    matched,
    retain_auc,
    retain_exposure,
    row_spreads,
    row_test,
)

P_VALUES = st.lists(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.01, 0.02, 0.025, 0.05, 1.0])), max_size=8)


def draws(seed=0):
    return np.random.default_rng(seed)


def margins(seed, num_models, num_rows=80):
    """Margins of networks of one law, on rows of unequal difficulty and spread."""
    generator = draws(seed)
    return generator.normal(2, 3, num_rows) + np.exp(0.4 * generator.normal(size=num_rows)) * generator.standard_normal(
        (num_models, num_rows)
    )


def step_up(p_values, level):
    """Reject the k smallest, for the largest k whose k-th smallest is at most k / m of the level."""
    ordered, rejected = sorted(p_values), []
    for count in range(1, len(p_values) + 1):
        if ordered[count - 1] <= count * level / len(p_values):
            rejected = ordered[:count]
    return [bool(rejected) and p <= rejected[-1] for p in p_values]


@given(P_VALUES, st.sampled_from([0.05, 0.2]))
def test_benjamini_and_hochberg_step_up(p_values, level):
    found = benjamini_hochberg(np.array(p_values), level).tolist()
    wanted = step_up(p_values, level)
    # level * k / m may differ from k * level / m in the last digit
    near = any(
        math.isclose(p, level * k / len(p_values), rel_tol=1e-12)
        for p in p_values
        for k in range(1, len(p_values) + 1)
        if p > 0
    )
    assert near or found == wanted
    order = np.argsort(p_values, kind="stable")[::-1] if p_values else []
    again = benjamini_hochberg(np.array(p_values)[list(order)], level).tolist() if p_values else []
    assert again == [found[place] for place in order]


def test_the_share_of_false_discoveries_is_kept():
    generator, false = draws(1), []
    for _ in range(600):
        p_values = np.concatenate([generator.uniform(size=80), stats.norm.sf(generator.normal(3, 1, 20))])
        rejected = benjamini_hochberg(p_values, 0.2)
        false.append(rejected[:80].sum() / max(1, rejected.sum()))
    assert np.mean(false) == pytest.approx(
        0.2 * 0.8, abs=0.015
    )  # exact for independent tests: level times the true share


def test_every_row_is_held_against_oracles_by_students_t():
    table = margins(2, 7)
    own, oracles = table[0] + 1, table[1:]
    spread, freedom = row_spreads(oracles)
    two, one = (row_test(own, oracles, alternative=which) for which in ("two-sided", "greater"))
    for row in range(80):
        t = (own[row] - np.mean(oracles[:, row])) / (spread[row] * math.sqrt(7 / 6))
        assert two.p[row] == pytest.approx(2 * stats.t.sf(abs(t), freedom), rel=1e-9)
        assert one.p[row] == pytest.approx(stats.t.sf(t, freedom), rel=1e-9)
        assert stats.norm.sf(two.scores[row]) == pytest.approx(stats.t.sf(t, freedom), rel=1e-6)
    assert two.worst == pytest.approx(np.mean(sorted(abs(two.scores))[-4:]))
    assert one.worst == pytest.approx(np.mean(sorted(one.scores)[-4:]))
    assert two.told_apart.tolist() == step_up(two.p.tolist(), 0.05)
    assert (two.num_rows, two.share) == (sum(two.told_apart), sum(two.told_apart) / 80)


def test_one_more_oracle_stands_out_in_one_row_of_twenty_and_almost_never_among_all():
    found = [row_test(table[0], table[1:]) for table in (margins(seed, 9) for seed in range(200))]
    assert np.mean([(one.p < 0.05).mean() for one in found]) == pytest.approx(0.05, abs=0.012)
    assert np.mean([one.num_rows > 0 for one in found]) <= 0.11  # 5% and twice that for rows of unequal spread


def test_remembered_rows_are_told_apart_and_others_are_not():
    table = margins(3, 9)
    spread = row_spreads(table)[0]
    own = table[0].copy()
    own[:8] += 10 * spread[:8]
    own[8:16] -= 10 * spread[8:16]
    two, one = (row_test(own, table[1:], alternative=which) for which in ("two-sided", "greater"))
    assert two.told_apart[:16].all()
    assert two.told_apart[16:].sum() <= 3
    assert one.told_apart[:8].all()
    assert not one.told_apart[8:16].any()
    assert (np.sign(two.scores[:16]) == np.repeat([1, -1], 8)).all()


def test_numbers_far_beyond_any_tail_stay_finite():
    table = margins(4, 5)
    found = row_test(table[0] + 1e12, table[1:])
    assert np.isfinite(found.scores).all()
    assert (found.scores <= 37.6).all()
    assert found.share == 1.0
    same = np.full((5, 6), 2.0)
    assert row_test(same[0], same[1:]).num_rows == 0
    assert row_test(same[0] + 0.1, same[1:]).share == 1.0


def test_forget_rows_pass_an_oracle_and_fail_a_network_that_remembers_some():
    table = margins(5, 9)
    clean = forget_rows(table[0], table[1:])
    each = [row_test(table[one], np.delete(table, [0, one], axis=0)) for one in range(1, 9)]
    assert clean.share.name == "forget_rows"
    assert clean.worst.name == "worst_forget_rows"
    assert clean.share.value == pytest.approx(clean.rows.share - np.mean([one.share for one in each]))
    assert clean.worst.value == pytest.approx(clean.rows.worst - np.mean([one.worst for one in each]))
    assert clean.share.p > 0.05
    assert clean.worst.p > 0.05
    own = table[0] + np.where(np.arange(80) < 6, 8 * row_spreads(table[1:])[0], 0)
    leaky = forget_rows(own, table[1:], among=3)
    assert leaky.share.p < 0.01
    assert leaky.worst.p < 0.01
    assert f"{leaky.rows.num_rows} of 80" in leaky.share.sentence
    assert leaky.share.least_detectable > clean.share.least_detectable


def test_one_more_oracle_is_not_rejected_too_often():
    found = [forget_rows(table[0], table[1:]) for table in (margins(seed, 7, num_rows=40) for seed in range(200))]
    assert sum(one.worst.p < 0.05 for one in found) <= 20  # 10 expected
    assert sum(one.share.p < 0.05 for one in found) <= 20


def test_retained_rows_count_where_they_grew_beyond_oracles_and_beyond_the_original():
    table = margins(6, 10)
    spread = row_spreads(table)[0]
    original = table[0].copy()
    own = table[1].copy()
    own[:5] = original[:5] = table[2:, :5].mean(axis=0) + 12 * spread[:5]
    own[:5] += 0.01  # grew, and stands out
    own[5:10] = table[2:, 5:10].mean(axis=0) + 12 * spread[5:10]
    original[5:10] = own[5:10]  # stood out before
    own[10:15] = table[2:, 10:15].mean(axis=0) - 12 * spread[10:15]  # fell
    found = retain_exposure(original, own, table[2:])
    assert found.rows.told_apart[:5].all()
    assert not found.rows.told_apart[5:15].any()
    assert (found.rows.p[5:10] == 1).all()
    assert (found.share.name, found.worst.name) == ("retain_exposure", "worst_retain_rows")
    assert found.share.p < 0.01
    null = []
    for one in range(2, 10):
        each = row_test(table[one], np.delete(table, [0, 1, one], axis=0), alternative="greater")
        p = np.where(table[one] > original, each.p, 1.0)
        null.append(np.mean(step_up(p.tolist(), 0.05)))
    assert found.share.value == pytest.approx(found.rows.share - np.mean(null))
    assert retain_exposure(table[0], table[1], table[2:]).share.p > 0.05


def test_before_and_after_is_the_area_of_the_fall_of_the_margin_beside_oracles():
    inside, outside = margins(7, 10), margins(8, 10, num_rows=50)
    original = inside[0] + 3, outside[0]  # it had learnt the forget rows
    oracles = inside[2:], outside[2:]
    clean = before_and_after(original, (inside[1], outside[1]), oracles)
    falls = [auc(original[0] - inside[k], original[1] - outside[k]) for k in range(1, 10)]
    assert clean.value == pytest.approx(falls[0] - np.mean(falls[1:]))
    assert np.mean(falls) > 0.8  # oracles give the rows away too
    assert (clean.name, clean.num_models) == ("before_and_after", 8)
    assert clean.p > 0.05
    over = before_and_after(original, (inside[1] - 4, outside[1]), oracles)  # pushed further down than retraining does
    assert over.value > over.null_high
    nothing = before_and_after(original, original, oracles)
    assert nothing.value == pytest.approx(0.5 - np.mean(falls[1:]))
    assert nothing.p < 0.01


def test_retain_auc_is_the_shift_of_the_area_from_oracles():
    inside, outside = margins(9, 10) + 1, margins(10, 10, num_rows=50)
    areas = [auc(inside[k], outside[k]) for k in range(10)]
    found = retain_auc((inside[0], outside[0]), (inside[1:], outside[1:]))
    assert found.value == pytest.approx(areas[0] - np.mean(areas[1:]))
    assert (found.name, found.num_models) == ("retain_auc", 9)
    assert found.p > 0.05
    overfitted = retain_auc((inside[0] + 5, outside[0]), (inside[1:], outside[1:]))
    assert overfitted.value > overfitted.null_high
    same = retain_auc((np.zeros(80), np.zeros(50)), (np.zeros((3, 80)), np.zeros((3, 50))))
    assert (same.value, same.p) == (0.0, 1.0)


@given(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=12),
    st.lists(st.sampled_from("abcd"), max_size=30),
    st.integers(0, 3),
)
def test_twins_are_drawn_once_each_with_the_class_mix(forget, candidates, seed):
    wanted, have = Counter(forget), Counter(candidates)
    if any(have[label] == 0 for label in wanted):
        with pytest.raises(errors.BadRequest, match=r"candidates: expected .* a candidate of every class"):
            matched(np.array(forget), np.array(candidates), draws(seed))
        return
    found = matched(np.array(forget), np.array(candidates), draws(seed))
    drawn = Counter(candidates[place] for place in found)
    assert found.tolist() == sorted(set(found.tolist()))
    share = min(1, min(have[label] / wanted[label] for label in wanted))
    assert drawn.keys() == wanted.keys()
    for label, count in wanted.items():
        assert drawn[label] == max(1, math.floor(count * share + 1e-9))


def test_every_candidate_of_a_class_may_be_drawn_and_the_generator_decides():
    labels = np.repeat([0, 1], [20, 10])
    found = Counter(
        place for seed in range(400) for place in matched(np.array([0, 0, 1]), labels, draws(seed)).tolist()
    )
    assert min(found[place] for place in range(20)) > 15  # 40 expected of each
    assert min(found[place] for place in range(20, 30)) > 15
    assert matched(labels, labels, draws()).tolist() == list(range(30))


def test_a_scarce_class_draws_all_down_so_that_the_mix_stays():
    forget, candidates = np.repeat([0, 1], [40, 20]), np.repeat([0, 1, 2], [100, 5, 9])
    found = candidates[matched(forget, candidates, draws())]
    assert np.bincount(found).tolist() == [10, 5]


def test_no_forget_rows_and_missing_classes_are_refused():
    with pytest.raises(errors.BadRequest, match=r"found none of class 3, 7; give more rows"):
        matched(np.array([1, 3, 7]), np.array([1, 2]), draws())
    with pytest.raises(errors.BadRequest, match=r"candidates: expected at least one forget row"):
        matched(np.array([], dtype=int), np.array([1, 2]), draws())


GOOD = margins(11, 4, num_rows=6)


@pytest.mark.parametrize("broken", [GOOD[0, :5], np.full(6, math.nan), np.ones((2, 6))])
def test_networks_that_do_not_fit_are_refused(broken):
    with pytest.raises(errors.BadRequest, match=r"own: expected finite margins \[rows\] beside oracles"):
        row_test(broken, GOOD)
    if broken.ndim == 1:
        with pytest.raises(errors.BadRequest, match=r"original: expected finite margins of the network's rows"):
            retain_exposure(broken, GOOD[0], GOOD)
    with pytest.raises(errors.BadRequest, match=r"original: expected finite margins of the network's forget rows"):
        before_and_after((GOOD[0], broken), (GOOD[0], GOOD[0]), (GOOD, GOOD))
    with pytest.raises(errors.BadRequest, match=r"expected finite margins \[rows\] of the network beside"):
        retain_auc((GOOD[0], broken), (GOOD, GOOD))


def test_oracles_that_do_not_fit_or_are_too_few_are_refused():
    with pytest.raises(errors.BadRequest, match=r"oracles: expected at least 3, .* found 2"):
        forget_rows(GOOD[0], GOOD[:2])
    with pytest.raises(errors.BadRequest, match=r"expected finite margins .* of the same oracles"):
        retain_auc((GOOD[0], GOOD[0]), (GOOD, GOOD[:3]))
    with pytest.raises(errors.BadRequest, match=r"retain_auc: expected at least 2 oracles"):
        retain_auc((GOOD[0], GOOD[0]), (GOOD[:1], GOOD[:1]))
    with pytest.raises(errors.BadRequest, match=r"scores: expected finite \[models, rows\]"):
        row_test(GOOD[0], GOOD[:1])
