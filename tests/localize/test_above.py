import re

import pytest
import torch

from excise import errors
from excise.data import Split
from excise.localize import Above, FisherRatio, Gradient, Magnitude, Random, Scores
from tests.cases import CASES
from tests.probes import Watched

FORGET = [1, 4, 5]


def problem():
    return CASES["mlp"].make(), Split(CASES["mlp"].data(12), forget=FORGET)


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.3])
def test_it_is_every_weight_above_and_no_other(threshold):
    model, split = problem()
    mask = Above(Magnitude(), threshold)(model, split)
    for key, value in model.named_parameters():
        assert mask.expand(key).flatten().tolist() == [abs(weight) > threshold for weight in value.flatten().tolist()]


def test_a_score_equal_to_the_threshold_is_not_above_it_and_what_has_no_score_is_not_chosen():
    mask = Scores({"w": torch.tensor([0.5, 1.0, 1.5])}, {"w": (3,), "frozen": (2,)}).above(1.0)
    assert mask.expand("w").tolist() == [False, False, True]
    assert mask.count("frozen") == 0


def test_a_higher_threshold_gives_a_subset():
    model, split = problem()
    low, high = (Above(FisherRatio(), threshold)(model, split) for threshold in (1.0, 1.5))
    assert (high - low).num_selected == 0 < high.num_selected < low.num_selected


def test_it_reads_what_its_localizer_reads():
    assert Above(FisherRatio(), 1.0).reads_retain
    assert Above(Gradient(rows="train"), 0.0).reads_retain
    assert not Above(Gradient(), 1.0).reads_retain
    assert Above(Gradient(), 1.0).reads_forget
    assert not Above(Magnitude(), 1.0).reads_forget
    watched = Watched(*CASES["mlp"].data(12), forbidden=set(range(12)) - set(FORGET))
    Above(Gradient(), 0.0)(problem()[0], Split(watched, forget=FORGET))
    assert set(watched.read) == set(FORGET)


def test_it_says_what_it_is():
    assert str(Above(FisherRatio(), 10.0)) == "FisherRatio by weight, above 10"


def test_a_threshold_that_nothing_exceeds_is_refused_with_the_highest_score():
    model, split = problem()
    highest = max(float(value.detach().abs().max()) for value in model.parameters())
    said = f"threshold: no score is above 5, the highest is {highest:.3g}; lower the threshold"
    with pytest.raises(errors.BadRequest, match=f"^{re.escape(said)}$"):
        Above(Magnitude(), 5)(model, split)
    with pytest.raises(errors.BadRequest, match=r"^threshold: no score is above 1, the highest is 0\.\d+; lower"):
        Above(Random(), 1.0)(model, split)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Above(Magnitude(), -1.0), "threshold: expected a finite number of at least 0, found -1.0"),
        (lambda: Above(Magnitude(), float("nan")), "threshold: expected a finite number of at least 0, found nan"),
        (lambda: Above("Magnitude", 1.0), "localizer: expected one that gives scores, such as .*, found str"),
    ],
)
def test_options_that_make_no_sense_are_refused(make, message):
    with pytest.raises(errors.BadRequest, match=f"^{message}$"):
        make()
