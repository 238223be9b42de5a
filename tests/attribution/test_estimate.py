"""From a network builder to a datamodel: a brute force over all halves; the bank; what is refused before any work."""

import pytest
import torch
from msgspec import structs
from torch import nn

import excise
from excise import errors, seeds
from excise.attribution import Shrink, estimate, shrinkage
from excise.attribution.origin import network_digest
from excise.data import Rows, Split
from excise.masks import Mask
from excise.oracles import Bank, half_splits, retrain
from excise.train import Engine, Hooks, Machine, Task, TrainPlan
from tests.cases import CASES

CASE = CASES["mlp"]
PLAN = TrainPlan(epochs=2, lr=0.1, batch_size=8)


def mlp():
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 4)).double()


def split():
    inputs, labels = CASE.data(20)
    return Split((inputs[:14], labels[:14]), forget=[3], test=(inputs[14:], labels[14:]))


class Heard(Hooks):
    def __init__(self):
        self.notes, self.stages = [], []

    def on_note(self, text):
        self.notes.append(text)

    def on_stage(self, name, num_steps):
        self.stages.append(name)


def test_effects_are_means_over_networks_trained_with_and_without_a_row():
    rows = split()
    model = excise.attribution.estimate(mlp, rows, PLAN, 6, seed=3, shrink=False, together=False)
    keep = half_splits(14, 6, 3)
    engine = Engine(Task(), 3, Mask.empty(mlp()))
    answers = []
    for number, chosen in enumerate(keep):
        own = Rows(rows.train.source, torch.arange(14)[torch.from_numpy(chosen)])
        state = retrain(mlp, own, PLAN, [seeds.derive(3, "half", number)], engine)[0].state
        network = mlp().eval()
        network.load_state_dict(state)
        with torch.no_grad():
            answers.append(network(rows.test.source.read(rows.test.ids)[0]))
    forget, wanted = [3, 8], torch.zeros(6, 4, dtype=torch.float64)
    for row in forget:
        inside = [one for one, chosen in zip(answers, keep, strict=True) if chosen[row]]
        outside = [one for one, chosen in zip(answers, keep, strict=True) if not chosen[row]]
        wanted += torch.stack(inside).mean(0) - torch.stack(outside).mean(0)
    found = model.effects(torch.tensor(forget), rows.test.ids, part="test")
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    assert list(model.parts) == ["train", "test"]
    assert (model.made.by, model.made.num_models, model.made.seed) == ("means", 6, 3)
    assert model.made.plan["epochs"] == 2 and model.made.network == network_digest(mlp())
    assert model.made.trained_rows == 2 * int(keep.sum()) and model.made.forward_rows == 6 * 20
    model.require_rows(rows.train)
    model.require_network(mlp())


def test_a_second_call_trains_nothing_and_one_that_was_cut_short_what_is_missing(tmp_path):
    heard = Heard()
    first = estimate(mlp, split(), PLAN, 4, bank=tmp_path, together=False, shrink=False, hooks=heard)
    assert {entry.kind for entry in Bank(tmp_path).entries()} == {"half"}
    assert {entry.data for entry in Bank(tmp_path).entries()} == {first.made.data} != {""}
    assert "4 networks on halves" in heard.notes[-1] and heard.notes[-1].endswith("of which 56 now")
    again = Heard()
    second = estimate(mlp, split(), PLAN, 4, bank=Bank(tmp_path), together=False, shrink=False, hooks=again)
    assert again.notes[-1].endswith("of which 0 now") and again.stages == ["observe"]
    assert torch.equal(first.weights, second.weights)
    assert structs.replace(first.made, seconds=second.made.seconds) == second.made  # a bank keeps milliseconds
    assert all(torch.equal(first.parts[name].factors, second.parts[name].factors) for name in first.parts)
    next(tmp_path.glob("*.safetensors")).unlink()
    third = Heard()
    estimate(mlp, split(), PLAN, 4, bank=tmp_path, together=False, shrink=False, hooks=third)
    assert third.notes[-1].endswith("of which 14 now")


def test_effects_are_shrunk_by_default_and_only_means_are():
    raw, shrunk = (estimate(mlp, split(), PLAN, 4, together=False, shrink=shrink) for shrink in (False, True))
    assert raw.shrink == Shrink() and shrunk.shrink == shrinkage(raw, 0)


def test_the_callers_random_numbers_and_rows_to_forget_play_no_part():
    rows = split()
    other = Split(rows.train.source, forget=[0, 1], test=rows.test.source)
    before = torch.get_rng_state()
    first = estimate(mlp, rows, PLAN, 4, together=False)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    second = estimate(mlp, other, PLAN, 4, together=False)
    assert all(torch.equal(first.parts[name].factors, second.parts[name].factors) for name in first.parts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"by": "guess"}, "by: expected one of means, sparse, found 'guess'"),
        ({"fresh": mlp()}, "fresh: expected a callable that builds an untrained network, found Sequential"),
        ({"rows": 5}, "rows: expected a Split, Rows"),
        ({"num_models": 3}, "num_models: expected an even number"),
        ({"by": "sparse"}, "sparse: expected at least 8 networks, two a fold, found 4"),
        ({"rows": Rows.all_of((torch.zeros(0, 6), torch.zeros(0).long()))}, "rows: expected training rows, found none"),
        ({"rows": Rows.all_of((torch.zeros(9, 5), torch.zeros(9).long()))}, "could not be run on train rows"),
        ({"rows": Rows.all_of((torch.zeros(9, 6), torch.full((9,), 4)))}, "train: 9 labels lie outside 0 to 3"),
        ({"rows": Rows.all_of((torch.zeros(9, 6), torch.zeros(9)))}, "expected one integer label a row"),
        ({"machine": 1}, "machine: expected an excise.Machine"),
    ],
)
def test_what_cannot_be_estimated_is_refused_before_any_training(change, message):
    heard = Heard()
    given = {
        "fresh": mlp,
        "rows": split(),
        "plan": PLAN,
        "num_models": 4,
        "hooks": heard,
        "machine": Machine(),
        **change,
    }
    with pytest.raises((errors.BadRequest, errors.BadData), match=message):
        estimate(**given)
    assert heard.stages == []


def test_effects_that_drown_in_noise_are_told():
    heard = Heard()
    inputs, labels = CASE.data(20)
    rows = Rows.all_of((0 * inputs, labels))  # all alike, and never learnt: networks differ by their beginnings alone
    found = estimate(mlp, rows, TrainPlan(epochs=1, lr=1e-9), 4, seed=1, hooks=heard, together=False)
    assert found.shrink == Shrink(own=0.0, other=0.0)
    assert "effects of rows on themselves and on others cannot be told from noise with 4 networks" in heard.notes[-1]
