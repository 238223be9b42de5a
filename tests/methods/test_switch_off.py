import pytest
import torch

import excise
from excise.data import Split
from excise.masks import Mask
from excise.methods import SwitchOff
from tests.cases import CASES
from tests.probes import KINDS, LeftAlone, Watched, engine_for, raw, same_bytes, snapshot, spelled_out, touched

every_case = pytest.mark.parametrize("name", CASES)


@pytest.mark.parametrize("kind", KINDS)
@every_case
def test_inside_the_mask_all_is_zero_and_outside_all_is_as_it_was(name, kind):
    model = touched(CASES[name].make())
    alone, tensors = LeftAlone(model), spelled_out(model, kind)
    split = Split(CASES[name].data(12), forget=[1])
    unlearned = excise.unlearn(model, split, SwitchOff(), mask=Mask.from_tensors(tensors))
    alone.check()
    before, after = snapshot(model), snapshot(unlearned.model)
    for key, chosen in tensors.items():
        assert torch.equal(raw(after[key]), raw(torch.where(chosen, 0.0, before[key])))
    assert same_bytes(dict(unlearned.model.named_buffers()), dict(model.named_buffers()))


@every_case
def test_twice_is_once_and_everywhere_is_a_network_of_zeros(name):
    model, split = CASES[name].make(), Split(CASES[name].data(12), forget=[1])
    once = excise.unlearn(model, split, SwitchOff()).model
    assert not any(bool(value.any()) for value in once.parameters())
    assert same_bytes(snapshot(excise.unlearn(once, split, SwitchOff()).model), snapshot(once))


def test_no_row_is_read_nothing_is_needed_and_no_memory_taken():
    watched = Watched(*CASES["mlp"].data(12), forbidden=range(12))
    model = CASES["mlp"].make()
    engine, split = engine_for(model), Split(watched, forget=[1])
    assert SwitchOff().needs == frozenset()
    values = SwitchOff().edit(model, split, Mask.full(model), engine)
    assert {key: value.shape for key, value in values.items()} == {k: v.shape for k, v in model.named_parameters()}
    assert sum(value.untyped_storage().nbytes() for value in values.values()) == 8 * len(values)
    SwitchOff().unlearn_(model, split, Mask.full(model), engine)
    assert (watched.read, engine.cost.trained_rows, engine.cost.forward_rows) == ([], 0, 0)
