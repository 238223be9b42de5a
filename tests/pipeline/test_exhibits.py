"""Twins: each number of the exhibits anew from arrays, by loops, scikit-learn or the paper's formula; and all are drawn."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy.special import expit, logsumexp, softmax
from sklearn.metrics import roc_auc_score, roc_curve

from excise.measure import against_oracles, oracle_band, row_test, ulira_log_odds
from excise.measure import margins as margins_of_logits
from excise.oracles import Trained
from excise.pipeline import exhibits, pages
from excise.pipeline.case import Twins
from excise.pipeline.evidence import Evidence, Oracles, Seen
from excise.pipeline.exhibits import FEWEST_ROWS, GRID, MOST_POINTS, _thinned
from excise.pipeline.population import Population
from excise.report import Page, Row, render
from excise.train.engine import Spent

SIZES = {"forget": 30, "retain": 50, "test": 120}


def evidence(seed, lift=0.0, *, sizes=SIZES, num_classes=4, targets=None, logits=None, noise=2.0):
    """Give what a made-up network says: noise, and `lift` on the label of each forget row; the same rows for every seed."""
    shared, own = np.random.default_rng(99), np.random.default_rng(seed)
    labels = {part: shared.integers(0, num_classes, size) for part, size in sizes.items()} | (targets or {})
    said = {part: own.normal(0, noise, (len(rows), num_classes)) for part, rows in labels.items()}
    if logits is not None:
        said = {part: np.tile(logits, (len(rows), 1)).astype(float) for part, rows in labels.items()}
    said["forget"][np.arange(len(labels["forget"])), labels["forget"]] += lift
    margins = {part: margins_of_logits(said[part], labels[part]) for part in labels}
    seen = Seen(
        margins=margins,
        predicted={part: rows.argmax(1) for part, rows in said.items()},
        targets=labels,
        probabilities=softmax(said["forget"], axis=1),
        test_logits=said["test"].astype(np.float32),
    )
    accuracy = {part: float((said[part].argmax(1) == labels[part]).mean()) for part in labels}
    return Evidence(accuracy, 0.5, margins["forget"], np.logaddexp(0, -margins["forget"]), finite=True, seen=seen)


def margins_by_hand(logits, labels):
    rows = zip(np.asarray(logits, dtype=np.float64), labels, strict=True)
    return np.array([row[label] - logsumexp(np.delete(row, label)) for row, label in rows])


def twins(num=30):
    draw = np.random.default_rng(5)
    return Twins(np.arange(num), draw.permutation(120)[:num], draw.integers(0, 4, num))


ORACLES = [evidence(seed) for seed in range(10, 16)]
OWN, ORIGINAL = evidence(1, 1.5), evidence(2, 4.0)


def population(num=8, lift=1.5, originals=4.0, **options):
    """Give a population of `num` networks an arm."""
    arms = [[evidence(1000 * arm + i, up, **options) for i in range(num)] for arm, up in ((1, originals), (2, lift))]
    held_out = [evidence(3000 + i, **options) for i in range(num)]
    return Population(arms[0], arms[1], Oracles([None] * num, held_out), 0)


MANY = [evidence(4000 + i) for i in range(8)]


def measure(name, value=0.5, null=(0.1, 0.4, 0.2)):
    return against_oracles(name, value, list(null), resolution=0.1, sentence="Said.")


# ---------------------------------------------------------------- curves


def naive_rmia(one, references, pairs):
    """Score by the paper: share of twins z with (f(x) / P(x)) / (f(z) / P(z)) > 1, P(x) = 1.3 / 2 mean f_out(x) + 0.7 / 2."""

    def confidences(network):
        inside = [expit(network.margins[row]) for row in pairs.rows]
        return inside, list(expit(margins_by_hand(network.seen.test_logits[pairs.places], pairs.labels)))

    own, known = confidences(one), [confidences(other) for other in references]
    ratios = [
        [sure / (0.65 * np.mean([other[side][i] for other in known]) + 0.35) for i, sure in enumerate(own[side])]
        for side in (0, 1)
    ]
    return [np.array([np.mean([x > z for z in ratios[1]]) for x in side]) for side in ratios]


def drawn_at(curve, rate):
    """Give the height at which a curve of steps is drawn."""
    return max(t for f, t in zip(curve.false_positive, curve.true_positive, strict=True) if f <= rate)


def of_sklearn(members, others):
    labels, scores = np.repeat([1, 0], [len(members), len(others)]), np.concatenate([members, others])
    return *roc_curve(labels, scores, drop_intermediate=False)[:2], roc_auc_score(labels, scores)


@pytest.mark.parametrize("num_oracles", [3, 4, 6])
def test_rmia_is_the_papers_score_under_scikit_learns_curve(num_oracles):
    pairs, oracles = twins(), ORACLES[:num_oracles]
    (found,) = exhibits.rocs(OWN, ORIGINAL, oracles, None, pairs)
    assert (found.name, found.num_members, found.num_non_members, found.counted) == ("rmia", 30, 30, "")
    assert [one.name for one in found.curves] == ["unlearned", "original"]
    for curve, network in zip(found.curves, (OWN, ORIGINAL), strict=True):
        fpr, tpr, area = of_sklearn(*naive_rmia(network, oracles, pairs))
        np.testing.assert_allclose(curve.false_positive, fpr)
        np.testing.assert_allclose(curve.true_positive, tpr)
        assert curve.auc == pytest.approx(area)
        assert (curve.at_one_percent, curve.at_one_permille) == (None, None)
    assert found.curves[0].auc < found.curves[1].auc  # the original remembers more
    held_out = [naive_rmia(one, [*oracles[:i], *oracles[i + 1 :]], pairs) for i, one in enumerate(oracles)]
    known = [of_sklearn(*one) for one in held_out]
    heights = [[max(t for f, t in zip(fpr, tpr, strict=True) if f <= at) for at in GRID] for fpr, tpr, _ in known]
    np.testing.assert_allclose(found.band.low, np.min(heights, axis=0))
    np.testing.assert_allclose(found.band.high, np.max(heights, axis=0))
    areas = oracle_band([area for *_, area in known], limits=(0, 1))
    assert (found.band.auc.low, found.band.auc.mean, found.band.auc.high) == pytest.approx(areas)


def test_an_attack_without_enough_has_no_curve():
    assert exhibits.rocs(OWN, ORIGINAL, ORACLES[:2], None, twins()) == []
    assert exhibits.rocs(OWN, ORIGINAL, ORACLES, None, None) == []
    assert exhibits.rocs(OWN, ORIGINAL, ORACLES, None, twins(FEWEST_ROWS - 1)) == []
    assert len(exhibits.rocs(OWN, ORIGINAL, ORACLES, None, twins(FEWEST_ROWS))) == 1
    assert [one.name for one in exhibits.rocs(OWN, ORIGINAL, MANY, population(3), None)] == []


def test_the_interval_is_hanley_and_mcneils_and_none_where_the_formula_knows_none():
    draw = np.random.default_rng(0)
    members, others = draw.normal(1, 1, 70), draw.normal(0, 1, 90)
    found = exhibits._curve("unlearned", members, others)
    a, m, n = found.auc, 70, 90
    variance = (a * (1 - a) + (m - 1) * (a / (2 - a) - a * a) + (n - 1) * (2 * a * a / (1 + a) - a * a)) / (m * n)
    assert (found.auc_low, found.auc_high) == pytest.approx((a - 1.96 * variance**0.5, a + 1.96 * variance**0.5))
    for apart in (50, -50):
        found = exhibits._curve("unlearned", members + apart, others)
        assert (found.auc, found.auc_low, found.auc_high) == (float(apart > 0), None, None)


def test_rates_at_few_false_alarms_are_brute_force_and_need_enough_rows():
    draw = np.random.default_rng(1)
    members, others = draw.normal(2, 1, 500), draw.normal(0, 1, 1000)
    found = exhibits._curve("unlearned", members, others)
    for rate, told in ((0.01, found.at_one_percent), (0.001, found.at_one_permille)):
        thresholds = [at for at in [*members, *others, np.inf] if (others >= at).mean() <= rate]
        assert told == max((members >= at).mean() for at in thresholds)
    for number, wanted in ((99, (False, False)), (100, (True, False)), (999, (True, False)), (1000, (True, True))):
        few = exhibits._curve("unlearned", members, others[:number])
        assert (few.at_one_percent is not None, few.at_one_permille is not None) == wanted


@pytest.mark.parametrize("digits", [None, 2, 0])
def test_thinning_keeps_ends_and_order_and_is_exact_on_the_grid(digits):
    draw = np.random.default_rng(2)
    members, others = draw.normal(1, 1, 3000), draw.normal(0, 1, 5000)
    if digits is not None:
        members, others = members.round(digits), others.round(digits)
    fpr, tpr, _ = of_sklearn(members, others)
    thin_fpr, thin_tpr = _thinned(fpr, tpr)
    assert len(thin_fpr) <= MOST_POINTS
    assert len(thin_fpr) == len(fpr) or len(fpr) > MOST_POINTS
    assert (thin_fpr[0], thin_tpr[0], thin_fpr[-1], thin_tpr[-1]) == (0, 0, 1, 1)
    assert (np.diff(thin_fpr) >= 0).all()
    assert (np.diff(thin_tpr) >= 0).all()
    assert set(zip(thin_fpr, thin_tpr, strict=True)) <= set(zip(fpr, tpr, strict=True))

    def height(at, rates, found):
        return found[rates <= at].max()

    assert {0.0, 0.001, 0.01, 0.1, 1.0} <= set(GRID.round(12))
    for at in GRID:
        assert height(at, thin_fpr, thin_tpr) == height(at, fpr, tpr)
    for at in draw.uniform(0, 1, 200):
        assert height(at, fpr, tpr) - 0.02 < height(at, thin_fpr, thin_tpr) <= height(at, fpr, tpr)


def test_ulira_is_the_curve_of_its_odds_beside_dealt_oracles():
    many = population()
    (found,) = exhibits.rocs(OWN, ORIGINAL, MANY, many, None, seed=3)
    reference = np.stack([one.margins for one in MANY])
    for curve, arm in zip(found.curves, (many.unlearned, many.originals), strict=True):
        odds = ulira_log_odds(np.stack([one.margins for one in arm]), reference)
        *_, area = of_sklearn(odds[0].ravel(), odds[1].ravel())
        assert curve.auc == pytest.approx(area)
        assert (curve.auc_low, curve.auc_high) == (None, None)
        assert curve.at_one_percent is not None
    assert (found.name, found.num_members, found.num_non_members) == ("ulira", 240, 240)
    assert found.counted == "30 forget rows, asked about in 8 unlearned and 8 retrained networks"
    assert [one.name for one in found.curves] == ["unlearned", "original"]
    band = found.band.auc
    assert 0.3 < band.low < 0.5 < band.high < 0.7
    assert band.low < band.mean < band.high < found.curves[0].auc < found.curves[1].auc
    assert exhibits.rocs(OWN, ORIGINAL, MANY, many, None, seed=3) == [found]
    assert exhibits.rocs(OWN, ORIGINAL, MANY, many, None, seed=4) != [found]


def test_ulira_on_networks_that_are_oracles_lies_in_its_band():
    inside, arms = 0, population()
    for place in range(8):
        fresh = [evidence(9000 + 10 * place + i) for i in range(8)]
        (found,) = exhibits.rocs(OWN, ORIGINAL, MANY, replace(arms, unlearned=fresh), None)
        inside += found.band.auc.low <= found.curves[0].auc <= found.band.auc.high
    assert inside >= 6  # 16 deals: one more falls outside them two times in 17


# ---------------------------------------------------------------- distributions


def test_every_row_is_counted_once_and_the_band_is_over_the_oracles():
    losses, margins = exhibits.distributions(OWN, ORIGINAL, ORACLES)
    assert [(one.name, one.unit, one.axis) for one in (losses, margins)] == [
        ("forget_loss", "loss", "log"),
        ("forget_margin", "log-odds", "linear"),
    ]
    for found, of in ((losses, lambda one: one.losses), (margins, lambda one: one.margins)):
        edges = found.edges

        def by_hand(one, edges=edges, of=of):
            last = len(edges) - 2
            inside = [
                sum(low <= x < high or (i == last and x == high) for x in of(one))
                for i, (low, high) in enumerate(pairwise(edges))
            ]
            assert sum(inside) == 30
            return inside

        assert {one.name: list(one.counts) for one in found.histograms} == {
            "original": by_hand(ORIGINAL),
            "unlearned": by_hand(OWN),
        }
        known = [by_hand(one) for one in ORACLES]
        columns = list(zip(*known, strict=True))
        assert list(found.oracles.low) == [min(column) for column in columns]
        assert list(found.oracles.high) == [max(column) for column in columns]
        assert list(found.oracles.mean) == pytest.approx([sum(column) / 6 for column in columns])
        assert sum(found.oracles.mean) == pytest.approx(30)


# ---------------------------------------------------------------- classes


def test_classes_are_shares_of_right_rows_with_the_oracles_band():
    forget, test = exhibits.classes(OWN, ORIGINAL, ORACLES)
    assert [(one.name, one.title) for one in (forget, test)] == [("forget", "Forget rows"), ("test", "Test rows")]
    for found in (forget, test):
        targets = OWN.seen.targets[found.name]
        assert [one.name for one in found.classes] == ["0", "1", "2", "3"]
        assert sum(one.num_rows for one in found.classes) == SIZES[found.name]
        for label, one in enumerate(found.classes):
            rows = [place for place, target in enumerate(targets) if target == label]

            def share(network, rows=rows, label=label, part=found.name):
                return sum(network.seen.predicted[part][row] == label for row in rows) / len(rows)

            assert one.num_rows == len(rows)
            assert (one.unlearned, one.original) == pytest.approx((share(OWN), share(ORIGINAL)))
            known = oracle_band([share(o) for o in ORACLES], resolution=1 / len(rows), limits=(0, 1))
            assert (one.oracles.low, one.oracles.mean, one.oracles.high) == pytest.approx(known)


def test_of_a_thousand_classes_those_without_rows_are_left_out():
    labels = {"forget": np.full(30, 7), "retain": np.arange(50), "test": np.arange(120) * 8}
    networks = [evidence(seed, num_classes=1000, targets=labels) for seed in range(6)]
    forget, test = exhibits.classes(networks[0], networks[1], networks[2:])
    assert [(one.name, one.num_rows) for one in forget.classes] == [("7", 30)]
    assert [one.name for one in test.classes] == [str(8 * place) for place in range(120)]


# ---------------------------------------------------------------- strata


def test_thirds_are_by_the_trace_in_the_original_with_means_and_rows_told_apart():
    found = exhibits.strata(OWN, ORIGINAL, ORACLES, None, [])
    ranking = np.stack([ORACLES[place].margins for place in (0, 2, 4)])
    stacked = np.stack([ORACLES[place].margins for place in (1, 3, 5)])
    trace = ORIGINAL.margins - ranking.mean(0)
    order = np.argsort(trace)
    assert [(one.name, one.num_rows) for one in found.strata] == [("low", 10), ("mid", 10), ("high", 10)]
    told = row_test(OWN.margins, stacked).told_apart
    for place, one in enumerate(found.strata):
        rows = order[10 * place : 10 * place + 10]
        assert one.original == pytest.approx(sum(ORIGINAL.margins[row] for row in rows) / 10)
        assert one.unlearned == pytest.approx(sum(OWN.margins[row] for row in rows) / 10)
        known = oracle_band([sum(each[rows]) / 10 for each in stacked])
        assert (one.oracles.low, one.oracles.mean, one.oracles.high) == pytest.approx(known)
        assert one.told_apart == sum(told[row] for row in rows) / 10
        shares = [
            row_test(stacked[i], np.array([each for j, each in enumerate(stacked) if j != i])).told_apart[rows].mean()
            for i in range(3)
        ]
        known = oracle_band(shares, resolution=0.1, limits=(0, 1))
        band = one.told_apart_oracles
        assert (band.low, band.mean, band.high) == pytest.approx(known)
    assert "trace in this original" in found.sentence
    assert "less the mean of 3 oracles; held against the 3 other retrained networks." in found.sentence
    assert found.lines == []


def test_thirds_of_rows_that_left_no_trace_show_none_in_the_oracles():
    """Ranked by the very oracles that they are held against, rows would be in the low third since these are sure of them."""
    gaps = []
    for seed in range(40):
        own, original, *oracles = [evidence(100 * seed + i, noise=2.0 if i > 1 else 0.1) for i in range(6)]
        low, _, high = exhibits.strata(own, original, oracles, None, []).strata
        gaps.append((high.unlearned - high.oracles.mean) - (low.unlearned - low.oracles.mean))
    assert abs(np.mean(gaps)) < 4 * np.std(gaps, ddof=1) / np.sqrt(40)


def test_with_a_population_thirds_are_by_how_much_oftener_originals_are_right():
    many = population(num=16)
    oracles = [evidence(5000 + i) for i in range(16)]
    found = exhibits.strata(OWN, ORIGINAL, oracles, many, [])
    memory = [
        sum(one.margins[row] > 0 for one in many.originals) / 16 - sum(one.margins[row] > 0 for one in oracles[::2]) / 8
        for row in range(30)
    ]
    assert "16 originals" in found.sentence
    assert "less that of 8 oracles; held against the 8 other retrained networks." in found.sentence
    assert sum(one.num_rows for one in found.strata) == 30
    order, start = np.argsort(memory, kind="stable"), 0
    for one in found.strata:  # equal scores stay together, so the sorted rows are dealt in runs
        rows = order[start : start + one.num_rows]
        assert one.unlearned == pytest.approx(OWN.margins[rows].mean())
        start += one.num_rows
    assert memory[order[0]] < memory[order[-1]]


def test_where_memorisation_divides_no_rows_the_trace_does():
    rows = {"targets": {"forget": np.zeros(30, int)}}
    sure = [evidence(seed, 50.0, **rows) for seed in range(8)]  # every network is right on every row
    many = Population(sure, sure, Oracles([None] * 8, sure), 0)
    oracles = [evidence(seed, 40.0, **rows) for seed in range(50, 58)]
    found = exhibits.strata(sure[0], sure[1], oracles, many, [])
    assert "trace in this original" in found.sentence
    assert found == exhibits.strata(sure[0], sure[1], oracles, None, [])
    assert len(found.strata) == 3


@pytest.mark.parametrize("num", [1, 2, 3])
def test_where_fewer_than_two_oracles_are_left_to_hold_against_there_are_no_thirds_and_it_is_said(num):
    for many in (None, population()):
        found = exhibits.strata(OWN, ORIGINAL, ORACLES[:num], many, [measure("worst_forget_rows")])
        assert found.strata == []
        assert found.sentence.startswith(
            "By fewer than 4 retrained networks the forget rows are not divided into thirds"
        )
        assert len(found.lines) == 1


@pytest.mark.parametrize(("num", "known"), [(4, False), (5, False), (6, True)])
def test_two_oracles_that_are_left_cannot_be_held_against_each_other(num, known):
    found = exhibits.strata(OWN, ORIGINAL, ORACLES[:num], None, [])
    assert [(each.told_apart is None, each.told_apart_oracles is None) for each in found.strata] == [
        (False, not known)
    ] * 3


def test_few_rows_or_rows_alike_are_not_divided():
    sizes = {**SIZES, "forget": FEWEST_ROWS - 1}
    networks = [evidence(seed, sizes=sizes) for seed in range(6)]
    few = exhibits.strata(networks[0], networks[1], networks[2:], None, [measure("worst_forget_rows")])
    assert few.strata == []
    assert few.sentence.startswith("Of fewer than 10 forget rows, no curves")
    assert len(few.lines) == 1
    assert exhibits.distributions(networks[0], networks[1], networks[2:]) == []
    assert [one.name for one in exhibits.classes(networks[0], networks[1], networks[2:])] == ["test"]
    alike = [evidence(0, logits=[1.0, 0, 0, 0], targets={"forget": np.zeros(30, int)})] * 6
    found = exhibits.strata(alike[0], alike[1], alike[2:], None, [])
    assert found.strata == []
    assert found.sentence.startswith("The forget rows left traces that are all alike")
    assert len(exhibits.distributions(alike[0], alike[1], alike[2:])) == 2


def test_lines_are_the_measures_in_their_own_units():
    told = [measure("retain_exposure", 0.3), measure("forget_margin"), measure("worst_forget_rows", 4.0)]
    lines = exhibits.strata(OWN, ORIGINAL, ORACLES, None, told).lines
    assert [(one.title, one.unit) for one in lines] == [
        (exhibits.LINES["worst_forget_rows"], "spreads"),
        (exhibits.LINES["retain_exposure"], "%"),
    ]
    assert (lines[0].unlearned, lines[0].oracles.low, lines[0].oracles.high) == (
        told[2].value,
        told[2].null_low,
        told[2].null_high,
    )
    assert set(exhibits.LINES) <= set(pages.TITLES)


# ---------------------------------------------------------------- costs


def test_costs_are_counted_in_passes_and_in_retrainings():
    oracles = Oracles([Trained(seed, {}, 2.0 + seed, 3600) for seed in range(3)], ORACLES[:3])
    spent = {
        "unlearn": Spent(1.5, 450, 900, 2048),
        "oracles": Spent(9.0, 10_800, 300, 0),
        "same cost": Spent(1.0, 360, 0, -5),
    }
    line = Row(recipe="x", accuracy={"forget": 0.1, "retain": 0.2, "test": 0.3}, seconds=1.5)
    found = exhibits.costs(spent, oracles, 200, [line], {"forget": 20}, "Said.")
    assert [one.what for one in found.steps] == ["Unlearning", "Audit: oracles", "Audit: same-cost retraining"]
    assert [one.seconds for one in found.steps] == [1.5, 9.0, 1.0]
    assert [one.training_passes for one in found.steps] == [2.25, 54.0, 1.8]
    assert [one.forward_passes for one in found.steps] == [4.5, 1.5, 0.0]
    assert [one.retraining_share for one in found.steps] == [0.125, 3.0, 0.1]
    assert [one.peak_bytes for one in found.steps] == [2048, None, None]  # not known: something earlier held more
    assert (found.retraining.seconds, found.retraining.training_passes, found.retraining.retraining_share) == (3, 18, 1)
    assert (found.rows, found.num_rows, found.sentence) == ([line], {"forget": 20}, "Said.")


def test_a_training_function_that_is_not_counted_leaves_shares_out():
    oracles = Oracles([Trained(0, {}, 2.0, 0)], ORACLES[:1])
    found = exhibits.costs({"unlearn": Spent(1.0, 100, 0, 0)}, oracles, 50, [], {}, "")
    assert (found.steps[0].training_passes, found.steps[0].retraining_share) == (2.0, None)
    assert found.retraining.training_passes is None


@pytest.mark.parametrize("part", ["oracles", "swap", "population"])
def test_passes_of_what_a_training_function_trained_are_not_known(part):
    spent = {part: Spent(1.0, 0, 100, 0), "measuring": Spent(1.0, 100, 0, 0)}
    custom = exhibits.costs(spent, Oracles([Trained(0, {}, 2.0, None)], ORACLES[:1]), 50, [], {}, "")
    assert [one.training_passes for one in custom.steps] == [None, 2.0]
    assert [one.forward_passes for one in custom.steps] == [2.0, 0.0]
    counted = exhibits.costs(spent, Oracles([Trained(0, {}, 2.0, 100)], ORACLES[:1]), 50, [], {}, "")
    assert [one.training_passes for one in counted.steps] == [0.0, 2.0]


# ---------------------------------------------------------------- all of them on a page


def constant(lift=0.0):
    return evidence(0, lift, logits=[0.0, 0, 0, 0])


def of_size(num):
    return [evidence(seed, 2.0 * (seed < 2), sizes={**SIZES, "forget": num}) for seed in range(6)]


def one_class():
    labels = {part: np.zeros(size, int) for part, size in SIZES.items()}
    return [evidence(seed, targets=labels) for seed in range(6)]


HOSTILE = {
    "one forget row": lambda: of_size(1),
    "two forget rows": lambda: of_size(2),
    "ten forget rows": lambda: of_size(10),
    "one class": one_class,
    "a thousand classes": lambda: [evidence(seed, num_classes=1000) for seed in range(6)],
    "margins that are constant": lambda: [constant() for _ in range(6)],
    "oracles that agree exactly": lambda: [OWN, ORIGINAL, *[evidence(3)] * 4],
    "an original like an oracle": lambda: [OWN, *ORACLES],
    "everything one network": lambda: [OWN] * 6,
    "enormous log-odds": lambda: [evidence(seed, 1e6, noise=1e5) for seed in range(6)],
    "three oracles": lambda: [OWN, ORIGINAL, *ORACLES[:3]],
    "two oracles": lambda: [OWN, ORIGINAL, *ORACLES[:2]],
    "one oracle": lambda: [OWN, ORIGINAL, *ORACLES[:1]],
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("tier", ["T1", "T2"])
def test_everything_is_drawn(name, tier):
    own, original, *oracles = HOSTILE[name]()
    num = len(own.margins)
    pairs = Twins(np.arange(num), np.arange(num), own.seen.targets["forget"])
    many = None
    if tier == "T2" and len(oracles) >= 4 and np.stack([one.margins for one in oracles]).std() > 0:
        many = Population([original] * 4, [own] * 4, Oracles([None] * 4, oracles[:4]), 0)
    networks = (own, original, oracles)
    page = Page(
        title="Hostile",
        rocs=exhibits.rocs(*networks, many, pairs),
        distributions=exhibits.distributions(*networks),
        classes=exhibits.classes(*networks),
        strata=exhibits.strata(*networks, many, [measure("worst_forget_rows")]),
    )
    html = render(page)
    assert html.count("<svg") > 1
    assert "nan" not in html.lower().replace("nano", "")
    for one in page.distributions:
        for histogram in one.histograms:
            assert sum(histogram.counts) == num
    assert sum(one.num_rows for one in page.strata.strata) in (0, num)
    for one in page.rocs:
        assert all(math.isfinite(curve.auc) for curve in one.curves)
