import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from excise import errors
from excise.data import Split
from excise.localize import Cut, Deepest, Head, Shallowest
from excise.masks import Mask
from tests.cases import CASES
from tests.probes import LeftAlone, Watched, engine_for, touched

FORGET = [3, 4, 7]
BOTH = pytest.mark.parametrize("localizer", [Deepest(), Shallowest()], ids=lambda localizer: type(localizer).__name__)


def split_of(name="mlp", num_rows=12):
    return Split(CASES[name].data(num_rows), forget=FORGET)


def by_score(scores):
    """Give the parameters from the highest score down, those of equal score together; each has one score throughout."""
    levels = {}
    for key in scores.names:
        (level,) = set(scores[key].flatten().tolist())
        levels.setdefault(level, set()).add(key)
    return [levels[level] for level in sorted(levels, reverse=True)]


def orders(model, split=None):
    return [by_score(localizer(model, split or split_of())) for localizer in (Deepest(), Shallowest())]


def both(*modules):
    return [{f"{module}.weight", f"{module}.bias"} for module in modules]


ATTENTION = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")


def encoder(layer):
    """The order within one of torch's encoder layers: attention, its output projection with it, then norm1, ..."""
    attention = {f"layers.{layer}.self_attn.{key}" for key in ATTENTION}
    return [attention, *both(*(f"layers.{layer}.{key}" for key in ("norm1", "linear1", "linear2", "norm2")))]


RUNS = {
    "mlp": both("0", "2", "4"),
    "separable": [*both("0", "2"), {"3.weight"}, *both("7")],
    "transformer": [{"position"}, *encoder(0), *encoder(1), *both("head")],
    "three-classes": both("0", "2", "4"),
    "batchnorm": [{"0.weight"}, *both("1", "3", "4", "8")],
}


@pytest.mark.parametrize("name", RUNS)
def test_scores_follow_the_order_of_running_from_either_side(name):
    model = touched(CASES[name].make())
    alone = LeftAlone(model)
    deepest, shallowest = orders(model, split_of(name))
    alone.check()
    assert shallowest == RUNS[name]
    assert deepest == RUNS[name][::-1]


def test_a_tied_weight_counts_where_it_is_nearest_to_the_side():
    deepest, shallowest = orders(CASES["tied"].make(), split_of("tied"))
    assert deepest == [{"embed.weight"}, *both("middle")]
    assert shallowest == [{"embed.weight"}, *both("middle")]


@pytest.mark.parametrize("name", CASES)
def test_the_deepest_module_is_the_head(name):
    model, split = CASES[name].make(), split_of(name)
    head = Head()(model, split)
    share = head.num_selected / head.num_parameters
    assert Cut(Deepest(), share, granularity="module")(model, split) == head
    assert Cut(Deepest(), share, granularity="weight")(model, split) == head


class Odd(nn.Module):
    """Written in another order than it runs in; one module used twice, one never, one reparametrized, a list of weights."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(6, 4)
        self.unused = nn.Linear(6, 6)
        self.twice = nn.Linear(6, 6)
        self.middle = nn.ModuleDict({"normed": parametrizations.weight_norm(nn.Linear(6, 6, bias=False))})
        self.block = Listed()

    def forward(self, inputs):
        hidden = self.block(self.twice(inputs))
        return self.last(self.twice(torch.tanh(self.middle["normed"](hidden))))


class Listed(nn.Module):
    """Weights in a list, which never runs itself, and an auxiliary layer that nobody calls."""

    def __init__(self):
        super().__init__()
        self.scales = nn.ParameterList([nn.Parameter(torch.ones(6)), nn.Parameter(torch.ones(1, 6))])
        self.auxiliary = nn.Linear(2, 2)

    def forward(self, inputs):
        return inputs * self.scales[0] * self.scales[1]


def odd():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Odd().double()


NORMED = {f"middle.normed.parametrizations.weight.original{part}" for part in (0, 1)}
BLOCK = {"block.scales.0", "block.scales.1", "block.auxiliary.weight", "block.auxiliary.bias"}


def test_odd_networks_are_ordered_by_the_stated_rules():
    deepest, shallowest = orders(odd())
    assert deepest == [*both("last", "twice"), NORMED, BLOCK, *both("unused")]
    assert shallowest == [*both("twice"), BLOCK, NORMED, *both("last", "unused")]


@BOTH
def test_what_never_runs_scores_zero_and_the_rest_more(localizer):
    scores = localizer(odd(), split_of())
    assert {key for key in scores.names if not scores[key].any()} == {"unused.weight", "unused.bias"}


def test_whole_layers_are_taken_until_one_does_not_fit_and_then_a_part_of_it():
    model, split = CASES["mlp"].make(), split_of()  # layers of 70, 88 and 36 weights
    for budget, whole in ((36, {"4"}), (123, {"4"}), (124, {"4", "2"}), (193, {"4", "2"}), (194, {"4", "2", "0"})):
        mask = Cut(Deepest(), budget / 194, granularity="module")(model, split)
        assert mask == Mask.of_modules(model, whole)
        cut = Cut(Deepest(), budget / 194, granularity="module", partial=True)(model, split)
        assert cut.num_selected == budget
        assert (mask - cut).num_selected == 0
        assert cut == Cut(Deepest(), budget / 194, granularity="weight")(model, split)
    part = Cut(Deepest(), 123 / 194, granularity="module", partial=True)(model, split)
    assert part.expand("2.weight").flatten().tolist() == [True] * 80
    assert part.expand("2.bias").tolist() == [True] * 7 + [False]
    assert Cut(Shallowest(), 70 / 194, granularity="module")(model, split) == Mask.of_modules(model, ["0"])


@BOTH
def test_one_forget_row_is_read_and_none_counted(localizer):
    watched = Watched(*CASES["mlp"].data(12), forbidden=set(range(12)) - {FORGET[0]})
    model = CASES["mlp"].make()
    engine = engine_for(model)
    localizer.score(model, Split(watched, forget=FORGET), engine)
    assert watched.read == FORGET[:1]
    assert (engine.cost.trained_rows, engine.cost.forward_rows) == (0, 0)
    assert not localizer.reads_retain


@BOTH
def test_frozen_parameters_get_no_score(localizer):
    model = CASES["mlp"].make()
    model[4].requires_grad_(False)
    scores = localizer(model, split_of())
    assert scores.names == ("0.weight", "0.bias", "2.weight", "2.bias")
    assert Cut(localizer, 1.0, granularity="module")(model, split_of()) == Mask.of_modules(model, ["0", "2"])


def test_a_network_of_one_layer_has_one_depth():
    model = nn.Linear(6, 4).double()
    assert orders(model) == [[{"weight", "bias"}]] * 2


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


@BOTH
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            Bare,
            "^one module holds all weights of Bare, so its layers have no order; name what may change instead, as in",
        ),
        (Functional, "^no module with weights runs in a forward pass of Functional, so its layers have no order; name"),
    ],
)
def test_a_network_without_layers_to_tell_apart_is_refused(localizer, make, said):
    with pytest.raises(errors.UnsupportedModel, match=said):
        localizer(make().double(), split_of())
