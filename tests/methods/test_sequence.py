import itertools

import pytest
import torch

import excise
from excise import errors
from excise.data import Split
from excise.localize import Head
from excise.masks import Mask
from excise.methods import Ascend, Finetune, Nothing, Reset, Retrain, Sequence, Widened
from excise.recipes import Recipe
from excise.train import TrainPlan
from excise.train.masked import STATISTICS
from tests.cases import CASES
from tests.probes import engine_for, moved, same_bytes, snapshot

FORGET = [0, 3, 8]
PLAN = TrainPlan(epochs=2, lr=0.05, batch_size=5)
HEADS = {"mlp": "4", "separable": "7", "transformer": "head", "tied": "embed", "three-classes": "4", "batchnorm": "8"}


def problem(name):
    return CASES[name].make(), Split(CASES[name].data(20), forget=FORGET)


def ones_like(model):
    return {key: torch.ones_like(value) for key, value in model.named_parameters()}


@pytest.mark.parametrize("name", CASES)
def test_a_sequence_is_its_parts_one_after_another(name):
    ours, split = problem(name)
    theirs, _ = problem(name)
    parts = (Reset(to=ones_like(ours)), Finetune(plan=PLAN), Ascend(plan=PLAN))
    mask = Mask.of_modules(ours, [HEADS[name]])
    together, apart = engine_for(ours), engine_for(theirs)
    Sequence(parts).unlearn_(ours, split, mask, together)
    for part in parts:
        part.unlearn_(theirs, split, mask, apart)
    assert same_bytes(snapshot(ours), snapshot(theirs))
    assert (together.cost.trained_rows, len(together.trace)) == (apart.cost.trained_rows, 4)
    assert together.cost.trained_rows == 2 * 17 + 2 * 3


def test_the_order_counts():
    ours, split = problem("mlp")
    theirs, _ = problem("mlp")
    parts = (Reset(to=ones_like(ours)), Finetune(plan=PLAN))
    Sequence(parts).unlearn_(ours, split, Mask.full(ours), engine_for(ours))
    Sequence(parts[::-1]).unlearn_(theirs, split, Mask.full(theirs), engine_for(theirs))
    assert all(torch.equal(value, torch.ones_like(value)) for value in theirs.parameters())
    assert not same_bytes(snapshot(ours), snapshot(theirs))


@pytest.mark.parametrize(
    ("parts", "needs"),
    [
        ((Nothing(),), set()),
        ((Reset(), Finetune(plan=PLAN)), {"fresh", "retain"}),
        ((Ascend(plan=PLAN), Widened(Finetune(plan=PLAN))), {"forget", "retain"}),
        ((Sequence((Ascend(plan=PLAN),)), Nothing()), {"forget"}),
        ((Sequence((Widened(Retrain(plan=PLAN)),)),), {"fresh", "retain"}),
    ],
)
def test_a_sequence_needs_what_any_part_needs(parts, needs):
    assert Sequence(parts).needs == needs


@pytest.mark.parametrize("rules", [*itertools.product(STATISTICS, repeat=2), ("hold", "hold", "adapt")], ids=str)
def test_the_rule_for_buffers_is_the_most_permissive_parts(rules):
    method = Sequence(tuple(Finetune(plan=PLAN, buffers=rule) for rule in rules))
    wanted = next(rule for rule in ("adapt", "follow-mask", "hold") if rule in rules)
    assert method.statistics == wanted
    assert Widened(method).statistics == wanted


@pytest.mark.parametrize("rules", list(itertools.product(STATISTICS, repeat=2)), ids=str)
def test_each_part_keeps_to_its_own_rule_and_the_whole_to_the_sequences(rules):
    model, split = problem("batchnorm")
    mask = Mask.of_modules(model, ["4", "8"])
    unlearned = excise.unlearn(
        model, split, Sequence(tuple(Finetune(plan=PLAN, buffers=rule) for rule in rules)), mask=mask, recompute=False
    )
    names = {key.partition(".")[0] for key in moved(snapshot(model), snapshot(unlearned.model))} & {"1", "4"}
    counts = [int(unlearned.model[place].num_batches_tracked - model[place].num_batches_tracked) for place in (1, 4)]
    per_part = 2 * 4  # two epochs of 17 rows by fives
    moves = {"adapt": (1, 1), "follow-mask": (0, 1), "hold": (0, 0)}
    assert counts == [per_part * sum(moves[rule][which] for rule in rules) for which in (0, 1)]
    assert names == {"4"} | ({"1"} if "adapt" in rules else set())


@pytest.mark.parametrize("wrong", [(), (Reset(), "finetune"), (Finetune,), Reset(), None, "Reset"])
def test_a_sequence_of_nothing_or_of_no_methods_is_refused(wrong):
    with pytest.raises(errors.BadRequest, match="Sequence: expected a tuple of at least one method, found"):
        Sequence(wrong)


# --- more than the mask ---


@pytest.mark.parametrize("name", CASES)
def test_widened_is_the_method_under_the_wider_mask(name):
    ours, split = problem(name)
    theirs, _ = problem(name)
    first = next(iter(dict(ours.named_parameters())))
    mask, head = Mask.of_modules(ours, [first]), Mask.of_modules(ours, [HEADS[name]])
    Widened(Finetune(plan=PLAN)).unlearn_(ours, split, mask, engine_for(ours, besides=HEADS[name]))
    Finetune(plan=PLAN).unlearn_(theirs, split, mask | head, engine_for(theirs))
    assert same_bytes(snapshot(ours), snapshot(theirs))


def test_widened_is_otherwise_what_its_method_is():
    for method in (Finetune(plan=PLAN), Ascend(plan=PLAN), Reset(), Retrain(plan=PLAN)):
        assert Widened(method).needs == method.needs
        assert Widened(method).statistics == method.statistics
        assert Widened(method).widens and Sequence((Nothing(), Widened(method))).widens and not method.widens


@pytest.mark.parametrize("name", CASES)
def test_a_recipe_that_localizes_trains_the_head_too_and_resets_it_only_where_chosen(name):
    model, split = problem(name)
    recipe = excise.recipes.DEL(budget_fraction=0.4, epochs=1, lr=0.05)
    unlearned = excise.unlearn(model, split, recipe, fresh=lambda: CASES[name].build().double())
    head = Mask.of_modules(model, [HEADS[name]])
    assert unlearned.mask == unlearned.localized | head
    assert unlearned.localized.fraction <= 0.4
    # with a rate of zero what is left of DEL is its reset, and that ends at the localized mask
    still = excise.unlearn(
        model,
        split,
        excise.recipes.DEL(budget_fraction=0.4, epochs=1, lr=0.0),
        fresh=lambda: CASES[name].build().double(),
    )
    assert still.localized == unlearned.localized
    before, after = snapshot(model), snapshot(still.model)
    for key in unlearned.mask.names:
        outside = ~still.localized.expand(key)
        assert torch.equal(before[key][outside], after[key][outside])


@pytest.mark.parametrize("name", CASES)
def test_a_mask_given_by_hand_is_never_widened_by_a_head(name):
    model, split = problem(name)
    mask = Mask.full(model) - Mask.of_modules(model, [HEADS[name]])
    method = Widened(Finetune(plan=PLAN))
    for recipe in (method, Recipe(name="own", paper="", year=0, method=method, besides=Head(HEADS[name]))):
        unlearned = excise.unlearn(model, split, recipe, mask=mask)
        assert unlearned.mask == mask
        changed = moved(snapshot(model), snapshot(unlearned.model))
        inside = {key for key in mask.names if mask.count(key)}
        assert changed & set(mask.names) <= inside
        assert changed


def test_the_head_may_be_named():
    model, split = problem("mlp")
    recipe = excise.recipes.DEL(budget_fraction=0.4, epochs=1, lr=0.05, head="2")
    unlearned = excise.unlearn(model, split, recipe)
    assert unlearned.mask == unlearned.localized | Mask.of_modules(model, ["2"])
    with pytest.raises(errors.MaskMismatch, match="Sequential has no module or parameter named 'fc'"):
        excise.unlearn(model, split, excise.recipes.DEL(head="fc"))


@pytest.mark.parametrize(("wrong", "found"), [(None, "NoneType"), (Finetune, "ABCMeta")])
def test_widened_without_a_method_is_refused(wrong, found):
    with pytest.raises(
        errors.BadRequest, match=rf"^Widened: expected a method such as Finetune\(plan=...\), found {found}$"
    ):
        Widened(wrong)


def test_what_a_part_refuses_is_refused_before_the_first_one_runs():
    model, split = problem("mlp")
    before = snapshot(model)
    partial = {"0.bias": torch.zeros(10, dtype=torch.float64)}
    mask, engine = Mask.of_modules(model, ["0.bias"]), engine_for(model, besides="4")
    Sequence((Finetune(plan=PLAN), Reset(to=partial))).require(model, split, mask, engine)
    for method in (Widened(Reset(to=partial)), Sequence((Widened(Sequence((Reset(to=partial),))),))):
        with pytest.raises(errors.BadRequest, match=r"found none for 4.weight, 4.bias; add them"):
            Sequence((Finetune(plan=PLAN), method)).unlearn_(model, split, mask, engine)
    assert same_bytes(snapshot(model), before) and not engine.trace
