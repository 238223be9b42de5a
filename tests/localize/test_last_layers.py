"""The last layers, against names that a reader can count."""

import pytest

import excise
from excise import errors
from excise.localize import LastLayers
from excise.masks import Mask
from tests.cases import CASES
from tests.probes import LeftAlone


def located(name, k, model=None):
    return LastLayers(k)(model or CASES[name].make(), excise.Split(CASES[name].data(8), forget=[1, 5]))


@pytest.mark.parametrize(
    ("name", "k", "names"),
    [
        ("mlp", 1, ["4"]),
        ("mlp", 2, ["2", "4"]),
        ("mlp", 3, ["0", "2", "4"]),
        ("batchnorm", 2, ["4", "8"]),
        ("batchnorm", 3, ["3", "4", "8"]),
        ("separable", 2, ["3", "7"]),
        ("transformer", 1, ["head"]),
        ("transformer", 2, ["layers.1.norm2", "head"]),
    ],
)
def test_layers_are_counted_from_the_output(name, k, names):
    model = CASES[name].make()
    alone = LeftAlone(model)
    assert located(name, k, model) == Mask.of_modules(model, names)
    alone.check()


def test_frozen_layers_do_not_count():
    model = CASES["mlp"].make()
    model[2].requires_grad_(False)
    assert located("mlp", 2, model) == Mask.of_modules(model, ["0", "4"])


def test_more_layers_than_there_are_is_refused():
    with pytest.raises(errors.BadRequest, match=r"k: expected at most 3, the layers of Sequential that run .* found 4"):
        located("mlp", 4)


@pytest.mark.parametrize("k", [0, -1, 1.5, True])
def test_a_number_that_is_none_is_refused(k):
    with pytest.raises(errors.BadRequest, match="k: expected an integer of at least 1"):
        LastLayers(k)


def test_in_words():
    assert [str(LastLayers(k)) for k in (1, 4)] == ["the last layer", "the last 4 layers"]
