"""Recipes after published systems, against the constants of their papers and what they are told."""

import pytest
import torch

from excise import errors, methods, recipes
from excise.curvature import Moments
from excise.train import TrainPlan


def test_JiT_has_the_constants_of_its_runs_on_a_class():
    method = recipes.JiT().method
    plan = TrainPlan(epochs=1, lr=3e-4, momentum=0.0, schedule="constant", batch_size=128, shuffle=False)
    assert method == methods.Smooth(plan=plan, sigma=0.5, num_draws=25)
    assert (method.clamp, method.detach_noisy, method.reduction, method.mode, method.buffers) == (
        True,
        True,
        "sum",
        "eval",
        "hold",
    )


@pytest.mark.parametrize(("accumulate", "momentum"), [(False, 0.0), (True, 1.0)])
def test_JiT_passes_on_what_it_is_told(accumulate, momentum):
    told = {"sigma": 0.8, "num_draws": 10, "clamp": False, "detach_noisy": False, "mode": "train"}
    recipe = recipes.JiT(lr=1.5, epochs=2, batch_size=16, accumulate=accumulate, **told)
    plan = TrainPlan(epochs=2, lr=1.5, momentum=momentum, schedule="constant", batch_size=16, shuffle=False)
    assert recipe.method == methods.Smooth(plan=plan, **told)
    assert (recipe.name, recipe.year) == ("JiT", 2024)


def test_PGU_has_the_constants_of_its_runs_on_samples():
    method = recipes.PGU().method
    plan = method.plan
    assert (plan.epochs, plan.batch_size, plan.momentum, plan.weight_decay, plan.shuffle) == (100, 128, 0.0, 0.0, False)
    assert (plan.lr_at(0), plan.optimizer) == (0.05, "sgd")
    assert plan.lr_at(50) == pytest.approx((0.05 * 0.01) ** 0.5)
    assert plan.lr_at(99) * (0.01 / 0.05) ** (1 / 100) == pytest.approx(0.01)
    assert method == methods.Project(plan=plan, gamma=0.95, criterion="energy", w1=1.0, w2=0.2, offset=0.05)


def test_PGU_passes_on_what_it_is_told(tmp_path):
    told = {"gamma": 0.9, "criterion": "published-plus-one", "w1": 0.5, "w2": -0.1, "offset": 0.1}
    recipe = recipes.PGU(
        **told, epochs=7, lr=0.1, final_lr_fraction=0.3, batch_size=9, momentum=0.5, weight_decay=0.01, stop="class"
    )
    plan = TrainPlan(
        epochs=7, lr=0.1, schedule="exponential", final_lr_fraction=0.3, batch_size=9, shuffle=False, momentum=0.5,
        weight_decay=0.01,
    )  # fmt: skip
    assert recipe.method == methods.Until(methods.Project(plan=plan, **told), methods.RetainFalls(0.05))
    assert recipes.PGU(stop="samples").method.rule == methods.CrossesHoldout()
    assert (recipe.name, recipe.year) == ("PGU", 2024)
    kept = Moments({"w": torch.eye(2, dtype=torch.float64)[None]}, 3, "network", "reading")
    kept.save(tmp_path / "m.safetensors")
    assert recipes.PGU(moments=kept).method.moments is kept
    assert recipes.PGU(moments=tmp_path / "m.safetensors").method.moments.digest == kept.digest


def test_PGU_refuses_another_rule():
    with pytest.raises(errors.BadRequest, match="stop: expected none, samples or class, found 'never'"):
        recipes.PGU(stop="never")
