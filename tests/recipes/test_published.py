"""Recipes after published systems, against the constants of their papers and what they are told."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch

import excise
from excise import errors, methods, recipes
from excise.attribution.targets import DatamodelTargets
from excise.curvature import Moments
from excise.methods import Attract, BelowAccuracy, Sequence, Until
from excise.pipeline.tuning_space import Choices, default_space
from excise.train import TrainPlan
from tests.cases import CASES
from tests.recipes.prepared import datamodel

README = TrainPlan(epochs=10, lr=1e-3, optimizer="adam", schedule="constant", batch_size=1024, milestone_factor=0.5)


def test_DUCK_has_the_constants_of_its_README_for_random_rows():
    expected = Attract(plan=README, lambda1=1.0, lambda2=1.4, temperature=2.0, repeats=6)
    recipe = recipes.DUCK()
    assert recipe.method == Until(expected, BelowAccuracy())
    assert (recipe.name, recipe.year) == ("DUCK", 2023)


def test_DUCK_of_a_class_stops_below_a_hundredth_unless_told_otherwise():
    assert recipes.DUCK(scenario="class").method == replace(recipes.DUCK().method, rule=BelowAccuracy(0.01))
    for scenario in ("class", "random"):
        assert recipes.DUCK(scenario=scenario, target=0.3).method.rule == BelowAccuracy(0.3)


@pytest.mark.parametrize(("epochs", "falls"), [(25, ()), (26, (25,)), (40, (25,)), (41, (25, 40))])
def test_DUCK_passes_on_what_it_is_told_and_halves_the_rate_at_the_milestones(epochs, falls):
    told = {"lambda1": 1.5, "lambda2": 0.5, "temperature": 3.0, "label_smoothing": 0.2, "head": "4"}
    recipe = recipes.DUCK(epochs=epochs, lr=2e-4, ratio=90, batch_size=256, weight_decay=5e-5, **told)
    plan = msgspec.structs.replace(
        README,
        epochs=epochs,
        lr=2e-4,
        batch_size=256,
        weight_decay=5e-5,
        milestones=falls,
        schedule="milestones" if falls else "constant",
    )
    assert recipe.method.method == Attract(plan=plan, repeats=91, **told)
    assert plan.lr_at(epochs - 1) == 2e-4 * 0.5 ** len(falls)


@pytest.mark.parametrize(("scenario", "pace"), [("class", "retain"), ("random", "forget")])
def test_the_second_stage_of_DUCK_is_that_of_the_later_code(scenario, pace):
    first = recipes.DUCK(scenario=scenario, lambda1=1.5, label_smoothing=0.1, head="4")
    whole = recipes.DUCK(scenario=scenario, lambda1=1.5, label_smoothing=0.1, head="4", second_stage=True)
    plan = TrainPlan(epochs=2, lr=1e-4, optimizer="adam", final_lr_fraction=0.0, batch_size=512)
    more = {"lambda1": 0.15, "lambda2": 1.0, "temperature": 2.0, "label_smoothing": 0.1, "head": "4"}
    second = Attract(plan=plan, repeats=20, pace=pace, forget_batch_size=1024, **more)
    assert whole.method == Sequence((first.method, replace(second, lambda1=1.5 / 10)))


@pytest.mark.parametrize("weights", [{"lambda1": 0.0}, {"lambda2": 0.0}])
def test_a_second_stage_without_one_of_the_terms_is_refused(weights):
    recipes.DUCK(**weights)
    with pytest.raises(errors.BadRequest, match=r"^second_stage: expected lambda1 and lambda2 above 0, found "):
        recipes.DUCK(**weights, second_stage=True)


def test_another_scenario_is_refused():
    with pytest.raises(errors.BadRequest, match=r"^scenario: expected random or class, found 'CR'$"):
        recipes.DUCK(scenario="CR")


def test_DUCK_forgets_a_class_and_stops():
    """Rows of one class end below a hundredth, the others stay."""
    case = CASES["mlp"]
    (inputs, labels), model = case.data(80), case.make()
    everything = excise.Split((inputs, labels), forget=[0])
    known = methods.Finetune(plan=TrainPlan(epochs=30, lr=0.02, optimizer="adam", batch_size=20))
    trained = excise.unlearn(model, everything, known).model
    split = excise.Split((inputs, labels), forget=excise.data.of_class(2))
    found = excise.unlearn(
        trained, split, recipes.DUCK(scenario="class", epochs=40, lr=3e-3, batch_size=20, second_stage=True)
    )
    right = found.model.eval()(inputs).argmax(1) == labels
    assert float(right[labels == 2].double().mean()) < 0.01
    assert float(right[labels != 2].double().mean()) > 0.9
    assert 1 <= len(found.trace) - 2 < 40


def test_DUCK_of_random_rows_asks_for_a_holdout():
    split = excise.Split(CASES["mlp"].data(40), forget=[1, 5, 8], test=[30, 31])
    with pytest.raises(
        errors.BadRequest, match=r"DUCK needs rows that were never trained on.*Split\(..., holdout=...\)"
    ):
        excise.unlearn(CASES["mlp"].make(), split, recipes.DUCK(epochs=1))


def test_the_default_space_of_DUCK_is_its_rate_and_its_epochs():
    space = default_space(recipes.DUCK)
    assert set(space) == {"lr", "epochs"} and space["epochs"] == Choices((5, 10, 20))


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


def test_the_lines_on_the_page_of_published_systems_run(capsys):
    page = (Path(__file__).parents[2] / "docs" / "published.md").read_text(encoding="utf-8")
    block = page.partition("\n## DUCK\n")[2].partition("\n## ")[0].partition("```python\n")[2].partition("```")[0]
    case = CASES["mlp"]
    split = excise.Split(case.data(40), forget=[1, 5, 8], holdout=range(30, 40))
    exec(block, {"excise": excise, "model": case.make(), "split": split})  # the project's own page
    assert " epochs; [" in capsys.readouterr().out


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
