import sys

import pytest

from excise import errors, plugins
from excise.cli import choices, offers, places
from excise.localize import Cut, Localizer, Modules
from excise.methods import Method
from excise.recipes import RECIPES, Recipe
from excise.train import TrainPlan
from tests.packages import install

CODE = """
from __future__ import annotations
from dataclasses import dataclass
from excise.localize import Head, Magnitude, Modules
from excise.methods import Finetune, Nothing
from excise.recipes import Recipe
from excise.train import TrainPlan

@dataclass(frozen=True, kw_only=True)
class Planned(Nothing):
    plan: TrainPlan
    share: float = 0.5

def Made(*, lr: float = 0.1) -> Recipe:
    return Recipe(name="Made", paper="someone", year=2030, method=Nothing())

class Own(Magnitude):
    pass

class Place(Head):
    pass

def first():
    return Modules(("0",))

def Wrong(): return 3
def Raises(): raise KeyError("x")
def Unread(a: Missing = 1): return 3
number = 3
"""


@pytest.fixture
def site(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    install(
        folder,
        "kit",
        {
            plugins.METHODS: {"Planned": "kit:Planned", "Broken": "nokit:A"},
            plugins.RECIPES: {"Made": "kit:Made", "DEL": "kit:Made"}
            | {name: f"kit:{name}" for name in ("Wrong", "Raises", "Unread", "number")},
            plugins.LOCALIZERS: dict.fromkeys(("own", "gradient", "modules"), "kit:Own")
            | {"place": "kit:Place", "first": "kit:first", "three": "kit:Wrong"},
        },
        code=CODE,
    )
    monkeypatch.syspath_prepend(folder)
    yield folder
    sys.modules.pop("kit", None)


def test_a_recipe_and_a_method_of_a_package_are_read_with_settings(site, tmp_path):
    found = choices.read_recipe("Made", ["lr=0.2"])
    assert isinstance(found, Recipe) and found.year == 2030
    plan = tmp_path / "plan.toml"
    plan.write_text("epochs = 2\nlr = 0.1\n")
    found = choices.read_recipe("Planned", [f"plan={plan}", "share=0.25"])
    assert isinstance(found.method, Method) and found.name == "Planned" and found.paper == "(a method of kit 1.0)"
    assert (found.method.plan, found.method.share) == (TrainPlan(epochs=2, lr=0.1), 0.25)
    assert choices.recipe_values(found)["method"]["share"] == 0.25
    with pytest.raises(errors.BadRequest, match=r"--recipe: Planned needs plan; give it as --set plan="):
        choices.read_recipe("Planned", None)
    with pytest.raises(
        errors.BadRequest, match=r"each key of Planned \(plan, share\); found 'shar=1'; did you mean 'sha"
    ):
        choices.read_recipe("Planned", ["shar=1"])


def test_a_criterion_of_a_package_is_read(site):
    assert isinstance(choices.read_criterion("own"), Localizer)
    assert type(choices.read_criterion("own")).__name__ == "Own"


def test_a_region_of_a_package_is_a_place_without_options_of_a_cut(site):
    assert type(choices.read_criterion("place")).__name__ == "Place"
    assert places.read_place("first") == (Modules(("0",)), dict.fromkeys(places.read_place("own")[1]))
    assert isinstance(places.read_place("own", budget=0.1)[0], Cut)
    for option, value in (("budget", 0.3), ("scope", "network"), ("lowest", True)):
        with pytest.raises(errors.BadRequest, match=f"^--{option}: first has no scores to cut; leave it out"):
            places.read_place("first", **{option: value})
    with pytest.raises(errors.BadRequest, match=r"'three' of kit 1.0: expected a Localizer or a Region, it gave int"):
        places.read_place("three")
    with pytest.raises(errors.BadRequest, match=r"localizer: expected one that gives scores, .* found Modules"):
        choices.read_recipe("DEL", ["localizer=first"])


@pytest.mark.parametrize("word", ["Mad", "Dell", "Planed"])
def test_the_nearest_of_all_names_is_suggested(site, word):
    nearest = {"Mad": "Made", "Dell": "DEL", "Planed": "Planned"}[word]
    with pytest.raises(
        errors.BadRequest, match=rf"one of DEL, .*Made.*; found '{word}'(; did you mean '{nearest}'\?)?"
    ):
        choices.read_recipe(word, None)
    with pytest.raises(
        errors.BadRequest, match=r"one of weight-gradient, .*own, place, three; found 'ow'; did you mean 'own'"
    ):
        choices.read_criterion("ow")


def test_a_name_of_ours_wins_and_the_clash_is_told(site, caplog):
    assert choices.read_recipe("DEL", None).name == "DEL"
    assert "'DEL' of kit 1.0 is hidden by excise's own 'DEL'" in caplog.text
    assert type(choices.read_criterion("gradient")).__name__ == "Gradient"
    assert "'gradient' of kit 1.0 is hidden" in caplog.text
    assert places.read_place("modules:0")[0] == Modules(("0",))
    assert "'modules' of kit 1.0 is hidden" in caplog.text
    assert offers.clashes(offers.HOW, RECIPES) == ["'DEL' of kit 1.0 is hidden by excise's own 'DEL'"]
    assert offers.clashes(offers.WHERE, places.NAMES) == [
        f"{name!r} of kit 1.0 is hidden by excise's own {name!r}" for name in ("gradient", "modules")
    ]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Wrong", r"excise.recipes: 'Wrong' of kit 1.0: expected a Recipe or a Method, it gave int"),
        ("Raises", r"excise.recipes: 'Raises' of kit 1.0 raised KeyError: 'x'; correct or update it"),
        ("Unread", r"'Unread' of kit 1.0: its parameters cannot be read \(name 'Missing' is not defined\)"),
        ("number", r"'number' of kit 1.0: expected a class or a function that gives a Recipe or a Method, found int"),
        ("Broken", r"excise.methods: 'Broken' of kit 1.0 cannot be loaded from nokit:A: ModuleNotFoundError"),
    ],
)
def test_what_is_wrong_in_a_package_is_told_with_its_name(site, name, said):
    with pytest.raises(errors.BadRequest, match=said):
        choices.read_recipe(name, None)
    row = next(row for row in offers.rows() if row["name"] == name)
    assert row["from"] == "kit 1.0" and "kit 1.0" in row["paper"]


def test_the_list_has_ours_first_and_theirs_with_where_they_are_from(site, excise):
    done = excise("recipes", "--json")
    names = [row["name"] for row in done.json]
    assert names[: len(RECIPES)] == list(RECIPES) and {"Made", "Planned", "Broken"} < set(names)
    rows = {row["name"]: row for row in done.json}
    assert len({tuple(row) for row in done.json}) == 1
    assert (rows["Made"]["year"], rows["Made"]["from"], rows["DEL"]["from"]) == (2030, "kit 1.0", "excise")
    assert rows["Planned"]["paper"] == "(needs plan)" and rows["Planned"]["defaults"] == {"share": 0.5}
    said = excise("recipes").out
    assert "Made: someone 2030 [from kit 1.0]" in said
    for name in ("DEL", "gradient", "modules"):
        assert f"Note: {name!r} of kit 1.0 is hidden by excise's own {name!r}." in said
