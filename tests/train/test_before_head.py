"""Twins: the network cut before its head by hand. Messages are held in tests/observe/test_features.py."""

import pytest
import torch
from torch import nn

from excise import errors, params
from excise.data.rows import Rows
from excise.train.before_head import before_head, embedded
from tests.cases import CASES
from tests.probes import LeftAlone, engine_for, touched


def test_it_gives_the_input_with_gradient_for_as_many_passes_as_there_are():
    model, (inputs, _) = CASES["mlp"].make(), CASES["mlp"].data(6)
    with before_head(model, "4") as given:
        for rows in (6, 3):
            model(inputs[:rows])
            found = given(rows)
            assert torch.equal(found, model[:4](inputs[:rows])) and found.requires_grad


def test_no_hook_is_left_whatever_happens():
    model = touched(CASES["mlp"].make())
    alone = LeftAlone(model)
    with pytest.raises(KeyError, match="mine"), before_head(model, "4"):
        raise KeyError("mine")
    with pytest.raises(errors.UnsupportedModel, match="ran 0 times"), before_head(model, "4") as given:
        given(3)
    alone.check()


def test_what_is_written_into_later_is_given_as_it_was_with_the_gradient_of_what_it_was():
    inputs, _ = CASES["mlp"].data(6)
    model = nn.Sequential(CASES["mlp"].make()[0], nn.Sequential(nn.ReLU(inplace=True), nn.Linear(10, 4).double()))
    with before_head(model, "1") as given:
        model(inputs)
        found = given(6)
    expected = model[0](inputs)
    assert torch.equal(found, expected) and bool((expected < 0).any())
    one, other = (torch.autograd.grad(value.square().sum(), model[0].weight)[0] for value in (found, expected))
    assert torch.equal(one, other)


@pytest.mark.parametrize("size", [2, 50])
def test_rows_come_in_order_in_eval_mode_with_logits_and_targets(size):
    name = "batchnorm"
    model, (inputs, labels) = touched(CASES[name].make()), CASES[name].data(9)
    alone, engine, shown = LeftAlone(model), engine_for(model), params.shadow_of(model)
    found = list(embedded(shown, Rows.all_of((inputs, labels)), engine, head="8", batch_size=size))
    alone.check()
    assert engine.cost.forward_rows == 9
    shadow = CASES[name].make().eval()
    assert isinstance(shadow[8], nn.Linear)
    with torch.no_grad():
        whole = shadow[:8](inputs)
        torch.testing.assert_close(torch.cat([one.features for one in found]), whole, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(torch.cat([one.logits for one in found]), shadow[8](whole), rtol=1e-13, atol=1e-13)
    assert torch.equal(torch.cat([one.targets for one in found]), labels)
    assert not any(one.features.requires_grad or one.logits.requires_grad for one in found)
