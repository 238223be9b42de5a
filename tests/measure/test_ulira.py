"""Twins: loops over networks and rows with Bayes' rule; nulls, powers and the published bugs by simulation of normals."""

import math

import numpy as np
import pytest
from scipy import stats

from excise import errors
from excise.measure import (
    auc,
    row_spreads,
    tpr_at,
    ulira,
    ulira_accuracy,
    ulira_attack,
    ulira_log_odds,
    ulira_rows,
    ulira_worst,
    ulira_worst_rows,
)


def draws(seed=0):
    return np.random.default_rng(seed)


def arms(seed, num_models, shift=0.0, ratio=1.0, num_rows=60):
    """Two arms of margins, rows of unequal difficulty and spread; the first arm is moved by `shift` spreads."""
    generator = draws(seed)
    hardness, spread = generator.normal(0, 5, num_rows), np.exp(0.4 * generator.normal(size=num_rows))
    own = hardness + spread * (shift + ratio * generator.standard_normal((num_models, num_rows)))
    return own, hardness + spread * generator.standard_normal((num_models, num_rows))


def bayes(score, fitted_in, fitted_out, spread_in, spread_out):
    """p = N(o; in) / (N(o; in) + N(o; out)), the normals fitted to the given scores of one row."""
    here = stats.norm.pdf(score, sum(fitted_in) / len(fitted_in), spread_in)
    there = stats.norm.pdf(score, sum(fitted_out) / len(fitted_out), spread_out)
    return here / (here + there)


def fit_and_score(own, oracles):
    """What the published code does: normals of the very networks that are then judged."""
    right = []
    for row in range(own.shape[1]):
        here, there = own[:, row], oracles[:, row]
        spreads = here.std(), there.std()
        right += [bayes(score, here, there, *spreads) > 0.5 for score in here]
        right += [bayes(score, here, there, *spreads) <= 0.5 for score in there]
    return np.mean(right)


@pytest.mark.parametrize(("num_own", "num_oracles"), [(6, 6), (5, 9)])
def test_each_fold_is_judged_by_the_normals_of_the_other(num_own, num_oracles):
    own, _ = arms(1, num_own, shift=1.0, num_rows=7)
    _, oracles = arms(1, num_oracles, num_rows=7)
    per_row = np.zeros(7)
    odds_in, odds_out = ulira_log_odds(own, oracles)
    for row in range(7):
        right = {True: [], False: []}
        for member, arm, odds in ((True, own, odds_in), (False, oracles, odds_out)):
            for model in range(len(arm)):
                fold = slice(1 - model % 2, None, 2)
                spread_in, spread_out = row_spreads(own[fold])[0][row], row_spreads(oracles[fold])[0][row]
                p = bayes(arm[model, row], own[fold, row], oracles[fold, row], spread_in, spread_out)
                assert 1 / (1 + math.exp(-odds[model, row])) == pytest.approx(p, rel=1e-9, abs=1e-12)
                right[member].append((p > 0.5) == member)
        per_row[row] = (np.mean(right[True]) + np.mean(right[False])) / 2
    found = ulira_attack(own, oracles)
    np.testing.assert_allclose(found.per_row, per_row, atol=1e-12)
    assert found.accuracy == ulira_accuracy(own, oracles) == pytest.approx(per_row.mean())
    assert found.worst == ulira_worst(own, oracles) == pytest.approx(per_row.max())
    assert found.auc == auc(odds_in.ravel(), odds_out.ravel())
    assert math.isnan(found.tpr)  # 42 or 63 pairs cannot show 1%


@pytest.mark.parametrize(("num_models", "naive"), [(4, 0.69), (8, 0.62), (16, 0.58), (32, 0.56), (64, 0.54)])
def test_published_bug_of_fit_and_score_finds_what_is_not_there_and_crossed_folds_do_not(num_models, naive):
    cases = [arms(seed, num_models) for seed in range(240 // num_models)]
    assert np.mean([ulira_accuracy(*case) for case in cases]) == pytest.approx(0.5, abs=0.02)
    assert np.mean([ulira_attack(*case).auc for case in cases]) == pytest.approx(0.5, abs=0.03)
    assert fit_and_score(*cases[0]) == pytest.approx(naive, abs=0.04)  # one draw of 480 or more pairs


def test_half_a_spread_is_seen_as_well_as_the_normals_can_be_known():
    found = [ulira_accuracy(*arms(seed, 64, shift=0.5)) for seed in range(10)]
    # at best Phi(1/4) = 0.599; with means of 32 networks 0.589
    assert np.mean(found) == pytest.approx(0.589, abs=0.01)


@pytest.mark.parametrize("shift", [1.0, -3.0])
def test_the_direction_is_found_row_by_row(shift):
    own, oracles = arms(2, 64)
    own += shift * np.where(np.arange(60) % 2, 1, -1)
    wanted = ulira_accuracy(arms(2, 64)[0] + shift, oracles)
    assert wanted > 0.6
    assert ulira_accuracy(own, oracles) == pytest.approx(wanted, abs=0.03)


def test_a_narrower_arm_of_the_same_mean_is_told_apart():
    """Half the spread: at best 0.661, by calling the middle "unlearned"."""
    own, oracles = arms(3, 64, ratio=0.5)
    assert ulira_accuracy(own, oracles) == pytest.approx(0.655, abs=0.015)


def test_two_normals_far_apart_have_the_closed_form():
    generator = draws(4)
    own, oracles = generator.normal(1, 1, (400, 50)), generator.normal(0, 1, (400, 50))
    found = ulira_attack(own, oracles)
    assert found.accuracy == pytest.approx(stats.norm.cdf(0.5), abs=0.01)
    assert found.auc == pytest.approx(stats.norm.cdf(1 / math.sqrt(2)), abs=0.01)
    assert found.tpr == pytest.approx(stats.norm.cdf(1 + stats.norm.ppf(0.01)), abs=0.02)
    odds = ulira_log_odds(own, oracles)
    assert found.tpr == tpr_at(odds[0].ravel(), odds[1].ravel(), 0.01)


@pytest.mark.parametrize("constant", [0.0, 2.5, -1e6])
def test_a_constant_arm_is_told_apart_perfectly_and_stays_finite(constant):
    _, oracles = arms(5, 8)
    own = np.full_like(oracles, constant)
    own[:, 0] = oracles[:, 0].mean()  # no use hiding in the middle
    found = ulira_attack(own, oracles)
    assert np.isfinite(ulira_log_odds(own, oracles)).all()
    assert (found.accuracy, found.auc, found.worst) == (1.0, 1.0, 1.0)
    assert ulira_accuracy(oracles, own) == 1.0


def test_published_bug_of_scores_without_spread_gives_no_nan():
    """Fitting normals to 0/1 correctness gives 0/0 where every network is right; margins that agree are a coin's toss."""
    same = np.full((8, 5), 3.3)
    odds = ulira_log_odds(same, same)
    assert np.isfinite(odds).all()
    assert ulira_accuracy(same, same) == 0.5
    assert ulira_rows(same[0], same, same).tolist() == [0.5] * 5
    assert ulira_accuracy(same, same + 1e-3) == 1.0
    some = draws(6).normal(size=(8, 5))
    some[:, 2] = 1.0
    assert np.isfinite(ulira_log_odds(some, some[::-1])).all()


def test_zeros_and_ones_are_refused_and_margins_of_0_are_not():
    correct = (draws(7).uniform(size=(8, 5)) < 0.7).astype(float)
    correct[0, 0] = 1.0
    with pytest.raises(errors.BadRequest, match=r"own and oracles: expected margins, found only zeros and ones"):
        ulira_accuracy(correct, correct[::-1])
    assert ulira_accuracy(np.zeros((8, 5)), np.zeros((8, 5))) == 0.5


def test_published_bug_each_arm_has_the_spread_of_its_own_networks():
    """Ports of LiRA take the OUT spread from IN scores. Here the arms' spreads differ tenfold, and the posterior shows it."""
    generator = draws(8)
    own, oracles = generator.normal(0, 0.1, (500, 20)), generator.normal(0, 1, (500, 20))
    for place in (0.05, 0.3, 1.0):
        wanted = bayes(place, [0.0], [0.0], 0.1, 1.0)
        assert ulira_rows(np.full(20, place), own, oracles).mean() == pytest.approx(wanted, abs=0.02)


def test_rows_of_one_network_have_the_posterior_of_both_normals():
    own, oracles = arms(9, 7, shift=1.0, num_rows=6)
    network = arms(10, 7, num_rows=6)[0][0] / 3
    spread_in, spread_out = row_spreads(own)[0], row_spreads(oracles)[0]
    wanted = [bayes(network[row], own[:, row], oracles[:, row], spread_in[row], spread_out[row]) for row in range(6)]
    np.testing.assert_allclose(ulira_rows(network, own, oracles), wanted, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ulira_rows(network, oracles, own), 1 - np.array(wanted), rtol=1e-9, atol=1e-12)


def test_posteriors_are_calibrated():
    """Of the rows given about 70%, about 70% were in the forget set."""
    own, oracles = arms(11, 200, shift=1.0, num_rows=40)
    fit = slice(0, 100), slice(100, 200)
    given = np.array([ulira_rows(one, own[fit[0]], oracles[fit[0]]) for arm in (own, oracles) for one in arm[fit[1]]])
    truth = np.repeat([1.0, 0.0], 100)[:, None] * np.ones(40)
    for low in (0.2, 0.4, 0.6, 0.8):
        here = (given > low) & (given <= low + 0.2)
        assert here.sum() > 300
        assert truth[here].mean() == pytest.approx(given[here].mean(), abs=0.05)


def test_unit_and_origin_of_a_row_do_not_matter():
    own, oracles = arms(12, 8, shift=0.5)
    scale = 10.0  # one for all rows: their spreads are fitted together
    place = draws(13).normal(0, 5, 60)
    moved = ulira_log_odds(scale * own + place, scale * oracles + place)
    for one, other in zip(ulira_log_odds(own, oracles), moved, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-8, atol=1e-8)


def test_the_measure_passes_oracles_and_fails_networks_that_remember():
    generator = draws(14)
    hardness = generator.normal(0, 5, 30)
    pool = hardness + generator.normal(0, 1, (48, 30))
    own, oracles, held_out = pool[:16], pool[16:32], pool[32:]
    clean = ulira(own, oracles, held_out, draws())
    assert clean.name == "ulira"
    assert clean.null_low < clean.value < clean.null_high
    assert clean.null_mean == pytest.approx(0.5, abs=0.02)
    assert clean.p > 0.05
    assert clean.num_models == 16
    leaky = ulira(own + 0.8, oracles, held_out, draws())
    assert leaky.value == ulira_accuracy(own + 0.8, oracles)
    assert leaky.value > leaky.null_high
    assert leaky.p < 0.01
    assert leaky.low < leaky.value < leaky.high


def test_one_leaking_row_is_lost_in_the_mean_and_found_among_the_worst():
    generator = draws(15)
    pool = generator.normal(0, 1, (96, 60))
    own, oracles, held_out = pool[:32].copy(), pool[32:64], pool[64:]
    own[:, :3] += 3.0
    worst = ulira_worst_rows(own, oracles, held_out, draws())
    assert worst.name == "ulira_worst_rows"
    assert (
        worst.value > 0.9 > worst.null_high > worst.null_mean > 0.55
    )  # chosen as the highest: above 1/2 for oracles too
    assert worst.p < 0.01
    assert ulira_accuracy(own, oracles) < 0.55


def test_inputs_are_left_alone_and_float32_will_do():
    own, oracles = (arm.astype(np.float32) for arm in arms(17, 6))
    before = own.copy(), oracles.copy()
    found = ulira_accuracy(own, oracles)
    assert found == ulira_accuracy(own.astype(np.float64), oracles.astype(np.float64))
    np.testing.assert_array_equal(own, before[0])
    np.testing.assert_array_equal(oracles, before[1])


@pytest.mark.parametrize("broken", [np.ones((3, 5)), np.ones(5), np.ones((4, 0)), np.full((4, 5), math.nan)])
def test_arms_too_small_or_not_finite_are_refused_by_name(broken):
    good = draws().normal(size=(6, 5))
    with pytest.raises(errors.BadRequest, match=r"^own: expected finite margins .* at least 4 models"):
        ulira_accuracy(broken, good)
    with pytest.raises(errors.BadRequest, match=r"^oracles: expected finite margins"):
        ulira_rows(good[0], good, broken)
    with pytest.raises(errors.BadRequest, match=r"^held_out: expected finite margins"):
        ulira(good, good, broken, draws())


def test_rows_that_do_not_match_are_refused():
    good = draws().normal(size=(6, 5))
    with pytest.raises(errors.BadRequest, match=r"own: expected the same rows as the oracles', found 4 rows beside 5"):
        ulira_accuracy(good[:, :4], good)
    with pytest.raises(errors.BadRequest, match=r"network: expected finite margins of the arms' 5 rows"):
        ulira_rows(good[0, :4], good, good)
    with pytest.raises(errors.BadRequest, match=r"network: expected finite margins"):
        ulira_rows(np.full(5, math.inf), good, good)
