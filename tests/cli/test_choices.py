"""Words to recipes with their settings, criteria and reductions."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from excise import errors, store
from excise.cli import choices
from excise.curvature import Moments
from excise.localize import Mean, Top
from excise.recipes import RECIPES
from excise.recipes.table import needed
from excise.train import Machine
from tests.recipes.prepared import datamodel


def test_every_setting_of_every_recipe_can_be_typed(project):
    given = {
        "plan": "plan.toml",
        "reduction": "top:0.25",
        "localizer": "magnitude",
        "initial": "w.safetensors",
        "head": "2",
        "granularity": "weight",
        "importance": "batch-means",
        "mode": "reference",
        "redraw": "once",
        "order": "mixed",
        "memorization": "m.npy",
        "datamodel": "d.safetensors",
        "models": "w.safetensors,w.safetensors",
        "loss": "ce",
        "max_epochs": "0",
        "moments": "moments.safetensors",
        "criterion": "published",
        "stop": "samples",
        "scenario": "class",
    }
    Moments({"w": torch.eye(2, dtype=torch.float64)[None]}, 3, "network", "reading").save("moments.safetensors")
    np.save("m.npy", np.arange(3.0))
    datamodel(4, 2).save("d.safetensors")
    for name, make in RECIPES.items():
        keys = make.__kwdefaults__ or {}
        own = {**given, "mode": "train"} if name == "JiT" else given
        wanted = {key: own.get(key, "1") for key in (*keys, *needed(make))}
        recipe = choices.read_recipe(name, [f"{key}={value}" for key, value in wanted.items()])
        assert recipe.name == name
        choices.recipe_values(recipe)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Retrain", "plan=…; a plan is a .toml file with the fields of a TrainPlan"),
        ("DMM", "datamodel=…; a datamodel is a file that `excise datamodel` writes"),
        ("OracleMatching", "models=…; these are weights of networks that never saw the forget rows, FILE.safetensors,"),
    ],
)
def test_what_a_recipe_needs_is_asked_for_with_where_it_comes_from(name, said):
    with pytest.raises(
        errors.BadRequest, match=re.escape(f"--recipe: {name} needs {said.partition('=')[0]}; give it")
    ) as told:
        choices.read_recipe(name, ["epochs=2"] if name != "Retrain" else [])
    assert said in str(told.value)


def test_a_datamodel_of_another_kind_of_file_is_refused(project):
    with pytest.raises(errors.BadData, match=r"w\.safetensors"):
        choices.read_recipe("DMM", ["datamodel=w.safetensors"])
    with pytest.raises(errors.BadData, match=r"none\.safetensors"):
        choices.read_recipe("DMM", ["datamodel=none.safetensors"])


def test_values_of_a_recipe_name_tensors_by_their_content(project):
    one, same = (choices.recipe_values(choices.read_recipe("DEL", ["initial=w.safetensors"])) for _ in range(2))
    store.write_tensors(Path("o.safetensors"), {"0.weight": torch.zeros(1)})
    other = choices.recipe_values(choices.read_recipe("DEL", ["initial=o.safetensors"]))
    assert one == same != other
    assert re.fullmatch("[0-9a-f]{64}", other["method"]["methods"][0]["to"]["0.weight"])


def test_the_machine_is_four_options_and_is_recorded_only_if_it_is_not_the_default():
    plain = {"precision": "auto", "layout": "auto", "compiled": "auto", "workers": 0}
    assert choices.read_machine(**plain) == Machine() and choices.told_machine(Machine()) == {}
    machine = choices.read_machine(**{**plain, "layout": "channels-last", "workers": 3})
    assert choices.told_machine(machine) == {"machine": {"layout": "channels-last", "workers": 3}}
    with pytest.raises(errors.BadRequest, match="precision: expected one of auto, float32, bfloat16, found 'half'"):
        choices.read_machine(**{**plain, "precision": "half"})


def test_reductions_have_names():
    assert choices.read_reduction("mean") == Mean()
    assert choices.read_reduction("top:0.25") == Top(0.25)


@pytest.mark.parametrize("name", choices.CRITERIA)
def test_criteria_have_names(name):
    assert choices.read_criterion(name) == choices.CRITERIA[name]()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, "expected a .npy file of numbers at m.npy"),
        (np.zeros((2, 2)), r"expected finite numbers in one dimension in m.npy, found torch.float64 of shape \(2, 2\)"),
        (np.array([1.0, np.nan]), "expected finite numbers in one dimension"),
        (np.array(["a"]), "expected a .npy file of numbers at m.npy"),
    ],
)
def test_scores_are_finite_numbers_in_a_row(project, values, message):
    if values is not None:
        np.save("m.npy", values)
    with pytest.raises(errors.BadRequest, match=message):
        choices.read_recipe("RUM", ["memorization=m.npy"])


def test_scores_are_read(project):
    np.save("m.npy", np.arange(3, dtype=np.float32))
    assert choices.read_recipe("RUM", ["memorization=m.npy"]).method.memorization.tolist() == [0.0, 1.0, 2.0]


def test_a_record_names_the_file_of_moments_by_its_content(project):
    Moments({"w": torch.eye(2, dtype=torch.float64)[None]}, 3, "network", "reading").save("a.safetensors")
    told = choices.told_files(["gamma=0.5", "moments=a.safetensors"])
    assert told == {"files_sha256": {"moments": store.file_digest(Path("a.safetensors"))}}
    assert choices.told_files(["gamma=0.5"]) == choices.told_files(None) == {}
