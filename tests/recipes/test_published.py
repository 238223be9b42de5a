"""Recipes after published systems, against the constants of their papers and what they are told."""

import pytest

from excise import errors, methods, recipes
from excise.attribution.targets import DatamodelTargets
from excise.train import TrainPlan
from tests.cases import CASES
from tests.recipes.prepared import datamodel


def test_DMM_has_the_constants_of_its_runs_on_cifar():
    known = datamodel(6, 3)
    method = recipes.DMM(datamodel=known).method
    assert [method.plan.lr_at(epoch) for epoch in range(4)] == pytest.approx([1e-4 * 0.95**epoch for epoch in range(4)])
    assert (method.plan.epochs, method.plan.optimizer, method.plan.batch_size) == (4, "adam", 512)
    assert (method.retain_multiplier, method.forget_multiplier, method.loss, method.anchor) == (20, 5, "mse", 0)
    assert (method.plan.weight_decay, method.plan.shuffle, method.buffers) == (0, True, "hold")
    assert isinstance(method.targets, DatamodelTargets)
    assert (method.targets.datamodel, method.targets.multiplier) == (known, 1.0)


def test_OracleMatching_has_the_constants_of_its_runs_on_cifar():
    oracle = CASES["mlp"].make()
    method = recipes.OracleMatching(models=[oracle]).method
    assert [method.plan.lr_at(epoch) for epoch in (0, 9)] == pytest.approx([1e-3, 1e-3 * 0.95**9])
    assert (method.plan.epochs, method.plan.optimizer, method.plan.batch_size) == (10, "adam", 512)
    assert (method.retain_multiplier, method.forget_multiplier, method.loss, method.anchor) == (5, 1, "mse", 0)
    assert (method.targets.models, method.targets.average) == ((oracle,), "logits")


def test_they_pass_on_what_they_are_told(tmp_path):
    datamodel(6, 3).save(tmp_path / "d.safetensors")
    told = {"retain_multiplier": 2.0, "forget_multiplier": 1.5, "anchor": 0.5}
    plan = {"epochs": 3, "lr": 0.1, "decay": 0.5, "batch_size": 7}
    mine = recipes.DMM(datamodel=str(tmp_path / "d.safetensors"), multiplier=10, **told, **plan).method
    theirs = recipes.OracleMatching(models=[CASES["mlp"].make()], loss="ce", **told, **plan).method
    for method in (mine, theirs):
        assert {key: getattr(method, key) for key in told} == told
        assert [method.plan.lr_at(epoch) for epoch in range(3)] == pytest.approx([0.1, 0.05, 0.025])
        assert method.plan.batch_size == 7
    assert (mine.targets.multiplier, mine.targets.datamodel.train.tolist()) == (10, list(range(6)))
    assert (theirs.loss, theirs.targets.average) == ("ce", "probabilities")


def test_a_file_that_is_not_there_is_refused_when_the_recipe_is_made():
    with pytest.raises(errors.BadData, match="nowhere"):
        recipes.DMM(datamodel="nowhere.safetensors")


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
