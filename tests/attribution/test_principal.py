"""Components by a singular value decomposition of the whole matrix; ends by sorting."""

import numpy as np
import pytest

from excise import errors
from excise.attribution import component_scores, from_observed, principal_rows
from tests.attribution.planted import linear
from tests.attribution.test_means import random_beta

MODEL = from_observed(linear(8, random_beta(), 0.3), shrink=False)


def by_brute_force(component):
    whole = MODEL.matrix(MODEL.train).numpy()
    left, sizes, _ = np.linalg.svd(whole - whole.mean(axis=0))
    scores = left[:, component - 1] * sizes[component - 1]
    return scores * np.sign(scores[np.abs(scores).argmax()])


@pytest.mark.parametrize("component", [1, 2, 4])
def test_scores_are_those_of_the_whole_matrix(component):
    np.testing.assert_allclose(component_scores(MODEL, component).numpy(), by_brute_force(component), atol=1e-6)


def test_rows_are_the_ends():
    order = MODEL.train.numpy()[np.argsort(-by_brute_force(2))]
    assert principal_rows(MODEL, count=3, component=2).tolist() == sorted(order[:3])
    assert principal_rows(MODEL, count=4, component=2, both_ends=True).tolist() == sorted([*order[:2], *order[-2:]])
    assert principal_rows(MODEL, count=10).tolist() == MODEL.train.tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 11}, "count: expected at most 10 rows, found 11"),
        ({"count": 3, "both_ends": True}, "count: expected at most 10 rows, an even number, found 3"),
        ({"count": 0}, "count: expected an integer of at least 1, found 0"),
        ({"count": 2, "component": 9}, "component: expected at most 8, found 9"),
    ],
)
def test_rows_and_components_that_are_not_there_are_refused(options, message):
    with pytest.raises(errors.BadRequest, match=message):
        principal_rows(MODEL, **options)
