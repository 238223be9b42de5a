"""The controls."""

from excise import methods, recipes
from excise.localize import Everything
from excise.train import TrainPlan


def test_the_controls_are_their_methods_everywhere():
    plan = TrainPlan(epochs=1, lr=0.05, batch_size=8)
    assert recipes.Retrain(plan=plan).method == methods.Retrain(plan=plan)
    assert recipes.Nothing().method == methods.Nothing()
    assert recipes.Retrain(plan=plan).where == recipes.Nothing().where == Everything()
