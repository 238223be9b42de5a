import copy

import pytest
import torch

import excise
from excise import errors
from excise.data import Split
from excise.masks import Mask
from excise.methods import Finetune, Retrain
from excise.oracles.retrain import retrain
from excise.train import TrainPlan, held_modules
from tests.cases import CASES
from tests.naive.training import cosine
from tests.probes import Watched, engine_for, moved, raw, same_bytes, snapshot

every_case = pytest.mark.parametrize("name", CASES)
FORGET = [0, 3, 8]
PLAN = TrainPlan(epochs=2, lr=0.05, batch_size=5, weight_decay=0.01)


def trained(name):
    """Give a network with another past than the fresh one: other weights, other statistics."""
    model = CASES[name].make()
    Finetune(plan=PLAN).unlearn_(model, Split(CASES[name].data(20), forget=[1]), Mask.full(model), engine_for(model))
    return model


@every_case
def test_everywhere_it_is_the_plain_training_of_a_fresh_network_bit_for_bit(name):
    case, model = CASES[name], trained(name)
    inputs, labels = case.data(20)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        start = case.build().double()
    alone = copy.deepcopy(start).train()
    plan = TrainPlan(epochs=2, lr=0.05, batch_size=4, weight_decay=0.01, shuffle=False)
    split = Split((inputs, labels), forget=FORGET)
    Retrain(plan=plan).unlearn_(model, split, Mask.full(model), engine_for(model, fresh=lambda: copy.deepcopy(start)))
    made = torch.optim.SGD(alone.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    kept = [row for row in range(20) if row not in FORGET]
    batches = [kept[0:4], kept[4:8], kept[8:12], kept[12:17]] if name == "batchnorm" else torch.tensor(kept).split(4)
    for epoch in range(2):
        made.param_groups[0]["lr"] = plan.lr_at(epoch)
        assert plan.lr_at(epoch) == pytest.approx(cosine(0.05, epoch, 2), rel=1e-14)
        for batch in batches:
            made.zero_grad()
            torch.nn.functional.cross_entropy(alone(inputs[batch]), labels[batch], reduction="none").mean().backward()
            made.step()
    assert same_bytes(snapshot(model), snapshot(alone))  # buffers included


@every_case
def test_from_the_front_door_it_is_the_oracle_of_the_same_seed(name):
    case, model = CASES[name], trained(name)
    split = Split(case.data(20), forget=FORGET)

    def build():
        return case.build().double()

    for seed in (0, 5):
        unlearned = excise.unlearn(model, split, Retrain(plan=PLAN), fresh=build, seed=seed, plan=PLAN, recompute=False)
        (oracle,) = retrain(build, split.retain, PLAN, [seed], engine_for(model))
        assert same_bytes(dict(unlearned.model.state_dict()), oracle.state)
        assert unlearned.cost.retraining_share == 1.0
        assert unlearned.cost.trained_rows == oracle.trained_rows == 2 * 17


@every_case
def test_nothing_of_the_old_network_is_left(name):
    case = CASES[name]
    split = Split(case.data(20), forget=FORGET)
    method, build = Retrain(plan=PLAN), lambda: case.build().double()
    results = [excise.unlearn(old, split, method, fresh=build, seed=1).model for old in (case.make(), trained(name))]
    assert same_bytes(*map(snapshot, results))


def test_inside_a_mask_parameters_and_buffers_start_afresh_and_the_rest_stays():
    model = trained("batchnorm")
    before = snapshot(model)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        fresh = CASES["batchnorm"].build().double()
    mask = Mask.of_modules(model, ["3", "4"])
    still = TrainPlan(epochs=1, lr=0.0, batch_size=17)
    split = Split(CASES["batchnorm"].data(20), forget=FORGET)
    Retrain(plan=still).unlearn_(model, split, mask, engine_for(model, fresh=lambda: fresh))
    assert moved(before, snapshot(model)) == {key for key in before if key.startswith(("3.", "4."))} - {
        "4.weight",
        "4.bias",
    } | {key for key in ("4.weight", "4.bias") if not torch.equal(before[key], fresh.state_dict()[key])}
    for key in ("3.weight", "3.bias", "4.weight", "4.bias"):
        assert torch.equal(model.state_dict()[key], fresh.state_dict()[key])
    assert int(model[4].num_batches_tracked) == 1  # from 0, not from the old count
    assert held_modules(model, mask, "follow-mask") == ["1"]


def test_a_users_frozen_normalisation_keeps_its_statistics():
    model = trained("batchnorm")
    model[1].requires_grad_(False)
    before = snapshot(model)
    split = Split(CASES["batchnorm"].data(20), forget=FORGET)
    engine = engine_for(model, fresh=CASES["batchnorm"].make)
    Retrain(plan=PLAN).unlearn_(model, split, Mask.full(model), engine)
    assert not {key for key in moved(before, snapshot(model)) if key.startswith("1.")}
    assert {key for key in moved(before, snapshot(model)) if key.startswith("4.")}


@every_case
def test_an_empty_mask_keeps_every_byte(name):
    model = trained(name)
    before = snapshot(model)
    split = Split(CASES[name].data(20), forget=FORGET)
    Retrain(plan=PLAN).unlearn_(model, split, Mask.empty(model), engine_for(model, fresh=CASES[name].make))
    assert same_bytes(before, snapshot(model))


def test_it_needs_retain_rows_and_a_fresh_network_and_reads_no_forget_row():
    watched = Watched(*CASES["mlp"].data(20), forbidden=FORGET)
    model = CASES["mlp"].make()
    split = Split(watched, forget=FORGET)
    engine = engine_for(model, fresh=CASES["mlp"].make)
    Retrain(plan=PLAN).unlearn_(model, split, Mask.full(model), engine)
    assert Retrain(plan=PLAN).needs == {"fresh", "retain"}
    assert sorted(watched.read) == sorted(split.retain.ids.tolist() * 2)
    assert engine.cost.trained_rows == 34


@every_case
def test_localizing_everything_and_resetting_is_retraining(name):
    """DEL at budget 1 is reset and training on retain; its buffers alone start from the old ones."""
    case, model = CASES[name], trained(name)
    split = Split(case.data(20), forget=FORGET)

    def build():
        return case.build().double()

    plan = TrainPlan(epochs=2, lr=0.05, batch_size=5)
    everywhere = excise.recipes.DEL(budget_fraction=1.0, epochs=2, lr=0.05, batch_size=5)
    localized = excise.unlearn(model, split, everywhere, fresh=build, seed=2)
    retrained = excise.unlearn(model, split, Retrain(plan=plan), fresh=build, seed=2)
    assert localized.mask.fraction == 1
    for key, value in localized.model.named_parameters():
        assert torch.equal(raw(value), raw(dict(retrained.model.named_parameters())[key])), key


def test_statistics_of_what_stays_are_recomputed_without_the_forgotten_rows():
    """Under a mask that leaves a normalisation frozen, its statistics are no longer those of the old network."""
    case, model = CASES["batchnorm"], trained("batchnorm")
    split = Split(case.data(20), forget=FORGET)
    found = excise.unlearn(
        model, split, Retrain(plan=PLAN), mask=Mask.of_modules(model, ["3", "8"]), fresh=lambda: case.build().double()
    )
    inputs = case.data(20)[0][split.retain.ids]
    first = torch.nn.functional.conv2d(inputs, model[0].weight)
    torch.testing.assert_close(found.model[1].running_mean, first.mean((0, 2, 3)))
    assert found.recomputed


def test_a_training_function_is_refused_before_any_work():
    with pytest.raises(errors.BadRequest, match=r"Retrain: expected plan to be an excise.TrainPlan"):
        Retrain(plan=lambda model, dataset, seed: model)
    case = CASES["mlp"]
    with pytest.raises(errors.BadRequest, match=r"Finetune: expected plan to be an excise.TrainPlan.*found NoneType"):
        excise.unlearn(case.make(), Split(case.data(20), forget=FORGET), Finetune(plan=None))
