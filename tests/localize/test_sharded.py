"""Scores in parts; with real processes in tests/distributed/test_sharding.py."""

import pytest
import torch

from excise import errors
from excise.distributed import Processes
from excise.localize import Scores
from excise.localize.sharded import ShardedScores
from tests.distributed.requests import CUTS

SHAPES = {"a.weight": (5, 3), "a.bias": (5,), "b.weight": (3, 5, 1), "b.bias": (3,)}


def drawn():
    draws = torch.Generator().manual_seed(0)
    return {name: torch.rand(shape, generator=draws) for name, shape in SHAPES.items() if name != "b.bias"}


@pytest.mark.parametrize("cut", CUTS)
def test_the_only_process_cuts_what_whole_scores_do(cut):
    here, whole = ShardedScores(drawn(), SHAPES, Processes.alone()), Scores(drawn(), SHAPES)
    options = {"budget_fraction": 0.5, **CUTS[cut]}
    assert here.select(**options) == whole.select(**options)
    assert (here.names, here.num_weights, repr(here).partition("(")[2]) == (
        whole.names,
        whole.num_weights,
        repr(whole).partition("(")[2],
    )
    assert all(torch.equal(here[name], whole[name]) for name in whole.names)
    assert here.above(0.5) == whole.above(0.5)


def test_scores_that_are_none_are_refused():
    values = drawn()
    values["a.bias"][2] = torch.nan
    with pytest.raises(errors.BadRequest, match="scores are negative or not finite; check that"):
        ShardedScores(values, SHAPES, Processes.alone())
