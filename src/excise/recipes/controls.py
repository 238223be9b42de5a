"""What every recipe is held against: retraining, and doing nothing."""

from __future__ import annotations

from excise.methods import Nothing as NothingMethod
from excise.methods import Retrain as RetrainMethod
from excise.recipes.recipe import Recipe
from excise.train.plan import TrainPlan


def Retrain(*, plan: TrainPlan) -> Recipe:
    """Train a fresh network on the retain rows by a plan: the honest answer, or with few epochs the row to beat.

    Args:
        plan: how; its schedule runs to its end whatever the number of epochs.
    """
    return Recipe(name="Retrain", paper="(the definition of forgetting)", year=0, method=RetrainMethod(plan=plan))


def Nothing() -> Recipe:
    """Leave the network as it is: the control that every audit must fail."""
    return Recipe(name="Nothing", paper="(a control)", year=0, method=NothingMethod())
