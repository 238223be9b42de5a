"""Recipes after published systems, against the constants of their papers and what they are told."""

import pytest

from excise import methods, recipes
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
