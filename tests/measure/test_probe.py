"""Twins: the logistic loss minimised by another optimiser, Gaussian classes whose best accuracy is known, ES as loops."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp
from scipy.stats import norm

from excise import errors
from excise.measure import entanglement, linear_probe


def draws(seed=0):
    return np.random.default_rng(seed)


def gaussians(generator, count, distance, classes=2, dims=6):
    targets = np.arange(count) % classes
    centres = np.zeros((classes, dims))
    centres[np.arange(classes), np.arange(classes)] = distance / math.sqrt(2)  # each pair is `distance` apart
    return centres[targets] + generator.normal(size=(count, dims)), targets


def test_the_probe_of_two_gaussians_is_as_good_as_can_be():
    generator = draws()
    fitted, judged = gaussians(generator, 2000, 2.0), gaussians(generator, 20000, 2.0)
    found = linear_probe(*fitted, {"test": judged}, draws(1))
    # best is Phi(distance / 2) = 0.841; 20,000 rows leave a standard deviation of 0.003
    assert found["test"] == pytest.approx(norm.cdf(1), abs=0.01)


def naive_predictions(features, targets, judged, classes):
    """The penalised loss of the definition, minimised by another method, on features standardised by loops."""
    columns = features.T.tolist()
    centre = np.array([sum(column) / len(column) for column in columns])
    scale = np.array(
        [math.sqrt(sum((v - c) ** 2 for v in col) / len(col)) for col, c in zip(columns, centre, strict=True)]
    )
    x = (features - centre) / scale

    def loss(flat):
        weights = flat.reshape(classes, -1)
        scores = x @ weights[:, :-1].T + weights[:, -1]
        data = (logsumexp(scores, axis=1) - scores[np.arange(len(x)), targets]).sum()
        return data + 0.5 * (weights[:, :-1] ** 2).sum()

    best = minimize(loss, np.zeros(classes * (x.shape[1] + 1)), method="BFGS", options={"gtol": 1e-4}).x
    weights = best.reshape(classes, -1)
    scores = ((judged - centre) / scale) @ weights[:, :-1].T + weights[:, -1]
    return scores.argmax(axis=1)


def test_the_probe_is_the_penalised_logistic_regression_on_standardised_features():
    generator = draws(2)
    features, targets = gaussians(generator, 45, 1.5, classes=3, dims=4)
    features = features * [1.0, 10.0, 0.1, 3.0] + [5.0, 0.0, -2.0, 0.0]
    judged, wanted = gaussians(generator, 90, 1.5, classes=3, dims=4)
    judged = judged * [1.0, 10.0, 0.1, 3.0] + [5.0, 0.0, -2.0, 0.0]
    found = linear_probe(features, targets, {"forget": (judged, wanted)}, draws())
    assert found["forget"] == (naive_predictions(features, targets, judged, 3) == wanted).mean()
    assert 0.4 < found["forget"] < 0.95


def test_unit_and_origin_of_a_feature_do_not_matter_and_a_constant_one_is_no_harm():
    generator = draws(3)
    (a, x), (b, y) = gaussians(generator, 300, 2.0), gaussians(generator, 300, 2.0)
    plain = linear_probe(a, x, {"test": (b, y)}, draws())
    assert linear_probe(7 * a - 3, x, {"test": (7 * b - 3, y)}, draws()) == plain
    constant = [np.concatenate([part, np.full((300, 1), 9.0)], axis=1) for part in (a, b)]
    assert linear_probe(constant[0], x, {"test": (constant[1], y)}, draws()) == plain


def test_a_spoilt_head_hides_what_a_new_one_finds_and_features_without_the_class_do_not_hold():
    generator = draws(4)
    retain, forget = gaussians(generator, 900, 6.0, classes=3), gaussians(generator, 90, 6.0, classes=3)
    gone = generator.normal(size=forget[0].shape)
    found = linear_probe(*retain, {"kept": forget, "gone": (gone, forget[1])}, draws())
    assert found["kept"] > 0.97
    assert found["gone"] < 0.5
    two = retain[1] != 2  # a class that no fitted row has is never found
    unseen = forget[1] == 2
    assert linear_probe(
        retain[0][two], retain[1][two], {"forget": (forget[0][unseen], forget[1][unseen])}, draws()
    ) == {"forget": 0.0}


def test_the_generator_draws_the_rows_where_there_are_too_many():
    generator = draws(5)
    fitted, judged = gaussians(generator, 300, 0.5), gaussians(generator, 400, 0.5)
    chosen = np.sort(draws(1).permutation(300)[:60])
    part = linear_probe(fitted[0][chosen], fitted[1][chosen], {"test": judged}, draws())
    assert linear_probe(*fitted, {"test": judged}, draws(1), max_rows=60) == part
    assert len({linear_probe(*fitted, {"test": judged}, draws(seed), max_rows=60)["test"] for seed in range(5)}) > 1
    assert linear_probe(*fitted, {"test": judged}, draws(1)) == linear_probe(*fitted, {"test": judged}, draws(2))


def test_the_global_random_state_is_left_alone():
    world = np.random.get_state()  # noqa: NPY002 - the global state is what is watched
    fitted = gaussians(draws(), 100, 1.0)
    linear_probe(*fitted, {"test": fitted}, draws())
    np.testing.assert_array_equal(np.random.get_state()[1], world[1])  # noqa: NPY002
    assert np.random.get_state()[2] == world[2]  # noqa: NPY002


@pytest.mark.parametrize(
    ("name", "values", "classes"),
    [
        ("the rows to fit to", np.full((4, 3), np.nan), np.array([0, 1, 0, 1])),
        ("the rows to fit to", np.zeros((0, 3)), np.zeros(0, dtype=int)),
        ("the rows to fit to", np.zeros(4), np.array([0, 1, 0, 1])),
        ("forget", np.zeros((2, 2)), np.array([0, 1])),
        ("forget", np.zeros((2, 3)), np.array([0])),
        ("forget", np.zeros((0, 3)), np.zeros(0, dtype=int)),
        ("forget", np.full((1, 3), np.inf), np.array([0])),
    ],
)
def test_features_that_cannot_be_probed_are_refused_by_name(name, values, classes):
    good = (np.arange(12.0).reshape(4, 3), np.array([0, 1, 0, 1]))
    parts = {"the rows to fit to": good, "forget": good, name: (values, classes)}
    with pytest.raises(errors.BadRequest, match=f"probe: expected finite features.* of {name}, found"):
        linear_probe(*parts["the rows to fit to"], {"forget": parts["forget"]}, draws())


def test_one_class_is_nothing_to_tell_apart():
    with pytest.raises(errors.BadRequest, match="rows of at least 2 classes to fit to, found 1"):
        linear_probe(np.ones((3, 2)), np.zeros(3, dtype=int), {}, draws())


def naive_entanglement(retain, forget):
    def mean(rows):
        return [sum(row[k] for row in rows) / len(rows) for k in range(len(rows[0]))]

    def square(a, b):
        return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))

    r, s, everything = mean(retain), mean(forget), mean(retain + forget)
    within = sum(square(row, r) for row in retain) / len(retain) + sum(square(row, s) for row in forget) / len(forget)
    return within / (0.5 * (square(r, everything) + square(s, everything)))


@pytest.mark.parametrize("sizes", [(40, 40), (50, 7), (3, 1)])
def test_entanglement_is_the_formula_as_loops(sizes):
    retain, forget = (draws(seed).normal(seed, 1, (count, 3)) for seed, count in enumerate(sizes))
    assert entanglement(retain, forget) == pytest.approx(
        naive_entanglement(retain.tolist(), forget.tolist()), rel=1e-12
    )


def test_entanglement_in_closed_form():
    """Means 0 and 4, both with a spread of 1; the mean of all is 2, so 2 / ((4 + 4) / 2). With three times the retain rows it
    is 1, and 2 / ((1 + 9) / 2)."""
    retain, forget = np.array([[-1.0], [1.0]]), np.array([[3.0], [5.0]])
    assert entanglement(retain, forget) == pytest.approx(1 / 2)
    assert entanglement(np.tile(retain, (3, 1)), forget) == pytest.approx(2 / 5)


def test_entanglement_has_no_unit_origin_or_direction_and_falls_with_distance():
    retain, forget = draws(0).normal(0, 1, (60, 4)), draws(1).normal(0.5, 1, (20, 4))
    found = entanglement(retain, forget)
    turn, _ = np.linalg.qr(draws(2).normal(size=(4, 4)))
    assert entanglement(3 * retain @ turn + 5, 3 * forget @ turn + 5) == pytest.approx(found)
    assert entanglement(retain, forget + 1) < found
    assert entanglement(retain[::-1], draws(3).permutation(forget)) == pytest.approx(found)


@pytest.mark.parametrize(("sizes", "factor"), [((100, 100), 8), ((5000, 100), 4)])
def test_rows_of_one_population_give_what_their_number_allows(sizes, factor):
    values = []
    for seed in range(40):
        generator = draws(seed)
        values.append(1 / entanglement(*(generator.normal(size=(count, 5)) for count in sizes)))
    # 1 / ES averages plainly; 40 draws of 5 dimensions leave about 10%
    assert 1 / np.mean(values) == pytest.approx(factor / (1 / sizes[0] + 1 / sizes[1]), rel=0.3)


def test_means_that_coincide_are_entangled_without_bound():
    same = np.array([[-1.0], [1.0]])
    assert entanglement(same, 2 * same) == math.inf


@pytest.mark.parametrize(
    ("retain", "forget"),
    [
        (np.zeros((2, 2)), np.zeros((2, 3))),
        (np.zeros((0, 2)), np.zeros((1, 2))),
        (np.zeros((2, 2)), np.full((1, 2), np.nan)),
    ],
)
def test_features_without_an_entanglement_are_refused(retain, forget):
    with pytest.raises(errors.BadRequest, match="entanglement: expected finite features"):
        entanglement(retain, forget)
