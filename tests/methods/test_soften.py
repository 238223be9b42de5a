from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

import excise
from excise import errors
from excise.data import Split
from excise.localize import Cut, Everything, Head, Modules, WeightGradient
from excise.masks import Mask
from excise.methods import Ascend, Finetune, Nothing, Reset, Retrain, Sequence, Soften, Widened, Within
from excise.recipes import Recipe
from excise.train import TrainPlan
from excise.train.masked import STATISTICS
from tests.cases import CASES
from tests.probes import KINDS, LeftAlone, Watched, engine_for, raw, same_bytes, snapshot, spelled_out, touched

every_case = pytest.mark.parametrize("name", CASES)
every_kind = pytest.mark.parametrize("kind", KINDS)
FORGET = [0, 3, 8]
RETAIN = [row for row in range(20) if row not in FORGET]
STEP = TrainPlan(epochs=1, lr=0.5, momentum=0.0, shuffle=False, schedule="constant")
PLAN = TrainPlan(epochs=2, lr=0.05, batch_size=5, weight_decay=0.1)


def split_of(name):
    return Split(CASES[name].data(20), forget=FORGET)


def widest(model):
    """Give an engine that lets everything be trained besides the mask."""
    return engine_for(model, besides="")


def run(name, method, mask, engine=widest):
    model = CASES[name].make()
    method.unlearn_(model, split_of(name), mask, engine(model))
    return snapshot(model)


def some(name, kind):
    tensors = spelled_out(CASES[name].make(), kind)
    return Mask.from_tensors(tensors), tensors


def test_outside_the_mask_a_step_is_exactly_a_tenth_of_what_it_would_be():
    inputs, labels = CASES["mlp"].data(20)
    chosen = torch.rand((4, 6), generator=torch.Generator().manual_seed(2)) < 0.5
    steps = []
    for wrap in (Widened, lambda method: Soften(method=method)):
        model = nn.Linear(6, 4, bias=False).double()
        nn.init.zeros_(model.weight)  # so that the weight is the step itself
        mask = Mask.from_tensors({"weight": chosen})
        wrap(Finetune(plan=STEP)).unlearn_(model, Split((inputs, labels), forget=FORGET), mask, widest(model))
        steps.append(model.weight.detach())
    plain, soft = steps
    assert torch.equal(soft[chosen], plain[chosen])
    # the gradient is scaled before the rate: lr * (0.1 * g) and 0.1 * (lr * g) agree for lr = 0.5
    assert torch.equal(soft[~chosen], 0.1 * plain[~chosen])
    assert chosen.any() and not chosen.all() and plain.all()


@pytest.mark.parametrize("outside", [0.0, 0.125, 0.75])
@every_kind
@every_case
def test_one_step_is_the_formula_and_decay_is_not_scaled(name, kind, outside):
    mask, tensors = some(name, kind)
    plan = TrainPlan(epochs=1, lr=0.5, momentum=0.0, weight_decay=0.2, shuffle=False, schedule="constant")
    ours = run(name, Soften(method=Finetune(plan=plan, buffers="adapt"), outside=outside), mask)
    (inputs, labels), model = CASES[name].data(20), CASES[name].make()
    functional.cross_entropy(model(inputs[RETAIN]), labels[RETAIN]).backward()
    for key, value in model.named_parameters():
        pace = torch.where(tensors[key], 1.0, outside)
        wanted = value - 0.5 * (pace * value.grad + 0.2 * value)
        torch.testing.assert_close(ours[key], wanted.detach(), rtol=1e-12, atol=1e-14)


def test_only_the_region_is_softened():
    mask, tensors = some("mlp", "weights")
    ours = run("mlp", Soften(method=Finetune(plan=STEP), outside=0.125, among=Modules(("0", "4.bias"))), mask)
    full = run("mlp", Widened(Finetune(plan=STEP)), mask)
    before = snapshot(CASES["mlp"].make())
    for key, chosen in tensors.items():
        soft = ~chosen if key in ("0.weight", "0.bias", "4.bias") else torch.zeros_like(chosen)
        assert torch.equal(ours[key][~soft], full[key][~soft])
        step, wanted = ours[key] - before[key], 0.125 * (full[key] - before[key])
        torch.testing.assert_close(step[soft], wanted[soft], rtol=1e-10, atol=1e-14)
        assert soft.any() == (key in ("0.weight", "0.bias", "4.bias"))


def test_only_what_may_be_trained_besides_is_added():
    mask, tensors = some("mlp", "weights")
    ours = run("mlp", Soften(method=Finetune(plan=PLAN)), mask, lambda model: engine_for(model, besides="4"))
    before = snapshot(CASES["mlp"].make())
    for key, chosen in tensors.items():
        assert torch.equal(raw(ours[key][~chosen]), raw(before[key][~chosen])) == (not key.startswith("4"))
        assert (ours[key] != before[key])[chosen].all()


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("kind", ["mixed"])
@every_case
def test_at_one_it_is_the_widened_method(name, kind, optimizer):
    plan = TrainPlan(epochs=2, lr=0.02, batch_size=5, weight_decay=0.1, optimizer=optimizer, clip_norm=0.5)
    mask, _ = some(name, kind)
    ours = run(name, Soften(method=Finetune(plan=plan), outside=1), mask)
    assert same_bytes(ours, run(name, Widened(Finetune(plan=plan)), mask))
    softer = run(name, Soften(method=Finetune(plan=plan), outside=0.5), mask)
    assert not same_bytes(ours, softer)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("kind", ["mixed", "rows"])
@every_case
def test_at_zero_without_decay_it_is_the_method_under_the_mask_alone(name, kind, optimizer):
    plan = TrainPlan(epochs=2, lr=0.02, batch_size=5, optimizer=optimizer)
    mask, _ = some(name, kind)
    method = Finetune(plan=plan, buffers="hold")  # statistics follow both masks together, whatever the pace
    ours, theirs = run(name, Soften(method=method, outside=0), mask), run(name, method, mask)
    before = snapshot(CASES[name].make())
    for key, value in theirs.items():
        if key in mask.names:
            assert torch.equal(ours[key][~mask.expand(key)], before[key][~mask.expand(key)]), key
        # Attention goes another way back where some of its weights ask for no gradient; the gradient of its keys' biases
        # is zero but for rounding, 1e-17, and Adam divides that by its epsilon of 1e-8.
        torch.testing.assert_close(ours[key], value, rtol=1e-9, atol=1e-9)


@every_kind
@every_case
def test_with_a_mask_given_by_hand_nothing_besides_it_is_trained(name, kind):
    model = touched(CASES[name].make())
    alone, (mask, tensors) = LeftAlone(model), some(name, kind)
    soft = Soften(method=Finetune(plan=PLAN))
    recipe = Recipe(name="own", paper="", year=0, method=soft, besides=Everything())
    one, same, plain = (
        excise.unlearn(model, split_of(name), how, mask=mask) for how in (recipe, recipe, Finetune(plan=PLAN))
    )
    before, after = snapshot(model), snapshot(one.model)
    assert all(torch.equal(raw(after[key][~chosen]), raw(before[key][~chosen])) for key, chosen in tensors.items())
    assert one.mask == mask
    assert same_bytes(after, snapshot(same.model))
    assert same_bytes(after, snapshot(plain.model))
    assert not same_bytes(after, before)
    empty = excise.unlearn(model, split_of(name), recipe, mask=Mask.empty(model))
    assert same_bytes(snapshot(empty.model), before)
    alone.check()


def test_a_recipe_that_localizes_trains_the_mask_at_full_rate_and_the_rest_more_slowly():
    where, model = Cut(WeightGradient(), 0.3), CASES["separable"].make()
    method = Sequence((Nothing(), Soften(method=Finetune(plan=STEP), outside=0.125)))
    recipe = Recipe(name="own", paper="", year=0, method=method, where=where, besides=Everything())
    ours = excise.unlearn(model, split_of("separable"), recipe)
    full = excise.unlearn(model, split_of("separable"), Finetune(plan=STEP))
    assert (ours.localized, ours.mask) == (where(model, split_of("separable")), Mask.full(model))
    before, soft, plain = snapshot(model), snapshot(ours.model), snapshot(full.model)
    for key in ours.mask.names:
        pace = torch.where(ours.localized.expand(key), 1.0, 0.125)
        wanted = before[key] + pace * (plain[key] - before[key])
        torch.testing.assert_close(soft[key], wanted, rtol=1e-12, atol=1e-14)
    # the head alone besides: the rest is as it was
    headed = replace(recipe, besides=Head())
    ours = excise.unlearn(model, split_of("separable"), headed)
    outside = ~(ours.localized | Mask.of_modules(model, ["7"]))
    after = snapshot(ours.model)
    for key in outside.names:
        assert torch.equal(raw(after[key][outside.expand(key)]), raw(before[key][outside.expand(key)]))


@pytest.mark.parametrize(
    ("method", "among", "needs"),
    [
        (Finetune(plan=PLAN), Everything(), {"retain"}),
        (Ascend(plan=PLAN), Everything(), {"forget"}),
        (Finetune(plan=PLAN), Cut(WeightGradient(), 0.4), {"retain", "forget"}),
        (Ascend(plan=PLAN), Cut(WeightGradient(rows="train"), 0.4), {"retain", "forget"}),
        (Retrain(plan=PLAN), Everything(), {"retain", "fresh"}),
    ],
)
def test_it_needs_what_method_and_region_read_and_reads_no_more(method, among, needs):
    method = Soften(method=method, among=among)
    assert method.needs == needs
    forbidden = (set(RETAIN) if "retain" not in needs else set()) | (set(FORGET) if "forget" not in needs else set())
    watched = Watched(*CASES["mlp"].data(20), forbidden=forbidden)
    model = CASES["mlp"].make()
    engine = engine_for(model, besides="4", fresh=CASES["mlp"].make)
    method.unlearn_(model, Split(watched, forget=FORGET), Mask.of_modules(model, ["0"]), engine)
    assert set(watched.read) == set(range(20)) - forbidden


@pytest.mark.parametrize("rule", STATISTICS)
def test_statistics_are_the_methods(rule):
    assert Soften(method=Finetune(plan=PLAN, buffers=rule)).statistics == rule
    assert Soften(method=Finetune(plan=PLAN)).widens


def test_one_inside_another_is_refused_and_one_after_another_is_not():
    model = CASES["mlp"].make()
    before, mask = snapshot(model), Mask.of_modules(model, ["0"])
    soft = Soften(method=Finetune(plan=PLAN))
    for inner in (soft, Sequence((soft,)), Within(soft, Everything())):
        with pytest.raises(errors.BadRequest, match=r"^Soften: gradients are softened already; put one"):
            Soften(method=inner).unlearn_(model, split_of("mlp"), mask, widest(model))
    assert same_bytes(snapshot(model), before)
    Sequence((soft, soft)).unlearn_(model, split_of("mlp"), mask, widest(model))
    assert not same_bytes(snapshot(model), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": Finetune(plan=PLAN), "outside": 1.5}, "outside: expected a fraction between 0 and 1, found 1.5"),
        (
            {"method": Reset()},
            "Soften: Reset takes no gradient steps that could be softened; use Widened",
        ),
        ({"method": "finetune"}, r"Soften: expected a method such as Finetune\(plan=...\), found str"),
        (
            {"method": Finetune(plan=PLAN), "among": "convolutions"},
            r"Soften: expected a region such as Convolutions\(\), found str",
        ),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(errors.BadRequest, match=f"^{message}$"):
        Soften(**options)
