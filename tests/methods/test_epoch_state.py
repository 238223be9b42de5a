import pytest
import torch

from excise.masks import Mask
from excise.methods.epoch_state import EpochState
from tests.cases import CASES
from tests.probes import KINDS, raw, same_bytes, snapshot, spelled_out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["batchnorm", "tied"])
def test_what_is_put_back_is_what_was_there_inside_the_mask_and_nothing_moves_outside(name, kind):
    model = CASES[name].make()
    spelled = spelled_out(model, kind)
    mask, before = Mask.from_tensors(spelled), snapshot(model)
    kept = EpochState.of(model, mask, 3)
    kept = EpochState.of_tensors({key: value.clone() for key, value in kept.tensors().items()})
    assert kept.epoch == 3
    assert sum(len(value) for value in kept.values.values()) == mask.num_selected
    with torch.no_grad():
        for value in (*model.parameters(), *(one for one in model.buffers())):
            value.add_(1)
    changed = snapshot(model)
    kept.put_back_(model, mask)
    after = snapshot(model)
    for key, chosen in spelled.items():
        assert torch.equal(raw(after[key][chosen]), raw(before[key][chosen]))
        assert torch.equal(raw(after[key][~chosen]), raw(changed[key][~chosen]))
    buffers = dict(model.named_buffers())
    assert same_bytes(buffers, {key: before[key] for key in buffers})


def test_it_is_a_copy():
    model = CASES["batchnorm"].make()
    kept = EpochState.of(model, Mask.full(model), 0)
    before = {key: value.clone() for key, value in kept.tensors().items()}
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            value.add_(1)
    assert same_bytes(kept.tensors(), before)
