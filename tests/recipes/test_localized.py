"""Recipes that say where, against their papers' constants."""

import pytest
import torch
from msgspec.structs import replace

import excise
from excise import errors, methods, recipes
from excise.localize import (
    Convolutions,
    Cut,
    Everything,
    Gradient,
    GradientDifference,
    Head,
    LastLayers,
    Mean,
    Top,
    WeightGradient,
)
from excise.masks import Mask
from excise.recipes import table
from excise.train import TrainPlan
from tests.cases import CASES


def test_DEL_has_the_constants_of_its_published_code():
    defaults = {row["name"]: row["defaults"] for row in table()}["DEL"]
    wanted = {"budget_fraction": 0.3, "lr": 0.015, "batch_size": 128, "momentum": 0.9, "weight_decay": 0.0}
    assert wanted.items() <= defaults.items()
    recipe = recipes.DEL()
    reset, finetune = recipe.method.methods
    assert recipe.where == Cut(WeightGradient(batch_size=128), 0.3, granularity="channel", reduction=Top(0.1))
    assert recipe.besides == Head(None)
    assert reset.to is None
    assert finetune.method.buffers == "follow-mask"
    plan = finetune.method.plan
    assert plan == TrainPlan(epochs=10, lr=0.015, batch_size=128, momentum=0.9, optimizer="sgd", schedule="cosine")
    assert (plan.final_lr_fraction, plan.weight_decay) == (0.01, 0.0)


def test_what_DEL_is_told_arrives():
    initial = {"w": torch.ones(1)}
    recipe = recipes.DEL(
        budget_fraction=0.5,
        epochs=2,
        lr=0.1,
        batch_size=16,
        momentum=0.5,
        weight_decay=0.01,
        reduction=Mean(),
        localizer=Gradient(),
        granularity="weight",
        head="classifier",
        initial=initial,
    )
    reset, finetune = recipe.method.methods
    assert reset.to is initial
    assert finetune.method.plan == TrainPlan(epochs=2, lr=0.1, batch_size=16, momentum=0.5, weight_decay=0.01)
    assert recipe.where == Cut(Gradient(), 0.5, granularity="weight", reduction=Mean())
    assert recipe.besides == Head("classifier")
    assert recipes.DEL(batch_size=16).where.localizer == WeightGradient(batch_size=16)


@pytest.mark.parametrize("budget", [-0.1, 1.1, "most", float("nan"), True])
def test_a_budget_that_is_no_fraction_is_refused(budget):
    with pytest.raises(errors.BadRequest, match="budget_fraction: expected a fraction between 0 and 1"):
        recipes.DEL(budget_fraction=budget)


def test_SalUn_has_the_constants_of_its_published_code():
    recipe = recipes.SalUn()
    assert recipe.where == Cut(Gradient(batch_size=256), 0.5, granularity="weight")
    assert recipe.besides is None
    plan = TrainPlan(epochs=10, lr=0.013, batch_size=256, momentum=0.9, weight_decay=5e-4, schedule="constant")
    assert recipe.method == methods.Relabel(plan=plan, redraw="batch", exclude_true=True, order="apart")


def test_SalUn_can_be_what_its_code_does_for_CIFAR_100():
    told = recipes.SalUn(redraw="epoch", order="mixed", exclude_true=False).method
    assert told == methods.Relabel(plan=told.plan, redraw="epoch", order="mixed", exclude_true=False)


def test_SalUn_is_random_labels_in_a_mask():
    """With everything in the mask it is RandomLabel, bit for bit."""
    model, data = CASES["mlp"].make(), CASES["mlp"].data(40)
    told = {"epochs": 2, "lr": 0.05, "batch_size": 8}
    split = excise.Split(data, forget=[1, 5, 8])
    one = excise.unlearn(model, split, recipes.SalUn(budget_fraction=1.0, **told))
    other = excise.unlearn(model, split, recipes.RandomLabel(**told))
    assert one.summary()["model_digest"] == other.summary()["model_digest"]


def test_the_last_layers():
    cf, eu = recipes.CFk(k=3), recipes.EUk(k=2)
    assert (cf.where, eu.where) == (LastLayers(3), LastLayers(2))
    assert isinstance(cf.method, methods.Finetune)
    assert [type(part) for part in eu.method.methods] == [methods.Reset, methods.Finetune]


def test_MSG_has_the_constants_of_its_published_code():
    recipe = recipes.MSG()
    assert recipe.where == Cut(
        GradientDifference(batch_size=64, retain_rows="as-many-as-forget", accumulate="batch-means"),
        0.3,
        granularity="weight",
        scope="layer",
        lowest=True,
        among=Convolutions(),
    )
    assert recipe.besides == Everything()
    redraw, soften = recipe.method.methods
    assert redraw == methods.Redraw()
    plan = TrainPlan(epochs=5, lr=1e-3, batch_size=64, momentum=0.9, weight_decay=5e-4, schedule="triangle")
    assert soften == methods.Soften(method=methods.Finetune(plan=plan), outside=0.1, among=Convolutions())


def test_MSG_redraws_a_share_of_each_kernel_and_trains_everything():
    model, data = CASES["separable"].make(), CASES["separable"].data(40)
    found = excise.unlearn(model, excise.Split(data, forget=[1, 5, 8]), recipes.MSG(epochs=1))
    assert found.mask == Mask.full(model)
    counts = {name: found.localized.count(name) for name, value in model.named_parameters()}
    kernels = {name: value.numel() for name, value in model.named_parameters() if value.ndim == 4}
    assert counts == {name: round(0.3 * kernels.get(name, 0)) for name in counts}


def test_CT_has_the_constants_of_its_published_code():
    transpose, finetune = recipes.CT().method.methods
    assert transpose == methods.Transpose()
    plan = TrainPlan(epochs=3, lr=1e-3, batch_size=64, momentum=0.9, weight_decay=5e-4, schedule="cosine")
    assert finetune == methods.Finetune(plan=replace(plan, final_lr_fraction=0.0))
    theirs = torch.optim.SGD([torch.zeros(1)], lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, T_max=3)
    for epoch in range(3):
        assert finetune.plan.lr_at(epoch) == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-12)
        theirs.step()
        schedule.step()


def test_RUM_gives_each_part_what_the_paper_found_best():
    scores = torch.arange(6.0)
    found = recipes.RUM(memorization=scores).method
    nothing, finetune, salun = found.methods
    assert found.memorization is scores
    assert nothing == methods.Nothing()
    assert (finetune.plan.epochs, finetune.plan.lr, finetune.plan.batch_size) == (10, 0.1, 256)
    assert salun.where == Cut(Gradient(batch_size=256), 0.5, granularity="weight")
    assert (salun.method.plan.epochs, salun.method.plan.lr) == (5, 0.1)
