"""A grid is the plain loop over its cells; each is run once, whoever runs it and however often it is asked for."""

import json

import pytest

from benchmarks import grid, recipes
from excise import errors
from tests.cluster.fleets import Elsewhere

SHARED = {"power": 2}
CELLS = [{"recipe": name, "seed": seed} for name in ("one", "other") for seed in range(3)]


RUN = []
"""Cells that were run, wherever."""


def square(shared, cell):
    RUN.append(cell)
    return {"value": cell["seed"] ** shared["power"], "name": cell["recipe"]}


def dies(shared, cell):
    if len(RUN) == 2:
        raise KeyboardInterrupt
    return square(shared, cell)


@pytest.fixture(autouse=True)
def _none_was_run():
    RUN.clear()


WANTED = [{"value": cell["seed"] ** 2, "name": cell["recipe"]} for cell in CELLS]


def test_each_cell_is_run_once_and_results_are_in_order(tmp_path):
    assert grid.filled(square, SHARED, [*CELLS, CELLS[0]], tmp_path) == [*WANTED, WANTED[0]]
    assert RUN == CELLS
    assert grid.filled(square, SHARED, reversed(CELLS), tmp_path) == WANTED[::-1] and len(RUN) == 6
    fleet = Elsewhere()
    assert grid.filled(square, SHARED, CELLS, tmp_path / "there", fleet) == WANTED
    assert len(fleet.jobs) == 6
    assert {path.name for path in tmp_path.glob("*.json")} == {path.name for path in (tmp_path / "there").iterdir()}


def test_a_grid_that_was_stopped_goes_on_with_what_is_missing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        grid.filled(dies, SHARED, CELLS, tmp_path)
    assert grid.filled(square, SHARED, CELLS, tmp_path) == WANTED
    assert RUN == CELLS  # none of them twice


def test_a_changed_cell_or_share_is_another():
    keys = [grid.key_of(SHARED, cell) for cell in CELLS] + [grid.key_of({"power": 3}, CELLS[0])]
    assert len(set(keys)) == 7
    assert grid.key_of(SHARED, {"seed": 0, "recipe": "one"}) == keys[0]  # in any order
    with pytest.raises(ValueError, match="JSON compliant"):
        grid.key_of(SHARED, {"seed": float("nan")})


def test_a_file_of_another_cell_or_a_damaged_one_is_refused(tmp_path):
    grid.filled(square, SHARED, CELLS, tmp_path)
    one, other = (tmp_path / f"{grid.key_of(SHARED, cell)}.json" for cell in CELLS[:2])
    one.write_bytes(other.read_bytes())
    with pytest.raises(errors.Corrupt, match="is of another cell"):
        grid.filled(square, SHARED, CELLS, tmp_path)
    one.write_text(json.dumps({**json.loads(other.read_text()), "result": 3}))
    with pytest.raises(errors.Corrupt):
        grid.filled(square, SHARED, CELLS, tmp_path)


def test_a_cell_of_the_recipes_is_each_forget_set_of_its_seed(monkeypatch, tmp_path):
    def problems(seed, num_oracles, bank):
        assert (num_oracles, str(bank.directory)) == (4, str(tmp_path))
        yield from (("iid", "model", seed), ("non-iid", "other model", seed))

    monkeypatch.setattr(recipes, "problems", problems)
    monkeypatch.setattr(recipes, "run", lambda *given: given)
    shared = {"num_oracles": 4, "bank": str(tmp_path)}
    found = grid.recipe_rows(shared, {"recipe": "DEL", "settings": {"lr": 0.1}, "seed": 5})
    assert found == {
        "iid": ("DEL", {"lr": 0.1}, "model", 5, 5),
        "non-iid": ("DEL", {"lr": 0.1}, "other model", 5, 5),
    }
