import random

import numpy as np
import pytest
import torch
from torch import nn

from excise.masks import Mask
from excise.methods import Nothing, Reset
from excise.testing import pictures


def network():
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))


CHANGES = {
    "bytes": lambda model: model[1].running_mean.add_(1),
    "storages": lambda model: setattr(model[0].weight, "data", model[0].weight.data.clone()),
    "requires_grad": lambda model: model[0].bias.requires_grad_(False),
    "gradients": lambda model: setattr(model[0].bias, "grad", torch.zeros(2)),
    "modes": lambda model: setattr(model[1], "training", False),
    "hooks": lambda model: model[1].register_full_backward_hook(lambda *_: None),
}


@pytest.mark.parametrize("aspect", CHANGES)
def test_a_picture_of_a_network_shows_each_change_and_no_other(aspect):
    model = network()
    before = pictures.network(model)
    assert pictures.differing(before, pictures.network(model)) == []
    CHANGES[aspect](model)
    assert pictures.differing(before, pictures.network(model)) == [aspect]


WORLD = {
    "torch": lambda: torch.rand(1),
    "numpy": lambda: np.random.rand(),  # noqa: NPY002
    "python": random.random,
}


@pytest.mark.parametrize("aspect", WORLD)
def test_a_picture_of_the_process_shows_each_draw(aspect):
    before = pictures.process()
    WORLD[aspect]()
    assert pictures.differing(before, pictures.process()) == [aspect]


def test_a_picture_of_the_process_shows_the_gradient_mode():
    before = pictures.process()
    with torch.no_grad():
        assert pictures.differing(before, pictures.process()) == ["gradient mode"]


def test_bytes_tell_zeros_apart_and_a_nan_is_itself():
    assert pictures.raw(torch.tensor(0.0)) != pictures.raw(torch.tensor(-0.0))
    assert pictures.raw(torch.tensor(torch.nan)) == pictures.raw(torch.tensor(torch.nan))


def test_a_touched_network_has_something_of_everything():
    picture = pictures.network(pictures.touched(network()))
    assert len(set(picture["modes"])) == 2 and all(picture["gradients"]) and any(picture["hooks"])


def test_objects_are_compared_by_their_fields():
    one, same, other = (Reset(to={"a": torch.full((1,), value)}) for value in (1.0, 1.0, 2.0))
    assert pictures.plainly(one) == pictures.plainly(same) != pictures.plainly(other)
    assert pictures.plainly(Nothing()) != pictures.plainly(one)
    models = [nn.Linear(1, 1), nn.Linear(1, 1)]
    assert pictures.plainly(models[0]) == pictures.plainly(models[0]) != pictures.plainly(models[1])
    masks = [Mask.full(models[0]), Mask.empty(models[0])]
    assert pictures.plainly(masks[0]) != pictures.plainly(masks[1])

    class Plain:
        def __init__(self, value):
            self.value = value

    assert pictures.plainly(Plain([1])) == pictures.plainly(Plain([1])) != pictures.plainly(Plain([2]))


def test_a_watched_data_set_writes_down_what_is_read_and_fails_when_told_to():
    watched = pictures.Watched(torch.zeros(3, 1), torch.arange(3), fails_after=2)
    assert watched[2][1] == 2 and watched[0][1] == 0 and watched.read == [2, 0]
    with pytest.raises(pictures.Unreadable, match="row 1 cannot be read"):
        watched[1]
    assert pictures.Watched(torch.zeros(3, 1), torch.arange(3), lists_labels=True).targets == [0, 1, 2]
    assert not hasattr(watched, "targets")
