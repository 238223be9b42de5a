import functools
import hashlib
from pathlib import Path

import pytest
import torch
from torch import nn

from excise import params, recipes
from excise.attribution import from_observed
from excise.curvature import second_moments
from excise.lifecycle.settings import code_digest, differing, recipe_values, source_digest
from excise.masks import Mask
from excise.methods import FromFunction
from excise.recipes import Recipe
from excise.recipes.table import example_of
from tests.attribution.planted import linear


def a_function(net, retain, forget, validation):
    return net


def test_every_setting_counts_and_equal_recipes_have_equal_values():
    assert recipe_values(recipes.DEL(epochs=2)) == recipe_values(recipes.DEL(epochs=2))
    assert recipe_values(recipes.DEL(epochs=2)) != recipe_values(recipes.DEL(epochs=3))
    assert recipe_values(recipes.DEL(epochs=2)) != recipe_values(recipes.DEL(epochs=2, budget_fraction=0.2))


def test_a_mask_and_a_network_count_by_their_content():
    model = nn.Linear(3, 2)
    full, empty = (recipe_values(recipes.Finetune(epochs=1).at(mask)) for mask in (Mask.full(model), Mask.empty(model)))
    assert full != empty and full == recipe_values(recipes.Finetune(epochs=1).at(Mask.full(model)))
    held = [Recipe(name="it", paper="-", year=0, method=one) for one in (model, nn.Linear(3, 2), model)]
    told = [recipe_values(one)["method"] for one in held]
    assert told[0] == told[2] != told[1]
    assert recipe_values(Recipe(name="it", paper="-", year=0, method=torch.ones(2)))["method"] != told[0]


def test_a_function_counts_by_its_name_in_every_process():
    values = recipe_values(Recipe(name="mine", paper="-", year=0, method=FromFunction(a_function)))
    assert "tests.lifecycle.test_settings.a_function" in str(values) and "0x" not in str(values)


def test_what_was_prepared_is_one_digest_that_does_not_say_which_rows_are_gone():
    """A digest of ids alone tells a row that is missing to who tries them all."""
    whole = from_observed(linear(8, torch.ones(6, 6, 2), 1.0))
    left = whole.without(whole.train[2:3])
    said = [recipe_values(recipes.DMM(datamodel=one))["method"]["targets"]["datamodel"] for one in (whole, left)]
    assert said == [whole.digest, left.digest] and said[0] != said[1]
    assert params.digest({"": left.train}) not in str(recipe_values(recipes.DMM(datamodel=left)))
    moments = second_moments(nn.Linear(3, 2), (torch.ones(4, 3), torch.zeros(4)))
    assert recipe_values(recipes.PGU(moments=moments))["method"]["moments"] == moments.digest


def test_the_code_is_named_by_what_its_files_hold(tmp_path, monkeypatch):
    before = code_digest()
    assert before == code_digest() and before.startswith("excise ")
    monkeypatch.setattr("excise.lifecycle.settings.__file__", str(tmp_path / "a" / "b.py"))
    (tmp_path / "a").mkdir()
    (tmp_path / "c.py").write_text("x = 1\n")
    first = code_digest()
    (tmp_path / "c.py").write_text("x = 2\n")
    assert len({before, first, code_digest()}) == 3


def test_a_builder_is_named_by_the_file_in_which_it_stands():
    own = f"sha256:{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()}"

    class Mine(nn.Linear):
        """A network of this file."""

    @functools.wraps(a_function)
    def wrapped():
        return None

    for build in (a_function, Mine, lambda: None, functools.partial(functools.partial(a_function, 1), 2), wrapped):
        assert source_digest(build) == own
    assert source_digest(nn.Linear) not in (own, None)


def test_a_builder_without_a_file_has_no_digest():
    namespace = {}
    exec("def typed(): return None", namespace)
    for build in (namespace["typed"], len, nn.Linear(2, 2), functools.partial(len)):
        assert source_digest(build) is None


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": {"b": [1, 2]}, "c": 0}, {"a": {"b": [1, 3]}, "c": 0}, ["a.b: [1, 2] there, [1, 3] here"]),
        ({"a": 1}, {"b": 1}, ["a: 1 there, None here", "b: None there, 1 here"]),
    ],
)
def test_a_difference_is_named_by_its_field_with_both_values(before, now, words):
    assert differing(before, now) == words


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_no_recipes_values_hold_an_address(name):
    first, again = (recipe_values(example_of(recipes.RECIPES[name])) for _ in range(2))
    assert first == again and "0x" not in str(first)
