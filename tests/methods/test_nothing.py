import pytest

import excise
from excise.data import Split
from excise.masks import Mask
from excise.methods import Nothing
from tests.cases import CASES
from tests.probes import LeftAlone, Watched, engine_for, same_bytes, snapshot, touched


@pytest.mark.parametrize("name", CASES)
def test_nothing_changes_under_any_mask(name):
    for make in (Mask.full, Mask.empty):
        model = touched(CASES[name].make())
        alone, engine = LeftAlone(model), engine_for(model)
        watched = Watched(*CASES[name].data(12), forbidden=range(12))
        Nothing().unlearn_(model, Split(watched, forget=[1]), make(model), engine)
        alone.check()
        assert (engine.cost.trained_rows, engine.cost.forward_rows, engine.trace) == (0, 0, [])


def test_it_needs_nothing_and_gives_no_value():
    model, split = CASES["mlp"].make(), Split(CASES["mlp"].data(12), forget=[1])
    assert Nothing().needs == frozenset()
    assert Nothing().edit(model, split, Mask.full(model), engine_for(model)) == {}


def test_the_result_is_another_network_with_the_same_bytes():
    model, split = CASES["batchnorm"].make(), Split(CASES["batchnorm"].data(12), forget=[1])
    unlearned = excise.unlearn(model, split, Nothing())
    assert unlearned.model is not model
    assert same_bytes(snapshot(unlearned.model), snapshot(model))
    assert unlearned.patch.num_changed == {}
