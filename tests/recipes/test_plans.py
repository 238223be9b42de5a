import pytest

from excise import errors
from excise.recipes.plans import constant, decaying
from excise.train import TrainPlan


def test_a_constant_plan_is_SGD_at_one_rate():
    plan = constant(epochs=3, lr=0.2, batch_size=7, momentum=0.5, weight_decay=0.01)
    assert (plan.optimizer, plan.momentum, plan.weight_decay, plan.batch_size) == ("sgd", 0.5, 0.01, 7)
    assert [plan.lr_at(epoch) for epoch in range(3)] == [0.2] * 3
    bare = constant(epochs=3, lr=0.2, batch_size=7, momentum=0.5)
    assert bare == TrainPlan(epochs=3, lr=0.2, batch_size=7, momentum=0.5, schedule="constant")


def test_a_constant_plan_may_keep_the_order():
    assert not constant(epochs=1, lr=0.1, batch_size=7, momentum=0.0, shuffle=False).shuffle


def test_a_decaying_plan_is_Adam_at_a_rate_that_falls_by_a_factor():
    plan = decaying(epochs=3, lr=0.2, decay=0.9, batch_size=7)
    assert (plan.optimizer, plan.epochs, plan.weight_decay, plan.batch_size) == ("adam", 3, 0.0, 7)
    assert [plan.lr_at(epoch) for epoch in range(3)] == pytest.approx([0.2, 0.18, 0.162])
    with pytest.raises(errors.BadRequest, match=r"^decay: expected a finite number"):
        decaying(epochs=3, lr=0.2, decay=-0.9, batch_size=7)
