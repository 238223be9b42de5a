"""The value itself."""

import excise
from excise import recipes
from excise.localize import Cut, Everything, Gradient
from tests.cases import CASES


def test_a_recipe_can_have_another_name_and_nothing_else_changes():
    one = recipes.Finetune()
    other = one.named("Again")
    assert (one.name, other.name) == ("Finetune", "Again")
    assert other.named("Finetune") == one


def test_a_recipe_can_work_in_another_place_and_then_trains_nothing_besides():
    model, data = CASES["mlp"].make(), CASES["mlp"].data(40)
    where = Cut(Gradient(), 0.2, granularity="weight")
    moved = recipes.DEL(epochs=1, lr=0.05).at(where)
    assert (moved.name, moved.where, moved.besides) == ("DEL at Gradient by weight, 20%", where, None)
    found = excise.unlearn(model, excise.Split(data, forget=[1, 5, 8]), moved)
    assert found.mask == found.localized == where(model, excise.Split(data, forget=[1, 5, 8]))


def test_without_a_word_a_recipe_works_everywhere():
    assert recipes.Finetune().where == Everything()
    assert recipes.Finetune().besides is None
