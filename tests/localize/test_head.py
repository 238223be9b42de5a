import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from excise import errors
from excise.data import Rows, Split
from excise.localize import Head, head_mask
from excise.masks import Mask
from excise.train import Task
from tests.cases import CASES
from tests.probes import LeftAlone, Watched, engine_for, touched

HEADS = {
    "mlp": "4",
    "separable": "7",
    "transformer": "head",  # entered last, though the root, which holds the position embedding, is left last
    "tied": "embed",  # the tied weight, under the first of its names
    "three-classes": "4",
    "batchnorm": "8",
}


@pytest.mark.parametrize("name", CASES)
def test_the_head_is_the_last_module_with_weights_to_run(name):
    model = touched(CASES[name].make())
    alone = LeftAlone(model)
    head = head_mask(model, Rows.all_of(CASES[name].data(12)), Task())
    alone.check()
    assert head == Mask.of_modules(model, [HEADS[name]])
    assert 0 < head.num_selected < head.num_parameters


class Backwards(nn.Module):
    """Modules written in another order than they run in, with one after the head that has no weights, and one never run."""

    def __init__(self, *, normalised_head=False):
        super().__init__()
        self.classifier = nn.Linear(5, 4)
        self.softmax = nn.Softmax(1)
        self.body = nn.Linear(6, 5)
        self.auxiliary = nn.Linear(5, 4)
        if normalised_head:
            parametrizations.weight_norm(self.classifier)

    def forward(self, inputs):
        return self.softmax(self.classifier(self.body(inputs)))


def rows():
    return Rows.all_of(CASES["mlp"].data(12))


def test_running_order_counts_and_not_the_order_of_definition():
    model = Backwards().double()
    assert head_mask(model, rows(), Task()) == Mask.of_modules(model, ["classifier"])


def test_a_reparametrized_head_is_whole():
    model = Backwards(normalised_head=True).double()
    head = head_mask(model, rows(), Task())
    assert head == Mask.of_modules(model, ["classifier"])
    assert head.num_selected == 4 + 4 + 4 * 5  # bias, norms and directions


def test_a_network_of_one_layer_is_its_own_head():
    model = nn.Linear(6, 4).double()
    assert head_mask(model, rows(), Task()) == Mask.full(model)


class Bare(nn.Module):
    """Two layers as bare parameters: no module tells one from the other."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Parameter(torch.ones(6, 5)), nn.Parameter(torch.ones(5, 4))

    def forward(self, inputs):
        return torch.relu(inputs @ self.first) @ self.second


class Functional(nn.Module):
    """Reads the weights of a module that it never calls."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, inputs):
        return nn.functional.linear(inputs, self.layer.weight)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            Bare(),
            r"one module holds all weights of Bare, so its head cannot be found; name it, as in Head\('classifier'\) "
            r"\(recipes that train a head take its name as head=\)$",
        ),
        (nn.Sequential(Bare()), "one module holds all weights of Sequential, so its head cannot be found"),
        (Functional(), "no module with weights runs in a forward pass of Functional, so its head cannot be found"),
    ],
)
def test_a_network_whose_head_is_no_module_needs_it_named(model, said):
    alone = LeftAlone(touched(model.double()))
    with pytest.raises(errors.UnsupportedModel, match=said):
        head_mask(model, rows(), Task())
    alone.check()


def test_hooks_and_modes_are_put_back_where_the_network_fails():
    model = touched(CASES["mlp"].make())
    alone = LeftAlone(model)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        head_mask(model, Rows.all_of((torch.zeros(3, 9), torch.zeros(3, dtype=torch.int64))), Task())
    alone.check()


def test_one_row_is_enough():
    watched = Watched(*CASES["mlp"].data(12), forbidden=range(1, 12))
    head_mask(CASES["mlp"].make(), Rows.all_of(watched), Task())
    assert watched.read == [0]


@pytest.mark.parametrize("name", CASES)
def test_the_region_is_the_mask_of_a_forget_row_or_of_the_named_module(name):
    watched = Watched(*CASES[name].data(12), forbidden=set(range(12)) - {5})
    model = touched(CASES[name].make())
    alone, split = LeftAlone(model), Split(watched, forget=[5, 7])
    found = Head().locate(model, split, engine_for(model))
    alone.check()
    assert watched.read == [5]
    assert found == head_mask(model, Rows.all_of(CASES[name].data(12)), Task())
    first = next(iter(dict(model.named_parameters()))).rpartition(".")[0]
    for module in filter(None, (first, HEADS[name])):
        assert Head(module).locate(model, split, engine_for(model)) == Mask.of_modules(model, [module])
    assert watched.read == [5]
    assert Head().reads_forget and not Head("4").reads_forget and not Head().reads_retain
    assert str(Head()) == "the head"


def test_a_named_head_that_is_not_there_is_refused():
    model = CASES["mlp"].make()
    with pytest.raises(errors.MaskMismatch, match="has no module or parameter named 'fc'"):
        Head("fc")(model, Split(CASES["mlp"].data(12), forget=[5]))
