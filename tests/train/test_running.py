"""How the network being trained is run: precision, layout, and the caller's autocast."""

import dataclasses

import pytest
import torch
from torch import nn

import excise
from excise import errors, localize, recipes
from excise.data import Rows
from excise.masks import Mask
from excise.train import Checkpoints, Hooks, Kept, Machine, TrainPlan, fit_together_
from excise.train.machine import Way
from excise.train.masked import frozen_digest
from excise.train.running import laid_out, outputs, without_autocast
from excise.train.task import Task
from tests.cases import CASES
from tests.probes import engine_for, same_bytes, snapshot
from tests.train.fitting import fit

LAST = torch.channels_last


def network():
    """A small convolutional network with everything that layouts and precisions touch, in float32."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.Sequential(
            nn.Conv2d(2, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 4),
        )


def data():
    inputs, labels = CASES["separable"].data(48)
    return inputs.float(), labels


def trained(machine, *, mask=None, model=None, objective=None, epochs=3):
    model = network() if model is None else model
    engine = dataclasses.replace(engine_for(model), machine=machine)
    plan = TrainPlan(epochs=epochs, lr=0.05, batch_size=16, weight_decay=1e-3)
    fit(model, Rows.all_of(data()), plan, mask=mask, engine=engine, objective=objective)
    return model, [trace.loss for trace in engine.trace]


def rows_of_channels(model):
    """Half of the channels of each layer, and single weights of one: leaves of every kind."""
    generator = torch.Generator().manual_seed(1)
    chosen = {
        name: (torch.arange(len(value)) % 2 == 0).view(-1, *[1] * (value.ndim - 1)).expand_as(value).clone()
        for name, value in model.named_parameters()
    }
    chosen["3.weight"] = torch.rand(model[3].weight.shape, generator=generator) < 0.5
    return Mask.from_tensors(chosen)


def test_channels_last_gives_the_same_network_and_leaves_no_trace_in_memory():
    plain, plain_losses = trained(Machine(), mask=rows_of_channels(network()))
    seen = []

    def objective(step):
        weights = (
            step.model[0].weight,
            step.model[3].weight,
        )  # whole channels are free of one, single weights of the other
        seen.append(tuple(weight.is_contiguous(memory_format=LAST) for weight in weights))
        return step.mean_loss("retain")

    mask = rows_of_channels(network())
    last, losses = trained(Machine(layout="channels-last"), mask=mask, objective=objective)
    assert set(seen) == {(True, False)}
    assert losses == pytest.approx(plain_losses, rel=1e-5)  # sums in another order
    for name, value in snapshot(plain).items():
        torch.testing.assert_close(snapshot(last)[name], value, rtol=1e-4, atol=1e-6)  # after nine steps
    assert frozen_digest(last, mask) == frozen_digest(network(), mask)
    assert all(value.is_contiguous() for value in last.parameters())


def test_one_step_forward_in_channels_last_is_the_same_within_rounding():
    model, (inputs, labels) = network(), data()
    expected, _ = outputs(Task(), model, (inputs, labels), Way())
    with laid_out(model, Way(channels_last=True), Mask.full(model)):
        found, _ = outputs(Task(), model, (inputs, labels), Way(channels_last=True))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_layout_of_the_user_s_own_stays_and_all_is_put_back_on_failure():
    model = network()
    model[3].to(memory_format=LAST)
    before, held = snapshot(model), [id(value) for value in model.parameters()]
    with pytest.raises(KeyError), laid_out(model, Way(channels_last=True), Mask.full(model)):
        assert model[0].weight.is_contiguous(memory_format=LAST)
        raise KeyError
    assert model[3].weight.is_contiguous(memory_format=LAST) and not model[3].weight.is_contiguous()
    assert model[0].weight.is_contiguous() and [id(value) for value in model.parameters()] == held
    assert same_bytes(before, snapshot(model))


def test_bfloat16_trains_alike_and_freezes_the_same_bits():
    mask = rows_of_channels(network())
    plain, plain_losses = trained(Machine(), mask=mask)
    kinds = []

    def objective(step):
        logits, targets = step.outputs("retain")
        kinds.append(logits.dtype)
        return step.engine.task.losses_of(logits, targets, len(targets)).mean()

    short, losses = trained(Machine(precision="bfloat16"), mask=mask, objective=objective)
    assert losses != plain_losses
    assert losses == pytest.approx(plain_losses, rel=0.05)  # 8 bits of mantissa in each product
    assert frozen_digest(short, mask) == frozen_digest(plain, mask) == frozen_digest(network(), mask)
    assert set(kinds) == {torch.float32} == {value.dtype for value in short.parameters()}
    inputs, _ = data()
    with torch.no_grad():
        found, expected = (one.eval()(inputs).argmax(1) for one in (short, plain))
    assert (found == expected).float().mean() > 0.9  # decisions, near ties apart


def test_the_callers_autocast_reaches_nothing():
    split = excise.Split(data(), forget=[1, 5, 9])
    mask = localize.WeightGradient()(network(), split).select(budget_fraction=0.3)
    plain = excise.unlearn(network(), split, recipes.DEL(epochs=1), fresh=network)
    several = [network() for _ in range(2)]
    plan, rows = TrainPlan(epochs=1, lr=0.1, batch_size=16), Rows.all_of(data())
    together = [network() for _ in range(2)]
    fit_together_(several, [rows] * 2, plan, [1, 2], engine_for(several[0]), stage="t")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert localize.WeightGradient()(network(), split).select(budget_fraction=0.3).digest == mask.digest
        found = excise.unlearn(network(), split, recipes.DEL(epochs=1), fresh=network)
        fit_together_(together, [rows] * 2, plan, [1, 2], engine_for(several[0]), stage="t")
        assert torch.is_autocast_enabled("cpu")
        with without_autocast():
            assert not torch.is_autocast_enabled("cpu")
    assert found.frozen_digest == plain.frozen_digest and found.mask.digest == plain.mask.digest
    assert same_bytes(snapshot(found.model), snapshot(plain.model))
    assert all(same_bytes(snapshot(one), snapshot(other)) for one, other in zip(several, together, strict=True))


def test_the_front_door_takes_a_machine_and_refuses_what_is_none():
    split = excise.Split(data(), forget=[1, 5, 9])
    with pytest.raises(errors.BadRequest, match="machine: expected an excise"):
        excise.unlearn(network(), split, recipes.Finetune(), machine="fast")
    machine = Machine(precision="bfloat16", layout="channels-last")
    found = excise.unlearn(network(), split, recipes.DEL(epochs=1), fresh=network, machine=machine)
    plain = excise.unlearn(network(), split, recipes.DEL(epochs=1), fresh=network)
    assert found.mask.digest == plain.mask.digest  # scores are in the network's own precision
    assert found.frozen_digest == plain.frozen_digest
    assert not same_bytes(snapshot(found.model), snapshot(plain.model))
    with pytest.raises(errors.BadRequest, match="precision: bfloat16 is for networks"):
        excise.unlearn(network().double(), split, recipes.DEL(epochs=1), machine=machine)


class Ear(Hooks):
    def __init__(self):
        self.notes = []

    def on_note(self, text):
        self.notes.append(text)


@pytest.mark.parametrize(
    ("machine", "used"),
    [(Machine(), True), (Machine(layout="channels-last"), False), (Machine(precision="bfloat16"), False)],
)
def test_a_checkpoint_is_used_by_the_same_machine_only(machine, used, tmp_path):
    rows, plan, ear = Rows.all_of(data()), TrainPlan(epochs=2, lr=0.05, batch_size=16), Ear()
    for own in (Machine(), machine):
        model = network()
        kept = Checkpoints(tmp_path, 0)
        engine = dataclasses.replace(engine_for(model, hooks=ear), machine=own, checkpoints=kept)
        fit(model, rows, plan, engine=engine)
    (note,) = ear.notes
    assert note.startswith("Test: goes on" if used else "Test: ") and ("is not used" in note) is not used


@pytest.mark.parametrize(
    "machine",
    [
        Machine(precision="bfloat16"),
        Machine(layout="channels-last"),
        Machine(precision="bfloat16", layout="channels-last"),
    ],
)
def test_activations_that_are_kept_are_those_of_the_same_machine(machine):
    """The same bits as when they are computed in every step."""
    found, ear = [], Ear()
    for keep in (None, Kept(least_products=1)):
        model = network()
        mask = Mask.of_modules(model, ["7"])
        engine = dataclasses.replace(engine_for(model, hooks=ear), machine=machine, keep=keep)
        fit(model, Rows.all_of(data()), TrainPlan(epochs=4, lr=0.05, batch_size=16), mask=mask, engine=engine)
        found.append(snapshot(model))
    assert [note for note in ear.notes if "Test: kept" in note]
    assert same_bytes(*found)
    assert not same_bytes(found[0], snapshot(network()))
