"""Laws of the loop and the enforcer together, for every kind of network, mask and optimizer."""

import itertools

import pytest
import torch

from excise.data import Split
from excise.masks import Mask
from excise.train import Pass, TrainPlan, chosen_rows, enforced, fit_, held_modules
from tests.cases import CASES
from tests.naive.training import naive_fit_
from tests.probes import KINDS, engine_for, plans_of, raw, same_bytes, snapshot, spelled_out

every_case = pytest.mark.parametrize("name", CASES)
FORGET = [0, 3, 8, 11]
OPTIMIZERS = ("sgd", "adam", "adamw")
PULL = 0.1  # gives every weight a slope: a slope of rounding noise, divided by its own size, is Adam's step


def pulled(step):
    return step.mean_loss("retain") + PULL * sum((value - 1).pow(2).sum() for value in step.model.parameters())


def train(name, mask, plan, *, objective=pulled, statistics="follow-mask", seed=0, model=None):
    model = model or CASES[name].make()
    split = Split(CASES[name].data(20), forget=FORGET)
    engine = engine_for(model, seed=seed)
    fit_(
        model,
        lambda _: (Pass(objective, ("retain",)),),
        {"retain": split.retain},
        plan,
        mask,
        engine,
        stage="Law",
        statistics=statistics,
    )
    return snapshot(model)


@pytest.mark.parametrize("kind", KINDS)
@every_case
def test_masked_training_is_full_training_masked_and_put_back_each_step(name, kind):
    inputs, labels = CASES[name].data(20)
    retain = torch.tensor([row for row in range(20) if row not in FORGET])
    for optimizer, implementation, clip in plans_of(0.5):
        theirs = CASES[name].make()
        tensors = spelled_out(theirs, kind)
        mask = Mask.from_tensors(tensors)
        plan = TrainPlan(
            epochs=2,
            lr=0.02,
            optimizer=optimizer,
            weight_decay=0.1,
            clip_norm=clip,
            batch_size=6,
            shuffle=False,
            implementation=implementation,
        )
        ours = train(name, mask, plan)
        rest = held_modules(theirs, mask, "follow-mask")
        told = {"optimizer": optimizer, "decay": 0.1, "clip": clip, "pull": PULL, "rest": rest}
        naive_fit_(theirs, inputs, labels, tensors, batches=torch.split(retain, 6), epochs=2, lr=0.02, **told)
        for key, value in snapshot(theirs).items():
            # 1e-12: the clipped norm and the fused loops sum in another order
            torch.testing.assert_close(ours[key], value, rtol=1e-12, atol=1e-12)
        before = snapshot(CASES[name].make())
        assert all(torch.equal(raw(ours[key][~chosen]), raw(before[key][~chosen])) for key, chosen in tensors.items())


@every_case
def test_computing_chosen_rows_alone_changes_no_more_than_rounding(name, monkeypatch):
    tensors = spelled_out(CASES[name].make(), "rows")
    mask = Mask.from_tensors(tensors)
    before = snapshot(CASES[name].make())
    for optimizer in ("sgd", "adamw"):
        plan = TrainPlan(epochs=2, lr=0.02, optimizer=optimizer, weight_decay=0.1, clip_norm=0.5, batch_size=6)
        found, watched = [], []
        for least in (2**60, 1):  # never and wherever it can be
            monkeypatch.setattr(chosen_rows, "LEAST_LEFT_OUT_LINEAR", least)
            monkeypatch.setattr(chosen_rows, "LEAST_LEFT_OUT_CONVOLUTION", least)
            with enforced(CASES[name].make(), mask, "adapt") as free:
                watched.append(len(free.layers))
            found.append(train(name, mask, plan))
        assert watched[0] == 0 < watched[1]
        for key, value in found[0].items():
            torch.testing.assert_close(found[1][key], value, rtol=1e-12, atol=1e-12)  # sums of fewer rows
        for key, chosen in tensors.items():
            assert torch.equal(raw(found[1][key][~chosen]), raw(before[key][~chosen])), key


@pytest.mark.parametrize("kind", KINDS)
@every_case
def test_the_optimizers_state_takes_the_masks_share_of_the_memory(name, kind):
    for optimizer in ("sgd", "adamw"):
        plan, held = TrainPlan(epochs=1, lr=0.02, optimizer=optimizer), {}
        model = CASES[name].make()
        mask = Mask.from_tensors(spelled_out(model, kind))
        for chosen in (mask, Mask.full(model)):
            with enforced(model, chosen, "adapt") as free:
                made = plan.make_optimizer(free.leaves)
                free.backward(sum(value.pow(2).sum() for value in model.parameters()))
                free.step(made, None)
            # Adam's count of steps is one number a tensor
            values = [value for state in made.state.values() for key, value in state.items() if key != "step"]
            held[chosen] = sum(value.numel() * value.element_size() for value in values if value is not None)
        assert held[mask] * mask.num_parameters == held[Mask.full(model)] * mask.num_selected > 0


@every_case
def test_a_full_mask_however_it_is_spelled_is_no_mask(name):
    model = CASES[name].make()
    spelled = Mask.from_tensors({key: value > -torch.inf for key, value in model.named_parameters()})
    for optimizer in OPTIMIZERS:
        plan = TrainPlan(epochs=2, lr=0.02, optimizer=optimizer, weight_decay=0.1, batch_size=6)
        assert same_bytes(train(name, spelled, plan), train(name, Mask.full(model), plan))
        assert same_bytes(train(name, spelled, plan), train(name, Mask.full(model), plan, statistics="adapt"))


@pytest.mark.parametrize("kind", KINDS)
@every_case
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(name, kind):
    mask = Mask.from_tensors(spelled_out(CASES[name].make(), kind))
    plan = TrainPlan(epochs=2, lr=0.02, optimizer="adam", batch_size=6)
    assert same_bytes(train(name, mask, plan), train(name, mask, plan))
    assert not same_bytes(train(name, mask, plan), train(name, mask, plan, seed=1))


@every_case
def test_a_frozen_layer_by_mask_is_a_frozen_layer_by_hand(name):
    """Freezing through the mask and through requires_grad give the same network."""
    mask = Mask.from_tensors(spelled_out(CASES[name].make(), "modules"))
    plan = TrainPlan(epochs=2, lr=0.02, weight_decay=0.1, batch_size=6)
    by_hand = CASES[name].make()
    for key, value in by_hand.named_parameters():
        value.requires_grad_(mask.count(key) > 0)
    flags = [value.requires_grad for value in by_hand.parameters()]
    ours = train(name, mask, plan)
    assert same_bytes(ours, train(name, Mask.full(by_hand), plan, model=by_hand))
    assert [value.requires_grad for value in by_hand.parameters()] == flags


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_in_low_precision_frozen_coordinates_stay_too(kind, dtype):
    for name, optimizer in itertools.product(("mlp", "separable", "transformer", "three-classes"), OPTIMIZERS):
        model = CASES[name].make().to(dtype)
        before, tensors = snapshot(model), spelled_out(model, kind)
        plan = TrainPlan(epochs=2, lr=0.05, optimizer=optimizer, weight_decay=0.3, clip_norm=1.0, batch_size=6)
        after = train(
            name, Mask.from_tensors(tensors), plan, model=model, objective=lambda step: step.mean_loss("retain")
        )
        assert all(value.dtype == dtype for value in model.parameters())
        assert all(torch.equal(raw(after[key][~chosen]), raw(before[key][~chosen])) for key, chosen in tensors.items())
        assert any(not torch.equal(after[key], before[key]) for key in tensors)


@every_case
def test_one_long_run_is_two_short_ones_where_no_state_is_carried(name):
    """Without momentum, with a constant rate and ascending rows, stopping between epochs is invisible."""
    mask = Mask.from_tensors(spelled_out(CASES[name].make(), "mixed"))

    def plan(epochs):
        return TrainPlan(epochs=epochs, lr=0.02, momentum=0.0, schedule="constant", batch_size=6, shuffle=False)

    model = CASES[name].make()
    train(name, mask, plan(1), model=model)
    assert same_bytes(train(name, mask, plan(2), model=model), train(name, mask, plan(3)))
