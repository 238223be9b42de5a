"""Twin: each network by itself, with torch's own clipping."""

import pytest
import torch
from torch import nn

from excise import errors, params
from excise.train import Task
from excise.train.stacked import Stacked
from tests.cases import CASES
from tests.probes import same_bytes, snapshot


def networks(name="batchnorm", count=3):
    models = [CASES[name].make() for _ in range(count)]
    for number, model in enumerate(models):
        for value in model.parameters():
            value.data.mul_(1 + number / 4)
    return models


def batches(name="batchnorm", count=3, size=8):
    inputs, labels = CASES[name].data(count * size)
    return inputs.unflatten(0, (count, size)), labels.unflatten(0, (count, size))


@pytest.mark.parametrize("norm", [1e-2, 1.0, 1e3])
def test_losses_gradients_and_clipping_are_those_of_each_network(norm):
    models, content = networks(), batches()
    stack = Stacked(models, Task())
    losses = stack.mean_losses(content, 8)
    losses.sum().backward()
    stack.clip_(norm)
    for index, model in enumerate(networks()):
        loss = nn.functional.cross_entropy(model.train()(content[0][index]), content[1][index])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), norm)
        assert losses[index].item() == pytest.approx(loss.item(), abs=1e-12)
        for name, value in model.named_parameters():
            assert torch.allclose(stack.leaves[name].grad[index], value.grad, rtol=0, atol=1e-12), name
        for name, buffer in model.named_buffers():
            assert torch.allclose(stack.buffers[name][index], buffer, rtol=0, atol=1e-12), name


def test_the_networks_change_when_they_are_written_and_not_before():
    models = networks()
    before = [snapshot(model) for model in models]
    stack = Stacked(models, Task())
    kept = stack.values()
    stack.mean_losses(batches(), 8)
    for leaf in stack.leaves.values():
        leaf.data.add_(1.0)
    assert all(same_bytes(one, snapshot(model)) for one, model in zip(before, models, strict=True))
    stack.write_()
    assert not any(same_bytes(one, snapshot(model)) for one, model in zip(before, models, strict=True))
    stack.restore_(kept)
    stack.write_()
    assert all(same_bytes(one, snapshot(model)) for one, model in zip(before, models, strict=True))


def test_networks_that_differ_in_more_than_values_are_refused():
    first = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.1))
    others = [nn.Sequential(nn.Linear(3, 5), nn.Dropout(0.1)), nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.2))]
    others += [params.clone_model(first).double(), nn.Sequential(nn.Linear(3, 4), nn.ReLU())]
    for other in others:
        with pytest.raises(errors.BadRequest, match="network 3 has other modules, names, shapes"):
            Stacked([first, params.clone_model(first), other], Task())
