"""Each row of the table against the signature it stands for, and a run."""

import inspect

import pytest

import excise
from excise import errors, recipes
from excise.recipes import RECIPES, table
from excise.recipes.table import STAND_INS, example_of, needed
from excise.train import TrainPlan
from tests.cases import CASES
from tests.recipes.prepared import settings_for

TELL = {"SSD": {"selection": 1.0}}  # few rows: no weight is ten times as important to them as to all
NETWORK = {"MSG": "separable"}  # it needs convolutions


def made(name, **options):
    return example_of(RECIPES[name], **options)


def test_the_table_names_every_recipe_of_the_room_and_no_other():
    public = {name for name, value in vars(recipes).items() if inspect.isfunction(value) and name[0].isupper()}
    assert set(RECIPES) == public == {row["name"] for row in table()}
    assert [RECIPES[row["name"]].__name__ for row in table()] == list(RECIPES)


@pytest.mark.parametrize("row", table(), ids=lambda row: row["name"])
def test_a_row_says_what_the_recipe_is(row):
    assert list(row) == ["name", "year", "paper", "mask", "method", "defaults"]
    recipe = made(row["name"])
    assert recipe.name == row["name"]
    assert (recipe.year, recipe.paper) == (row["year"], row["paper"])
    options = inspect.signature(RECIPES[row["name"]]).parameters.values()
    assert all(option.kind is option.KEYWORD_ONLY for option in options)
    wanted = {option.name: option.default for option in options if isinstance(option.default, (int, float, str))}
    assert row["defaults"] == wanted
    assert row["mask"] == str(recipe.where)


def test_the_table_in_words():
    words = {row["name"]: (row["year"], row["mask"], row["method"]) for row in table()}
    assert all(row["paper"] and (row["year"] > 2000 or row["name"] in ("Retrain", "Nothing")) for row in table())
    wanted = {
        "DEL": (2025, "WeightGradient by channel, 30%", "Reset, then Finetune with the head"),
        "Finetune": (2020, "everywhere", "Finetune"),
        "SalUn": (2024, "Gradient by weight, 50%", "Relabel"),
        "SCRUBPlusR": (2023, "everywhere", "Distill, back to the closest epoch"),
        "CFk": (2022, "the last layer", "Finetune"),
        "EUk": (2022, "the last layer", "Reset, then Finetune"),
        "MSG": (
            2024,
            "GradientDifference by weight, lowest 30% of each parameter among the convolutions",
            "Redraw, then Finetune, slower by 0.1 on the rest of the convolutions",
        ),
        "RUM": (
            2024,
            "everywhere",
            "Nothing for part 1, Finetune for part 2, Relabel in Gradient by weight, 50% for part 3",
        ),
        "DUCK": (2023, "everywhere", "Attract, until the forget accuracy is below that of unseen rows"),
        "NegGrad": (2021, "everywhere", "Ascend"),
        "PGU": (2024, "everywhere", "Project"),
        "DMM": (2024, "everywhere", "Match"),
        "OracleMatching": (2024, "everywhere", "Match"),
        "JiT": (2024, "everywhere", "Smooth"),
        "Retrain": (0, "everywhere", "Retrain"),
        "Nothing": (0, "everywhere", "Nothing"),
    }
    assert wanted.items() <= words.items()


def test_what_a_recipe_needs_and_cannot_have_a_default_for_has_a_stand_in():
    needs = {name: needed(make) for name, make in RECIPES.items() if needed(make)}
    assert needs == {"DMM": ("datamodel",), "OracleMatching": ("models",), "Retrain": ("plan",)}
    assert set(STAND_INS) == {key for keys in needs.values() for key in keys}
    plan = TrainPlan(epochs=3, lr=0.5)
    assert example_of(RECIPES["Retrain"], plan=plan).method.plan == plan
    assert example_of(RECIPES["DMM"], multiplier=2.0).method.targets.multiplier == 2.0


def test_the_table_has_every_recipe_that_the_issue_names():
    named = "DEL SalUn SSD SCRUB SCRUBPlusR NegGrad NegGradPlus RandomLabel BadTeacher L1Sparse IU Finetune CFk EUk MSG CT RUM"
    published = "DUCK PGU DMM OracleMatching JiT"
    assert list(RECIPES) == [*named.split(), *published.split(), "Retrain", "Nothing"]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_runs(name):
    case = CASES[NETWORK.get(name, "mlp")]
    model, (inputs, labels) = case.make(), case.data(60)
    split = excise.Split((inputs[:40], labels[:40]), forget=[1, 5, 8], holdout=(inputs[40:], labels[40:]))
    settings = {**settings_for(RECIPES[name], model, 40, case.num_classes), **TELL.get(name, {})}
    found = excise.unlearn(model, split, RECIPES[name](**settings), seed=3)
    assert found.recipe == name
    moved = sum(found.patch.num_changed.values())
    assert (moved == 0) == (name == "Nothing")
    assert all(bool(value.isfinite().all()) for value in found.model.parameters())


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Salun", "did you mean SalUn"),
        ("scrub", "did you mean SCRUB"),
        ("EUK", "did you mean EUk"),
        ("xyz", "it has DEL, SalUn"),
    ],
)
def test_an_unknown_recipe_suggests_the_nearest(name, hint):
    with pytest.raises(AttributeError, match=f"excise.recipes has no recipe {name!r}; {hint}"):
        getattr(recipes, name)


def test_what_a_recipe_lacks_is_said_before_anything_is_read():
    case = CASES["mlp"]
    split = excise.Split(case.data(40), forget=[1, 5, 8])
    with pytest.raises(
        errors.BadRequest, match=r"SCRUBPlusR needs rows that were never trained on.*Split\(..., holdout=...\)"
    ):
        excise.unlearn(case.make(), split, recipes.SCRUBPlusR(epochs=1, max_epochs=1))
    with pytest.raises(
        errors.BadRequest, match="among: Sequential has no weights to choose from here: the convolutions"
    ):
        excise.unlearn(case.make(), split, recipes.MSG(epochs=1))
