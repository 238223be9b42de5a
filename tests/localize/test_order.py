import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from excise.data import Rows
from excise.localize.order import entered_modules, weights_by_module
from excise.train import Task
from tests.cases import CASES
from tests.probes import LeftAlone, Watched, touched


def rows():
    return Rows.all_of(CASES["mlp"].data(12))


class Winding(nn.Module):
    """One module used twice, a reparametrized one, and weights in a list, which never runs."""

    def __init__(self):
        super().__init__()
        self.scales = nn.ParameterList([nn.Parameter(torch.ones(6))])
        self.twice = nn.Linear(6, 6)
        self.normed = parametrizations.weight_norm(nn.Linear(6, 4, bias=False))

    def forward(self, inputs):
        return self.normed(self.twice(self.twice(inputs * self.scales[0])))


def test_modules_are_named_each_time_they_are_entered_and_own_what_is_theirs():
    model = Winding().double()
    assert entered_modules(model, rows(), Task()) == ["", "twice", "twice", "normed"]
    name_of = {id(value): key for key, value in model.named_parameters()}
    owned = {module: {name_of[id(value)] for value in values} for module, values in weights_by_module(model).items()}
    assert owned == {
        "": {"scales.0"},
        "twice": {"twice.weight", "twice.bias"},
        "normed": {f"normed.parametrizations.weight.original{part}" for part in (0, 1)},
    }
    tied = weights_by_module(CASES["tied"].make())
    assert tied["embed"][0] is tied["head"][0]


class Backwards(nn.Module):
    """Modules written in another order than they run in, and one that never runs."""

    def __init__(self):
        super().__init__()
        self.classifier, self.unused, self.body = nn.Linear(5, 4), nn.Linear(5, 4), nn.Linear(6, 5)

    def forward(self, inputs):
        return self.classifier(self.body(inputs))


def test_what_runs_counts_and_one_row_is_enough():
    watched, model = Watched(*CASES["mlp"].data(12), forbidden=range(1, 12)), touched(Backwards().double())
    alone = LeftAlone(model)
    assert entered_modules(model, Rows.all_of(watched), Task()) == ["body", "classifier"]
    alone.check()
    assert watched.read == [0]
    assert list(weights_by_module(model)) == ["classifier", "unused", "body"]


def test_hooks_and_modes_are_put_back_where_the_network_fails():
    model = touched(CASES["mlp"].make())
    alone = LeftAlone(model)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        entered_modules(model, Rows.all_of((torch.zeros(3, 9), torch.zeros(3, dtype=torch.int64))), Task())
    alone.check()
