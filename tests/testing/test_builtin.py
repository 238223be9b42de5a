"""Every method and every recipe of the package keeps what it promises, by the checks that others run on theirs."""

import inspect
from dataclasses import replace

import msgspec
import pytest
import torch
from torch import nn

from excise import methods, recipes
from excise.localize import Everything, Head
from excise.methods import Finetune, Method, Reset
from excise.recipes.table import example_of
from excise.testing import check_method
from excise.testing.problems import PROBLEMS
from excise.train import TrainPlan
from tests.recipes.prepared import Halved

PLAN = TrainPlan(epochs=2, lr=0.02, batch_size=12, weight_decay=0.1)


def shift(net, retain, forget, validation):
    """Change every weight and every statistic, whatever the mask."""
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, weight_decay=0.1)
    for inputs, targets in [*retain, *forget, *validation]:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs), targets).backward()
        optimizer.step()
    return net


# A new method has its line here: the class, and what it is made with.
BUILT_IN = {
    methods.Attract: {"plan": PLAN, "repeats": 1},
    methods.ClosestEpoch: {"method": Finetune(plan=PLAN)},
    methods.FromFunction: {"function": shift, "batch_size": 8},
    methods.Noise: {"sigma": 0.1},
    methods.Partition: {"methods": (Finetune(plan=PLAN), Reset())},
    methods.Prune: {"fraction": 0.5},
    methods.Redraw: {},
    methods.Reset: {},
    methods.Rewind: {"to": {key: value * 0.5 for key, value in PROBLEMS["mlp"]().make().state_dict().items()}},
    methods.Sequence: {"methods": (Reset(), Finetune(plan=PLAN))},
    methods.Soften: {"method": Finetune(plan=PLAN)},
    methods.SwitchOff: {},
    methods.Transpose: {},
    methods.Until: {"method": Finetune(plan=PLAN), "rule": methods.BelowAccuracy(0.5)},
    methods.Widened: {"method": Finetune(plan=PLAN)},
    methods.Within: {"method": Finetune(plan=PLAN), "where": Head()},
}
# Or here, if a recipe is that method and nothing else, on the whole network: what passes for the one passes for the other.
AS_RECIPE = {
    methods.Ascend: "NegGrad",
    methods.Contrast: "NegGradPlus",
    methods.Dampen: "SSD",
    methods.Distill: "SCRUB",
    methods.Finetune: "Finetune",
    methods.Influence: "IU",
    methods.Match: "OracleMatching",
    methods.Nothing: "Nothing",
    methods.Project: "PGU",
    methods.Relabel: "RandomLabel",
    methods.Retrain: "Retrain",
    methods.Smooth: "JiT",
    methods.Sparsify: "L1Sparse",
    methods.TwoTeachers: "BadTeacher",
}


def test_the_table_names_every_method_of_the_package():
    found = {value for name in methods.__all__ if isinstance(value := getattr(methods, name), type)}
    assert {*BUILT_IN, *AS_RECIPE} == {
        value for value in found if issubclass(value, Method) and not inspect.isabstract(value)
    }


@pytest.mark.parametrize(("kind", "name"), AS_RECIPE.items())
def test_a_recipe_that_stands_for_its_method_is_no_more_than_that(kind, name):
    recipe = made(name)
    assert type(recipe.method) is kind and recipe.where == Everything() and recipe.besides is None


@pytest.mark.parametrize("kind", BUILT_IN, ids=lambda kind: kind.__name__)
def test_it_passes_every_check(kind):
    report = check_method(kind(**BUILT_IN[kind]))
    assert sum(check.outcome == "passed" for check in report) > 70


QUICK = {
    "epochs": 1,
    "ratio": 0,
    "max_epochs": 1,
    "finetune_epochs": 1,
    "relabel_epochs": 1,
    "batch_size": 12,
    "plan": PLAN,
    "retain_multiplier": 1.0,
    "forget_multiplier": 1.5,
}
QUICK = {"epochs": 1, "max_epochs": 1, "finetune_epochs": 1, "relabel_epochs": 1, "batch_size": 12, "plan": PLAN}
QUICK |= {"retain_multiplier": 1.0, "forget_multiplier": 1.5}
FEW_ROWS = {"SSD": {"selection": 1.0}}  # few rows: no weight is ten times as important to them as to all
# One row cannot be parted in three: the check is content with a refusal before any work, and skipped with what that says.
REFUSED = {"RUM": {"one_forget_row_will_do": "it refuses a single row: Partition: part 1 of 3 would hold none of 1"}}


def made(name):
    """Give a recipe in its quickest form; one that stands for its method runs `PLAN`'s epochs, with `PLAN`'s decay.

    Without decay an optimizer that is handed too much moves nothing that has no gradient.
    """
    make = recipes.RECIPES[name]
    known = inspect.signature(make).parameters
    stands = name in AS_RECIPE.values()
    settings = {**QUICK, **({"epochs": PLAN.epochs} if stands else {}), **FEW_ROWS.get(name, {})}
    recipe = example_of(make, **{key: settings[key] for key in settings if key in known})
    if isinstance(recipe.method, methods.Match):
        recipe = replace(recipe, method=replace(recipe.method, targets=Halved()))  # which fit every problem
    if not stands or not hasattr(recipe.method, "plan"):
        return recipe
    plan = msgspec.structs.replace(recipe.method.plan, weight_decay=PLAN.weight_decay)
    return replace(recipe, method=replace(recipe.method, plan=plan))


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_recipes_pass_too(name):
    report = {check.name: check for check in check_method(made(name))}
    assert sum(check.outcome == "passed" for check in report.values()) > 70
    refusals = {
        key: check.detail for key, check in report.items() if check.detail.startswith("it refuses a single row")
    }
    assert refusals.keys() == REFUSED.get(name, {}).keys()
    assert all(refusals[key].startswith(said) for key, said in REFUSED.get(name, {}).items())
