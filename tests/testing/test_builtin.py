"""Every method of the package keeps what it promises, by the checks that others run on theirs."""

import inspect

import pytest
import torch
from torch import nn

from excise import methods, recipes
from excise.localize import Head
from excise.methods import Finetune, Method, Reset
from excise.testing import check_method
from excise.testing.problems import PROBLEMS
from excise.train import TrainPlan

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
    methods.Ascend: {"plan": PLAN},
    methods.ClosestEpoch: {"method": Finetune(plan=PLAN)},
    methods.Contrast: {"plan": PLAN, "alpha": 0.9},
    methods.Dampen: {"selection": 1.0},  # few rows: no weight is ten times as important to them as to all
    methods.Distill: {"plan": PLAN, "max_epochs": 1},
    methods.Finetune: {"plan": PLAN},
    methods.FromFunction: {"function": shift, "batch_size": 8},
    methods.Influence: {"alpha": 1.0},
    methods.Noise: {"sigma": 0.1},
    methods.Nothing: {},
    methods.Partition: {"methods": (Finetune(plan=PLAN), Reset())},
    methods.Prune: {"fraction": 0.5},
    methods.Redraw: {},
    methods.Relabel: {"plan": PLAN},
    methods.Reset: {},
    methods.Retrain: {"plan": PLAN},
    methods.Rewind: {"to": {key: value * 0.5 for key, value in PROBLEMS["mlp"]().make().state_dict().items()}},
    methods.Sequence: {"methods": (Reset(), Finetune(plan=PLAN))},
    methods.Soften: {"method": Finetune(plan=PLAN)},
    methods.Sparsify: {"plan": PLAN, "kappa": 1e-3},
    methods.SwitchOff: {},
    methods.Transpose: {},
    methods.TwoTeachers: {"plan": PLAN},
    methods.Widened: {"method": Finetune(plan=PLAN)},
    methods.Within: {"method": Finetune(plan=PLAN), "where": Head()},
}
EXCLUDED = {methods.Partition: {"one_forget_row_will_do"}}  # one row cannot be parted in two


def test_the_table_names_every_method_of_the_package():
    found = {value for name in methods.__all__ if isinstance(value := getattr(methods, name), type)}
    assert set(BUILT_IN) == {value for value in found if issubclass(value, Method) and not inspect.isabstract(value)}


@pytest.mark.parametrize("kind", BUILT_IN, ids=lambda kind: kind.__name__)
def test_it_passes_every_check(kind):
    report = check_method(kind(**BUILT_IN[kind]), exclude=EXCLUDED.get(kind, {}))
    assert sum(check.outcome == "passed" for check in report) > 70


@pytest.mark.parametrize("recipe", [recipes.DEL(epochs=1, batch_size=8), recipes.NegGrad(epochs=1)])
def test_recipes_pass_too(recipe):
    assert {check.outcome for check in check_method(recipe)} == {"passed", "skipped"}
