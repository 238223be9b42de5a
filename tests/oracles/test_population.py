"""Every row in exactly half of the networks, every choice of them as likely as another; and what each was trained on."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from excise import errors, seeds
from excise.data.rows import Rows
from excise.masks import Mask
from excise.oracles import Bank, half_splits, oracles, originals, retrain, train_halves
from excise.train import Engine, Hooks, Task, TrainPlan
from tests.cases import CASES
from tests.probes import Watched, same_bytes

CASE = CASES["mlp"]
PLAN = TrainPlan(epochs=2, lr=0.1, batch_size=8)


def mlp():
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 4)).double()


def engine_for(seed=0, hooks=None):
    return Engine(Task(), seed=seed, besides=Mask.empty(CASE.make()), hooks=hooks or Hooks())


@pytest.mark.parametrize("num_models", [2, 4, 16, 64])
@pytest.mark.parametrize("num_rows", [2, 3, 60, 1001])
def test_every_row_is_in_half_of_the_networks_and_every_network_has_half_of_the_rows(num_rows, num_models):
    keep = half_splits(num_rows, num_models, 3)
    assert keep.shape == (num_models, num_rows) and keep.dtype == bool
    assert (keep.sum(axis=0) == num_models // 2).all()
    sizes = sorted(keep.sum(axis=1).tolist())
    assert sizes == [num_rows // 2] * (num_models // 2) + [(num_rows + 1) // 2] * (num_models // 2)


@pytest.mark.parametrize(("num_rows", "num_models"), [(40, 6), (2001, 16)])
def test_the_splits_are_the_first_halves_of_random_orders_but_for_the_rows_that_even_them_out(num_rows, num_models):
    keep = half_splits(num_rows, num_models, 11)
    draws = np.random.default_rng(seeds.derive(11, "half splits")).uniform(size=(num_models, num_rows))
    plain = np.zeros_like(keep)
    for row in range(num_rows):
        order = sorted(range(num_models), key=lambda model, row=row: draws[model, row])
        plain[:, row] = [order[model] < num_models // 2 for model in range(num_models)]
    moved = keep != plain
    surplus = np.maximum(plain.sum(axis=1) - keep.sum(axis=1), 0)
    assert (moved & plain).sum() == (moved & keep).sum() == surplus.sum()  # not one row more than had to
    assert ((moved & plain).sum(axis=1) == surplus).all()
    assert 0 < surplus.sum() < num_models * num_rows**0.5 / 2


def test_every_choice_of_half_of_the_networks_is_as_likely_as_another():
    keep = half_splits(12_000, 4, 0)
    counts = {pair: int(keep[list(pair)].all(axis=0).sum()) for pair in itertools.combinations(range(4), 2)}
    spread = (12_000 * (1 / 6) * (5 / 6)) ** 0.5
    assert all(abs(count - 2000) < 5 * spread for count in counts.values())
    assert abs(np.corrcoef(keep[0, :-1], keep[0, 1:])[0, 1]) < 5 / 12_000**0.5  # rows are drawn apart


def test_splits_follow_from_the_seed():
    assert (half_splits(50, 4, 1) == half_splits(50, 4, 1)).all()
    assert (half_splits(50, 4, 1) != half_splits(50, 4, 2)).any()


@pytest.mark.parametrize(
    ("num_rows", "num_models", "message"),
    [
        (50, 3, "num_models: expected an even number, so that it has halves, found 3"),
        (50, 0, "num_models: expected an integer of at least 1, found 0"),
        (0, 4, "num_rows: expected an integer of at least 1, found 0"),
        (1, 4, "num_rows: expected two or more, so that every network has some, found 1"),
    ],
)
def test_halves_that_cannot_be_are_refused(num_rows, num_models, message):
    with pytest.raises(errors.BadRequest, match=message):
        half_splits(num_rows, num_models, 0)


def test_each_half_is_trained_on_its_rows_and_on_no_other(tmp_path):
    ids = torch.tensor([row for row in range(30) if row % 7])
    data = Watched(*CASE.data(30), forbidden=range(0, 30, 7))
    rows, bank = Rows(Rows.all_of(data).source, ids), Bank(tmp_path)
    found = train_halves(mlp, rows, PLAN, 4, engine_for(5), bank=bank)
    assert found.ids.tolist() == ids.tolist()
    assert (found.keep == half_splits(len(ids), 4, 5)).all()
    for number, one in enumerate(found.trained):
        own = Rows(rows.source, torch.tensor(found.ids[found.keep[number]]))
        seed = seeds.derive(5, "half", number)
        assert one.seed == seed
        assert same_bytes(one.state, retrain(mlp, own, PLAN, [seed], engine_for())[0].state)
        assert one.trained_rows == PLAN.epochs * len(own)
    entries = {entry.seed: entry for entry in bank.entries()}
    assert {entry.kind for entry in entries.values()} == {"half"}
    assert [entries[one.seed].num_rows for one in found.trained] == found.keep.sum(axis=1).tolist()


class Heard(Hooks):
    def __init__(self):
        self.stages = []

    def on_stage(self, name, num_steps):
        self.stages.append(name)


def test_halves_are_found_again(tmp_path):
    rows, heard = Rows.all_of(CASE.data(30)), Heard()
    first = train_halves(mlp, rows, PLAN, 4, engine_for(), bank=Bank(tmp_path))
    again = train_halves(mlp, rows, PLAN, 4, engine_for(hooks=heard), bank=Bank(tmp_path))
    assert heard.stages == [] and (first.keep == again.keep).all()
    assert all(same_bytes(one.state, other.state) for one, other in zip(first.trained, again.trained, strict=True))


@pytest.mark.parametrize(
    ("make", "family", "kind", "stage"),
    [
        (oracles, "oracle", "oracle", "oracle"),
        (lambda *given, **options: oracles(*given, held_out=True, **options), "held out", "oracle", "held-out oracle"),
        (originals, "original", "original", "original"),
    ],
    ids=["oracles", "held-out oracles", "originals"],
)
def test_an_arm_is_a_family_of_seeds_and_a_kind(make, family, kind, stage, tmp_path):
    rows, bank, heard = Rows.all_of(CASE.data(30)), Bank(tmp_path), Heard()
    found = make(mlp, rows, PLAN, 3, engine_for(9, heard), bank=bank)
    chosen = [seeds.derive(9, family, number) for number in range(3)]
    wanted = retrain(mlp, rows, PLAN, chosen, engine_for())
    assert [one.seed for one in found] == chosen
    assert all(same_bytes(one.state, other.state) for one, other in zip(found, wanted, strict=True))
    assert [entry.kind for entry in bank.entries()] == [kind] * 3
    assert heard.stages == [f"{stage} {number}/3" for number in (1, 2, 3)]


def test_no_seed_is_in_two_families():
    families = ("oracle", "held out", "original", "half")
    chosen = [seeds.derive(0, family, number) for family in families for number in range(200)]
    assert len(set(chosen)) == len(chosen)


@pytest.mark.parametrize("make", [oracles, originals])
def test_an_empty_arm_is_refused(make):
    with pytest.raises(errors.BadRequest, match="num_models: expected an integer of at least 1, found 0"):
        make(mlp, Rows.all_of(CASE.data(30)), PLAN, 0, engine_for())


@pytest.mark.parametrize("make", [oracles, originals, train_halves])
def test_how_to_train_is_handed_on(make, monkeypatch):
    heard = []
    monkeypatch.setattr("excise.oracles.population.retrain", lambda *given, **options: heard.append(options) or [])
    make(mlp, Rows.all_of(CASE.data(30)), PLAN, 2, engine_for(), together=None)
    make(mlp, Rows.all_of(CASE.data(30)), PLAN, 2, engine_for())
    assert [options["together"] for options in heard] == [None, False]


def test_halves_have_equally_many_rows_and_so_can_be_trained_together():
    heard, rows = Heard(), Rows.all_of(CASE.data(31))
    alone = train_halves(mlp, rows, PLAN, 8, engine_for())
    found = train_halves(mlp, rows, PLAN, 8, engine_for(hooks=heard), together=True)
    assert len(heard.stages) == 2  # halves of 15 rows, and of 16
    for one, other in zip(alone.trained, found.trained, strict=True):
        for name, value in one.state.items():
            torch.testing.assert_close(other.state[name], value, rtol=1e-9, atol=1e-11)
