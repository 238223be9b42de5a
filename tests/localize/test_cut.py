import itertools

import pytest
import torch
from torch import nn

from excise import errors
from excise.data import Split
from excise.localize import (
    Convolutions,
    Cut,
    Everything,
    Gradient,
    GradientDifference,
    Head,
    Magnitude,
    Mean,
    Modules,
    Random,
    Top,
    WeightGradient,
)
from excise.masks import Mask
from tests.cases import CASES
from tests.probes import LeftAlone, Watched, engine_for, touched

every_case = pytest.mark.parametrize("name", CASES)
FORGET = [1, 4, 5, 11]
OPTIONS = {
    "channels": {},
    "channels, cut": {"partial": True},
    "channels, lowest": {"lowest": True},
    "channels by number": {"count": "channels"},
    "channels of each": {"scope": "layer", "reduction": Mean()},
    "weights": {"granularity": "weight"},
    "weights, lowest": {"granularity": "weight", "lowest": True},
    "weights of each": {"granularity": "weight", "scope": "layer"},
    "weights of each, lowest": {"granularity": "weight", "scope": "layer", "lowest": True},
    "modules": {"granularity": "module"},
    "modules, cut": {"granularity": "module", "partial": True},
    "modules, cut, lowest": {"granularity": "module", "partial": True, "lowest": True},
}
every_option = pytest.mark.parametrize("how", OPTIONS.values(), ids=OPTIONS)


def problem(name):
    return CASES[name].make(), Split(CASES[name].data(20), forget=FORGET)


@every_option
@every_case
def test_it_is_the_selection_of_the_localizers_scores(name, how):
    model, split = problem(name)
    alone = LeftAlone(touched(model))
    mask = Cut(WeightGradient(), 0.9, **how)(model, split)
    alone.check()
    assert mask == WeightGradient()(model, split).select(budget_fraction=0.9, **how)
    assert mask.num_selected > 0


@every_option
@every_case
def test_one_pass_of_scoring_serves_every_budget_and_a_larger_one_holds_the_smaller(name, how):
    watched, model = Watched(*CASES[name].data(20)), CASES[name].make()
    scores = WeightGradient().score(model, Split(watched, forget=FORGET), engine_for(model))
    masks = [scores.select(budget_fraction=share, **how) for share in (0.0, 0.85, 0.9, 0.91, 0.97, 1.0)]
    assert watched.read == FORGET
    for small, large in itertools.pairwise(masks):
        assert (small - large).num_selected == 0
    assert (masks[0], masks[-1]) == (Mask.empty(model), Mask.full(model))


@every_case
def test_among_a_region_the_budget_is_a_share_of_it(name):
    model, split = problem(name)
    head = Head()(model, split)
    cut = Cut(Magnitude(), 0.5, granularity="weight", among=Head())(model, split)
    assert cut.num_selected == head.num_selected // 2
    assert (cut - head).num_selected == 0
    inside = torch.cat([value.detach().abs()[head.expand(key)] for key, value in model.named_parameters()])
    taken = torch.cat([value.detach().abs()[cut.expand(key)] for key, value in model.named_parameters()])
    assert sorted(taken.tolist()) == sorted(inside.tolist())[-len(taken) :]


def test_it_reads_what_its_localizer_and_its_region_read():
    class Retained(Everything):
        @property
        def reads_retain(self):
            return True

    assert not Cut(Gradient()).reads_retain
    assert Cut(Gradient(rows="train")).reads_retain
    assert Cut(GradientDifference()).reads_retain
    assert Cut(Gradient(), among=Retained()).reads_retain
    assert Cut(Gradient()).reads_forget
    assert Cut(Magnitude(), among=Head()).reads_forget
    assert not Cut(Magnitude(), among=Convolutions()).reads_forget
    watched = Watched(*CASES["mlp"].data(20), forbidden=set(range(20)) - set(FORGET))
    Cut(Gradient(), among=Head())(CASES["mlp"].make(), Split(watched, forget=FORGET))
    assert set(watched.read) == set(FORGET)


@pytest.mark.parametrize(
    ("cut", "said"),
    [
        (Cut(WeightGradient()), "WeightGradient by channel, 30%"),
        (Cut(Gradient(), 0.5, granularity="weight"), "Gradient by weight, 50%"),
        (Cut(Gradient(), 0.05, count="channels"), "Gradient by channel, 5% of the channels"),
        (
            Cut(GradientDifference(), granularity="weight", scope="layer", lowest=True, among=Convolutions()),
            "GradientDifference by weight, lowest 30% of each parameter among the convolutions",
        ),
        (Cut(Magnitude(), 0.4, granularity="module"), "Magnitude by module, 40%"),
    ],
)
def test_it_says_what_it_is(cut, said):
    assert str(cut) == said


def test_options_reach_the_selection():
    model, split = problem("separable")
    scores = Magnitude()(model, split)
    for how in ({"reduction": Mean()}, {"reduction": Top(0.5)}, {"lowest": True}, {"count": "channels"}):
        assert Cut(Magnitude(), 0.4, **how)(model, split) == scores.select(budget_fraction=0.4, **how)
        assert Cut(Magnitude(), 0.4, **how)(model, split) != scores.select(budget_fraction=0.4)


@pytest.mark.parametrize("how", [{}, {"scope": "layer"}, {"granularity": "weight"}])
def test_a_region_that_holds_nothing_to_choose_from_is_refused(how):
    model, split = problem("mlp")
    said = "^among: Sequential has no weights to choose from here: the convolutions; choose among others$"
    with pytest.raises(errors.UnsupportedModel, match=said):
        Cut(Magnitude(), 0.3, among=Convolutions(), **how)(model, split)
    model[0].requires_grad_(False)
    with pytest.raises(errors.UnsupportedModel, match="no weights to choose from here: in 0; choose among others"):
        Cut(Magnitude(), 0.3, among=Modules(("0",)), **how)(model, split)


def test_a_region_that_holds_a_part_of_a_parameter_is_refused():
    model, split = problem("mlp")
    with pytest.raises(
        errors.MaskMismatch, match="expected whole parameters to choose among, found 3 of the 60 weights"
    ):
        Cut(Magnitude(), 0.3, among=Cut(Gradient(), 3 / 60, granularity="weight", among=Modules(("0.weight",))))(
            model, split
        )


def test_where_the_budget_buys_nothing_the_cut_is_refused():
    model = nn.Linear(6, 4).double()
    with pytest.raises(errors.BadRequest, match=r"does not pay for the first module, of '(weight|bias)'"):
        Cut(Magnitude(), 0.1, granularity="module")(model, problem("mlp")[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget_fraction": 1.5}, "budget_fraction: expected a fraction between 0 and 1, found 1.5"),
        ({"granularity": "layer"}, "granularity: expected weight or channel or module, found 'layer'"),
        ({"count": "rows"}, "count: expected weights or channels, found 'rows'"),
        ({"scope": "model"}, "scope: expected network or layer, found 'model'"),
        (
            {"count": "channels", "granularity": "weight"},
            "count: a budget of channels chooses channels, found granularity 'weight'",
        ),
        (
            {"scope": "layer", "granularity": "module"},
            "scope: a share of each layer has no whole modules; take granularity channel or weight",
        ),
        (
            {"scope": "layer", "partial": True},
            "partial: a share of each layer is a rounded number of whole channels or weights; leave it out, or take "
            'scope="network"',
        ),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(errors.BadRequest, match=f"^{message}$"):
        Cut(WeightGradient(), **options)
    with pytest.raises(errors.BadRequest, match=f"^{message}$"):
        Magnitude()(*problem("mlp")).select(**{"budget_fraction": 0.3} | options)


def test_what_gives_no_scores_is_refused():
    said = r"^localizer: expected one that gives scores, such as excise\.localize\.WeightGradient\(\), found Head$"
    with pytest.raises(errors.BadRequest, match=said):
        Cut(Head())


def test_a_random_cut_draws_what_it_cuts():
    with pytest.raises(
        errors.BadRequest, match=r"granularity: expected channel, the unit that Random draws, found weight"
    ):
        Cut(Random(), 0.3, granularity="weight")
    assert Cut(Random(unit="weight"), 0.3, granularity="weight").localizer.unit == "weight"
