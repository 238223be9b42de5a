"""The value itself."""

import pytest

import excise
from excise import errors, recipes
from excise.localize import Cut, Everything, Gradient, Head
from tests.cases import CASES


def test_a_recipe_can_have_another_name_and_nothing_else_changes():
    one = recipes.Finetune()
    other = one.named("Again")
    assert (one.name, other.name) == ("Finetune", "Again")
    assert other.named("Finetune") == one


def problem():
    return CASES["mlp"].make(), excise.Split(CASES["mlp"].data(40), forget=[1, 5, 8])


def test_a_recipe_can_work_in_another_place_with_all_else_equal():
    model, split = problem()
    where = Cut(Gradient(), 0.2, granularity="weight")
    moved = recipes.DEL(epochs=1, lr=0.05).at(where)
    assert (moved.name, moved.where, moved.besides) == ("DEL", where, Head())
    found = excise.unlearn(model, split, moved)
    assert found.localized == where(model, split)
    assert found.mask == found.localized | Head()(model, split)


def test_a_mask_is_a_place_too():
    model, split = problem()
    mask = excise.Mask.of_modules(model, ["0"])
    found = excise.unlearn(model, split, recipes.Finetune(epochs=1).at(mask))
    assert found.mask == found.localized == mask
    assert found.recipe == "Finetune"


def test_in_its_own_place_nothing_changes():
    recipe = recipes.DEL(epochs=1)
    assert recipe.at(recipe.where) == recipe


@pytest.mark.parametrize("where", ["head", None, Gradient(), 0.3])
def test_what_is_no_place_is_refused(where):
    with pytest.raises(errors.BadRequest, match=r"at: expected a region, such as Cut.*or a mask; found"):
        recipes.Finetune().at(where)


def test_a_second_region_that_nothing_trains_is_refused():
    with pytest.raises(errors.BadRequest, match="besides: Finetune trains nothing besides its mask; wrap it"):
        recipes.Recipe(name="x", paper="x", year=0, method=recipes.Finetune().method, besides=Head())


def test_without_a_word_a_recipe_works_everywhere():
    assert recipes.Finetune().where == Everything()
    assert recipes.Finetune().besides is None
