import inspect

import pytest
import torch

from excise import localize
from excise.localize import Everything, Gradient, Localizer, Magnitude, Region
from excise.masks import Mask
from excise.networks import ExampleTiedDropout
from excise.testing import check_localizer
from excise.testing.problems import PROBLEMS, Problem
from tests.testing.stand_ins import PLACES, misplaced

# A new localizer or region has its line here.
BUILT_IN = [
    localize.Above(localize.FisherRatio(), 1.0),
    localize.Above(Magnitude(), 0.05),
    localize.Convolutions(),
    localize.CriticalChannels(batch_size=6, num_draws=1, noise=0.0, budget_fraction=0.5),  # tokens take no noise
    localize.Cut(Magnitude()),
    localize.Cut(localize.WeightGradient(), 0.4, among=localize.Head()),
    localize.Cut(
        localize.GradientDifference(), 0.4, "weight", scope="layer", lowest=True, among=localize.Convolutions()
    ),
    localize.Deepest(),
    Everything(),
    localize.FisherRatio(),
    localize.Given(Mask.of_modules(PROBLEMS["mlp"]().make(), ["0"])),
    Gradient(),
    Gradient(rows="train"),
    localize.GradientDifference(),
    localize.Head(),
    localize.Head(""),
    localize.LastLayers(2),
    Magnitude(),
    localize.Modules(("",)),
    localize.Modules(("0",)),
    localize.Random(),
    localize.RandomLike(localize.Cut(Gradient(rows="train"), 0.4)),
    localize.Shallowest(),
    localize.TiedChannels(),
    localize.WeightGradient(),
]


def with_tied_dropout():
    """Give a network with the one module that `TiedChannels` looks for; no method of ours trains it on plain pairs."""
    return torch.nn.Sequential(torch.nn.Linear(6, 10), ExampleTiedDropout(10), torch.nn.Linear(10, 4))


def test_the_table_names_every_localizer_and_region_of_the_package():
    found = {value for name in localize.__all__ if isinstance(value := getattr(localize, name), type)}
    final = {kind for kind in found if issubclass(kind, Localizer | Region) and not inspect.isabstract(kind)}
    assert {type(where) for where in BUILT_IN} == final


@pytest.mark.parametrize("where", BUILT_IN, ids=lambda where: type(where).__name__)
def test_our_own_pass(where, monkeypatch):
    if isinstance(where, localize.TiedChannels):  # among PROBLEMS it would refuse every method that trains
        monkeypatch.setitem(PROBLEMS, "tied-dropout", lambda: Problem(with_tied_dropout, (6,), 4))
    assert misplaced(where) == set()


@pytest.mark.parametrize(("make", "wanted"), PLACES.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_what_breaks_a_promise_is_named_and_nothing_else(make, wanted):
    assert misplaced(make) == wanted


class Leaving(Magnitude):
    """Leaves something of each kind behind, and gives something else."""

    def score(self, model, split, engine):
        for value in model.parameters():
            value.data = value.data.clone()
            value.requires_grad_(False)
        model.register_forward_hook(lambda *_: None)
        return Mask.full(model)


def test_a_localizer_that_leaves_everything_behind_is_told_of_each():
    assert misplaced(Leaving) >= {
        "network_keeps_its_storages",
        "network_keeps_requires_grad",
        "network_keeps_its_hooks",
        "gives_scores_or_a_mask",
    }


class Small(Region):
    def __str__(self):
        return "small"

    def locate(self, model, split, engine):
        return Mask.from_tensors({name: value > 0 for name, value in list(model.named_parameters())[:1]})


def test_a_mask_of_something_else_does_not_fit():
    assert "fits_the_network" in misplaced(Small)


def test_what_does_not_apply_is_skipped_with_the_reason():
    skipped = {check.name: check.detail for check in check_localizer(Everything) if check.outcome == "skipped"}
    assert skipped["scores_are_finite_and_not_negative"] == "a region gives no scores"
    assert issubclass(Gradient, Localizer)
