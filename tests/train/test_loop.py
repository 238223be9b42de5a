import copy
import itertools
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from excise import seeds
from excise.data import Rows, Split
from excise.masks import Mask
from excise.train import Task, TrainPlan
from excise.train.checkpoints import Checkpoints
from tests.cases import CASES
from tests.naive.training import cosine, naive_fit_
from tests.probes import LeftAlone, Watched, engine_for, same_bytes, snapshot
from tests.train.fitting import fit

# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_one_step_on_a_linear_softmax_is_the_closed_form(sign):
    draws = torch.Generator().manual_seed(0)
    inputs = torch.randn(6, 5, generator=draws, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 2, 1, 0])
    model = nn.Linear(5, 3, dtype=torch.float64)
    weight, bias = (value.detach().clone() for value in model.parameters())
    plan = TrainPlan(epochs=1, lr=0.3, batch_size=6)
    fit(model, Rows.all_of((inputs, labels)), plan, objective=lambda step: sign * step.mean_loss("retain"))
    odds = (inputs @ weight.T + bias).exp()
    error = odds / odds.sum(1, keepdim=True) - torch.eye(3, dtype=torch.float64)[labels]
    # 1e-14: one float64 matrix product in another order
    torch.testing.assert_close(
        model.weight.detach(), weight - sign * 0.3 * error.T @ inputs / 6, rtol=1e-14, atol=1e-14
    )
    torch.testing.assert_close(model.bias.detach(), bias - sign * 0.3 * error.mean(0), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("name", CASES)
def test_training_unmasked_is_the_plain_loop_to_the_bit(name, optimizer, decay):
    case = CASES[name]
    inputs, labels = case.data(22)
    ours, theirs = case.make(), case.make()
    plan = TrainPlan(
        epochs=3, lr=0.01, batch_size=6, shuffle=False, optimizer=optimizer, weight_decay=decay, schedule="constant"
    )
    fit(ours, Rows.all_of((inputs, labels)), plan)
    theirs.train()
    made = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimizer](
        theirs.parameters(), lr=0.01, weight_decay=decay, **({"momentum": 0.9} if optimizer == "sgd" else {})
    )
    for _ in range(3):
        for start in range(0, 22, 6):
            made.zero_grad()
            losses = functional.cross_entropy(
                theirs(inputs[start : start + 6]), labels[start : start + 6], reduction="none"
            )
            losses.mean().backward()
            made.step()
    assert same_bytes(snapshot(ours), snapshot(theirs))


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("name", CASES)
def test_training_by_the_cosine_is_the_naive_one(name, clip):
    case = CASES[name]
    inputs, labels = case.data(20)
    ours, theirs = case.make(), case.make()
    plan = TrainPlan(epochs=3, lr=0.1, batch_size=6, shuffle=False, weight_decay=0.01, clip_norm=clip)
    fit(ours, Rows.all_of((inputs, labels)), plan)
    batches = torch.arange(20).split(6)
    naive_fit_(theirs, inputs, labels, None, batches=batches, epochs=3, lr=0.1, decay=0.01, clip=clip)
    for key, value in snapshot(theirs).items():
        torch.testing.assert_close(
            snapshot(ours)[key], value, rtol=1e-12, atol=1e-12
        )  # mean of losses, summed otherwise


def test_the_trace_tells_losses_learning_rates_and_steps():
    model = CASES["mlp"].make()
    losses = []

    def objective(step):
        loss = step.mean_loss("retain")
        losses.append(loss.item())
        return loss

    plan = TrainPlan(epochs=4, lr=0.2, batch_size=4)
    engine = fit(model, Rows.all_of(CASES["mlp"].data(10)), plan, objective=objective)
    assert [trace.epoch for trace in engine.trace] == [0, 1, 2, 3]
    assert {(trace.stage, trace.num_steps) for trace in engine.trace} == {("Test", 3)}
    assert [trace.lr for trace in engine.trace] == pytest.approx(
        [cosine(0.2, epoch, 4) for epoch in range(4)], rel=1e-14
    )
    means = [sum(losses[start : start + 3]) / 3 for start in range(0, 12, 3)]
    assert [trace.loss for trace in engine.trace] == pytest.approx(means, rel=1e-14)
    assert all(trace.seconds > 0 for trace in engine.trace)


def test_a_constant_schedule_steps_by_one_rate():
    model = CASES["mlp"].make()
    plan = TrainPlan(epochs=3, lr=0.2, schedule="constant")
    assert [trace.lr for trace in fit(model, Rows.all_of(CASES["mlp"].data(10)), plan).trace] == [0.2] * 3


def test_who_looks_after_an_epoch_may_end_the_training():
    rows = Rows.all_of(CASES["mlp"].data(10))
    plan = TrainPlan(epochs=5, lr=0.2, schedule="constant", batch_size=4)
    ended, short = CASES["mlp"].make(), CASES["mlp"].make()
    engine = fit(ended, rows, plan, after_epoch=lambda epoch: epoch == 2)
    fit(short, rows, plan.of_epochs(3))
    assert len(engine.trace) == 3
    assert same_bytes(snapshot(ended), snapshot(short))


def test_a_training_that_was_ended_is_not_gone_on_with(tmp_path):
    rows = Rows.all_of(CASES["mlp"].data(10))
    plan = TrainPlan(epochs=5, lr=0.2, schedule="constant", batch_size=4)
    first, again = CASES["mlp"].make(), CASES["mlp"].make()
    looked = []
    for model in (first, again):
        checkpoints = Checkpoints(tmp_path)
        checkpoints.begin("test")
        engine = replace(engine_for(model), checkpoints=checkpoints)
        fit(model, rows, plan, engine=engine, after_epoch=lambda epoch: looked.append(epoch) or epoch == 1)
        assert len(engine.trace) == 2
    assert looked == [0, 1]
    assert same_bytes(snapshot(first), snapshot(again))


def test_a_small_enough_rate_never_raises_a_convex_loss():
    inputs, labels = CASES["mlp"].data(40)
    model = nn.Linear(6, 4, dtype=torch.float64)
    plan = TrainPlan(epochs=20, lr=0.01, batch_size=40, momentum=0.0, schedule="constant")
    losses = [trace.loss for trace in fit(model, Rows.all_of((inputs, labels)), plan).trace]
    assert all(later < earlier for earlier, later in itertools.pairwise(losses))


def test_the_cost_counts_every_row_of_every_pass():
    model = CASES["batchnorm"].make()

    def objective(step):
        step.observe("retain")
        return step.mean_loss("forget") + step.mean_loss("retain")

    rows = Rows.all_of(CASES["batchnorm"].data(20))
    streams = {"retain": rows.head(10), "forget": Rows(rows.source, torch.arange(15, 18))}
    plan = TrainPlan(epochs=2, lr=0.01, batch_size=4)
    engine = fit(model, streams, plan, objective=objective, batch_sizes={"forget": 3})
    assert engine.cost.trained_rows == 2 * (10 + 3 * 3)  # three steps an epoch, three forget rows each
    assert engine.cost.forward_rows == 2 * 10


# --- promises ---------------------------------------------------------------------------------------------------------


def test_an_empty_mask_runs_forward_and_changes_nothing():
    model = CASES["batchnorm"].make()
    before = snapshot(model)
    rows = Rows.all_of(CASES["batchnorm"].data(10))
    engine = fit(model, rows, TrainPlan(epochs=2, lr=0.1, batch_size=4), mask=Mask.empty(model))
    assert same_bytes(before, snapshot(model))
    assert len(engine.trace) == 2


def test_a_part_that_the_loss_does_not_reach_stays():
    """Momentum and decay would move it if its gradient were taken for zero rather than missing."""
    model = CASES["mlp"].make()
    model.unused = nn.Linear(2, 2, dtype=torch.float64)
    before = snapshot(model.unused)
    task = Task(forward=lambda net, content: (net[:5](content[0]), content[1]))
    plan = TrainPlan(epochs=2, lr=0.1, weight_decay=0.5)
    fit(model, Rows.all_of(CASES["mlp"].data(10)), plan, engine=engine_for(model, task=task))
    assert same_bytes(before, snapshot(model.unused))
    fit(
        model,
        Rows.all_of(CASES["mlp"].data(10)),
        plan,
        mask=Mask.of_modules(model, ["unused"]),
        engine=engine_for(model, task=task),
    )
    assert same_bytes(before, snapshot(model.unused))


@pytest.mark.parametrize("around", [torch.no_grad, torch.enable_grad])
def test_it_trains_whatever_the_callers_gradient_mode(around):
    model, other = CASES["mlp"].make(), CASES["mlp"].make()
    rows, plan = Rows.all_of(CASES["mlp"].data(10)), TrainPlan(epochs=2, lr=0.1)
    fit(other, rows, plan)
    with around():
        fit(model, rows, plan)
    assert same_bytes(snapshot(model), snapshot(other))
    assert not same_bytes(snapshot(model), snapshot(CASES["mlp"].make()))


class Noisy(nn.Module):
    """Draws from all three global generators in a forward pass, besides dropout."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 4)).double()

    def forward(self, inputs):
        drawn = np.random.rand() + random.random()  # noqa: NPY002 - a user's network may
        return self.layers(inputs) * (1 + 0.01 * drawn)


def test_random_layers_draw_from_the_runs_seed_and_the_callers_generators_stay():
    rows, plan = Rows.all_of(CASES["mlp"].data(20)), TrainPlan(epochs=2, lr=0.1, batch_size=6)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        start = Noisy()

    def run(seed, world):
        model = copy.deepcopy(start)
        with seeds.isolated(world):  # whatever the caller's generators hold
            alone = LeftAlone(start)
            fit(model, rows, plan, engine=engine_for(model, seed=seed))
            alone.check()
        return snapshot(model)

    assert same_bytes(run(0, world=1), run(0, world=2))
    assert not same_bytes(run(0, world=1), run(1, world=1))


def test_only_the_rows_of_the_streams_are_read():
    watched = Watched(*CASES["mlp"].data(20), forbidden=[2, 3, 5])
    split = Split(watched, forget=[2, 3, 5])
    model = CASES["mlp"].make()
    fit(model, split.retain, TrainPlan(epochs=2, lr=0.1, batch_size=4))
    assert sorted(watched.read) == sorted(split.retain.ids.tolist() * 2)
