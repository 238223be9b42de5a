"""Each row of the table against the signature it stands for, the paper's constants, and a run."""

import inspect

import pytest
import torch

import excise
from excise import errors, methods, recipes
from excise.localize import Gradient, Mean, Top, WeightGradient
from excise.recipes import RECIPES, Recipe, table
from excise.train import TrainPlan
from tests.cases import CASES

PLAN = TrainPlan(epochs=1, lr=0.05, batch_size=8)


TELL = {"SSD": {"selection": 1.0}}  # few rows: no weight is ten times as important to them as to all


def made(name, **options):
    needs = inspect.signature(RECIPES[name]).parameters
    return RECIPES[name](**({"plan": PLAN} if "plan" in needs else {}), **options)


def test_the_table_names_every_recipe_of_the_room_and_no_other():
    public = {
        name
        for name, value in vars(recipes).items()
        if inspect.isfunction(value) and value.__module__ == recipes.__name__ and name[0].isupper()
    }
    assert set(RECIPES) == public == {row["name"] for row in table()}
    assert [RECIPES[row["name"]].__name__ for row in table()] == list(RECIPES)


@pytest.mark.parametrize("row", table(), ids=lambda row: row["name"])
def test_a_row_says_what_the_recipe_is(row):
    assert list(row) == ["name", "year", "paper", "mask", "method", "defaults"]
    recipe = made(row["name"])
    assert recipe.name == row["name"]
    assert (recipe.year, recipe.paper) == (row["year"], row["paper"])
    options = inspect.signature(RECIPES[row["name"]]).parameters.values()
    assert all(option.kind is option.KEYWORD_ONLY for option in options)
    wanted = {option.name: option.default for option in options if isinstance(option.default, (int, float, str))}
    assert row["defaults"] == wanted
    assert (row["mask"] == "everywhere") == (recipe.localizer is None)


def test_the_table_in_words():
    words = {row["name"]: (row["year"], row["mask"], row["method"]) for row in table()}
    assert all(row["paper"] and (row["year"] > 2000 or row["name"] in ("Retrain", "Nothing")) for row in table())
    wanted = {
        "DEL": (2025, "WeightGradient by channel, 30%", "Reset, then Finetune with the head"),
        "Finetune": (2020, "everywhere", "Finetune"),
        "NegGrad": (2021, "everywhere", "Ascend"),
        "Retrain": (0, "everywhere", "Retrain"),
        "Nothing": (0, "everywhere", "Nothing"),
    }
    assert wanted.items() <= words.items()


def test_DEL_has_the_constants_of_its_published_code():
    defaults = {row["name"]: row["defaults"] for row in table()}["DEL"]
    wanted = {"budget_fraction": 0.3, "lr": 0.015, "batch_size": 128, "momentum": 0.9, "weight_decay": 0.0}
    assert wanted.items() <= defaults.items()
    recipe = recipes.DEL()
    reset, finetune = recipe.method.methods
    assert (recipe.budget_fraction, recipe.granularity, recipe.reduction) == (0.3, "channel", Top(0.1))
    assert recipe.localizer == WeightGradient(batch_size=128)
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
    found = (recipe.budget_fraction, recipe.granularity, recipe.reduction, recipe.localizer, recipe.head)
    assert found == (0.5, "weight", Mean(), Gradient(), "classifier")
    assert recipes.DEL(batch_size=16).localizer == WeightGradient(batch_size=16)


def test_what_the_others_are_told_arrives():
    finetune = recipes.Finetune(epochs=2, lr=0.1, batch_size=16, momentum=0.5, weight_decay=0.01).method
    assert finetune == methods.Finetune(
        plan=TrainPlan(epochs=2, lr=0.1, batch_size=16, momentum=0.5, weight_decay=0.01)
    )
    ascend = recipes.NegGrad(epochs=2, lr=0.1, batch_size=16, momentum=0.5).method
    assert ascend == methods.Ascend(plan=TrainPlan(epochs=2, lr=0.1, batch_size=16, momentum=0.5, schedule="constant"))
    assert recipes.Retrain(plan=PLAN).method == methods.Retrain(plan=PLAN)
    assert recipes.Nothing().method == methods.Nothing()


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_runs(name):
    case = CASES["mlp"]
    model, data = case.make(), case.data(40)
    found = excise.unlearn(model, excise.Split(data, forget=[1, 5, 8]), made(name, **TELL.get(name, {})), seed=3)
    assert found.recipe == name
    moved = sum(found.patch.num_changed.values())
    assert (moved == 0) == (name == "Nothing")
    assert all(bool(value.isfinite().all()) for value in found.model.parameters())


def test_a_recipe_can_have_another_name_and_nothing_else_changes():
    one = recipes.Finetune()
    other = one.named("Again")
    assert (one.name, other.name) == ("Finetune", "Again")
    assert other.named("Finetune") == one


@pytest.mark.parametrize("budget", [-0.1, 1.1, "most", float("nan"), True])
def test_a_budget_that_is_no_fraction_is_refused(budget):
    with pytest.raises(errors.BadRequest, match="budget_fraction: expected a fraction between 0 and 1"):
        Recipe(name="x", paper="x", year=0, method=methods.Nothing(), budget_fraction=budget)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: recipes.DEL(epochs=0), "epochs: expected an integer of at least 1"),
        (lambda: recipes.DEL(lr=-1.0), "lr: expected a finite number"),
        (lambda: recipes.Finetune(batch_size=0), "batch_size: expected an integer"),
        (lambda: recipes.NegGrad(momentum=float("inf")), "momentum: expected a finite number"),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_anything_runs(make, what):
    with pytest.raises(errors.BadRequest, match=what):
        make()
