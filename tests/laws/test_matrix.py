"""The matrix: every answer to "where" with every answer to "how", in turn on three kinds of network.

In every cell the parameters outside the mask keep their bits, the buffers follow the rule, and the user's own network keeps
every bit. One region is left out: `TiedChannels`, which needs a network built for it, is tested in tests/localize/test_tied.py.
"""

import inspect
import itertools

import pytest
import torch
from torch import nn

import excise
from excise import localize, methods
from excise.data import Split
from excise.localize import Cut, Localizer, Region
from excise.masks import Mask
from excise.train import TrainPlan, held_modules
from excise.train.statistics import running_statistics
from tests.cases import CASES
from tests.probes import moved, raw, snapshot
from tests.recipes.prepared import Halved

NETWORKS = ("mlp", "batchnorm", "transformer")
FORGET = [0, 3, 8, 11, 14]
PLAN = TrainPlan(epochs=1, lr=0.05, batch_size=8, momentum=0.9, weight_decay=0.1)
ADAM = TrainPlan(epochs=2, lr=0.05, optimizer="adam", batch_size=8, weight_decay=0.1)


def shift(net, retain, forget, validation):
    """Change every weight and every statistic, whatever the mask."""
    net.train()
    for inputs, _ in retain:
        net(inputs)
    with torch.no_grad():
        for value in net.parameters():
            value.add_(0.1)
    return net


def last_module(name):
    model = CASES[name].make()
    return [key for key, module in model.named_modules() if list(module.parameters(recurse=False))][-1]


def places(name):
    """Give every localizer, cut by a budget, and every region."""
    some = Cut(localize.Gradient(), 0.3)
    return {
        "weight x gradient": Cut(localize.WeightGradient(), 0.3),
        "weight x gradient, single weights": Cut(localize.WeightGradient(), 0.3, granularity="weight"),
        "weight x gradient of all rows": Cut(localize.WeightGradient(rows="train"), 0.3),
        "gradient": Cut(localize.Gradient(), 0.5, granularity="weight"),
        "magnitude": Cut(localize.Magnitude(), 0.3),
        "Fisher ratio": localize.Above(localize.FisherRatio(), 1.0),
        "smallest gradient difference": Cut(
            localize.GradientDifference(), 0.3, granularity="weight", scope="layer", lowest=True
        ),
        "deepest": Cut(localize.Deepest(), 0.6, granularity="module", partial=True),
        "shallowest": Cut(localize.Shallowest(), 0.6, granularity="weight"),
        "last layers": localize.LastLayers(2),
        "named modules": localize.Modules((last_module(name),)),
        "convolutions": localize.Convolutions(),
        "head": localize.Head(),
        "random": Cut(localize.Random(), 0.3),
        "random, matched layer by layer": localize.RandomLike(some),
        "CritMem": localize.CriticalChannels(batch_size=6, num_draws=1, budget_fraction=0.5),
        "everything": localize.Everything(),
        "a given mask": localize.Given(Mask.of_modules(CASES[name].make(), [last_module(name)])),
        "channels of each layer": Cut(localize.Gradient(), 0.3, scope="layer"),
        "a share of the channels": Cut(localize.Gradient(), 0.3, count="channels"),
    }


def ways(name):
    """Give every method. The checkpoint is a network of another seed."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        earlier = CASES[name].build().double().state_dict()
    finetune = methods.Finetune(plan=PLAN)
    return {
        "finetune": finetune,
        "finetune with Adam": methods.Finetune(plan=ADAM, buffers="adapt"),
        "ascend": methods.Ascend(plan=PLAN, buffers="follow-mask"),
        "contrast": methods.Contrast(plan=PLAN, alpha=0.9),
        "attract": methods.Attract(plan=PLAN, repeats=2),
        "relabel": methods.Relabel(plan=PLAN),
        "relabel, mixed": methods.Relabel(plan=ADAM, redraw="once", order="mixed", exclude_true=False),
        "distill": methods.Distill(plan=ADAM, max_epochs=1, alpha=0.5, gamma=1.0, temperature=2.0),
        "two teachers": methods.TwoTeachers(plan=PLAN),
        "closest epoch": methods.ClosestEpoch(methods.Contrast(plan=ADAM, alpha=0.5)),
        "until": methods.Until(methods.Contrast(plan=ADAM, alpha=0.5), methods.BelowAccuracy(0.5)),
        "smooth": methods.Smooth(plan=PLAN, sigma=0.5, num_draws=3),
        "project": methods.Project(plan=PLAN, gamma=0.5),
        "match": methods.Match(plan=ADAM, targets=Halved(), retain_multiplier=1, forget_multiplier=1.5, anchor=0.01),
        "sparsify": methods.Sparsify(plan=PLAN, kappa=1e-3),
        "prune": methods.Prune(fraction=0.5),
        "dampen": methods.Dampen(selection=1.0, dampening=0.5),
        "influence": methods.Influence(alpha=1.0, num_rows=8),
        "influence as published": methods.Influence(alpha=5.0, mode="reference", num_rows=8),
        "reset": methods.Reset(),
        "rewind": methods.Rewind(to=earlier),
        "transpose": methods.Transpose(),
        "noise": methods.Noise(sigma=0.1),
        "redraw": methods.Redraw(),
        "switch off": methods.SwitchOff(),
        "retrain": methods.Retrain(plan=PLAN),
        "function": methods.FromFunction(shift, batch_size=8),
        "sequence": methods.Sequence((methods.Reset(), methods.Widened(finetune))),
        "soften": methods.Soften(method=finetune, outside=0.1),
        "within": methods.Within(where=Cut(localize.Gradient(), 0.5), method=finetune),
        "partition": methods.Partition(methods=(methods.Nothing(), finetune, methods.Relabel(plan=PLAN))),
        "nothing": methods.Nothing(),
    }


KNOWN_PLACES, KNOWN_WAYS = list(places("mlp")), list(ways("mlp"))
OWN_RULE = "gradient"  # the column whose statistics are left to the method's own rule
STILL = {"nothing"}  # methods that change nothing by design
_MASKS: dict[tuple[str, str], Mask] = {}


def split_of(name):
    inputs, labels = CASES[name].data(48)
    return Split((inputs[:28], labels[:28]), forget=FORGET, holdout=(inputs[28:], labels[28:]))


def mask_of(name, place):
    if (name, place) not in _MASKS:
        _MASKS[name, place] = places(name)[place](CASES[name].make(), split_of(name), seed=2)
    return _MASKS[name, place]


def cells():
    """Give every place with every way, and each of the two with every kind of network: all pairs, not all triples.

    A way gets the place as a mask, so that the three meet in no other way than two by two; all of a way's masks by all
    kinds of network are in tests/testing/test_builtin.py. Where statistics are left to the way's own rule, the network has
    some.
    """
    for (column, place), (row, way) in itertools.product(enumerate(KNOWN_PLACES), enumerate(KNOWN_WAYS)):
        yield "batchnorm" if place == OWN_RULE else NETWORKS[(column + row) % len(NETWORKS)], place, way


def test_the_matrix_holds_every_pair():
    found = list(cells())
    assert {(place, way) for _, place, way in found} == set(itertools.product(KNOWN_PLACES, KNOWN_WAYS))
    assert {(name, way) for name, _, way in found} == set(itertools.product(NETWORKS, KNOWN_WAYS))
    others = set(KNOWN_PLACES) - {OWN_RULE}
    assert {(name, place) for name, place, _ in found if place in others} == set(itertools.product(NETWORKS, others))


@pytest.mark.parametrize(("name", "place", "way"), list(cells()))
def test_any_place_goes_with_any_way_and_nothing_moves_outside(name, place, way):
    model, mask, method = CASES[name].make(), mask_of(name, place), ways(name)[way]
    before = snapshot(model)
    recompute = place != OWN_RULE
    found = excise.unlearn(
        model,
        split_of(name),
        method,
        mask=mask,
        fresh=lambda: CASES[name].build().double(),
        recompute=recompute,
    )
    assert not moved(before, snapshot(model))
    after = snapshot(found.model)
    for key in mask.names:
        outside = ~mask.expand(key)
        assert torch.equal(raw(after[key][outside]), raw(before[key][outside])), key
    changed = moved(before, after)
    free = set(running_statistics(model)) if found.recomputed else set()
    held = set(held_modules(model, mask, method.statistics))
    assert not {key for key in changed - set(mask.names) - free if key.rpartition(".")[0] in held}
    assert found.frozen_digest == found.frozen_digest_before
    assert all(bool(value.isfinite().all()) for value in after.values())
    still = way in STILL or mask.num_selected == 0 or _moves_nothing(model, mask, way)
    assert bool(changed - free) == (not still)


def _moves_nothing(model, mask, way):
    """Say whether a method has nothing to work on here: kernels to transpose, weights of two axes, a ratio above one."""
    shapes = {key: value.shape for key, value in model.named_parameters() if mask.count(key)}
    kernels = any(len(shape) == 4 and shape[2] > 1 for shape in shapes.values())
    matrices = any(len(shape) > 1 for shape in shapes.values())
    return {"transpose": not kernels, **dict.fromkeys(("redraw", "prune", "project"), not matrices)}.get(way, False)


@pytest.mark.parametrize("place", KNOWN_PLACES)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_recipe_finds_its_place_by_itself(name, place):
    """What a region gives by hand, a recipe made of it gives within `unlearn`."""
    model, where = CASES[name].make(), places(name)[place]
    recipe = excise.recipes.Finetune(epochs=1, batch_size=8).at(where)
    found = excise.unlearn(model, split_of(name), recipe, seed=2)
    assert found.localized == found.mask == mask_of(name, place)


def _final(room, base):
    return {
        value
        for value in vars(room).values()
        if inspect.isclass(value) and issubclass(value, base) and not inspect.isabstract(value)
    }


def test_the_table_of_places_is_complete():
    used = set()
    for where in places("mlp").values():
        used |= {type(where)} | {type(part) for part in vars(where).values() if isinstance(part, Localizer | Region)}
    apart = {localize.TiedChannels}  # needs a module of its own: tests/localize/test_tied.py
    assert used | apart >= _final(localize, Localizer) | _final(localize, Region)


def test_the_table_of_ways_is_complete():
    used = {type(method) for method in ways("mlp").values()}
    inside = {type(part) for method in ways("mlp").values() for part in getattr(method, "methods", ())}
    assert used | inside >= _final(methods, methods.Method)


_LAST_MODULE = {("named modules", "head"), ("named modules", "a given mask"), ("head", "a given mask")}
COINCIDE = {"mlp": _LAST_MODULE, "batchnorm": _LAST_MODULE, "transformer": _LAST_MODULE}


@pytest.mark.parametrize("name", NETWORKS)
def test_masks_differ_from_place_to_place(name):
    """So that a column of the matrix is a column of its own, but for one module that is found, named and given."""
    pairs = itertools.combinations(KNOWN_PLACES, 2)
    assert {(one, other) for one, other in pairs if mask_of(name, one) == mask_of(name, other)} == COINCIDE[name]


def test_modules_are_what_they_are_called():
    assert isinstance(CASES["mlp"].make().get_submodule(last_module("mlp")), nn.Linear)


def steps_at(plan):
    """Give every method of gradient steps, on its own or inside another."""
    return {
        "finetune": methods.Finetune(plan=plan),
        "ascend": methods.Ascend(plan=plan),
        "contrast": methods.Contrast(plan=plan, alpha=0.5),
        "attract": methods.Attract(plan=plan, repeats=2),
        "relabel": methods.Relabel(plan=plan),
        "relabel, mixed": methods.Relabel(plan=plan, order="mixed"),
        "distill": methods.Distill(plan=plan, max_epochs=1),
        "two teachers": methods.TwoTeachers(plan=plan),
        "closest epoch": methods.ClosestEpoch(methods.Finetune(plan=plan)),
        "until": methods.Until(methods.Finetune(plan=plan), methods.BelowAccuracy(0.5)),
        "smooth": methods.Smooth(plan=plan, sigma=0.5, num_draws=3, buffers="follow-mask", mode="train"),
        "project": methods.Project(plan=plan, gamma=0.5),
        "match": methods.Match(plan=plan, targets=Halved()),
        "sparsify": methods.Sparsify(plan=plan, kappa=0.1),
        "soften": methods.Soften(method=methods.Finetune(plan=plan)),
        "within": methods.Within(where=localize.Head(), method=methods.Finetune(plan=plan)),
        "partition": methods.Partition(methods=(methods.Finetune(plan=plan), methods.Relabel(plan=plan))),
    }


@pytest.mark.parametrize("way", list(steps_at(PLAN)))
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_rate_of_zero_is_the_identity(name, optimizer, way):
    still = TrainPlan(epochs=2, lr=0.0, batch_size=8, weight_decay=0.3, optimizer=optimizer)
    model = CASES[name].make()
    found = excise.unlearn(
        model, split_of(name), steps_at(still)[way], fresh=lambda: CASES[name].build().double(), recompute=False
    )
    assert all(torch.equal(raw(a), raw(b)) for a, b in zip(found.model.parameters(), model.parameters(), strict=True))
