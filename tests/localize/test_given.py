"""A mask as a region."""

import pytest

import excise
from excise import errors
from excise.localize import Given
from excise.masks import Mask
from tests.cases import CASES
from tests.probes import Watched


def test_it_gives_its_mask_and_reads_nothing():
    model = CASES["mlp"].make()
    mask = Mask.of_modules(model, ["2"])
    split = excise.Split(Watched(*CASES["mlp"].data(8)), forget=[1, 5])
    assert Given(mask).locate(model, split, None) is mask
    assert split.train.source.dataset.read == []
    assert (Given(mask).reads_forget, Given(mask).reads_retain) == (False, False)
    assert str(Given(mask)) == "a given mask of 45%"


def test_a_mask_of_another_network_is_refused():
    mask = Mask.full(CASES["three-classes"].make())
    with pytest.raises(errors.MaskMismatch, match="the mask does not fit Sequential"):
        Given(mask)(CASES["mlp"].make(), excise.Split(CASES["mlp"].data(8), forget=[1, 5]))
