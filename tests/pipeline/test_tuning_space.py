import functools

import pytest

from excise import errors, recipes
from excise.pipeline.tuning_space import Choices, Range, default_settings, default_space, read_space, recipe_name
from excise.recipes.table import STAND_INS, needed
from excise.train import TrainPlan


def test_a_space_is_read_in_the_types_of_the_recipe():
    given = {
        "lr": (1e-3, 1, "log"),
        "epochs": (2, 8),
        "budget_fraction": (0.1, 0.5),
        "granularity": ["weight", "channel"],
        "momentum": [0, 0.9],
        "head": [None, "2"],
    }
    found = read_space(recipes.DEL, given)
    assert found == {
        "lr": Range(low=1e-3, high=1.0, log=True),
        "epochs": Range(low=2, high=8, whole=True),
        "budget_fraction": Range(low=0.1, high=0.5),
        "granularity": Choices(("weight", "channel")),
        "momentum": Choices((0.0, 0.9)),
        "head": Choices((None, "2")),
    }
    assert list(found) == list(given)
    assert type(found["momentum"].values[0]) is float


def test_a_default_space_lies_around_the_recipes_own_values():
    assert default_space(recipes.DEL) == {
        "budget_fraction": Range(low=0.3 / 3, high=0.6),
        "epochs": Choices((5, 10, 20)),
        "lr": Range(low=0.0015, high=0.15, log=True),
    }
    assert default_space(recipes.SSD) == {
        "selection": Range(low=1.0, high=100.0, log=True),
        "dampening": Range(low=0.1, high=10.0, log=True),
    }
    assert default_space(recipes.BadTeacher)["epochs"] == Choices((1, 2))
    assert default_space(recipes.SalUn)["budget_fraction"].high == 0.9


TUNED = [name for name in recipes.RECIPES if name not in ("Retrain", "Nothing")]


@pytest.mark.parametrize("name", TUNED)
def test_every_recipe_has_a_default_space_that_holds_its_own_settings(name):
    make = recipes.RECIPES[name]
    if needs := needed(make):
        with pytest.raises(
            errors.BadRequest, match=f"recipe: {name} needs {needs[0]}; bind it, as in functools.partial"
        ):
            read_space(make, None)
        make = functools.partial(make, **{key: STAND_INS[key]() for key in needs})
    space = read_space(make, None)
    assert space
    own = default_settings(make, space)
    assert own is not None
    assert repr(make(**own)) == repr(make())


def test_what_is_bound_stays_and_is_no_less_a_setting():
    make = functools.partial(recipes.DEL, lr=0.5, weight_decay=1e-4)
    assert recipe_name(make) == "DEL"
    space = read_space(make, {"lr": (0.1, 1.0), "epochs": [10]})
    assert default_settings(make, space) == {"lr": 0.5, "epochs": 10}
    assert default_settings(recipes.DEL, space) is None  # its own rate lies outside
    retrain = functools.partial(recipes.Retrain, plan=TrainPlan(epochs=1, lr=0.1))
    with pytest.raises(errors.BadRequest, match="Retrain has no numeric setting to search"):
        read_space(retrain, None)


@pytest.mark.parametrize(
    ("make", "space", "message"),
    [
        (recipes.DEL, {"learning_rate": [1]}, "DEL has no setting 'learning_rate'; it has budget_fraction, epochs"),
        (recipes.DEL, {"epoch": [1]}, "DEL has no setting 'epoch'; did you mean 'epochs'"),
        (recipes.Nothing, {"lr": [1]}, "Nothing has no setting 'lr'; it has none"),
        (recipes.DEL, {}, "expected settings and where to search them"),
        (recipes.DEL, [("lr", 1)], "expected settings and where to search them"),
        (recipes.DEL, {"lr": []}, "lr: expected a list of different values"),
        (recipes.DEL, {"lr": [0.1, 0.1]}, "lr: expected a list of different values"),
        (recipes.DEL, {"lr": 0.1}, "lr: expected a list of different values"),
        (recipes.DEL, {"lr": (0.1,)}, "lr: expected a list of different values"),
        (recipes.DEL, {"lr": (0.2, 0.1)}, "lr: expected a list of different values"),
        (recipes.DEL, {"lr": (0.0, 0.1, "log")}, "0 < low; found"),
        (recipes.DEL, {"lr": (0.1, 0.2, "linear")}, "lr: expected a list of different values"),
        (recipes.DEL, {"lr": (0.1, float("inf"))}, "lr: expected a list of different values"),
        (recipes.DEL, {"epochs": [1.5]}, "epochs: 1.5 is not what the recipe takes: Expected `int`, got `float`"),
        (recipes.DEL, {"granularity": ["kernel"]}, "granularity: 'kernel' is not what the recipe takes"),
        (recipes.DEL, {"reduction": [object()]}, "reduction: only numbers, words, booleans and None can be searched"),
        (recipes.DEL, {"epochs": [0, 4]}, "epochs: expected"),
        (recipes.DEL, {"budget_fraction": (0.5, 1.5)}, "1.5"),
        (recipes.Retrain, {"lr": [1]}, "Retrain has no setting 'lr'; it has plan"),
        (recipes.DEL(), {"lr": [1]}, r"expected a function that makes a recipe .* \(not called\), found Recipe"),
        (3, None, "found int"),
    ],
)
def test_what_cannot_be_searched_is_told_before_any_work(make, space, message):
    with pytest.raises(errors.BadRequest, match=message):
        read_space(make, space)


def test_a_setting_that_the_recipe_needs_is_asked_for():
    def mine(*, lr: float, epochs: int = 1):
        return recipes.Finetune(lr=lr, epochs=epochs)

    with pytest.raises(errors.BadRequest, match=r"mine needs lr; bind it, as in functools.partial\(recipes.mine, lr="):
        read_space(mine, {"epochs": [1, 2]})
    assert read_space(mine, {"lr": (0.1, 0.2)}) == {"lr": Range(low=0.1, high=0.2)}


def test_what_a_place_holds():
    assert Range(low=1, high=2).holds(2) and not Range(low=1, high=2).holds(2.1)
    assert not Range(low=0, high=2).holds("1")
    assert Choices((1, None)).holds(None) and not Choices((1, None)).holds(True)
