from excise.recipes import RECIPES

KEYS = ["name", "year", "paper", "mask", "method", "defaults", "from"]


def test_every_recipe_is_listed_with_the_keys_of_the_front_door_and_its_origin(excise):
    done = excise("recipes", "--json")
    assert done.code == 0
    assert [row["name"] for row in done.json] == list(RECIPES)
    assert all(list(row) == KEYS for row in done.json)


def test_people_read_papers_and_defaults(excise, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    done = excise("recipes")
    assert done.code == 0 and done.err == ""
    assert "DEL: Torkzadehmahani" in done.out and "TMLR 2025" in done.out
    assert "budget_fraction=0.3" in done.out and "Reset, then Finetune with the head" in done.out
    assert all(f"{name}: " in done.out for name in RECIPES)


def test_quiet_says_nothing(excise):
    assert excise("recipes", "--quiet") == (0, "", "")
